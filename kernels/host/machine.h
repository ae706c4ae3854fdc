// machine.h - a small CUDA machine in C++: the same kernel files compiled for a CPU.
//
// Each CUDA thread is a fibre with its own stack; a block lives on one OS thread; blocks are spread over the cores.
// Threads run one after another on one stack until the first of them synchronises, so a kernel without barriers costs
// a plain loop. At a barrier or a warp collective a fibre jumps straight to the next one, with no scheduler between:
// the switch is inline assembly that clobbers every register, so the compiler saves only what is alive (5 ns a switch).
//
// A warp collective is one rendezvous: every lane deposits its operands (or pointers to them, which live in its own
// frame), the last lane to arrive computes for all and runs on. Two slots alternate by generation, so a fast lane may
// already deposit for the next collective while slow ones still read this one's result.
//
// The blocks of a cluster share an OS thread and take turns: one that only waits (for an mbarrier, for its cluster) hands
// over to the next. hopper.h is what sm_90 adds: mbarriers, bulk tensor copies, products of a warpgroup.
//
// What this machine is not: it has no memory model finer than barriers, no occupancy, and only full-warp collectives.
// kernels/host/check.cpp watches accesses, count.cpp counts sectors and bank conflicts; leaf.h is the tensor core.
#pragma once
#include "host/words.h"
#include <tuple>

#ifndef LC_CHECKED
#define LC_CHECKED 0
#endif

