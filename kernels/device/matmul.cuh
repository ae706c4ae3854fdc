// matmul.cuh - what both launchers of matmul.h ask of their arguments.
#pragma once
#include "device/kernel.cuh"
#include "matmul.h"

inline lc_status matmul_fault(const lc_matmul_args& a) {
    LC_REQUIRE(a.M > 0 && (a.layout != LC_TN || a.M % 8 == 0), LC_BAD_SHAPE);
    LC_REQUIRE(a.n_outputs >= 1 && a.n_outputs <= LC_MAX_OUTPUTS, LC_BAD_SHAPE);
    LC_REQUIRE(a.n_slices >= 1 && a.n_slices <= LC_MAX_SLICES, LC_BAD_SHAPE);
    LC_REQUIRE((a.n_slices > 1) == (a.partial != nullptr), LC_UNSUPPORTED);
    LC_REQUIRE(aligned16(a.partial), LC_MISALIGNED);
    for (int o = 0; o < a.n_outputs; o++) {
        const lc_matmul_output& out = a.output[o];
        const int begin = out.first_segment, end = begin + out.n_segments;
        LC_REQUIRE(out.N > 0 && out.N % 8 == 0 && out.ldy % 8 == 0 && out.ldy >= out.N, LC_BAD_SHAPE);
        LC_REQUIRE(begin >= 0 && begin < end && end <= LC_MAX_SEGMENTS, LC_BAD_SHAPE);
        LC_REQUIRE((out.y != nullptr) != (out.y32 != nullptr), LC_UNSUPPORTED);
        LC_REQUIRE(aligned16(out.y, out.y32), LC_MISALIGNED);
        for (int i = begin; i < end; i++) {
            const lc_matmul_segment& s = a.segment[i];
            LC_REQUIRE(s.K > 0 && (a.layout == LC_TN || s.K % 8 == 0), LC_BAD_SHAPE);
            LC_REQUIRE(s.lda % 8 == 0 && s.lda >= (a.layout == LC_TN ? a.M : s.K), LC_BAD_SHAPE);
            LC_REQUIRE(s.ldb % 8 == 0 && s.ldb >= (a.layout == LC_NT ? s.K : out.N), LC_BAD_SHAPE);
            LC_REQUIRE(aligned16(s.a, s.b), LC_MISALIGNED);
        }
    }
    return lc_status{LC_OK, 0, nullptr};
}
