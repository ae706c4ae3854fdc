// attention_decode.cu - one new token a sequence against its keys in pages: a block a page, then the pages are joined.
//
// page    s_j = scale q . k_j    m = max s    l = sum e^(s_j - m)    a = sum e^(s_j - m) v_j
// join    o = sum_i e^(m_i - m) a_i / sum_i e^(m_i - m) l_i
//
// precision  storage in; products, softmax and sums in fp32, one rounding to storage at the end. Powers are of 2.
// work       A page of 64 keys is the unit of everything: the cache hands it out, a block reads it, its sums are joined in its
//            order. So the same sequence gives the same bytes beside any others, and 13B's 40 heads at 2,048 tokens are 1,280
//            blocks, where tiles of queries (attention.cu) would be 40. A block serves up to 8 query heads of a kv head.
//            Scores: a thread a key, from shared memory, so nothing is summed across lanes. Values: a thread a column.
// memory     keys and values arrive by cp.async, all of them on the way before the first is used: 32 KB a block at D = 128,
//            two blocks and more a multiprocessor. The padded row keeps 16-byte reads of 8 keys free of bank conflicts.
// cost       reads 2 k_len KV D elements once: bound by memory. The sums between are 1/64 of that in bf16, written and read.
// checked    tests/ops/attention_decode.rs against tools/golden/attention_decode.py
#include "attention_decode.h"
#include "device/async_copy.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr float kLog2e = 1.44269504088896341f;

template <int D>
constexpr int kRow = D + 8;
template <int D, int G>
constexpr size_t kBytes = 2 * arena_bytes<act>(LC_PAGE* kRow<D>) + arena_bytes<float>(G* D) + arena_bytes<float>(G* LC_PAGE);

// The page's rows of one kv head; zeros from n_valid on, so that what was never written is not a NaN.
template <int D>
LC_INLINE void load_page(act* tile, const act* from, int ld, int n_valid) {
    constexpr int kUnits = D / 8;
    for (int i = threadIdx.x; i < LC_PAGE * kUnits; i += kThreads) {
        const int row = i / kUnits, c = i % kUnits * 8;
        copy8_async(tile + row * kRow<D> + c, from + (size_t)row * ld + c, row < n_valid);
    }
    async_commit();
}

// Block (page, G query heads, sequence).
template <int D, int G>
__global__ void __launch_bounds__(kThreads) attention_page(lc_attention_decode_args a) {
    Arena arena;
    act* k = arena.take<act>(LC_PAGE * kRow<D>);
    act* v = arena.take<act>(LC_PAGE * kRow<D>);
    float* q = arena.take<float>(G * D);
    float* p = arena.take<float>(G * LC_PAGE);
    const int page = blockIdx.x, head = blockIdx.y * G, kv_head = head / (a.H / a.KV), s = blockIdx.z, lane = threadIdx.x % 32;
    const lc_sequence sequence = a.sequences[s];
    const int n_keys = min(LC_PAGE, sequence.k_len - page * LC_PAGE);
    if (n_keys <= 0) return;
    const size_t row = (size_t)a.pages[sequence.k_begin + page] * LC_PAGE;
    load_page<D>(k, a.k + row * a.ldk + kv_head * D, a.ldk, n_keys);
    load_page<D>(v, a.v + row * a.ldk + kv_head * D, a.ldk, n_keys);
    for (int i = threadIdx.x; i < G * D; i += kThreads) q[i] = to_f(a.q[(size_t)s * a.ldq + head * D + i]);
    async_wait<1>();
    __syncthreads();

    for (int i = threadIdx.x; i < G * LC_PAGE; i += kThreads) {
        const int key = i % LC_PAGE;
        const float* with = q + i / LC_PAGE * D;
        float dot = 0.f;
        UNROLL
        for (int c = 0; c < D; c += 8) {
            const act8 part = load8(k + key * kRow<D> + c);
            UNROLL
            for (int j = 0; j < 8; j++) dot += with[c + j] * to_f(part.v[j]);
        }
        p[i] = key < n_keys ? dot * (a.scale * kLog2e) : -INFINITY;
    }
    __syncthreads();
    const size_t first = ((size_t)s * a.H + head) * a.n_pages + page; // place of the first head
    for (int g = threadIdx.x / 32; g < G; g += kWarps) {
        float* mine = p + g * LC_PAGE;
        const float x = mine[lane], y = mine[lane + 32], top = warp_max(fmaxf(x, y)); // key 0 is seen: finite, or a NaN
        const float ex = fast_exp2(x - top), ey = fast_exp2(y - top), sum = warp_sum(ex + ey);
        mine[lane] = ex, mine[lane + 32] = ey;
        if (lane == 0) {
            float* to = a.peaks + (first + (size_t)g * a.n_pages) * 2;
            to[0] = top, to[1] = sum;
        }
    }
    async_wait<0>();
    __syncthreads();
    for (int i = threadIdx.x; i < G * D; i += kThreads) {
        const int g = i / D, c = i % D;
        float sum = 0.f;
        UNROLL
        for (int j = 0; j < LC_PAGE; j++) sum += p[g * LC_PAGE + j] * to_f(v[j * kRow<D> + c]);
        a.sums[(first + (size_t)g * a.n_pages) * D + c] = sum;
    }
}

