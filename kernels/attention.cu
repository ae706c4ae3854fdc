// attention.cu - causal attention over packed sequences: online softmax forward, recomputing deterministic backward.
//
// forward   o_i = sum_j softmax_j(scale q_i . k_j) v_j     lse_i saved; the T x T scores never leave the registers
// backward  P = exp(scale S - lse)   dS = P (dO V^T - delta)   dQ = scale dS K   dK = scale dS^T Q   dV = P^T dO
//
// precision  storage in; scores, softmax and sums in fp32; P and dS are rounded to storage, as operands of the tensor
//            cores; scale is applied in fp32, to the scores and to the finished dQ and dK.
// work       a block of 4 warps owns 64 rows of a sequence and one head: of queries (forward, dQ) or of keys (dK, dV; it
//            walks all query heads of its group). A warp owns 16 of them, so softmax never leaves a quad of lanes, and P
//            is the next product's A operand without passing through shared memory. dK and dV work on the transposed
//            scores K Q^T for the same reason. Tiles and warps that see nothing skip; only the diagonal is masked.
// order      every result is summed by one warp in a fixed order; no atomics. Two backward kernels multiply 7 times where
//            a fused one with atomics would 5 times: the price of the same bytes every time.
// memory     single-buffered, K and V half a step apart, so that one is loaded while the other is used. At D = 128 steps
//            are short (32 keys; 16 in the backward), so that two blocks fit the 99 KB of sm_86 and sm_89.
// cost       4 and 14 D flops per visible (query, key, head): bound by the tensor cores from a few hundred keys on.
// checked    tests/ops/attention.rs against tools/golden/attention.py
#include "attention.h"
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kWarps = 4, kThreads = 32 * kWarps, kTile = 16 * kWarps;
static_assert(kTile == LC_ATTENTION_TILE, "the host makes the tiles");

// Rows of the other side taken per step, and the padded row of shared memory, for head size D.
template <int D>
struct Size {
    static constexpr int kForward = D == 128 ? 32 : 64, kBackward = D == 128 ? 16 : 32, kRow = D + 8;
};

// kRows rows of D into a padded tile, zeros from n_valid on: what is not there must not be a NaN.
template <int kRows, int D>
LC_INLINE void load_tile(act* tile, const act* from, int ld, int n_valid) {
    for (int i = threadIdx.x; i < kRows * (D / 8); i += kThreads) {
        int row = i / (D / 8), c = i % (D / 8) * 8;
        copy8_async(tile + row * Size<D>::kRow + c, from + (size_t)row * ld + c, row < n_valid);
    }
}

// This warp's 16 rows of D, times a factor for each of the lane's two rows; `to` is the warp's first row.
template <int D>
LC_INLINE void store_rows(act* to, int ld, int n_valid, const float (&acc)[1][D / 8][4], const float (&factor)[2]) {
    struct alignas(2 * sizeof(act)) Pair {
        act v[2];
    };
    const int lane = lane_id();
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = acc_row(lane, 0, 2 * h);
        if (row >= n_valid) continue;
        UNROLL
        for (int j = 0; j < D / 8; j++) {
            Pair p = {{from_f(acc[0][j][2 * h] * factor[h]), from_f(acc[0][j][2 * h + 1] * factor[h])}};
            *reinterpret_cast<Pair*>(to + (size_t)row * ld + acc_col(lane, j, 0)) = p;
        }
    }
}

// Number of keys, from 0 on, that rows up to `last` of the sequence may see.
LC_INLINE int visible_keys(const lc_sequence& s, int last) { return max(0, min(s.k_len, s.q_pos + last + 1)); }

