// attention.cu - causal attention over packed sequences: online softmax forward, recomputing deterministic backward.
//
// forward   o_i = sum_j softmax_j(scale q_i . k_j) v_j     lse_i saved; the T x T scores never leave the registers
// backward  P = exp(scale S - lse)   dS = P (dO V^T - delta)   dQ = scale dS K   dK = scale dS^T Q   dV = P^T dO
//
// precision  storage in; scores, softmax and sums in fp32; P and dS are rounded to storage, as operands of the tensor
//            cores; scale is applied in fp32, to the scores and to the finished dQ and dK. Powers are of 2: log2 e is
//            folded into the scale, which leaves one multiply-add and one instruction a score. lse is natural.
// work       a block owns 64 or 128 rows of a sequence and one head: of queries (forward, dQ) or of keys (dK, dV; it walks
//            all query heads of its group). A warp owns 16 or 32 of them, so softmax never leaves a quad of lanes, and P
//            is the next product's A operand without passing through shared memory. dK and dV work on the transposed
//            scores K Q^T for the same reason. Tiles and warps that see nothing skip; only the diagonal is masked.
// memory     what a block walks passes through a ring by cp.async, one barrier an arrival: keys and values in turn (forward,
//            dQ), so that one lands while the other is used; queries and their gradients together (dK, dV).
//            device/attention.cuh holds the shapes of blocks, by device.
// order      every result is summed by one warp in a fixed order; no atomics. Two backward kernels multiply 7 times where
//            a fused one with atomics would 5 times: the price of the same bytes every time.
// cost       4 and 14 D flops per visible (query, key, head): bound by the tensor cores from a few hundred keys on.
// checked    tests/ops/attention.rs against tools/golden/attention.py
#include "attention_wgmma.h"
#include "device/attention.cuh"
#include "device/gpu.cuh"
#include "device/reduce.cuh"

namespace {
// Number of keys, from 0 on, that rows up to `last` of the sequence may see.
LC_INLINE int visible_keys(const lc_sequence& s, int last) { return max(0, min(s.k_len, s.q_pos + last + 1)); }

// What a warp of a block of queries knows of its place: its rows are first .. last of the sequence.
template <class B>
struct Queries {
    lc_sequence s;
    int tile_first, n_rows, n_keys, first, last, warp_keys;

