// fp8.cuh - e4m3, the 8-bit float of tensor cores: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities.
//
// Values are m 2^-9 below 2^-6 and (8 + m) 2^(e-10) above, up to 448; 0x7f and 0xff are NaN. Rounding is to nearest, ties to
// even; what is larger becomes 448; NaN stays NaN (0x7f), so that it still stops a run. From sm_89 on one instruction turns two
// floats; older GPUs and the host do it by hand, with the same bits.
//
// A row of a matrix in e4m3 has one fp32 scale, x = code scale: e4m3_scale(max |x|). A row of zeros has scale 1.
#pragma once
#include "device/kernel.cuh"

constexpr float kE4m3Max = 448.f;

// The scale of a row by its largest size. Below 1e-30 a row counts as zeros: 1 / scale must be finite.
LC_INLINE float e4m3_scale(float top) { return top < 1e-30f ? 1.f : top / kE4m3Max; }

// By hand. Below 2^-6 the step is 2^-9; above, three bits of the mantissa stay and the exponent is moved by 127 - 7.
LC_INLINE uint32_t e4m3_by_hand(float x) {
#ifdef __CUDACC__
    const uint32_t bits = __float_as_uint(x), size = bits & 0x7fffffffu;
#else
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t size = bits & 0x7fffffffu;
#endif
    if (size > 0x7f800000u) return 0x7f;
    const float a = fabsf(x);
    const uint32_t normal = ((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120u << 3);
    const uint32_t code = a >= kE4m3Max ? 0x7eu : a < 0.015625f ? (uint32_t)(int)rintf(a * 512.f) : normal;
    return code | (bits >> 24 & 0x80u);
}

// Four codes, the first in the lowest byte.
LC_INLINE uint32_t e4m3_pack4(float a, float b, float c, float d) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t low, high;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
    return (uint32_t)low | (uint32_t)high << 16;
#else
    return e4m3_by_hand(a) | e4m3_by_hand(b) << 8 | e4m3_by_hand(c) << 16 | e4m3_by_hand(d) << 24;
#endif
}

// Sixteen codes: one access.
struct alignas(16) Codes16 {
    uint32_t v[4];
};