template <int D>
__global__ void __launch_bounds__(kThreads) attention_fwd(lc_attention_fwd_args a) {
    constexpr int kStep = Size<D>::kForward, kRow = Size<D>::kRow;
    Arena arena;
    act* q = arena.take<act>(kTile * kRow);
    act* k = arena.take<act>(kStep * kRow);
    act* v = arena.take<act>(kStep * kRow);
    const lc_tile tile = a.q_tiles[blockIdx.x];
    const lc_sequence s = a.sequences[tile.sequence];
    const int head = blockIdx.y, kv_head = head / (a.H / a.KV), lane = lane_id();
    const int n_rows = min(kTile, s.q_len - tile.first), n_keys = visible_keys(s, tile.first + n_rows - 1);
    const int first = tile.first + threadIdx.x / 32 * 16; // this warp's rows: first .. last
    const int last = min(first + 16, s.q_len) - 1, warp_keys = last < first ? 0 : visible_keys(s, last);
    const size_t at = (size_t)s.q_begin + tile.first;
    const act* k_rows = a.k + (size_t)s.k_begin * a.ldk + kv_head * D;
    const act* v_rows = a.v + (size_t)s.k_begin * a.ldv + kv_head * D;

    float o[1][D / 8][4], peak[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
    acc_zero(o);
    load_tile<kTile, D>(q, a.q + at * a.ldq + head * D, a.ldq, n_rows);
    if (n_keys > 0) load_tile<kStep, D>(k, k_rows, a.ldk, n_keys);
    async_commit();
    for (int from = 0; from < n_keys; from += kStep) {
        async_wait<0>();
        __syncthreads(); // k is here, and every warp is done with the last v
        load_tile<kStep, D>(v, v_rows + (size_t)from * a.ldv, a.ldv, n_keys - from);
        async_commit();
        float p[1][kStep / 8][4];
        if (from < warp_keys) {
            acc_zero(p);
            warp_mma<D / 16>(p, q + threadIdx.x / 32 * 16 * kRow, kRow, k, kRow);
            if (from + kStep > min(s.k_len, s.q_pos + first + 1)) {
                UNROLL
                for (int j = 0; j < kStep / 8; j++) {
                    UNROLL
                    for (int r = 0; r < 4; r++) {
                        const int key = from + acc_col(lane, j, r);
                        if (key >= s.k_len || key > s.q_pos + first + acc_row(lane, 0, r)) p[0][j][r] = -INFINITY;
                    }
                }
            }
            float top[2] = {peak[0], peak[1]};
            UNROLL
            for (int j = 0; j < kStep / 8; j++) {
                UNROLL
                for (int r = 0; r < 4; r++) top[r / 2] = fmaxf(top[r / 2], p[0][j][r]);
            }
            quad_reduce2(top[0], top[1], OpMax{});
            float base[2], fade[2];
            UNROLL
            for (int h = 0; h < 2; h++) {
                base[h] = top[h] == -INFINITY ? 0.f : top[h] * a.scale; // nothing seen yet: exp(-inf - 0) is 0, not NaN
                fade[h] = fast_exp(peak[h] * a.scale - base[h]);
                peak[h] = top[h];
                sum[h] *= fade[h];
            }
            UNROLL
            for (int j = 0; j < kStep / 8; j++) {
                UNROLL
                for (int r = 0; r < 4; r++) p[0][j][r] = fast_exp(p[0][j][r] * a.scale - base[r / 2]);
                sum[0] += p[0][j][0] + p[0][j][1];
                sum[1] += p[0][j][2] + p[0][j][3];
            }
            UNROLL
            for (int j = 0; j < D / 8; j++) {
                UNROLL
                for (int r = 0; r < 4; r++) o[0][j][r] *= fade[r / 2];
            }
        }
        async_wait<0>();
        __syncthreads(); // v is here, and every warp is done with k
        if (from + kStep < n_keys)
            load_tile<kStep, D>(k, k_rows + (size_t)(from + kStep) * a.ldk, a.ldk, n_keys - from - kStep);
        async_commit();
        if (from < warp_keys) {
            act2 p16[kStep / 16][1][4];
            acc_to_a(p16, p);
            warp_mma_ra<kStep / 16, Major::kCols>(o, p16, v, kRow);
        }
    }
    quad_reduce2(sum[0], sum[1], OpSum{}); // the lanes of a row faded alike
    float inverse[2];
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = first + acc_row(lane, 0, 2 * h);
        inverse[h] = sum[h] == 0.f ? 0.f : 1.f / sum[h]; // a NaN stays one
        if (lane % 4 == 0 && row <= last)
            a.lse[(size_t)head * a.T + s.q_begin + row] = sum[h] == 0.f ? -INFINITY : peak[h] * a.scale + logf(sum[h]);
    }
    act* out = a.o + ((size_t)s.q_begin + first) * a.ldo + head * D;
    store_rows<D>(out, a.ldo, last + 1 - first, o, inverse);
}

