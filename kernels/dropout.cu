// dropout.cu - dropout with a mask that is a function of (seed, step, tensor, element) (dropout.h).
//
// precision  x / (1 - p) in fp32, one rounding; the mask is integer arithmetic, the same bits on every device.
// work       eight elements and two Philox calls a thread.
// cost       reads and writes n elements; 10 rounds of Philox per four elements hide behind that on a GPU.
// checked    tests/ops/dropout.rs, against a Philox written down in the test and its authors' published vectors
#include "dropout.h"
#include "device/philox.cuh"

namespace {
constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) dropout(lc_dropout_args a, uint32_t threshold, float scale) {
    const uint64_t unit = (uint64_t)blockIdx.x * kThreads + threadIdx.x;
    if (unit >= (uint64_t)a.n / 8) return;
    act8 x = load8(a.x + unit * 8), y;
    if (a.write == LC_ADD) y = load8(a.y + unit * 8);
    const uint2 key{(uint32_t)a.seed, (uint32_t)(a.seed >> 32)};
    uint32_t word[8];
    UNROLL
    for (int h = 0; h < 2; h++) {
        const uint64_t at = unit * 2 + h;
        const uint4 r = philox(key, make_uint4((uint32_t)at, (uint32_t)(at >> 32), a.step, a.tensor));
        word[4 * h] = r.x, word[4 * h + 1] = r.y, word[4 * h + 2] = r.z, word[4 * h + 3] = r.w;
    }
    UNROLL
    for (int i = 0; i < 8; i++) {
        const float kept = word[i] >= threshold ? to_f(x.v[i]) * scale : 0.f;
        y.v[i] = from_f(a.write == LC_ADD ? to_f(y.v[i]) + kept : kept);
    }
    store8(a.y + unit * 8, y);
}
} // namespace

LC_API lc_status LC(dropout)(const lc_dropout_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->p >= 0.f && a->p < 1.f, LC_UNSUPPORTED);
    LC_REQUIRE(aligned16(a->x, a->y), LC_MISALIGNED);
    const uint32_t threshold = (uint32_t)((double)a->p * 4294967296.0);
    const unsigned n_grid = (unsigned)ceil_div<int64_t>(a->n / 8, kThreads);
    return launch<dropout>(dim3(n_grid), dim3(kThreads), 0, stream, *a, threshold, (float)(1.0 / (1.0 - (double)a->p)));
}
