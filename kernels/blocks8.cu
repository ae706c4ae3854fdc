// blocks8.cu - activations to 8-bit blocks of 128 and back, sixteen elements a thread.
//
// precision  fp32 inside, and only operations that round the same way everywhere (fma, sqrt, rint), so that codes and
//            scales are the same bytes on every device. The scale is the maximum over 64516 = 127 (127 + 3 127).
// work       eight neighbouring lanes own a block: each loads its sixteen elements once and keeps them while the eight
//            agree on the maximum. All lanes of a warp take part; those behind the end bring zeros.
// cost       3 n bytes and a scale per 128, in each direction: bound by memory. A root an element hides behind it (predicted).
// checked    tests/ops/blocks8.rs against tools/golden/blocks8.py, bit for bit
#include "blocks8.h"
#include "device/reduce.cuh"

namespace {
constexpr int kThreads = 256, kEach = 16, kLanes = LC_BLOCKS8 / kEach;
constexpr float kLargest = 3.402823466e38f, kTiny = 1e-33f;
constexpr int kNotFinite = -128;
static_assert(kLanes == 8, "octet_max agrees over eight lanes");

// Sixteen codes: one access. A thread at the end of an odd multiple of eight has only the first half of them.
struct alignas(16) Codes {
    int8_t v[kEach];
};
struct alignas(8) Half {
    int8_t v[kEach / 2];
};

LC_INLINE bool is_finite(float x) { return fabsf(x) <= kLargest; }

__global__ void __launch_bounds__(kThreads) quantize(lc_blocks8_quantize_args a) {
    const size_t at = ((size_t)blockIdx.x * kThreads + threadIdx.x) * kEach, n = a.n;
    act8 x[2];
    float top = 0.f;
    UNROLL
    for (int h = 0; h < 2; h++) {
        if (at + 8 * h >= n) continue;
        x[h] = load8(a.x + at + 8 * h);
        UNROLL
        for (int i = 0; i < 8; i++) {
            const float v = to_f(x[h].v[i]);
            if (is_finite(v)) top = fmaxf(top, fabsf(v));
        }
    }
    top = octet_max(top);
    if (at >= n) return;
    const bool zeros = top < kTiny;
    const float inverse = zeros ? 0.f : 1.f / top;
    if (threadIdx.x % kLanes == 0) a.scales[at / LC_BLOCKS8] = zeros ? 0.f : top / 64516.f;
    Codes codes = {};
    UNROLL
    for (int h = 0; h < 2; h++) {
        if (at + 8 * h >= n) continue;
        UNROLL
        for (int i = 0; i < 8; i++) {
            const float v = to_f(x[h].v[i]);
            const float root = sqrtf(fmaf(fabsf(v) * inverse, 774192.f, 16129.f));
            const int size = is_finite(v) ? (int)rintf((root - 127.f) * (1.f / 6.f)) : -kNotFinite;
            codes.v[8 * h + i] = (int8_t)(v > 0.f && is_finite(v) ? size : -size);
        }
    }
    if (at + kEach <= n)
        *reinterpret_cast<Codes*>(a.codes + at) = codes;
    else
        *reinterpret_cast<Half*>(a.codes + at) = *reinterpret_cast<Half*>(&codes);
}

__global__ void __launch_bounds__(kThreads) dequantize(lc_blocks8_dequantize_args a) {
    const size_t at = ((size_t)blockIdx.x * kThreads + threadIdx.x) * kEach, n = a.n;
    if (at >= n) return;
    Codes codes = {};
    if (at + kEach <= n)
        codes = *reinterpret_cast<const Codes*>(a.codes + at);
    else
        *reinterpret_cast<Half*>(&codes) = *reinterpret_cast<const Half*>(a.codes + at);
    const float scale = a.scales[at / LC_BLOCKS8];
    UNROLL
    for (int h = 0; h < 2; h++) {
        if (at + 8 * h >= n) continue;
        act8 x;
        UNROLL
        for (int i = 0; i < 8; i++) {
            const int code = codes.v[8 * h + i];
            const float value = (float)(code * (127 + 3 * abs(code))) * scale;
            x.v[i] = from_f(code == kNotFinite ? NAN : value);
        }
        store8(a.x + at + 8 * h, x);
    }
}

unsigned n_blocks(int64_t n) { return (unsigned)ceil_div<int64_t>(n, (int64_t)kThreads * kEach); }
} // namespace

LC_API lc_status LC(blocks8_quantize)(const lc_blocks8_quantize_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x, a->codes, a->scales), LC_MISALIGNED);
    return launch<quantize>(dim3(n_blocks(a->n)), dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(blocks8_dequantize)(const lc_blocks8_dequantize_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x, a->codes, a->scales), LC_MISALIGNED);
    return launch<dequantize>(dim3(n_blocks(a->n)), dim3(kThreads), 0, stream, *a);
}
