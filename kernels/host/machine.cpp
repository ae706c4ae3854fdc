// machine.cpp - the scheduler of the CUDA machine (machine.h): stacks, warps, barriers, blocks over threads.
//
// Compiled once per binary, for both storage types. The threads come from Rust (lc_host_parallel_for, rayon): a block
// never moves between OS threads, so everything here is thread-local and nothing is locked.
#include "lc.h"
#include "host/seat.h"
#include <stdio.h>
#include <stdlib.h>

extern "C" void lc_host_parallel_for(size_t n_blocks, void (*run)(void*, size_t, size_t), void* context);

namespace lc_host {
__thread __attribute__((tls_model("initial-exec"))) Fiber* current;
__thread __attribute__((tls_model("initial-exec"))) Block* block;

// The last "K = ..." without the namespaces in front of it.
void short_name(const char* spelled, char* name, size_t n) {
    const char* at = strstr(spelled, "K = ");
    at = at ? at + 4 : spelled;
    const char* begin = at;
    for (int depth = 0; *at && *at != ']' && *at != ';'; at++) {
        depth += (*at == '<') - (*at == '>');
        if (depth == 0 && at[0] == ':' && at[1] == ':') begin = at + 2;
    }
    snprintf(name, n, "%.*s", (int)(at - begin), begin);
}

void die(const char* message) {
    Block* b = block;
    Fiber* f = current;
    fprintf(stderr, "CPU device: %s", message);
    if (b && f) {
        char name[128];
        short_name(b->launch->kernel, name, sizeof name);
        fprintf(stderr, " (kernel %s, block %u,%u,%u, thread %u,%u,%u)", name, b->index.x, b->index.y, b->index.z,
                f->tid.x, f->tid.y, f->tid.z);
    }
    fprintf(stderr, "\n");
    abort();
}

static __thread Worker* worker;
static __thread uint32_t progress;
static thread_local struct WorkerEnd {
    bool armed = false;
    ~WorkerEnd() { delete worker; }
} worker_end;

static void start(Fiber* f, Block* b) {
    f->stack = (char*)b->stacks + (size_t)(f - b->fiber) * kStackStride;
    f->smem_at = 0;
    if (LC_CHECKED) *(uint64_t*)f->stack = kStackEnd;
    uintptr_t top = ((uintptr_t)f->stack + kStackBytes) & ~(uintptr_t)63;
#if defined(__x86_64__)
    void** p = (void**)top;
    p[-1] = nullptr;  // as after a call: the stack pointer is 8 below a multiple of 16
    f->sp = &p[-1];
#else
    f->sp = (void*)top;
#endif
    f->pc = (void*)b->entry;
}

Fiber* prepare(Fiber* f, Fiber* next) {
    Block* b = block;
    if (next->dead) {
        while (next->dead) next = next->next;
        if (f->warp == next->warp)
            f->next = next;
        else
            next->warp->resume = next;
        if (next->sp) return next;
    }
    start(next, b);
    return next;
}

void idle_pass(Block* b) {
    if (++b->idle <= 8 * b->n_threads + 64) return;
    // Many passes in which nobody got on; was there any progress at all since the last time we came here?
    uint32_t now = b->barrier_generation + b->live + progress;
    for (uint32_t w = 0; w < b->n_warps; w++) now += b->warp[w].generation + b->warp[w].arrived;
    b->idle = 0;
    if (now != b->progress) {
        b->progress = now;
        return;
    }
    for (uint32_t w = 0; w < b->n_warps; w++)
        fprintf(stderr, "CPU device: warp %u: %u lanes live, %u at the barrier, %u at a warp collective\n", w,
                b->warp[w].live, b->warp[w].at_barrier, b->warp[w].arrived);
    die("deadlock: a barrier or a warp collective in divergent code");
}

void got_on() { progress++; }

// The next warp has a go, with the lane behind this one when this warp's turn comes again; after a few rounds of nothing
// but waiting it is another block's turn, or the end (run_cluster).
void wait_a_turn() {
    Fiber* f = current;
    Block* b = block;
    Warp* w = enter_warp(f);
    if (++b->polls <= 2 * b->live) {
        w->resume = f->next;
        switch_to(f, w->next->resume);
        return;
    }
    b->polls = 0;
    b->waits = true;
    b->resume = f;
    raw_switch(f, b->main);
}

#if LC_CHECKED
static uint32_t draw(Block* b, uint32_t n) {
    b->random = b->random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(b->random >> 33) % n;
}
static void shuffle_order(Block* b, uint32_t* order, uint32_t n) {
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = draw(b, i), t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}
#endif

// The first synchronisation of this block: the running thread becomes a fibre, those before it have returned, those
// after it are not started. Links the warps' rings of live lanes.
void first_yield(Fiber* running) {
    Block* b = block;
    b->fibrous = 1;
    b->live = b->at_barrier = b->idle = 0;
    b->progress = ~0u;
    uint8_t returned[kMaxThreads] = {};
    for (uint32_t i = 0; i < b->first; i++) returned[LC_CHECKED ? b->order[i] : i] = 1;
    uint32_t warps[kMaxThreads / 32], lanes[32];
    for (uint32_t i = 0; i < b->n_warps; i++) warps[i] = i;
#if LC_CHECKED
    if (b->random) shuffle_order(b, warps, b->n_warps);
#endif
    Warp *first_warp = nullptr, *last_warp = nullptr;
    for (uint32_t k = 0; k < b->n_warps; k++) {
        Warp* w = &b->warp[warps[k]];
        w->arrived = w->at_barrier = w->live = 0;
        w->block = b;
        w->resume = nullptr;
        uint32_t base = warps[k] * 32, n = b->n_threads - base < 32 ? b->n_threads - base : 32;
        for (uint32_t i = 0; i < n; i++) lanes[i] = base + i;
#if LC_CHECKED
        if (b->random) shuffle_order(b, lanes, n);
#endif
        Fiber *first = nullptr, *last = nullptr;
        for (uint32_t i = 0; i < n; i++) {
            if (returned[lanes[i]]) continue;
            Fiber* f = &b->fiber[lanes[i]];
            f->dead = 0;
            if (f != running) f->sp = nullptr;
            if (!first) first = f;
            if (last) last->next = f;
            last = f;
            w->live++;
        }
        if (!first) continue;
        last->next = first;
        w->resume = first;
        b->live += w->live;
        if (!first_warp) first_warp = w;
        if (last_warp) {
            last_warp->next = w;
            w->prev = last_warp;
        }
        last_warp = w;
    }
    last_warp->next = first_warp;
    first_warp->prev = last_warp;
}

void barrier_release(Block* b, Warp* w) {
#if LC_CHECKED
    check_epoch();
#endif
    b->at_barrier = 0;
    b->barrier_generation++;
    b->idle = 0;
    Warp* x = w;
    do {
        x->at_barrier = 0;
        x = x->next;
    } while (x != w);
}

static Fiber* live_resume(Warp* w) {
    Fiber* f = w->resume;
    while (f->dead) f = f->next;
    return f;
}

// The running thread returned: unlink it and say who runs next.
Fiber* exit_fiber(Fiber* f, Block* b) {
    Warp* w = f->warp;
    b->idle = 0;
    b->live--;
    w->live--;
    f->dead = 1;
    f->sp = nullptr;
    if (b->live == 0) return nullptr;
    // CUDA counts exited threads as arrived at a barrier.
    if (b->at_barrier && b->at_barrier == b->live) {
#if LC_CHECKED
        check_epoch();
#endif
        b->at_barrier = 0;
        b->barrier_generation++;
        for (uint32_t i = 0; i < b->n_warps; i++) b->warp[i].at_barrier = 0;
    }
    if (w->live) {
        Fiber* next = f->next;
        while (next->dead) next = next->next;
        f->next = next;
        if (w->at_barrier < w->live) return next;
        if (w->resume == f) w->resume = next;
        return live_resume(w->next);
    }
    w->prev->next = w->next;
    w->next->prev = w->prev;
    return live_resume(w->next);
}

// The running block, of a cluster's several: whose turn it is.
static void enter(Block* b) {
    block = b;
#if LC_CHECKED
    check_enter(b);
#endif
}

static void begin(Seat* s, uint3 index) {
    Block* b = &s->block;
    block = b;
    b->index = index;
    b->fibrous = b->barrier_generation = b->first = b->polls = b->at_cluster_barrier = 0;
    b->live = b->n_threads;
#if LC_CHECKED
    check_begin_block(b);
    if (b->random) shuffle_order(b, b->order, b->n_threads);
    b->resume = &s->fiber[b->order[0]];
#else
    b->resume = &s->fiber[0];
#endif
    start(b->resume, b);
}

static void end(Block* b) {
    b->live = 0;
    got_on();
#if LC_CHECKED
    check_end_block(b);
    for (uint32_t i = 0; i < b->n_threads; i++)
        if (uint64_t end = *(const uint64_t*)(b->stacks + i * kStackStride); end && end != kStackEnd)
            die("a thread ran over the end of its stack: a large local array?");
#endif
}

// The blocks of one cluster, in turns until all have finished; one alone is the usual case.
static void run_cluster(Worker* k, const Launch& launch, size_t index) {
    const uint32_t n = launch.cluster, clusters_x = launch.grid.x / n;
    const size_t rest = index / clusters_x;
    const uint32_t x = index % clusters_x * n, y = rest % launch.grid.y, z = (uint32_t)(rest / launch.grid.y);
    for (uint32_t r = 0; r < n; r++) begin(k->seat[r], uint3{x + r, y, z});
    Fiber here;
    uint32_t finished = 0, idle_rounds = 0, before = progress;
    bool running[kMaxCluster];
    for (uint32_t r = 0; r < n; r++) running[r] = true;
    while (finished < n) {
        for (uint32_t r = 0; r < n; r++) {
            if (!running[r]) continue;
            Block* b = k->block[r];
            enter(b);
            b->main = &here;
            b->waits = false;
            current = b->resume;
            raw_switch(&here, current);
            if (b->waits) continue;
            running[r] = false;
            finished++;
            end(b);
        }
        idle_rounds = progress == before ? idle_rounds + 1 : 0;
        before = progress;
        if (idle_rounds > 64) die("deadlock: an mbarrier that nobody completes, or a cluster barrier that not all reach");
    }
}

static void run_range(void* context, size_t begin, size_t end) {
    const Launch& launch = *(const Launch*)context;
    if (!worker) {
        worker = new Worker();
        worker_end.armed = true;  // touching it registers its destructor for this thread
    }
    worker->seats(launch);
    Block* outer_block = block;
    Fiber* outer = current;
    for (size_t i = begin; i < end; i++) run_cluster(worker, launch, i);
    block = outer_block;
    current = outer;
}

lc_status run_grid(Launch& launch) {
    size_t n_blocks = (size_t)launch.grid.x * launch.grid.y * launch.grid.z;
    uint32_t n_threads = launch.block.x * launch.block.y * launch.block.z;
    if (n_blocks == 0 || n_threads == 0 || n_threads > kMaxThreads || launch.grid.y > 65535 || launch.grid.z > 65535)
        return lc_status{LC_BAD_SHAPE, 0, "a grid of at least one block, a block of 1 to 1024 threads"};
    if (launch.smem > kSmemBytes) return lc_status{LC_BAD_SHAPE, 0, "shared memory <= 227 KiB"};
    if (launch.cluster < 1 || launch.cluster > kMaxCluster || launch.grid.x % launch.cluster)
        return lc_status{LC_BAD_SHAPE, 0, "a grid of whole clusters, of 1 to 8 blocks"};
#if LC_CHECKED
    check_begin_launch(launch);
#endif
    // Waking another core costs about 14 us: a small grid runs where it is.
    const size_t n_clusters = n_blocks / launch.cluster;
    if (n_clusters == 1 || n_blocks * n_threads < 4096)
        run_range((void*)&launch, 0, n_clusters);
    else
        lc_host_parallel_for(n_clusters, run_range, (void*)&launch);
#if LC_CHECKED
    if (int faults = check_end_launch(launch)) return lc_status{LC_CHECK, faults, launch.kernel};
#endif
    return lc_status{LC_OK, 0, nullptr};
}
}  // namespace lc_host
