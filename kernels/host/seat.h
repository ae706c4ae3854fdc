// seat.h - what a block needs to run on the CUDA machine: its records, shared memory and stacks. Included by machine.cpp alone.
#pragma once
#include "host/machine.h"
#include <sys/mman.h>

namespace lc_host {
constexpr uint32_t kMaxThreads = 1024;
// Checked builds run the hooks on the same stack, and look at its last word when a block is done.
// The skew keeps equal frames of neighbouring fibres out of the same cache set (8 -> 11 GFLOP/s).
constexpr size_t kStackBytes = LC_CHECKED ? 64 << 10 : 16 << 10;
constexpr size_t kStackStride = kStackBytes + 320;
constexpr uint64_t kStackEnd = 0x5ac1f1b0e5ac1f1bull;

// What a block needs to run. An OS thread has one, and one more for every further block of a cluster.
struct Seat {
    Block block;
    Fiber fiber[kMaxThreads];
    Warp warp[kMaxThreads / 32];
    dim3 shape{0, 0, 0};
    static constexpr size_t kSmemMapped = kSmemBytes + (16 << 10), kStacksMapped = kStackStride * kMaxThreads;
    Seat() {
        memset((void*)&block, 0, sizeof block);
        memset((void*)fiber, 0, sizeof fiber);
        memset((void*)warp, 0, sizeof warp);
        block.fiber = fiber;
        block.warp = warp;
        block.smem = map(kSmemMapped);
        block.stacks = map(kStacksMapped);
        block.stacks_bytes = kStacksMapped;
        block.own_bytes = sizeof(Seat);
    }
    ~Seat() {
        munmap(block.smem, kSmemMapped);
        munmap((void*)block.stacks, kStacksMapped);
#if LC_CHECKED
        check_forget(&block);
#endif
    }
    static char* map(size_t n_bytes) {
        void* p = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) die("no memory for the stacks of a block");
        return (char*)p;
    }
    void prepare(const Launch& launch) {
        const dim3& d = launch.block;
        if (shape.x != d.x || shape.y != d.y || shape.z != d.z) {
            shape = d;
            block.n_threads = d.x * d.y * d.z;
            block.n_warps = (block.n_threads + 31) / 32;
            uint32_t i = 0;
            for (uint32_t z = 0; z < d.z; z++)
                for (uint32_t y = 0; y < d.y; y++)
                    for (uint32_t x = 0; x < d.x; x++, i++) {
                        fiber[i].tid = uint3{x, y, z};
                        fiber[i].lane = i & 31;
                        fiber[i].warp = &warp[i >> 5];
                    }
        }
        block.dim = d;
        block.grid = launch.grid;
        block.entry = launch.entry;
        block.args = launch.args;
        block.launch = &launch;
    }
};
struct Worker {
    Seat* seat[kMaxCluster] = {};
    Block* block[kMaxCluster] = {};
    ~Worker() {
        for (Seat* s : seat) delete s;
    }
    void seats(const Launch& launch) {
        for (uint32_t r = 0; r < launch.cluster; r++) {
            if (!seat[r]) {
                seat[r] = new Seat();
                block[r] = &seat[r]->block;
            }
            seat[r]->prepare(launch);
            block[r]->cluster = block;
            block[r]->rank = r;
        }
    }
};
}  // namespace lc_host
