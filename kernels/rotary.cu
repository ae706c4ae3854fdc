// rotary.cu - rotary position embedding in place, and its inverse, which is its gradient.
//
// forward   (x_i, x_{i+D/2}) turned by a = positions[t] inv_freq[i]      backward  turned by -a
//
// precision  cos and sin in fp32 from a table, the products in fp32, one rounding to storage.
// work       one thread per eight pairs: two 16-byte loads, two stores; the heads of a row share its line of the table.
// cost       reads and writes T n_heads D: bound by memory. The table (2 MB at 4096 positions, D = 128) stays in L2.
//            A table and not sincosf: an accurate sincosf is ~40 instructions a pair against the 20 of all the rest, and
//            only a table gives the same bits on both devices.
// checked    tests/ops/rotary.rs against tools/golden/rotary.py
#include "rotary.h"
#include "device/kernel.cuh"

namespace {
constexpr int kThreads = 256;

template <bool kInverse>
__global__ void __launch_bounds__(kThreads) rotary(lc_rotary_args a) {
    const int half = a.D / 2, per_head = half / 8, per_row = a.n_heads * per_head;
    const long long at = (long long)blockIdx.x * kThreads + threadIdx.x;
    if (at >= (long long)a.T * per_row) return;
    const int t = (int)(at / per_row), in_row = (int)(at % per_row);
    const int head = in_row / per_head, i = in_row % per_head * 8;
    act* x = a.x + (size_t)t * a.ldx + head * a.D + i;
    const size_t angle = (size_t)a.positions[t] * half + i;
    act8 low = load8(x), high = load8(x + half);
    const Floats8 cos = load_floats8(a.cos + angle), sin = load_floats8(a.sin + angle);
    UNROLL
    for (int j = 0; j < 8; j++) {
        float c = cos.v[j], s = kInverse ? -sin.v[j] : sin.v[j];
        float u = to_f(low.v[j]), w = to_f(high.v[j]);
        low.v[j] = from_f(u * c - w * s);
        high.v[j] = from_f(w * c + u * s);
    }
    store8(x, low);
    store8(x + half, high);
}

template <bool kInverse>
lc_status turn(const lc_rotary_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->n_heads > 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->D > 0 && a->D % 16 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldx >= a->n_heads * a->D && a->ldx % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x, a->cos, a->sin), LC_MISALIGNED);
    const long long n = (long long)a->T * a->n_heads * (a->D / 16);
    return launch<rotary<kInverse>>(dim3((unsigned)ceil_div(n, (long long)kThreads)), dim3(kThreads), 0, stream, *a);
}
} // namespace

LC_API lc_status LC(rotary_fwd)(const lc_rotary_args* a, lc_stream stream) { return turn<false>(a, stream); }
LC_API lc_status LC(rotary_bwd)(const lc_rotary_args* a, lc_stream stream) { return turn<true>(a, stream); }
