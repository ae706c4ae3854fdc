// adamw.cu - one AdamW update of a contiguous group of weights, with clipping and the rounded copy in the same pass.
//
// precision  fp32 masters and moments. The factors that depend on the step alone are made in double on the host, in
//            PyTorch's order, so that five steps agree to the last bits and a thousand do not drift.
// work       one thread an element, neighbours on neighbours.
// cost       reads 16 and writes 12 bytes an element, and 2 for the copy: bound by memory.
// checked    tests/ops/adamw.rs against tools/golden/adamw.py
#include "adamw.h"
#include "device/kernel.cuh"
#include <math.h>

namespace {
constexpr int kThreads = 256;

struct Factors {
    float keep, take1, beta2, take2, step_size, root, eps;
};

__global__ void __launch_bounds__(kThreads) adamw(lc_adamw_args a, Factors f) {
    const int64_t k = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (k >= a.n) return;
    const float clip = a.clip ? *a.clip : 1.f;
    if (clip == 0.f) return; // the gradients are not finite
    const int64_t i = a.offset + k;
    const float g = a.grad[i] * clip;
    float w = a.master[i] * f.keep, m = a.m[i], v = a.v[i];
    m += f.take1 * (g - m);
    v = v * f.beta2 + f.take2 * g * g;
    w -= f.step_size * (m / (sqrtf(v) / f.root + f.eps));
    a.master[i] = w;
    a.m[i] = m;
    a.v[i] = v;
    if (a.copy) a.copy[i] = from_f(w);
}
} // namespace

LC_API lc_status LC(adamw)(const lc_adamw_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->offset >= 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->step >= 1, LC_BAD_SHAPE);
    Factors f;
    f.keep = (float)(1. - a->lr * a->weight_decay);
    f.take1 = (float)(1. - a->beta1);
    f.beta2 = (float)a->beta2;
    f.take2 = (float)(1. - a->beta2);
    f.step_size = (float)(a->lr / (1. - pow(a->beta1, a->step)));
    f.root = (float)sqrt(1. - pow(a->beta2, a->step));
    f.eps = (float)a->eps;
    return launch<adamw>(dim3((unsigned)ceil_div<int64_t>(a->n, kThreads)), dim3(kThreads), 0, stream, *a, f);
}
