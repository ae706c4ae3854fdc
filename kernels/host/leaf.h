// leaf.h - the tensor core of the CUDA machine.
//
// warp_mma_fused: one rendezvous for a whole k-tile; the arithmetic is in leaf.cpp, compiled for AVX2 and for AVX-512,
// and in leaf_bf16.cpp, chosen at run time. ldmatrix_x4 and mma_m16n8k16 are the lane-by-lane forms with the PTX
// manual's fragment layouts; the lanewise build runs kernels on them, and the machine's own tests hold both against a
// plain triple loop.
#pragma once
#include "host/machine.h"

namespace lc_host {

constexpr int kMaxM = 64, kMaxN = 128, kMaxK = 128;  // of one call

struct MmaCall {
    int mt, nt, ks;       // tiles of 16 rows, of 8 columns, steps of 16 along k
    bool a_cols, b_cols;  // stored transposed (m, n contiguous)
    const void* a;        // null: A comes from registers
    int lda;
    const void* b;
    int ldb;
    size_t elem_bytes;  // 2: bf16, 4: float
};

// The compiled copies of the arithmetic; only leaf_base runs everywhere, and leaf_bf16 takes bf16 storage only.
typedef void Leaf(const MmaCall& call, float* const* acc, const void* const* a_regs);
namespace leaf_base {
Leaf mma_tile;
}
namespace leaf_avx512 {
Leaf mma_tile;
}
namespace leaf_bf16 {
Leaf mma_tile;
}
bool has_avx512();
bool has_avx512_bf16();

// acc[lane]: [mt][nt][4] floats of each lane; a_regs[lane]: [ks][mt][4] pairs, or unused.
void mma_tile(const MmaCall& call, float* const* acc, const void* const* a_regs);
void leaf_tile(const MmaCall& call, float* const* acc, const void* const* a_regs);  // unwatched

void ldmatrix_leaf(uint32_t* const* r, const void* const* row, bool trans);
void mma_leaf(float* const* d, const uint32_t* const* a, const uint32_t* const* b);

LC_INLINE void warp_mma_fused(const MmaCall& call, float* acc, const void* a_regs) {
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation;
    Slot& s = w->slot[g & 1];
    s.pointer[0][f->lane] = acc;
    s.pointer[1][f->lane] = a_regs;
    rendezvous(f, w, g, [&] { mma_tile(call, (float* const*)s.pointer[0], s.pointer[1]); });
}
}  // namespace lc_host

LC_INLINE int lane_id() { return lc_host::current->lane; }

static inline void ldmatrix_any(uint32_t (&r)[4], const void* row, bool trans) {
    using namespace lc_host;
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation;
    Slot& s = w->slot[g & 1];
    LC_ESCAPE(r);
    s.pointer[0][f->lane] = r;
    s.pointer[1][f->lane] = row;
    rendezvous(f, w, g, [&] { ldmatrix_leaf((uint32_t* const*)s.pointer[0], s.pointer[1], trans); });
}
static inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { ldmatrix_any(r, row, false); }
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { ldmatrix_any(r, row, true); }
// One mma.sync of a warp: every lane deposits its registers, and `leaf` computes for all.
template <class Leaf>
static inline void mma_lanes(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Leaf leaf) {
    using namespace lc_host;
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation;
    Slot& s = w->slot[g & 1];
    uint32_t b[2] = {b0, b1};
    LC_ESCAPE(d);
    LC_ESCAPE(a);
    LC_ESCAPE(b);
    s.pointer[0][f->lane] = d;
    s.pointer[1][f->lane] = a;
    s.pointer[2][f->lane] = b;
    rendezvous(f, w, g, [&] {
        leaf((float* const*)s.pointer[0], (const uint32_t* const*)s.pointer[1], (const uint32_t* const*)s.pointer[2]);
    });
}
static inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_lanes(d, a, b0, b1, lc_host::mma_leaf);
}
