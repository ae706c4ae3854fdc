// hopper.h - what sm_90 adds to the CUDA machine: mbarriers, bulk tensor copies into swizzled shared memory, clusters, and
// products of a warpgroup that read shared memory through descriptors.
//
// An mbarrier is eight bytes of shared memory: arrivals still missing, bytes still missing, and the parity of its phase. A
// bulk copy and a warpgroup's product happen at once here, and in the checked build as late as the program allows: a copy
// when somebody waits in vain, a product when its own thread waits for it. What is read too early, or overwritten too
// early, then shows. Addresses in shared memory are offsets from the block's own, so that descriptors and swizzles hold the
// bits they hold on a GPU.
#pragma once
#include "host/leaf.h"

namespace lc_host {
// A matrix [outer, inner] of 16-bit elements, and the box of it that one copy moves. What is outside arrives as zeros. Rows of
// a box are 128 bytes and lie swizzled: bits 4-6 of the address are xored with bits 7-9.
struct TensorMap {
    const char* base;
    uint64_t row_bytes;
    uint32_t inner, outer, box_inner, box_outer;
};
constexpr uint32_t kSwizzleRow = 128;
LC_INLINE uint32_t swizzle(uint32_t offset) { return offset ^ (offset >> 3 & 0x70); }

struct Mbarrier {
    uint32_t parity : 1, ready : 1, expected : 15, missing : 15;
    int32_t n_bytes;
};
static_assert(sizeof(Mbarrier) == 8, "as on a GPU");

void mbarrier_init(void* barrier, uint32_t arrivals);
void mbarrier_arrive(void* barrier, uint32_t rank, uint32_t n_bytes);  // at the one of block `rank` of the cluster
void mbarrier_wait(void* barrier, uint32_t parity);                    // until the phase of this parity is over
void tma_load(void* to, const TensorMap* map, int inner, int outer, void* barrier, uint32_t ranks, const void* pc);
void cluster_barrier();

// One wgmma, or KS of them along k: 16 of the 64 rows are this warp's. Descriptors as the PTX manual has them; `step` is what
// is added to one for the next 16 of k.
struct WarpgroupCall {
    uint64_t a, b;
    uint32_t a_step, b_step;
    int nt, ks;
    bool b_cols;  // n contiguous
    bool e4m3;    // pairs of bytes in the place of 16-bit elements
    const void* pc;
};
void warpgroup_product(const WarpgroupCall& call, float* const* acc, const void* const* a_regs);
// The places, 16 bytes each, that the running warp's part of it reads.
void each_read(const WarpgroupCall& call, bool a_in_registers, void (*each)(uint32_t at, const void* pc));

LC_INLINE uint32_t shared_offset(const void* p) { return (uint32_t)((const char*)p - block->smem); }

#if LC_CHECKED
// What check_hopper.cpp knows of the above.
void check_mbarrier_arrive(const Mbarrier* barrier, const Block* of);
void check_mbarrier_complete(const Mbarrier* barrier, const Block* of);
void check_mbarrier_waited(const Mbarrier* barrier);
void check_cluster_epoch();
bool check_one_copy();  // lets one pending copy happen; false: there is none
void check_copy(void* to, const TensorMap* map, int inner, int outer, void* barrier, uint32_t ranks, const void* pc);
void check_product(const WarpgroupCall& call, float* acc, const void* a_regs);  // of the running lane, kept until its wait
void check_products_commit();
void check_products_wait(uint32_t n_groups_left);
#endif
void copy_box(Block* to_block, uint32_t to, const TensorMap& map, int inner, int outer, uint32_t barrier);

LC_INLINE void warpgroup_mma_fused(const WarpgroupCall& call, float* acc, const void* a_regs) {
#if LC_CHECKED
    check_product(call, acc, a_regs);
#else
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation;
    Slot& s = w->slot[g & 1];
    s.pointer[0][f->lane] = acc;
    s.pointer[1][f->lane] = a_regs;
    rendezvous(f, w, g, [&] { warpgroup_product(call, (float* const*)s.pointer[0], a_regs ? s.pointer[1] : nullptr); });
#endif
}
}  // namespace lc_host
