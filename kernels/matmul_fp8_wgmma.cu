// matmul_fp8_wgmma.cu - products in e4m3 on Hopper, continued in bf16 (matmul_fp8_wgmma.h).
//
// precision  as matmul_fp8.cu, with one thing more. Hopper keeps about 14 bits of a sum in e4m3 while it adds (as published by
//            those who measured it); over K = 13824 that could cost percents. Sums of 512 of k are therefore made by the
//            tensor cores and added up in fp32 registers.
// work       device/sm90/matmul_ring.cuh: as matmul_wgmma.cu, 128 x 192 tiles. 192 columns of partial sums and as many of whole
//            ones fill the registers; 256 would not fit twice.
// cost       a stage of 128 x 192 x 128 takes 768 cycles of the tensor cores (8192 flops a cycle and multiprocessor); L2 sends a
//            block 28 KiB in that time, 37 bytes a cycle, and that, not the tensor cores, is predicted to bound it. Adding up
//            takes 96 additions a thread every four stages, 6 % of the issue slots.
// order      every sum runs along k in one warpgroup: the same bytes on every run.
// checked    tests/ops/fp8.rs against tools/golden/fp8.py
#include "matmul_fp8_wgmma.h"
#include "device/matmul_fp8.cuh"
#include "device/sm90/matmul_ring.cuh"

LC_API lc_status LC(matmul_fp8_wgmma)(const lc_matmul_fp8_args* a, lc_stream stream) {
#ifdef LC_FP32
    (void)a, (void)stream;
    return lc_status{LC_UNSUPPORTED, 0, "operands of 8 and 16 bits"};
#else
#ifdef __CUDACC__
    LC_REQUIRE(this_gpu().architecture == 90, LC_UNSUPPORTED);
#endif
    LC_TRY(matmul_fp8_fault(*a));
    static_assert((int)LC_FP8_SEGMENTS <= (int)LC_MAX_SEGMENTS && (int)LC_FP8_OUTPUTS <= (int)LC_MAX_OUTPUTS, "a ring's");
    RingArgs ring = {};
    ring.n_outputs = a->n_outputs, ring.M = a->M, ring.add = a->write == LC_ADD, ring.alpha = 1.f;
    for (int o = 0; o < a->n_outputs; o++) {
        const lc_matmul_fp8_output& out = a->output[o];
        ring.output[o] = lc_matmul_output{out.y, nullptr, out.N, out.N, out.first_segment, out.n_segments};
        for (int i = out.first_segment; i < out.first_segment + out.n_segments; i++) {
            const lc_matmul_fp8_segment& s = a->segment[i];
            if (s.a8) { // pairs of bytes are elements
                const act *a8 = reinterpret_cast<const act*>(s.a8), *b8 = reinterpret_cast<const act*>(s.b8);
                ring.segment[i] = RingSegment{a8, b8, s.a_scales, s.b_scales, s.K / 2, s.K / 2, s.K / 2};
            } else {
                ring.segment[i] = RingSegment{s.a, s.b, nullptr, nullptr, s.K, s.K, a->layout == LC_NT ? s.K : out.N};
            }
        }
    }
    return a->layout == LC_NT ? run_ring<LC_NT, Medium, true>(ring, stream) : run_ring<LC_NN, Medium, true>(ring, stream);
#endif
}
