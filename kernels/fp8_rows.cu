// fp8_rows.cu - rows of a matrix in e4m3, a warp a row (fp8_rows.h).
//
// precision  the maximum is exact, the scale and its inverse one division each, a code one product and one rounding: the same
//            bytes on every device.
// work       a warp owns a row, four rows a block, sixteen elements a lane at a time: 32 bytes in, 16 out. The second pass over
//            the row finds it in cache (10 to 27 KB a row at 13B's widths).
// cost       2 T K bytes read from memory, T K written: bound by memory.
// checked    tests/ops/fp8.rs against tools/golden/fp8.py, bit for bit
#include "fp8_rows.h"
#include "device/fp8.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kRows = 4;

__global__ void __launch_bounds__(32 * kRows) fp8_rows(lc_fp8_rows_args a) {
    const int t = blockIdx.x * kRows + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (t >= a.T) return;
    const act* x = a.x + (size_t)t * a.K;
    float top = 0.f;
    for (int k = lane * 8; k < a.K; k += 256) {
        const act8 v = load8(x + k);
        UNROLL
        for (int i = 0; i < 8; i++) top = fmaxf(top, fabsf(to_f(v.v[i]))); // fmaxf passes over NaN
    }
    const float scale = e4m3_scale(warp_max(top)), inverse = 1.f / scale;
    if (lane == 0) a.scales[t] = scale;
    uint8_t* codes = a.codes + (size_t)t * a.K;
    for (int k = lane * 16; k < a.K; k += 512) {
        Codes16 c;
        UNROLL
        for (int h = 0; h < 2; h++) {
            const act8 v = load8(x + k + 8 * h);
            UNROLL
            for (int i = 0; i < 2; i++)
                c.v[2 * h + i] = e4m3_pack4(to_f(v.v[4 * i]) * inverse, to_f(v.v[4 * i + 1]) * inverse,
                                            to_f(v.v[4 * i + 2]) * inverse, to_f(v.v[4 * i + 3]) * inverse);
        }
        *reinterpret_cast<Codes16*>(codes + k) = c;
    }
}
} // namespace

LC_API lc_status LC(fp8_rows)(const lc_fp8_rows_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->K > 0 && a->K % 16 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x, a->codes, a->scales), LC_MISALIGNED);
    return launch<fp8_rows>(dim3(ceil_div(a->T, kRows)), dim3(32 * kRows), 0, stream, *a);
}
