// machine.cpp - the scheduler of the CUDA machine (machine.h): stacks, warps, barriers, blocks over threads.
//
// Compiled once per binary, for both storage types. The threads come from Rust (lc_host_parallel_for, rayon): a block
// never moves between OS threads, so everything here is thread-local and nothing is locked.
#include "lc.h"
#include "host/machine.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

extern "C" void lc_host_parallel_for(size_t n_blocks, void (*run)(void*, size_t, size_t), void* context);

namespace lc_host {
__thread __attribute__((tls_model("initial-exec"))) Fiber* current;
__thread __attribute__((tls_model("initial-exec"))) Block* block;

constexpr uint32_t kMaxThreads = 1024;
// Checked builds run the hooks on the same stack, and look at its last word when a block is done.
// The skew keeps equal frames of neighbouring fibres out of the same cache set (8 -> 11 GFLOP/s).
constexpr size_t kStackBytes = LC_CHECKED ? 64 << 10 : 16 << 10;
constexpr size_t kStackStride = kStackBytes + 320;
constexpr uint64_t kStackEnd = 0x5ac1f1b0e5ac1f1bull;

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

// What one OS thread needs to run blocks.
struct Worker {
    Block block;
    Fiber fiber[kMaxThreads];
    Warp warp[kMaxThreads / 32];
    dim3 shape{0, 0, 0};
    char* smem;
    char* stacks;
    static constexpr size_t kSmemMapped = kSmemBytes + (16 << 10), kStacksMapped = kStackStride * kMaxThreads;
    Worker() {
        memset((void*)&block, 0, sizeof block);
        memset((void*)fiber, 0, sizeof fiber);
        memset((void*)warp, 0, sizeof warp);
        smem = map(kSmemMapped);
        stacks = map(kStacksMapped);
        block.fiber = fiber;
        block.warp = warp;
        block.smem = smem;
        block.stacks = stacks;
        block.stacks_bytes = kStacksMapped;
        block.own_bytes = sizeof(Worker);
    }
    ~Worker() {
        munmap(smem, kSmemMapped);
        munmap(stacks, kStacksMapped);
    }
    static char* map(size_t n_bytes) {
        void* p = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) die("no memory for the stacks of a block");
        return (char*)p;
    }
};
static __thread Worker* worker;
static thread_local struct WorkerEnd {
    bool armed = false;
    ~WorkerEnd() { delete worker; }
} worker_end;

static void start(Fiber* f, Block* b) {
    f->stack = worker->stacks + (size_t)(f - b->fiber) * kStackStride;
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
    uint32_t progress = b->barrier_generation + b->live;
    for (uint32_t w = 0; w < b->n_warps; w++) progress += b->warp[w].generation + b->warp[w].arrived;
    b->idle = 0;
    if (progress != b->progress) {
        b->progress = progress;
        return;
    }
    for (uint32_t w = 0; w < b->n_warps; w++)
        fprintf(stderr, "CPU device: warp %u: %u lanes live, %u at the barrier, %u at a warp collective\n", w,
                b->warp[w].live, b->warp[w].at_barrier, b->warp[w].arrived);
    die("deadlock: a barrier or a warp collective in divergent code");
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

static void run_block(Worker* k, const Launch& launch, size_t index) {
    Block* b = &k->block;
    uint32_t x = index % launch.grid.x;
    size_t rest = index / launch.grid.x;
    b->index = uint3{x, (unsigned)(rest % launch.grid.y), (unsigned)(rest / launch.grid.y)};
    b->fibrous = b->barrier_generation = b->first = 0;
#if LC_CHECKED
    check_begin_block(b);
    if (b->random) shuffle_order(b, b->order, b->n_threads);
    current = &k->fiber[b->order[0]];
#else
    current = &k->fiber[0];
#endif
    start(current, b);
    Fiber here;
    b->main = &here;
    raw_switch(&here, current);
#if LC_CHECKED
    check_end_block(b);
#endif
    if (LC_CHECKED)
        for (uint32_t i = 0; i < b->n_threads; i++)
            if (uint64_t end = *(const uint64_t*)(k->stacks + i * kStackStride); end && end != kStackEnd)
                die("a thread ran over the end of its stack: a large local array?");
}

static void run_range(void* context, size_t begin, size_t end) {
    const Launch& launch = *(const Launch*)context;
    if (!worker) {
        worker = new Worker();
        worker_end.armed = true;  // touching it registers its destructor for this thread
    }
    Worker* k = worker;
    Block *b = &k->block, *outer_block = block;
    Fiber* outer = current;
    block = b;
    const dim3& d = launch.block;
    if (k->shape.x != d.x || k->shape.y != d.y || k->shape.z != d.z) {
        k->shape = d;
        b->n_threads = d.x * d.y * d.z;
        b->n_warps = (b->n_threads + 31) / 32;
        uint32_t i = 0;
        for (uint32_t z = 0; z < d.z; z++)
            for (uint32_t y = 0; y < d.y; y++)
                for (uint32_t x = 0; x < d.x; x++, i++) {
                    k->fiber[i].tid = uint3{x, y, z};
                    k->fiber[i].lane = i & 31;
                    k->fiber[i].warp = &k->warp[i >> 5];
                }
    }
    b->dim = d;
    b->grid = launch.grid;
    b->entry = launch.entry;
    b->args = launch.args;
    b->launch = &launch;
    for (size_t i = begin; i < end; i++) run_block(k, launch, i);
    block = outer_block;
    current = outer;
}

lc_status run_grid(Launch& launch) {
    size_t n_blocks = (size_t)launch.grid.x * launch.grid.y * launch.grid.z;
    uint32_t n_threads = launch.block.x * launch.block.y * launch.block.z;
    if (n_blocks == 0 || n_threads == 0 || n_threads > kMaxThreads || launch.grid.y > 65535 || launch.grid.z > 65535)
        return lc_status{LC_BAD_SHAPE, 0, "a grid of at least one block, a block of 1 to 1024 threads"};
    if (launch.smem > kSmemBytes) return lc_status{LC_BAD_SHAPE, 0, "shared memory <= 228 KiB"};
#if LC_CHECKED
    check_begin_launch(launch);
#endif
    // Waking another core costs about 14 us: a small grid runs where it is.
    if (n_blocks == 1 || n_blocks * n_threads < 4096)
        run_range((void*)&launch, 0, n_blocks);
    else
        lc_host_parallel_for(n_blocks, run_range, (void*)&launch);
#if LC_CHECKED
    if (int faults = check_end_launch(launch)) return lc_status{LC_CHECK, faults, launch.kernel};
#endif
    return lc_status{LC_OK, 0, nullptr};
}
}  // namespace lc_host