// delta[h,t] = do . o: D/8 lanes a row, eight elements each, then a butterfly over them.
template <int D>
__global__ void __launch_bounds__(kThreads) attention_delta(lc_attention_bwd_args a) {
    constexpr int kLanes = D / 8;
    const lc_tile tile = a.q_tiles[blockIdx.x];
    const lc_sequence s = a.sequences[tile.sequence];
    const int head = blockIdx.y, n_rows = min(kTile, s.q_len - tile.first), c = head * D + threadIdx.x % kLanes * 8;
    for (int base = 0; base < kTile; base += kThreads / kLanes) { // whole warps, for the shuffles
        const int row = base + threadIdx.x / kLanes;
        const size_t at = (size_t)s.q_begin + tile.first + row;
        float sum = 0.f;
        if (row < n_rows) {
            act8 o = load8(a.o + at * a.ldo + c), d_o = load8(a.d_o + at * a.ldd_o + c);
            UNROLL
            for (int i = 0; i < 8; i++) sum += to_f(o.v[i]) * to_f(d_o.v[i]);
        }
        UNROLL
        for (int d = kLanes / 2; d; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        if (row < n_rows && threadIdx.x % kLanes == 0) a.delta[(size_t)head * a.T + at] = sum;
    }
}

template <int D>
__global__ void __launch_bounds__(kThreads) attention_dq(lc_attention_bwd_args a) {
    constexpr int kStep = Size<D>::kBackward, kRow = Size<D>::kRow;
    Arena arena;
    act* q = arena.take<act>(kTile * kRow);
    act* d_o = arena.take<act>(kTile * kRow);
    act* k = arena.take<act>(kStep * kRow);
    act* v = arena.take<act>(kStep * kRow);
    const lc_tile tile = a.q_tiles[blockIdx.x];
    const lc_sequence s = a.sequences[tile.sequence];
    const int head = blockIdx.y, kv_head = head / (a.H / a.KV), lane = lane_id(), at_warp = threadIdx.x / 32 * 16 * kRow;
    const int n_rows = min(kTile, s.q_len - tile.first), n_keys = visible_keys(s, tile.first + n_rows - 1);
    const int first = tile.first + threadIdx.x / 32 * 16;
    const int last = min(first + 16, s.q_len) - 1, warp_keys = last < first ? 0 : visible_keys(s, last);
    const size_t at = (size_t)s.q_begin + tile.first;
    const act* k_rows = a.k + (size_t)s.k_begin * a.ldk + kv_head * D;
    const act* v_rows = a.v + (size_t)s.k_begin * a.ldv + kv_head * D;

    float lse[2] = {0.f, 0.f}, delta[2] = {0.f, 0.f};
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = first + acc_row(lane, 0, 2 * h);
        if (row > last) continue;
        lse[h] = a.lse[(size_t)head * a.T + s.q_begin + row];
        delta[h] = a.delta[(size_t)head * a.T + s.q_begin + row];
    }
    float dq[1][D / 8][4];
    acc_zero(dq);
    load_tile<kTile, D>(q, a.q + at * a.ldq + head * D, a.ldq, n_rows);
    load_tile<kTile, D>(d_o, a.d_o + at * a.ldd_o + head * D, a.ldd_o, n_rows);
    if (n_keys > 0) load_tile<kStep, D>(v, v_rows, a.ldv, n_keys);
    async_commit();
    for (int from = 0; from < n_keys; from += kStep) {
        async_wait<0>();
        __syncthreads(); // v is here, and every warp is done with the last k
        load_tile<kStep, D>(k, k_rows + (size_t)from * a.ldk, a.ldk, n_keys - from);
        async_commit();
        float p[1][kStep / 8][4], ds[1][kStep / 8][4];
        if (from < warp_keys) {
            acc_zero(ds);
            warp_mma<D / 16>(ds, d_o + at_warp, kRow, v, kRow);
        }
        async_wait<0>();
        __syncthreads(); // k is here, and every warp is done with v
        if (from + kStep < n_keys)
            load_tile<kStep, D>(v, v_rows + (size_t)(from + kStep) * a.ldv, a.ldv, n_keys - from - kStep);
        async_commit();
        if (from >= warp_keys) continue;
        acc_zero(p);
        warp_mma<D / 16>(p, q + at_warp, kRow, k, kRow);
        UNROLL
        for (int j = 0; j < kStep / 8; j++) {
            UNROLL
            for (int r = 0; r < 4; r++)
                ds[0][j][r] = fast_exp(p[0][j][r] * a.scale - lse[r / 2]) * (ds[0][j][r] - delta[r / 2]);
        }
        if (from + kStep > min(s.k_len, s.q_pos + first + 1)) {
            UNROLL
            for (int j = 0; j < kStep / 8; j++) {
                UNROLL
                for (int r = 0; r < 4; r++) {
                    const int key = from + acc_col(lane, j, r);
                    if (key >= s.k_len || key > s.q_pos + first + acc_row(lane, 0, r)) ds[0][j][r] = 0.f;
                }
            }
        }
        act2 ds16[kStep / 16][1][4];
        acc_to_a(ds16, ds);
        warp_mma_ra<kStep / 16, Major::kCols>(dq, ds16, k, kRow);
    }
    const float scale[2] = {a.scale, a.scale};
    act* out = a.dq + ((size_t)s.q_begin + first) * a.lddq + head * D;
    store_rows<D>(out, a.lddq, last + 1 - first, dq, scale);
}