// A thread a column of o; pages in their order.
__global__ void __launch_bounds__(kThreads) attention_join(lc_attention_decode_args a) {
    const size_t i = (size_t)blockIdx.x * kThreads + threadIdx.x;
    if (i >= (size_t)a.S * a.H * a.D) return;
    const int c = (int)(i % a.D), s = (int)(i / a.D / a.H), h = (int)(i / a.D % a.H);
    const int n = ceil_div(a.sequences[s].k_len, LC_PAGE);
    const float* peaks = a.peaks + ((size_t)s * a.H + h) * a.n_pages * 2;
    const float* sums = a.sums + ((size_t)s * a.H + h) * a.n_pages * a.D + c;
    float top = peaks[0], total = 0.f, o = 0.f;
    for (int page = 1; page < n; page++) top = fmaxf(top, peaks[2 * page]);
    for (int page = 0; page < n; page++) {
        const float share = fast_exp2(peaks[2 * page] - top);
        total += share * peaks[2 * page + 1];
        o += share * sums[(size_t)page * a.D];
    }
    a.o[(size_t)s * a.ldo + h * a.D + c] = from_f(o / total);
}

template <int D, int G>
lc_status run(const lc_attention_decode_args& a, lc_stream stream) {
    LC_TRY((launch<attention_page<D, G>>(dim3(a.n_pages, a.H / G, a.S), dim3(kThreads), kBytes<D, G>, stream, a)));
    const size_t n = (size_t)a.S * a.H * D;
    return launch<attention_join>(dim3((unsigned)ceil_div(n, (size_t)kThreads)), dim3(kThreads), 0, stream, a);
}

template <int D>
lc_status by_group(const lc_attention_decode_args& a, lc_stream stream) {
    const int group = a.H / a.KV;
    if (group % 8 == 0) return run<D, 8>(a, stream);
    if (group % 4 == 0) return run<D, 4>(a, stream);
    return group % 2 == 0 ? run<D, 2>(a, stream) : run<D, 1>(a, stream);
}
} // namespace

LC_API lc_status LC(attention_decode)(const lc_attention_decode_args* a, lc_stream stream) {
    LC_REQUIRE(a->S > 0 && a->S <= 65535 && a->n_pages > 0 && a->KV > 0 && a->H % a->KV == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldq % 8 == 0 && a->ldk % 8 == 0 && a->ldo % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(min(a->ldq, a->ldo) >= a->H * a->D && a->ldk >= a->KV * a->D, LC_BAD_SHAPE);
    LC_REQUIRE(a->scale > 0.f, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->q, a->k, a->v, a->o), LC_MISALIGNED);
    switch (a->D) {
    case 16: return by_group<16>(*a, stream);
    case 32: return by_group<32>(*a, stream);
    case 64: return by_group<64>(*a, stream);
    case 128: return by_group<128>(*a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a->D, "head size 16, 32, 64 or 128"};
}
