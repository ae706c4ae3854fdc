// leaf_fp8.h - the tensor core of the CUDA machine on e4m3 (device/mma_fp8.cuh).
//
// warp_mma_fp8_fused: one rendezvous for a whole k-tile. Every value of e4m3 is a value of bf16, so the tile is widened
// through a table of 256 and multiplied by the bf16 tensor core of leaf.h. mma_m16n8k32_e4m3 is the lane-by-lane form
// with the PTX manual's fragments; the machine's own tests hold both against a plain triple loop (tests/kernels/fp8.cu).
#pragma once
#include "host/leaf.h"

namespace lc_host {
struct Fp8Call {
    int mt, nt, ks;  // tiles of 16 rows, of 8 columns, steps of 32 along k
    const uint8_t* a;
    int lda;
    const uint8_t* b;
    int ldb;
};

// The upper half of the float that a code stands for: bf16.
uint16_t e4m3_to_bf16(uint8_t code);

void fp8_tile(const Fp8Call& call, float* const* acc);
void fp8_leaf_tile(const Fp8Call& call, float* const* acc);  // unwatched
void fp8_leaf(float* const* d, const uint32_t* const* a, const uint32_t* const* b);

LC_INLINE void warp_mma_fp8_fused(const Fp8Call& call, float* acc) {
    Fiber* f = current;
    Warp* w = enter_warp(f);
    uint32_t g = w->generation;
    Slot& s = w->slot[g & 1];
    s.pointer[0][f->lane] = acc;
    rendezvous(f, w, g, [&] { fp8_tile(call, (float* const*)s.pointer[0]); });
}
}  // namespace lc_host

static inline void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_lanes(d, a, b0, b1, lc_host::fp8_leaf);
}