// Transposed: this warp's 16 keys are the rows of the scores, queries are their columns.
template <int D>
__global__ void __launch_bounds__(kThreads) attention_dkv(lc_attention_bwd_args a) {
    constexpr int kStep = Size<D>::kBackward, kRow = Size<D>::kRow;
    Arena arena;
    act* k = arena.take<act>(kTile * kRow);
    act* v = arena.take<act>(kTile * kRow);
    act* q = arena.take<act>(kStep * kRow);
    act* d_o = arena.take<act>(kStep * kRow);
    float* lse = arena.take<float>(kStep);
    float* delta = arena.take<float>(kStep);
    const lc_tile tile = a.k_tiles[blockIdx.x];
    const lc_sequence s = a.sequences[tile.sequence];
    const int kv_head = blockIdx.y, group = a.H / a.KV, lane = lane_id(), at_warp = threadIdx.x / 32 * 16 * kRow;
    const int n_keys = min(kTile, s.k_len - tile.first), first = tile.first + threadIdx.x / 32 * 16;
    const int first_query = max(0, tile.first - s.q_pos) / kStep * kStep;

    float dk[1][D / 8][4], dv[1][D / 8][4];
    acc_zero(dk);
    acc_zero(dv);
    if (n_keys > 0) { // the same for the whole block; the copies are waited for with the first queries
        const size_t at = (size_t)s.k_begin + tile.first;
        load_tile<kTile, D>(k, a.k + at * a.ldk + kv_head * D, a.ldk, n_keys);
        load_tile<kTile, D>(v, a.v + at * a.ldv + kv_head * D, a.ldv, n_keys);
        for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
            for (int from = first_query; from < s.q_len; from += kStep) {
                const size_t query = (size_t)s.q_begin + from;
                __syncthreads(); // every warp is done with the last queries
                load_tile<kStep, D>(q, a.q + query * a.ldq + head * D, a.ldq, s.q_len - from);
                load_tile<kStep, D>(d_o, a.d_o + query * a.ldd_o + head * D, a.ldd_o, s.q_len - from);
                async_commit();
                for (int i = threadIdx.x; i < kStep; i += kThreads) {
                    const bool valid = from + i < s.q_len; // else q and do are zeros, and add nothing whatever P is
                    lse[i] = valid ? a.lse[(size_t)head * a.T + query + i] : 0.f;
                    delta[i] = valid ? a.delta[(size_t)head * a.T + query + i] : 0.f;
                }
                async_wait<0>();
                __syncthreads();
                if (first >= s.k_len || first > s.q_pos + from + kStep - 1) continue; // this warp's keys are not seen
                float p[1][kStep / 8][4], ds[1][kStep / 8][4];
                acc_zero(p);
                acc_zero(ds);
                warp_mma<D / 16>(p, k + at_warp, kRow, q, kRow);
                warp_mma<D / 16>(ds, v + at_warp, kRow, d_o, kRow);
                UNROLL
                for (int j = 0; j < kStep / 8; j++) {
                    UNROLL
                    for (int r = 0; r < 4; r++) p[0][j][r] = fast_exp(p[0][j][r] * a.scale - lse[acc_col(lane, j, r)]);
                }
                if (first + 15 > s.q_pos + from || first + 16 > s.k_len) {
                    UNROLL
                    for (int j = 0; j < kStep / 8; j++) {
                        UNROLL
                        for (int r = 0; r < 4; r++) {
                            const int key = first + acc_row(lane, 0, r);
                            if (key >= s.k_len || key > s.q_pos + from + acc_col(lane, j, r)) p[0][j][r] = 0.f;
                        }
                    }
                }
                UNROLL
                for (int j = 0; j < kStep / 8; j++) {
                    UNROLL
                    for (int r = 0; r < 4; r++) ds[0][j][r] = p[0][j][r] * (ds[0][j][r] - delta[acc_col(lane, j, r)]);
                }
                act2 operand[kStep / 16][1][4];
                acc_to_a(operand, p);
                warp_mma_ra<kStep / 16, Major::kCols>(dv, operand, d_o, kRow);
                acc_to_a(operand, ds);
                warp_mma_ra<kStep / 16, Major::kCols>(dk, operand, q, kRow);
            }
    }
    const int n_out = max(s.q_len, s.k_len) - first; // rows past k_len, which nobody sees, are set to zero
    const float one[2] = {1.f, 1.f}, scale[2] = {a.scale, a.scale};
    const size_t at = (size_t)s.k_begin + first;
    store_rows<D>(a.dk + at * a.lddk + kv_head * D, a.lddk, n_out, dk, scale);
    store_rows<D>(a.dv + at * a.lddv + kv_head * D, a.lddv, n_out, dv, one);
}

