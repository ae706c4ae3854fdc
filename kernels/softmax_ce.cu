// softmax_ce.cu - probabilities, cross entropy and gradient of a few rows of a few classes.
//
// precision  fp32, accurate exp and log; the maximum is taken off first. A NaN in a row makes all its results NaN.
// work       one thread a row: 3 to 5 classes and a handful of rows need no cooperation.
// checked    tests/ops/softmax_ce.rs against tools/golden/softmax_ce.py
#include "softmax_ce.h"
#include "device/kernel.cuh"

namespace {
constexpr int kThreads = 32;

__global__ void __launch_bounds__(kThreads) softmax_ce(lc_softmax_ce_args a) {
    const int b = blockIdx.x * kThreads + threadIdx.x;
    if (b >= a.B) return;
    const float* x = a.logits + (size_t)b * a.n_class;
    float* p = a.probs + (size_t)b * a.n_class;
    float top = x[0], sum = 0.f;
    for (int k = 1; k < a.n_class; k++) top = fmaxf(top, x[k]);
    for (int k = 0; k < a.n_class; k++) sum += p[k] = expf(x[k] - top);
    for (int k = 0; k < a.n_class; k++) p[k] /= sum;
    if (!a.labels) return;
    const int label = a.labels[b];
    a.loss[b] = label >= 0 ? logf(sum) + (top - x[label]) : 0.f;
    if (!a.dlogits) return;
    float* d = a.dlogits + (size_t)b * a.n_class;
    for (int k = 0; k < a.n_class; k++) d[k] = label >= 0 ? (p[k] - (k == label ? 1.f : 0.f)) * a.scale : 0.f;
}
} // namespace

LC_API lc_status LC(softmax_ce)(const lc_softmax_ce_args* a, lc_stream stream) {
    LC_REQUIRE(a->B > 0 && a->n_class > 0, LC_BAD_SHAPE);
    LC_REQUIRE(!a->labels || a->loss, LC_BAD_SHAPE);
    return launch<softmax_ce>(dim3(ceil_div(a->B, kThreads)), dim3(kThreads), 0, stream, *a);
}