    LC_INLINE Queries(const lc_tile& tile, const lc_sequence& sequence) : s(sequence), tile_first(tile.first) {
        n_rows = min(B::kTile, s.q_len - tile_first);
        n_keys = n_rows <= 0 ? 0 : visible_keys(s, tile_first + n_rows - 1);
        first = tile_first + threadIdx.x / 32 * B::kWarpRows;
        last = min(first + B::kWarpRows, s.q_len) - 1;
        warp_keys = last < first ? 0 : visible_keys(s, last);
    }
    // Row `row` of the warp's sees the keys below this.
    LC_INLINE int seen_by(int row) const { return min(s.k_len, s.q_pos + first + row + 1); }
};

template <class B>
__global__ void __launch_bounds__(B::kThreads) attention_fwd(lc_attention_fwd_args a) {
    constexpr int kStep = B::kStep, kStages = B::kStages, MT = B::MT, D = B::D;
    Arena arena;
    act* ring = arena.take<act>(kStages * B::kStepElems);
    act* q_tile = B::kHeld ? ring : arena.take<act>(B::kTileElems);
    const lc_tile tile = block_tile<B>(a.q_tiles);
    const Queries<B> at(tile, a.sequences[tile.sequence]);
    if (at.n_rows <= 0) return;
    const int head = blockIdx.y, kv_head = head / (a.H / a.KV), lane = lane_id();
    const float scale = a.scale * kLog2e;

    // Arrivals 2i and 2i + 1: keys and values of step i, which lie in one page.
    static_assert(LC_PAGE % kStep == 0, "a step lies in one page");
    auto load = [&](int arrival) {
        const int from = arrival / 2 * kStep;
        act* place = ring + arrival % kStages * B::kStepElems;
        if (from < at.n_keys) {
            const size_t row = a.pages ? (size_t)a.pages[at.s.k_begin + from / LC_PAGE] * LC_PAGE + from % LC_PAGE
                                       : (size_t)at.s.k_begin + from;
            if (arrival % 2 == 0)
                load_rows<B, kStep>(place, a.k + row * a.ldk + kv_head * D, a.ldk, at.n_keys - from);
            else
                load_rows<B, kStep>(place, a.v + row * a.ldv + kv_head * D, a.ldv, at.n_keys - from);
        }
        async_commit();
    };
    Operand<B> q(q_tile);
    load_rows<B, B::kTile>(q_tile, a.q + ((size_t)at.s.q_begin + at.tile_first) * a.ldq + head * D, a.ldq, at.n_rows);
    if (B::kHeld) {
        async_commit();
        async_wait<0>();
        __syncthreads();
        q.hold();
        __syncthreads(); // every warp has its own; the ring may fill
    }
    for (int i = 0; i < kStages - 1; i++) load(i);

    float o[MT][D / 8][4], peak[MT][2], sum[MT][2];
    acc_zero(o);
    UNROLL
    for (int i = 0; i < MT; i++) peak[i][0] = peak[i][1] = -INFINITY, sum[i][0] = sum[i][1] = 0.f;
    for (int step = 0; step * kStep < at.n_keys; step++) {
        const int from = step * kStep;
        const act* k = ring + 2 * step % kStages * B::kStepElems;
        const act* v = ring + (2 * step + 1) % kStages * B::kStepElems;
        async_wait<kStages - 2>();
        __syncthreads(); // k is here, and every warp is done with the last v
        load(2 * step + kStages - 1);
        float p[MT][kStep / 8][4];
        if (from < at.warp_keys) {
            q.times(p, k);
            if (from + kStep > at.seen_by(0)) {
                UNROLL
                for (int i = 0; i < MT; i++) {
                    const int seen[2] = {at.seen_by(acc_row(lane, i, 0)) - from, at.seen_by(acc_row(lane, i, 2)) - from};
                    UNROLL
                    for (int j = 0; j < kStep / 8; j++) {
                        UNROLL
                        for (int r = 0; r < 4; r++) p[i][j][r] = acc_col(lane, j, r) < seen[r / 2] ? p[i][j][r] : -INFINITY;
                    }
                }
            }
            float top[MT][2], base[MT][2];
            bool moved = false;
            UNROLL
            for (int i = 0; i < MT; i++) {
                top[i][0] = peak[i][0], top[i][1] = peak[i][1];
                UNROLL
                for (int j = 0; j < kStep / 8; j++) {
                    UNROLL
                    for (int r = 0; r < 4; r++) top[i][r / 2] = fmaxf(top[i][r / 2], p[i][j][r]);
                }
                quad_reduce2(top[i][0], top[i][1], OpMax{});
                UNROLL
                for (int h = 0; h < 2; h++) {
                    base[i][h] = top[i][h] == -INFINITY ? 0.f : top[i][h]; // exp2(-inf - 0) is 0, not NaN
                    moved |= top[i][h] != peak[i][h];
                }
            }
            if (warp_any(moved)) { // rare after the first steps; a row that did not move gets a factor of exactly 1
                UNROLL
                for (int i = 0; i < MT; i++) {
                    float fade[2];
                    UNROLL
                    for (int h = 0; h < 2; h++) {
                        fade[h] = fast_exp2((peak[i][h] - base[i][h]) * scale);
                        peak[i][h] = top[i][h];
                        sum[i][h] *= fade[h];
                    }
                    UNROLL
                    for (int j = 0; j < D / 8; j++) {
                        UNROLL
                        for (int r = 0; r < 4; r++) o[i][j][r] *= fade[r / 2];
                    }
                }
            }
            UNROLL
            for (int i = 0; i < MT; i++) {
                const float less[2] = {base[i][0] * scale, base[i][1] * scale};
                UNROLL
                for (int j = 0; j < kStep / 8; j++) {
                    UNROLL
                    for (int r = 0; r < 4; r++) p[i][j][r] = fast_exp2(p[i][j][r] * scale - less[r / 2]);
                    sum[i][0] += p[i][j][0] + p[i][j][1];
                    sum[i][1] += p[i][j][2] + p[i][j][3];
                }
            }
        }
        async_wait<kStages - 2>();
        __syncthreads(); // v is here, and every warp is done with k
        load(2 * step + kStages);
        if (from < at.warp_keys) {
            act2 p16[kStep / 16][MT][4];
            acc_to_a(p16, p);
            warp_mma_ra<kStep / 16, Major::kCols>(o, p16, v, B::kRow);
        }
    }
    float inverse[MT][2];
    UNROLL
    for (int i = 0; i < MT; i++) {
        quad_reduce2(sum[i][0], sum[i][1], OpSum{}); // the lanes of a row faded alike
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = at.first + acc_row(lane, i, 2 * h);
            const float total = sum[i][h];
            inverse[i][h] = total == 0.f ? 0.f : 1.f / total; // a NaN stays one
            if (lane % 4 == 0 && row <= at.last)
                a.lse[(size_t)head * a.T + at.s.q_begin + row] = total == 0.f ? -INFINITY : peak[i][h] * a.scale + logf(total);
        }
    }
    async_wait<0>(); // where no key came, nobody has waited for q
    __syncthreads(); // every warp is done with the ring; its memory, or q's, is where rows are laid out to be stored
    act* out = a.o + ((size_t)at.s.q_begin + at.first) * a.ldo + head * D;
    store_rows<B>(out, a.ldo, at.last + 1 - at.first, o, inverse, q_tile);
}

