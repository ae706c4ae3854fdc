// adamw.cu - one AdamW update of a stretch of weights, with clipping and the rounded copy in the same pass.
//
// precision  fp32 masters and moments; the factors of the step in double on the host (device/adamw.cuh).
// work       one thread an element, neighbours on neighbours.
// cost       reads 16 and writes 12 bytes an element, and 2 for the copy: bound by memory. A gradient kept as factors is
//            formed here, a multiply-add per element and row, instead of its 4 bytes.
// checked    tests/ops/adamw.rs against tools/golden/adamw.py; factors in tests/ops/dense.rs
#include "adamw.h"
#include "device/adamw.cuh"

namespace {
constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) adamw(lc_adamw_args a, AdamwFactors f) {
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.n) return;
    const float clip = a.clip ? *a.clip : 1.f;
    if (clip == 0.f) return; // the gradients are not finite
    float w = a.master[i], m = a.m[i], v = a.v[i], root_v;
    adamw_element(f, gradient_at(a.grad, i) * clip, w, m, v, root_v);
    a.master[i] = w;
    a.m[i] = m;
    a.v[i] = v;
    if (a.copy) a.copy[i] = from_f(w);
}
} // namespace

LC_API lc_status LC(adamw)(const lc_adamw_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0, LC_BAD_SHAPE);
    LC_REQUIRE(is_gradient_of(a->grad, a->n), LC_BAD_SHAPE);
    LC_REQUIRE(a->step.step >= 1, LC_BAD_SHAPE);
    const dim3 grid((unsigned)ceil_div<int64_t>(a->n, kThreads));
    return launch<adamw>(grid, dim3(kThreads), 0, stream, *a, adamw_factors(a->step));
}
