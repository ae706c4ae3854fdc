// blocks8.cu - activations to 8-bit blocks of 128 and back, sixteen elements a thread.
//
// precision  fp32 inside, and only operations that round the same way everywhere (fma, sqrt, rint), so that codes and
//            scales are the same bytes on every device. The scale is the maximum over 64516 = 127 (127 + 3 127).
// work       eight neighbouring lanes own a block: lane j its units of eight j and 8 + j, so that every access of the eight
//            is contiguous. They are loaded once and kept while the eight agree on the maximum. All lanes of a warp take
//            part; those behind the end bring zeros.
// cost       3 n bytes and a scale per 128, in each direction: bound by memory. A root an element hides behind it (predicted).
// checked    tests/ops/blocks8.rs against tools/golden/blocks8.py, bit for bit
#include "blocks8.h"
#include "device/reduce.cuh"

namespace {
constexpr int kThreads = 256, kUnits = 2, kLanes = LC_BLOCKS8 / (8 * kUnits);
constexpr float kLargest = 3.402823466e38f, kTiny = 1e-33f;
constexpr int kNotFinite = -128;
static_assert(kLanes == 8, "octet_max agrees over eight lanes");

// The codes of a unit.
struct alignas(8) Codes {
    int8_t v[8];
};

// Where this thread's units begin: n is a multiple of 8, so that a unit is there or is not.
struct Place {
    size_t block;
    int lane;
    LC_INLINE Place() : block(((size_t)blockIdx.x * kThreads + threadIdx.x) / kLanes), lane(threadIdx.x % kLanes) {}
    LC_INLINE size_t unit(int h) const { return block * LC_BLOCKS8 + (h * kLanes + lane) * 8; }
};

LC_INLINE bool is_finite(float x) { return fabsf(x) <= kLargest; }

__global__ void __launch_bounds__(kThreads) quantize(lc_blocks8_quantize_args a) {
    const Place at;
    const size_t n = a.n;
    act8 x[kUnits];
    float top = 0.f;
    UNROLL
    for (int h = 0; h < kUnits; h++) {
        if (at.unit(h) >= n) continue;
        x[h] = load8(a.x + at.unit(h));
        UNROLL
        for (int i = 0; i < 8; i++) {
            const float v = to_f(x[h].v[i]);
            if (is_finite(v)) top = fmaxf(top, fabsf(v));
        }
    }
    top = octet_max(top);
    const bool zeros = top < kTiny;
    const float inverse = zeros ? 0.f : 1.f / top;
    if (at.lane == 0 && at.unit(0) < n) a.scales[at.block] = zeros ? 0.f : top / 64516.f;
    UNROLL
    for (int h = 0; h < kUnits; h++) {
        if (at.unit(h) >= n) continue;
        Codes codes;
        UNROLL
        for (int i = 0; i < 8; i++) {
            const float v = to_f(x[h].v[i]);
            const float root = sqrtf(fmaf(fabsf(v) * inverse, 774192.f, 16129.f));
            const int size = is_finite(v) ? (int)rintf((root - 127.f) * (1.f / 6.f)) : -kNotFinite;
            codes.v[i] = (int8_t)(v > 0.f && is_finite(v) ? size : -size);
        }
        *reinterpret_cast<Codes*>(a.codes + at.unit(h)) = codes;
    }
}

__global__ void __launch_bounds__(kThreads) dequantize(lc_blocks8_dequantize_args a) {
    const Place at;
    const size_t n = a.n;
    if (at.unit(0) >= n) return;
    const float scale = a.scales[at.block];
    Codes codes[kUnits];
    UNROLL
    for (int h = 0; h < kUnits; h++) {
        if (at.unit(h) < n) codes[h] = *reinterpret_cast<const Codes*>(a.codes + at.unit(h));
    }
    UNROLL
    for (int h = 0; h < kUnits; h++) {
        if (at.unit(h) >= n) continue;
        act8 x;
        UNROLL
        for (int i = 0; i < 8; i++) {
            const int code = codes[h].v[i];
            const float value = (float)(code * (127 + 3 * abs(code))) * scale;
            x.v[i] = from_f(code == kNotFinite ? NAN : value);
        }
        store8(a.x + at.unit(h), x);
    }
}

unsigned n_blocks(int64_t n) { return (unsigned)ceil_div<int64_t>(n, (int64_t)kThreads * 8 * kUnits); }
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