// delta[h,t] = do . o: D/8 lanes a row, eight elements each, then a butterfly over them.
template <class B>
__global__ void __launch_bounds__(B::kThreads) attention_delta(lc_attention_bwd_args a) {
    constexpr int kLanes = B::D / 8;
    const lc_tile tile = block_tile<B>(a.q_tiles);
    const lc_sequence s = a.sequences[tile.sequence];
    const int head = blockIdx.y, n_rows = min(B::kTile, s.q_len - tile.first), c = head * B::D + threadIdx.x % kLanes * 8;
    for (int base = 0; base < B::kTile; base += B::kThreads / kLanes) { // whole warps, for the shuffles
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

template <class B>
__global__ void __launch_bounds__(B::kThreads) attention_dq(lc_attention_bwd_args a) {
    constexpr int kStep = B::kStep, kStages = B::kStages, MT = B::MT, D = B::D;
    static_assert(!B::kHeld || kStages * kStep >= 2 * B::kTile, "q and do borrow the ring");
    Arena arena;
    act* ring = arena.take<act>(kStages * B::kStepElems);
    act* q_tile = B::kHeld ? ring : arena.take<act>(B::kTileElems);
    act* d_o_tile = B::kHeld ? ring + B::kTileElems : arena.take<act>(B::kTileElems);
    const lc_tile tile = block_tile<B>(a.q_tiles);
    const Queries<B> at(tile, a.sequences[tile.sequence]);
    if (at.n_rows <= 0) return;
    const int head = blockIdx.y, kv_head = head / (a.H / a.KV), lane = lane_id();
    const size_t row0 = (size_t)at.s.q_begin + at.tile_first;
    const act* k_rows = a.k + (size_t)at.s.k_begin * a.ldk + kv_head * D;
    const act* v_rows = a.v + (size_t)at.s.k_begin * a.ldv + kv_head * D;
    const float scale = a.scale * kLog2e;

    // Arrivals 2i and 2i + 1: values and keys of step i.
    auto load = [&](int arrival) {
        const int from = arrival / 2 * kStep;
        act* place = ring + arrival % kStages * B::kStepElems;
        if (from < at.n_keys && arrival % 2 == 0)
            load_rows<B, kStep>(place, v_rows + (size_t)from * a.ldv, a.ldv, at.n_keys - from);
        else if (from < at.n_keys)
            load_rows<B, kStep>(place, k_rows + (size_t)from * a.ldk, a.ldk, at.n_keys - from);
        async_commit();
    };
    Operand<B> q(q_tile), d_o(d_o_tile);
    load_rows<B, B::kTile>(q_tile, a.q + row0 * a.ldq + head * D, a.ldq, at.n_rows);
    load_rows<B, B::kTile>(d_o_tile, a.d_o + row0 * a.ldd_o + head * D, a.ldd_o, at.n_rows);
    if (B::kHeld) {
        async_commit();
        async_wait<0>();
        __syncthreads();
        q.hold();
        d_o.hold();
        __syncthreads(); // every warp has its own; the ring may fill
    }
    for (int i = 0; i < kStages - 1; i++) load(i);

    float lse[MT][2], delta[MT][2], dq[MT][D / 8][4];
    acc_zero(dq);
    UNROLL
    for (int i = 0; i < MT; i++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = at.first + acc_row(lane, i, 2 * h);
            const size_t place = (size_t)head * a.T + at.s.q_begin + row;
            lse[i][h] = row <= at.last ? a.lse[place] * kLog2e : 0.f;
            delta[i][h] = row <= at.last ? a.delta[place] : 0.f;
        }
    }
    for (int step = 0; step * kStep < at.n_keys; step++) {
        const int from = step * kStep;
        const act* v = ring + 2 * step % kStages * B::kStepElems;
        const act* k = ring + (2 * step + 1) % kStages * B::kStepElems;
        async_wait<kStages - 2>();
        __syncthreads(); // v is here, and every warp is done with the last k
        load(2 * step + kStages - 1);
        float p[MT][kStep / 8][4], ds[MT][kStep / 8][4];
        if (from < at.warp_keys) d_o.times(ds, v);
        async_wait<kStages - 2>();
        __syncthreads(); // k is here, and every warp is done with v
        load(2 * step + kStages);
        if (from >= at.warp_keys) continue;
        q.times(p, k);
        UNROLL
        for (int i = 0; i < MT; i++) {
            UNROLL
            for (int j = 0; j < kStep / 8; j++) {
                UNROLL
                for (int r = 0; r < 4; r++)
                    ds[i][j][r] = fast_exp2(p[i][j][r] * scale - lse[i][r / 2]) * (ds[i][j][r] - delta[i][r / 2]);
            }
        }
        if (from + kStep > at.seen_by(0)) {
            UNROLL
            for (int i = 0; i < MT; i++) {
                const int seen[2] = {at.seen_by(acc_row(lane, i, 0)) - from, at.seen_by(acc_row(lane, i, 2)) - from};
                UNROLL
                for (int j = 0; j < kStep / 8; j++) {
                    UNROLL
                    for (int r = 0; r < 4; r++) ds[i][j][r] = acc_col(lane, j, r) < seen[r / 2] ? ds[i][j][r] : 0.f;
                }
            }
        }
        act2 ds16[kStep / 16][MT][4];
        acc_to_a(ds16, ds);
        warp_mma_ra<kStep / 16, Major::kCols>(dq, ds16, k, B::kRow);
    }
    float factor[MT][2];
    UNROLL
    for (int i = 0; i < MT; i++) factor[i][0] = factor[i][1] = a.scale;
    async_wait<0>();
    __syncthreads(); // as in the forward
    act* out = a.dq + ((size_t)at.s.q_begin + at.first) * a.lddq + head * D;
    store_rows<B>(out, a.lddq, at.last + 1 - at.first, dq, factor, q_tile);
}

// Transposed: this warp's keys are the rows of the scores, queries are their columns.
template <class B>
__global__ void __launch_bounds__(B::kThreads) attention_dkv(lc_attention_bwd_args a) {
    constexpr int kStep = B::kStep, kStages = B::kStages, MT = B::MT, D = B::D;
    Arena arena;
    act* k_tile = arena.take<act>(B::kTileElems);
    act* v_tile = arena.take<act>(B::kTileElems);
    act* q_ring = arena.take<act>(kStages * B::kStepElems);
    act* d_o_ring = arena.take<act>(kStages * B::kStepElems);
    float* lse_ring = arena.take<float>(kStages * kStep);
    float* delta_ring = arena.take<float>(kStages * kStep);
    const lc_tile tile = block_tile<B>(a.k_tiles);
    const lc_sequence s = a.sequences[tile.sequence];
    const int kv_head = blockIdx.y, group = a.H / a.KV, lane = lane_id();
    const int n_keys = min(B::kTile, s.k_len - tile.first), first = tile.first + threadIdx.x / 32 * B::kWarpRows;
    const int first_query = max(0, tile.first - s.q_pos) / kStep * kStep;
    // Steps of all the group's heads, one after another; none where no key is seen.
    const int per_head = n_keys <= 0 ? 0 : max(0, ceil_div(s.q_len - first_query, kStep)), n_steps = per_head * group;
    const float scale = a.scale * kLog2e;

    auto load = [&](int step) {
        if (step < n_steps) {
            const int head = kv_head * group + step / per_head, from = first_query + step % per_head * kStep;
            const int place = step % kStages, n_valid = s.q_len - from;
            const size_t query = (size_t)s.q_begin + from, row = (size_t)head * a.T + query;
            load_rows<B, kStep>(q_ring + place * B::kStepElems, a.q + query * a.ldq + head * D, a.ldq, n_valid);
            load_rows<B, kStep>(d_o_ring + place * B::kStepElems, a.d_o + query * a.ldd_o + head * D, a.ldd_o, n_valid);
            if (threadIdx.x < kStep) { // where there is no query q and do are zeros, and add nothing whatever P is
                const int i = threadIdx.x;
                copy_float_async(lse_ring + place * kStep + i, a.lse + row + i, i < n_valid);
                copy_float_async(delta_ring + place * kStep + i, a.delta + row + i, i < n_valid);
            }
        }
        async_commit();
    };
    float dk[MT][D / 8][4], dv[MT][D / 8][4];
    acc_zero(dk);
    acc_zero(dv);
    Operand<B> k(k_tile), v(v_tile);
    if (n_steps > 0) { // the same for the whole block; the copies are waited for with the first queries
        const size_t at = (size_t)s.k_begin + tile.first;
        load_rows<B, B::kTile>(k_tile, a.k + at * a.ldk + kv_head * D, a.ldk, n_keys);
        load_rows<B, B::kTile>(v_tile, a.v + at * a.ldv + kv_head * D, a.ldv, n_keys);
    }
    for (int i = 0; i < kStages - 1; i++) load(i);
    for (int step = 0; step < n_steps; step++) {
        const int place = step % kStages, from = first_query + step % per_head * kStep;
        const act *q = q_ring + place * B::kStepElems, *d_o = d_o_ring + place * B::kStepElems;
        const float *lse = lse_ring + place * kStep, *delta = delta_ring + place * kStep;
        async_wait<kStages - 2>();
        __syncthreads(); // these queries are here, and every warp is done with the last
        load(step + kStages - 1);
        if (first >= s.k_len || first > s.q_pos + from + kStep - 1) continue; // this warp's keys are not seen
        float p[MT][kStep / 8][4], ds[MT][kStep / 8][4];
        k.times(p, q);
        v.times(ds, d_o);
        const bool edge = first + B::kWarpRows - 1 > s.q_pos + from || first + B::kWarpRows > s.k_len;
        UNROLL
        for (int j = 0; j < kStep / 8; j++) {
            const float2 low = *reinterpret_cast<const float2*>(lse + acc_col(lane, j, 0));
            const float2 of = *reinterpret_cast<const float2*>(delta + acc_col(lane, j, 0));
            const float base[2] = {low.x * kLog2e, low.y * kLog2e}, less[2] = {of.x, of.y};
            UNROLL
            for (int i = 0; i < MT; i++) {
                UNROLL
                for (int r = 0; r < 4; r++) {
                    const int key = first + acc_row(lane, i, r), query = from + acc_col(lane, j, r);
                    const bool seen = !edge || (key < s.k_len && key <= s.q_pos + query);
                    p[i][j][r] = seen ? fast_exp2(p[i][j][r] * scale - base[r % 2]) : 0.f;
                    ds[i][j][r] = p[i][j][r] * (ds[i][j][r] - less[r % 2]);
                }
            }
        }
        act2 operand[kStep / 16][MT][4];
        acc_to_a(operand, p);
        warp_mma_ra<kStep / 16, Major::kCols>(dv, operand, d_o, B::kRow);
        acc_to_a(operand, ds);
        warp_mma_ra<kStep / 16, Major::kCols>(dk, operand, q, B::kRow);
    }
    async_wait<0>();
    __syncthreads(); // k and v have arrived even where no query came, and nobody reads them any more
    const int n_out = max(s.q_len, s.k_len) - first; // rows past k_len, which nobody sees, are set to zero
    float one[MT][2], factor[MT][2];
    UNROLL
    for (int i = 0; i < MT; i++) one[i][0] = one[i][1] = 1.f, factor[i][0] = factor[i][1] = a.scale;
    const size_t at = (size_t)s.k_begin + first;
    store_rows<B>(a.dk + at * a.lddk + kv_head * D, a.lddk, n_out, dk, factor, k_tile);
    store_rows<B>(a.dv + at * a.lddv + kv_head * D, a.lddv, n_out, dv, one, v_tile);
}

template <class B>
dim3 grid(int n_tiles, int n_heads) {
    return dim3(n_tiles * (LC_ATTENTION_TILE / B::kTile), n_heads);
}

template <int D, int kBlocks>
lc_status run(const lc_attention_fwd_args& a, lc_stream stream) {
    using B = typename Table<D, kBlocks>::Forward;
    constexpr size_t n_bytes = B::kRingBytes + (B::kHeld ? 0 : B::kTileBytes);
    return launch<attention_fwd<B>>(grid<B>(a.n_q_tiles, a.H), dim3(B::kThreads), n_bytes, stream, a);
}

template <class B>
lc_status run_delta(const lc_attention_bwd_args& a, lc_stream stream) {
    return launch<attention_delta<B>>(grid<B>(a.n_q_tiles, a.H), dim3(B::kThreads), 0, stream, a);
}

template <int D, int kBlocks>
lc_status run(const lc_attention_bwd_args& a, lc_stream stream) {
    using Q = typename Table<D, kBlocks>::Dq;
    using K = typename Table<D, kBlocks>::Dkv;
    constexpr size_t q_bytes = Q::kRingBytes + (Q::kHeld ? 0 : 2 * Q::kTileBytes);
    constexpr size_t k_bytes = 2 * K::kTileBytes + 2 * K::kRingBytes + 2 * arena_bytes<float>(K::kStages * K::kStep);
    LC_TRY(LC(attention_delta)(&a, stream));
    LC_TRY(launch<attention_dq<Q>>(grid<Q>(a.n_q_tiles, a.H), dim3(Q::kThreads), q_bytes, stream, a));
    return launch<attention_dkv<K>>(grid<K>(a.n_k_tiles, a.KV), dim3(K::kThreads), k_bytes, stream, a);
}

// The shapes of blocks for this device.
int blocks_of_device() {
#ifdef __CUDACC__
    return this_gpu().shared_bytes >= 164 << 10 ? LC_ATTENTION_164K : LC_ATTENTION_100K;
#elif LC_CHECKED || defined(LC_LANEWISE)
    return LC_ATTENTION_100K; // the users' GPUs
#else
    return LC_ATTENTION_164K; // a CPU is fastest with large products from shared memory
#endif
}

template <class Args>
bool for_wgmma(const Args& a, bool own_keys) {
    const bool chosen = a.blocks == LC_ATTENTION_AUTO && this_gpu().architecture == 90;
    return a.blocks == LC_ATTENTION_SM90 || (chosen && own_keys && (a.D == 64 || a.D == 128));
}

template <class Args>
lc_status run_by_size(const Args& a, lc_stream stream) {
    LC_REQUIRE(a.blocks >= LC_ATTENTION_AUTO && a.blocks <= LC_ATTENTION_164K, LC_UNSUPPORTED);
    const int blocks = a.blocks == LC_ATTENTION_AUTO ? blocks_of_device() : a.blocks;
    switch (a.D) {
    case 16: return run<16, 0>(a, stream);
    case 32: return run<32, 0>(a, stream);
    case 64: return run<64, 0>(a, stream);
    case 128:
        if (blocks == LC_ATTENTION_164K) return run<128, LC_ATTENTION_164K>(a, stream);
        return run<128, LC_ATTENTION_100K>(a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a.D, "head size 16, 32, 64 or 128"};
}
} // namespace

LC_API lc_status LC(attention_fwd)(const lc_attention_fwd_args* a, lc_stream stream) {
    LC_TRY(check_args(*a));
    LC_REQUIRE(!a->pages || a->own_keys == 0, LC_UNSUPPORTED);
    return for_wgmma(*a, a->own_keys == 1) ? LC(attention_wgmma_fwd)(a, stream) : run_by_size(*a, stream);
}

LC_API lc_status LC(attention_bwd)(const lc_attention_bwd_args* a, lc_stream stream) {
    LC_TRY(check_args(*a));
    return for_wgmma(*a, true) ? LC(attention_wgmma_bwd)(a, stream) : run_by_size(*a, stream);
}

LC_API lc_status LC(attention_delta)(const lc_attention_bwd_args* a, lc_stream stream) {
    LC_TRY(check_args(*a));
    switch (a->D) {
    case 16: return run_delta<Table<16, 0>::Dq>(*a, stream);
    case 32: return run_delta<Table<32, 0>::Dq>(*a, stream);
    case 64: return run_delta<Table<64, 0>::Dq>(*a, stream);
    case 128: return run_delta<Table<128, LC_ATTENTION_100K>::Dq>(*a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a->D, "head size 16, 32, 64 or 128"};
}
