// activation.cu - the head's pointwise functions, and their derivatives at the saved input.
//
// precision  fp32 with the accurate library functions: these arrays are small, time is no argument. At 0 the derivatives of
//            relu and leaky_relu are those from the left (0, slope), as PyTorch's.
// work       one thread an element; the kind is the same for all, so the branch costs nothing.
// checked    tests/ops/activation.rs against tools/golden/activation.py
#include "activation.h"
#include "device/kernel.cuh"

namespace {
constexpr int kThreads = 256;

LC_INLINE float value(int kind, float slope, float x) {
    switch (kind) {
    case LC_RELU: return x > 0.f || x != x ? x : 0.f;
    case LC_LEAKY_RELU: return x > 0.f ? x : slope * x;
    case LC_GELU: return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
    case LC_TANH: return tanhf(x);
    case LC_SILU: return x / (1.f + expf(-x));
    default: return x;
    }
}

LC_INLINE float derivative(int kind, float slope, float x) {
    switch (kind) {
    case LC_RELU: return x > 0.f ? 1.f : 0.f;
    case LC_LEAKY_RELU: return x > 0.f ? 1.f : slope;
    case LC_GELU: { // the normal distribution and x times its density
        const float below = 0.5f * (1.f + erff(x * 0.70710678118654752f));
        return below + x * 0.39894228040143268f * expf(-0.5f * x * x);
    }
    case LC_TANH: {
        const float y = tanhf(x);
        return 1.f - y * y;
    }
    case LC_SILU: {
        const float s = 1.f / (1.f + expf(-x));
        return s * (1.f + x * (1.f - s));
    }
    default: return 1.f;
    }
}

__global__ void __launch_bounds__(kThreads) activation_fwd(lc_activation_fwd_args a) {
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (i < a.n) a.y[i] = value(a.kind, a.slope, a.x[i]);
}

__global__ void __launch_bounds__(kThreads) activation_bwd(lc_activation_bwd_args a) {
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.n) return;
    const float d = a.dy[i] * derivative(a.kind, a.slope, a.x[i]);
    a.dx[i] = a.write == LC_ADD ? a.dx[i] + d : d;
}
} // namespace

LC_API lc_status LC(activation_fwd)(const lc_activation_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->kind >= LC_IDENTITY && a->kind <= LC_SILU, LC_UNSUPPORTED);
    return launch<activation_fwd>(dim3((unsigned)ceil_div<int64_t>(a->n, kThreads)), dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(activation_bwd)(const lc_activation_bwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->kind >= LC_IDENTITY && a->kind <= LC_SILU, LC_UNSUPPORTED);
    return launch<activation_bwd>(dim3((unsigned)ceil_div<int64_t>(a->n, kThreads)), dim3(kThreads), 0, stream, *a);
}
