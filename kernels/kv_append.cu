// kv_append.cu - rotary on new queries in place and on new keys on their way into the cache; values go with them.
//
// q_t = R_t q_t     k_pool[rows[t]] = R_t k_t     v_pool[rows[t]] = v_t     R_t turns pairs (i, i + D/2) by positions[t] inv_freq[i]
//
// precision  as rotary.cu: products in fp32, one rounding to storage, so a cached key has the bits of one that was turned in
//            place. Values are copied.
// work       one thread per eight pairs of a query or key head, or sixteen elements of a value head: two 16-byte loads and
//            stores. One launch where rotary twice and two copies would be four: at one token a step a launch costs more
//            than what it moves.
// cost       reads and writes T (H + 2 KV) D: bound by memory; at a few tokens by the launch.
// checked    tests/ops/kv_append.rs against rotary (bits) and tools/golden/rotary.py through it
#include "kv_append.h"
#include "device/kernel.cuh"

namespace {
constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) kv_append(lc_kv_append_args a) {
    const int half = a.D / 2, per_head = half / 8, per_row = (a.H + 2 * a.KV) * per_head;
    const long long at = (long long)blockIdx.x * kThreads + threadIdx.x;
    if (at >= (long long)a.T * per_row) return;
    const int t = (int)(at / per_row), in_row = (int)(at % per_row);
    const int head = in_row / per_head, i = in_row % per_head * 8;
    const size_t to_row = (size_t)a.rows[t] * a.KV * a.D;
    if (head >= a.H + a.KV) {
        const int c = (head - a.H - a.KV) * a.D + i;
        const act* from = a.v + (size_t)t * a.ldk + c;
        store8(a.v_pool + to_row + c, load8(from));
        store8(a.v_pool + to_row + c + half, load8(from + half));
        return;
    }
    const bool is_query = head < a.H;
    const int c = (is_query ? head : head - a.H) * a.D + i;
    const act* from = is_query ? a.q + (size_t)t * a.ldq + c : a.k + (size_t)t * a.ldk + c;
    act* to = is_query ? a.q + (size_t)t * a.ldq + c : a.k_pool + to_row + c;
    const size_t angle = (size_t)a.positions[t] * half + i;
    act8 low = load8(from), high = load8(from + half);
    const Floats8 cos = load_floats8(a.cos + angle), sin = load_floats8(a.sin + angle);
    UNROLL
    for (int j = 0; j < 8; j++) {
        const float u = to_f(low.v[j]), w = to_f(high.v[j]);
        low.v[j] = from_f(u * cos.v[j] - w * sin.v[j]);
        high.v[j] = from_f(w * cos.v[j] + u * sin.v[j]);
    }
    store8(to, low);
    store8(to + half, high);
}
} // namespace

LC_API lc_status LC(kv_append)(const lc_kv_append_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->H > 0 && a->KV > 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->D > 0 && a->D % 16 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldq >= a->H * a->D && a->ldk >= a->KV * a->D && a->ldq % 8 == 0 && a->ldk % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->q, a->k, a->v, a->k_pool, a->v_pool, a->cos, a->sin), LC_MISALIGNED);
    const long long n = (long long)a->T * (a->H + 2 * a->KV) * (a->D / 16);
    return launch<kv_append>(dim3((unsigned)ceil_div(n, (long long)kThreads)), dim3(kThreads), 0, stream, *a);
}
