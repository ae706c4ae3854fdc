// swiglu.cu - silu(gate) * up, and its gradients, eight elements a thread.
//
// forward   y = g s u            s = 1/(1 + exp(-g))
// backward  dgate (=|+=) dy u s (1 + g (1 - s))     dup (=|+=) dy g s
//
// precision  storage in and out, fp32 inside: silu(g) is not rounded before it is multiplied, as PyTorch's bf16 does.
// work       one 16-byte access per operand and thread; no thread reads what another writes, so outputs may be inputs.
// cost       forward 3 n, backward 5 n accesses: bound by memory. y is recomputed by the forward, never stored.
// checked    tests/ops/swiglu.rs against tools/golden/swiglu.py
#include "swiglu.h"
#include "device/kernel.cuh"

namespace {
constexpr int kThreads = 256;

// exp(-g) may overflow to infinity: s is then 0, as it should be.
LC_INLINE float sigmoid(float g) { return 1.f / (1.f + fast_exp(-g)); }

__global__ void __launch_bounds__(kThreads) swiglu_fwd(lc_swiglu_fwd_args a) {
    const size_t at = ((size_t)blockIdx.x * kThreads + threadIdx.x) * 8;
    if (at >= (size_t)a.n) return;
    act8 gate = load8(a.gate + at), up = load8(a.up + at), y;
    UNROLL
    for (int i = 0; i < 8; i++) {
        float g = to_f(gate.v[i]);
        y.v[i] = from_f(g * sigmoid(g) * to_f(up.v[i]));
    }
    store8(a.y + at, y);
}

__global__ void __launch_bounds__(kThreads) swiglu_bwd(lc_swiglu_bwd_args a) {
    const size_t at = ((size_t)blockIdx.x * kThreads + threadIdx.x) * 8;
    if (at >= (size_t)a.n) return;
    const act8 dy = load8(a.dy + at), gate = load8(a.gate + at), up = load8(a.up + at);
    const bool add_gate = a.write_dgate == LC_ADD, add_up = a.write_dup == LC_ADD;
    act8 dgate = gate, dup = up; // read only where the old value is added to
    if (add_gate) dgate = load8(a.dgate + at);
    if (add_up) dup = load8(a.dup + at);
    UNROLL
    for (int i = 0; i < 8; i++) {
        float d = to_f(dy.v[i]), g = to_f(gate.v[i]), u = to_f(up.v[i]), s = sigmoid(g);
        float dg = d * u * s * (1.f + g * (1.f - s)), du = d * g * s;
        dgate.v[i] = from_f(add_gate ? to_f(dgate.v[i]) + dg : dg);
        dup.v[i] = from_f(add_up ? to_f(dup.v[i]) + du : du);
    }
    store8(a.dgate + at, dgate);
    store8(a.dup + at, dup);
}
} // namespace

LC_API lc_status LC(swiglu_fwd)(const lc_swiglu_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->gate, a->up, a->y), LC_MISALIGNED);
    return launch<swiglu_fwd>(dim3((unsigned)ceil_div<int64_t>(a->n, 8 * kThreads)), dim3(kThreads), 0, stream, *a);
}

LC_API lc_status LC(swiglu_bwd)(const lc_swiglu_bwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->dy, a->gate, a->up, a->dgate, a->dup), LC_MISALIGNED);
    return launch<swiglu_bwd>(dim3((unsigned)ceil_div<int64_t>(a->n, 8 * kThreads)), dim3(kThreads), 0, stream, *a);
}