namespace lc_host {

struct Warp;
struct Block;

struct alignas(64) Fiber {
    void* sp;  // saved stack pointer; null: not started
    void* pc;  // where to go on
    uint3 tid;
    uint16_t lane;
    uint16_t dead;
    Warp* warp;
    Fiber* next;  // ring of the warp's live lanes
    char* stack;
    uint32_t smem_at;  // bump pointer of this thread's SHARED and Arena declarations
};

// What the lanes of a warp deposit for one collective.
struct alignas(64) Slot {
    union {
        uint64_t bits[32];
        float f[64];
        const void* pointer[3][32];
    };
    Slot() {}
};

struct alignas(64) Warp {
    uint32_t arrived, generation, live, at_barrier;
    Fiber* resume;
    Warp* next;
    Warp* prev;
    Block* block;
    Slot slot[2];
};

struct Block {
    uint32_t n_threads, n_warps, live, at_barrier, barrier_generation, fibrous, first, idle, progress;
    Fiber* fiber;
    Warp* warp;
    void (*entry)();
    const void* args;
    Fiber* main;
    char* smem;
    uint3 index;
    dim3 dim, grid;
    const struct Launch* launch;
    Block* const* cluster;  // its blocks by rank, this one among them
    uint32_t rank, polls, at_cluster_barrier, cluster_generation;
    bool waits;     // it handed over; false when control comes back: it has finished
    Fiber* resume;  // who runs when its turn comes
    // Checked builds only: the line of the barrier being waited at, and the order in which threads start.
    int barrier_line;
    uint64_t random;
    const char* stacks;
    size_t stacks_bytes, own_bytes;  // own: from this record on, with fibres and warps behind it
    struct Watch* watch;
    struct Tally* tally;
    struct HopperWatch* hopper;
    uint32_t order[1024];
};

struct Launch {
    dim3 grid, block;
    size_t smem;
    void (*entry)();
    const void* args;
    size_t args_bytes;
    const char* kernel;  // as the compiler spells it, see kernel_name
    bool bf16;           // storage as on a GPU
    uint32_t cluster;    // blocks of a cluster, along x
    struct CheckedLaunch* checked;
};

constexpr uint32_t kSmemBytes = 227 << 10;  // an H100's shared memory per block, the largest there is
constexpr uint32_t kMaxCluster = 8;

#define LC_TLS extern __thread __attribute__((tls_model("initial-exec")))
LC_TLS Fiber* current;
LC_TLS Block* block;

lc_status run_grid(Launch& launch);
void first_yield(Fiber* f);
Fiber* prepare(Fiber* f, Fiber* next);  // gives `next` a stack; unlinks it if it is dead
Fiber* exit_fiber(Fiber* f, Block* b);  // who runs next; null when the block is finished
void idle_pass(Block* b);
void wait_a_turn();  // the running thread waits for something that other warps, or other blocks, bring about
void got_on();       // something happened that such a thread may have waited for
void barrier_release(Block* b, Warp* w);
[[noreturn]] void die(const char* message);
void short_name(const char* spelled, char* name, size_t n);  // "[with auto K = {anonymous}::f]" -> "f"

}  // namespace lc_host
#if LC_CHECKED
#include "host/check.h"
#endif
namespace lc_host {

// Saves the running fibre and resumes `to`. Returns the fibre that was resumed (in a register, so that nothing is
// reloaded through the new stack).
LC_INLINE Fiber* raw_switch(Fiber* from, Fiber* to) {
#if defined(__x86_64__)
    asm volatile(
        "push %%rbp\n\t"
        "lea 1f(%%rip), %%rax\n\t"
        "mov %%rsp, (%%rdi)\n\t"
        "mov %%rax, 8(%%rdi)\n\t"
        "mov (%%rsi), %%rsp\n\t"
        "jmp *8(%%rsi)\n\t"
        "1: pop %%rbp\n\t"
        : "+D"(from), "+S"(to)
        :
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc", "xmm0",
          "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",
          "xmm14", "xmm15");
#elif defined(__aarch64__)
    asm volatile(
        "stp x29, x19, [sp, #-16]!\n\t"
        "adr x9, 1f\n\t"
        "mov x10, sp\n\t"
        "stp x10, x9, [%0]\n\t"
        "ldp x10, x9, [%1]\n\t"
        "mov sp, x10\n\t"
        "mov x0, %0\n\t"
        "mov x1, %1\n\t"
        "br x9\n\t"
        "1: ldp x29, x19, [sp], #16\n\t"
        "mov %0, x0\n\t"
        "mov %1, x1\n\t"
        : "+r"(from), "+r"(to)
        :
        : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
          "x17", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "x30", "memory", "cc", "v0", "v1", "v2",
          "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18",
          "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
#else
#error "the CPU device knows x86-64 and aarch64"
#endif
    return to;
}

LC_INLINE Fiber* switch_to(Fiber* from, Fiber* to) {
    current = to;
    if (__builtin_expect(!to->sp, 0)) {
        to = prepare(from, to);
        current = to;
    }
    return raw_switch(from, to);
}

LC_INLINE Warp* enter_warp(Fiber* f) {
    if (__builtin_expect(!block->fibrous, 0)) first_yield(f);
    return f->warp;
}

// Deposit, then call this: the last lane to arrive runs `last` and keeps running; the others wait for the generation.
template <class Last>
LC_INLINE Fiber* rendezvous(Fiber* f, Warp* w, uint32_t generation, Last last) {
    if (__builtin_expect(++w->arrived == w->live, 0)) {
        w->arrived = 0;
        last();
        w->generation = generation + 1;
        return f;
    }
    f = switch_to(f, f->next);
    while (__builtin_expect(f->warp->generation == generation, 0)) {
        idle_pass(f->warp->block);
        f = switch_to(f, f->next);
    }
    return f;
}

LC_INLINE void block_barrier(Fiber* f) {
    Block* b = block;
    if (__builtin_expect(!b->fibrous, 0)) first_yield(f);
    Warp* w = f->warp;
    uint32_t generation = b->barrier_generation;
    if (__builtin_expect(++b->at_barrier == b->live, 0)) {
        barrier_release(b, w);
        return;
    }
    ++w->at_barrier;
    for (;;) {
        w = f->warp;
        Fiber* to;
        if (__builtin_expect(w->at_barrier < w->live, 1)) {
            to = f->next;
        } else {
            w->resume = f;
            to = w->next->resume;
        }
        f = switch_to(f, to);
        b = block;
        if (__builtin_expect(b->barrier_generation != generation, 1)) return;
        idle_pass(b);
    }
}

template <class T>
LC_INLINE T* smem_take(size_t n) {
    Fiber* f = current;
    uint32_t at = (f->smem_at + 127u) & ~127u;
    // A gap after each array, so that running off its end is seen; the gap is not counted against the device's limit.
    f->smem_at = at + (uint32_t)(n * sizeof(T)) + (LC_CHECKED ? 128 : 0);
    if (__builtin_expect(f->smem_at > kSmemBytes + (LC_CHECKED ? 8192 : 0), 0)) die("shared memory exhausted");
#if LC_CHECKED
    check_declare(block->smem + at, n * sizeof(T));
#endif
    return (T*)(block->smem + at);
}

// A pointer into a lane's own frame is handed to another lane: the compiler must keep the object in memory.
#define LC_ESCAPE(p) asm volatile("" : : "r"(p) : "memory")

// The body of every fibre of a launch. It never returns: a `ret` after a stack switch is always mispredicted.
template <auto K, class Args>
__attribute__((noinline)) static void fiber_main() {
    Block* b = block;
    Args args = *(const Args*)b->args;
    for (;;) {
        std::apply(K, args);
        b = block;
        Fiber* f = current;
        Fiber* to = nullptr;
        if (!b->fibrous) {  // nobody has synchronised yet: the next thread, on the same stack, like a plain loop
            if (++b->first < b->n_threads) {
                to = &b->fiber[LC_CHECKED ? b->order[b->first] : b->first];
                to->stack = f->stack;
                to->smem_at = 0;
                current = to;
                continue;
            }
        } else {
            to = exit_fiber(f, b);
            if (to) {
                current = to;
                if (!to->sp) {  // not started: it takes over this stack
                    to->stack = f->stack;
                    to->smem_at = 0;
                    continue;
                }
            }
        }
        Fiber gone;
        raw_switch(&gone, to ? to : b->main);
        __builtin_unreachable();
    }
}

template <auto K>
const char* kernel_name() {
    return __PRETTY_FUNCTION__;
}

}  // namespace lc_host

#define threadIdx (lc_host::current->tid)
#define blockIdx (lc_host::block->index)
#define blockDim (lc_host::block->dim)
#define gridDim (lc_host::block->grid)

#if LC_CHECKED
#define __syncthreads() (lc_host::check_barrier(__LINE__), lc_host::block_barrier(lc_host::current))
#else
static inline void __syncthreads() { lc_host::block_barrier(lc_host::current); }
#endif
static inline void __syncwarp(unsigned = 0xffffffffu) {
    lc_host::Fiber* f = lc_host::current;
    lc_host::Warp* w = lc_host::enter_warp(f);
    lc_host::rendezvous(f, w, w->generation, [] {});
}

namespace lc_host {
template <class T>
static inline T shuffle(T v, int source_lane) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation;
    Slot& s = w->slot[g & 1];
    memcpy(&s.bits[f->lane], &v, sizeof(T));
    rendezvous(f, w, g, [] {});
    T r;
    memcpy(&r, &s.bits[source_lane & 31], sizeof(T));
    return r;
}
}  // namespace lc_host
template <class T>
static inline T __shfl_sync(unsigned, T v, int lane) {
    return lc_host::shuffle(v, lane);
}
template <class T>
static inline T __shfl_xor_sync(unsigned, T v, int mask) {
    return lc_host::shuffle(v, (int)lc_host::current->lane ^ mask);
}
template <class T>
static inline T __shfl_down_sync(unsigned, T v, int delta) {
    int lane = (int)lc_host::current->lane;
    return lc_host::shuffle(v, lane + delta > 31 ? lane : lane + delta);
}

#define SHARED(T, name, N) T* const name = lc_host::smem_take<T>(N)
struct Arena {
    template <class T>
    T* take(size_t n) {
        return lc_host::smem_take<T>(n);
    }
};

// launch<kernel>(grid, block, shared bytes, stream, args...), as on CUDA; synchronous here.
// launch_clusters: `cluster` neighbouring blocks along x run together.
template <auto K, class... A>
static inline lc_status launch_clusters(dim3 grid, dim3 dim, uint32_t cluster, size_t smem, lc_stream, A... args) {
    typedef std::tuple<A...> Args;
    Args tuple(args...);
    lc_host::Launch launch{grid,
                           dim,
                           smem,
                           &lc_host::fiber_main<K, Args>,
                           &tuple,
                           sizeof tuple,
                           lc_host::kernel_name<K>(),
                           sizeof(lc_act) == 2,
                           cluster,
                           nullptr};
    return lc_host::run_grid(launch);
}
template <auto K, class... A>
static inline lc_status launch(dim3 grid, dim3 dim, size_t smem, lc_stream stream, A... args) {
    return launch_clusters<K>(grid, dim, 1, smem, stream, args...);
}