template <int D>
lc_status forward(const lc_attention_fwd_args* a, lc_stream stream) {
    constexpr int kRow = Size<D>::kRow, kStep = Size<D>::kForward;
    constexpr size_t n_bytes = arena_bytes<act>(kTile * kRow) + 2 * arena_bytes<act>(kStep * kRow);
    return launch<attention_fwd<D>>(dim3(a->n_q_tiles, a->H), dim3(kThreads), n_bytes, stream, *a);
}

template <int D>
lc_status backward(const lc_attention_bwd_args* a, lc_stream stream) {
    constexpr int kRow = Size<D>::kRow, kStep = Size<D>::kBackward;
    constexpr size_t n_tiles = 2 * (arena_bytes<act>(kTile * kRow) + arena_bytes<act>(kStep * kRow));
    constexpr size_t n_bytes = n_tiles + 2 * arena_bytes<float>(kStep);
    LC_TRY(launch<attention_delta<D>>(dim3(a->n_q_tiles, a->H), dim3(kThreads), 0, stream, *a));
    LC_TRY(launch<attention_dq<D>>(dim3(a->n_q_tiles, a->H), dim3(kThreads), n_tiles, stream, *a));
    return launch<attention_dkv<D>>(dim3(a->n_k_tiles, a->KV), dim3(kThreads), n_bytes, stream, *a);
}
} // namespace

LC_API lc_status LC(attention_fwd)(const lc_attention_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->n_q_tiles > 0 && a->T > 0 && a->KV > 0 && a->H > 0 && a->H % a->KV == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldq % 8 == 0 && a->ldk % 8 == 0 && a->ldv % 8 == 0 && a->ldo % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(min(a->ldq, a->ldo) >= a->H * a->D && min(a->ldk, a->ldv) >= a->KV * a->D, LC_BAD_SHAPE);
    LC_REQUIRE(a->scale > 0.f, LC_BAD_SHAPE); // the maximum is taken before scaling
    LC_REQUIRE(aligned16(a->q, a->k, a->v, a->o), LC_MISALIGNED);
    switch (a->D) {
    case 16: return forward<16>(a, stream);
    case 32: return forward<32>(a, stream);
    case 64: return forward<64>(a, stream);
    case 128: return forward<128>(a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a->D, "head size 16, 32, 64 or 128"};
}

LC_API lc_status LC(attention_bwd)(const lc_attention_bwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->n_q_tiles > 0 && a->n_k_tiles > 0 && a->T > 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->KV > 0 && a->H > 0 && a->H % a->KV == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldq % 8 == 0 && a->ldk % 8 == 0 && a->ldv % 8 == 0 && a->ldo % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldd_o % 8 == 0 && a->lddq % 8 == 0 && a->lddk % 8 == 0 && a->lddv % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(min(min(a->ldq, a->ldo), min(a->ldd_o, a->lddq)) >= a->H * a->D, LC_BAD_SHAPE);
    LC_REQUIRE(min(min(a->ldk, a->ldv), min(a->lddk, a->lddv)) >= a->KV * a->D, LC_BAD_SHAPE);
    LC_REQUIRE(a->scale > 0.f, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->q, a->k, a->v, a->o, a->d_o, a->dq, a->dk, a->dv), LC_MISALIGNED);
    switch (a->D) {
    case 16: return backward<16>(a, stream);
    case 32: return backward<32>(a, stream);
    case 64: return backward<64>(a, stream);
    case 128: return backward<128>(a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a->D, "head size 16, 32, 64 or 128"};
}
