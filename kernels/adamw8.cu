// adamw8.cu - one AdamW update of a stretch of weights whose moments are stored in 8 bits (adamw8.h).
//
// precision  fp32 within the step; between steps m and sqrt(v) are rounded to the nearest of 256 values of their block.
//            Simulated over 200 steps (block scales spread by e^2, a tenth of the gradients present), the summed update
//            is off by 10 % this way; with v itself in 8 bits it is off by a factor of millions, by m / eps.
// work       a warp a block of 256, eight elements a lane, 32 apart: every access of a warp is contiguous, and both
//            maxima stay within the warp. The maps lie in shared memory, and their midpoints for the searches: a step of a
//            search is one load.
// order      a maximum has no order: the same inputs give the same bytes.
// cost       reads 10 and writes 6 bytes an element, and 2 for the copy: bound by memory.
// checked    tests/ops/adamw8.rs against tools/golden/adamw8.py (bitsandbytes' maps)
#include "adamw8.h"
#include "device/adamw.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kBlock = LC_ADAMW8_BLOCK, kEach = kBlock / 32;
constexpr float kTiny = 1e-38f; // stands for a scale of 0

// How many of the 255 midpoints between neighbours of a map lie strictly below y.
LC_INLINE int nearest(const float* midpoints, float y) {
    int low = 0, high = 255;
    while (low < high) {
        const int mid = (low + high) / 2;
        if (midpoints[mid] < y)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

__global__ void __launch_bounds__(kThreads) adamw8(lc_adamw8_args a, AdamwFactors f) {
    SHARED(float, signed_map, 256);
    SHARED(float, unsigned_map, 256);
    SHARED(float, signed_midpoints, 256);
    SHARED(float, unsigned_midpoints, 256);
    const int code = threadIdx.x, next = min(code + 1, 255);
    signed_map[code] = a.signed_map[code];
    unsigned_map[code] = a.unsigned_map[code];
    __syncthreads();
    signed_midpoints[code] = (signed_map[code] + signed_map[next]) * 0.5f;
    unsigned_midpoints[code] = (unsigned_map[code] + unsigned_map[next]) * 0.5f;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    const int64_t block = (int64_t)blockIdx.x * kWarps + threadIdx.x / 32, first = block * kBlock + lane;
    if (block * kBlock >= a.n) return;
    const float clip = a.clip ? *a.clip : 1.f;
    if (clip == 0.f) return; // the gradients are not finite
    const float m_scale = a.m_scales[block], v_scale = a.v_scales[block];
    float m[kEach], root_v[kEach], m_top = 0.f, v_top = 0.f;
    UNROLL
    for (int k = 0; k < kEach; k++) {
        const int64_t i = first + 32 * k;
        m[k] = root_v[k] = 0.f;
        if (i >= a.n) continue;
        m[k] = signed_map[a.m_codes[i]] * m_scale;
        const float root = unsigned_map[a.v_codes[i]] * v_scale;
        float w = a.master[i], v = root * root;
        adamw_element(f, gradient_at(a.grad, i) * clip, w, m[k], v, root_v[k]);
        a.master[i] = w;
        if (a.copy) a.copy[i] = from_f(w);
        m_top = fmaxf(m_top, fabsf(m[k]));
        v_top = fmaxf(v_top, root_v[k]);
    }
    m_top = warp_max(m_top);
    v_top = warp_max(v_top);
    if (lane == 0) {
        a.m_scales[block] = m_top;
        a.v_scales[block] = v_top;
    }
    const float m_inverse = 1.f / fmaxf(m_top, kTiny), v_inverse = 1.f / fmaxf(v_top, kTiny);
    UNROLL
    for (int k = 0; k < kEach; k++) {
        const int64_t i = first + 32 * k;
        if (i >= a.n) continue;
        a.m_codes[i] = (uint8_t)nearest(signed_midpoints, m[k] * m_inverse);
        const int v_code = nearest(unsigned_midpoints, root_v[k] * v_inverse);
        a.v_codes[i] = (uint8_t)(root_v[k] > 0.f && v_code == 0 ? 1 : v_code);
    }
}
} // namespace

LC_API lc_status LC(adamw8)(const lc_adamw8_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0, LC_BAD_SHAPE);
    LC_REQUIRE(is_gradient_of(a->grad, a->n), LC_BAD_SHAPE);
    LC_REQUIRE(a->step.step >= 1, LC_BAD_SHAPE);
    const dim3 grid((unsigned)ceil_div<int64_t>(a->n, kWarps * kBlock));
    return launch<adamw8>(grid, dim3(kThreads), 0, stream, *a, adamw_factors(a->step));
}
