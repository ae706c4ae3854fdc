// matmul_fp8.cuh - what both launchers of matmul_fp8.h ask of their arguments.
#pragma once
#include "device/kernel.cuh"
#include "matmul_fp8.h"

inline lc_status matmul_fp8_fault(const lc_matmul_fp8_args& a) {
    LC_REQUIRE(a.layout == LC_NT || a.layout == LC_NN, LC_UNSUPPORTED);
    LC_REQUIRE(a.M > 0 && a.n_outputs >= 1 && a.n_outputs <= LC_FP8_OUTPUTS, LC_BAD_SHAPE);
    for (int i = 0; i < a.n_outputs; i++) {
        const lc_matmul_fp8_output& out = a.output[i];
        LC_REQUIRE(out.N > 0 && out.N % 8 == 0 && out.first_segment >= 0 && out.n_segments >= 1, LC_BAD_SHAPE);
        LC_REQUIRE(out.first_segment + out.n_segments <= LC_FP8_SEGMENTS, LC_BAD_SHAPE);
        LC_REQUIRE(out.y && aligned16(out.y), LC_MISALIGNED);
        for (int s = out.first_segment; s < out.first_segment + out.n_segments; s++) {
            const lc_matmul_fp8_segment& part = a.segment[s];
            LC_REQUIRE(part.K > 0 && part.K % (part.a8 ? 16 : 8) == 0, LC_BAD_SHAPE);
            LC_REQUIRE(part.a8 ? part.b8 && part.a_scales && part.b_scales : part.a && part.b, LC_UNSUPPORTED);
            LC_REQUIRE(aligned16(part.a8, part.b8, part.a, part.b), LC_MISALIGNED);
        }
    }
    return lc_status{LC_OK, 0, nullptr};
}
