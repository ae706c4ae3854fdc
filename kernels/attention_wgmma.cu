// attention_wgmma.cu - causal attention over packed sequences on Hopper's tensor cores (attention_wgmma.h).
//
// precision  as attention.cu: storage in; scores, softmax and sums in fp32; P and dS rounded to storage, as operands.
// work       a block owns 128 rows of a sequence and a head: of queries (forward, dQ) or of keys (dK, dV; it walks all
//            query heads of its group). Of its three warpgroups one only copies: the block's own tiles once, and what is walked,
//            tile after tile, through a ring. The other two own 64 rows each, all sums in registers, and P or dS goes from
//            accumulators to the next product without shared memory. Blocks stay for many items, the longest first, there
//            and back, so that a block's ring fills with the next item's tiles while the last one's are finished.
// overlap    a product is always under way while elements are computed. Forward: the scores of the next step are asked for
//            before P V of this one, and softmax runs beside P V. dQ: P beside dO V^T, and the next scores beside dS K. dK, dV:
//            P^T beside V dO^T, dS^T beside P^T dO, and the next scores beside dS^T Q. The two warpgroups fill what is left.
// edges      a warpgroup skips steps of which it sees nothing; only the diagonal and the ends are masked, by selection.
// order      every result is summed by one warpgroup along the walk: the same bytes on every run. No atomics: 7 products in
//            the backward where one kernel with atomics would make 5.
// cost       see kernels/README.md: counted cycles of tensor cores, of exponentials and of shared memory.
// checked    tests/ops/attention.rs, beside attention.cu, against tools/golden/attention.py
#include "attention_wgmma.h"
#include "device/attention_wgmma.cuh"
#include "device/gpu.cuh"
#include "device/reduce.cuh"

#ifndef LC_FP32
namespace {
// Softmax of the rows of a warp as it goes: two rows a lane.
struct Running {
    float peak[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f}, fade[2];

    // Scores become powers; true where sums made so far must fade.
    template <int NT>
    LC_INLINE bool powers(float (&p)[1][NT][4], float scale) {
        float top[2] = {peak[0], peak[1]}, less[2];
        UNROLL
        for (int j = 0; j < NT; j++) {
            UNROLL
            for (int r = 0; r < 4; r++) top[r / 2] = fmaxf(top[r / 2], p[0][j][r]);
        }
        quad_reduce2(top[0], top[1], OpMax{});
        const bool moved = warp_any(top[0] != peak[0] || top[1] != peak[1]);
        UNROLL
        for (int h = 0; h < 2; h++) {
            const float base = top[h] == -INFINITY ? 0.f : top[h]; // exp2(-inf - 0) is 0, not NaN
            fade[h] = fast_exp2((peak[h] - base) * scale);
            peak[h] = top[h], less[h] = base * scale, sum[h] *= fade[h];
        }
        UNROLL
        for (int j = 0; j < NT; j++) {
            UNROLL
            for (int r = 0; r < 4; r++) {
                p[0][j][r] = fast_exp2(p[0][j][r] * scale - less[r / 2]);
                sum[r / 2] += p[0][j][r];
            }
        }
        return moved;
    }
};

// p where the row (from `row` on) sees the key (from `key` on), `other` elsewhere.
template <int NT>
LC_INLINE void mask(float (&p)[1][NT][4], const lc_sequence& s, int row, int key, float other) {
    if (key + NT * 8 <= min(s.k_len, s.q_pos + row + 1)) return; // all rows see all
    const int lane = lane_id();
    UNROLL
    for (int j = 0; j < NT; j++) {
        UNROLL
        for (int r = 0; r < 4; r++) {
            const int k = key + acc_col(lane, j, r);
            if (k >= s.k_len || k > s.q_pos + row + acc_row(lane, 0, r)) p[0][j][r] = other;
        }
    }
}

template <class S>
LC_INLINE void forward(const lc_attention_fwd_args& a, int n_items, const Pipe<S>& pipe) {
    const int group = threadIdx.x / 128 - 1, lane = lane_id(), warp_row = threadIdx.x / 32 % 4 * 16;
    const act* const q = pipe.own(0, group);
    const float scale = a.scale * kLog2e;
    int n = 0, n_own = 0;
    each_item(n_items, [&](int w) {
        const QueryItem<S> item(a, w);
        const int n_steps = item.steps_to(item.first + (group + 1) * kGroupRows);
        const int row = item.first + group * kGroupRows + warp_row;
        float o[1][S::D / 8][4], p[1][S::kStep / 8][4];
        act2 operand[S::kStep / 16][1][4];
        Running softmax;
        acc_zero(o);
        if (item.n_steps > 0) pipe.wait_own(n_own++);
        if (n_steps > 0) {
            pipe.wait(n);
            ask_scores<S>(p, q, pipe.tile(n));
            wait_for<0>(p);
            pipe.release(n);
            mask(p, item.s, row, 0, -INFINITY);
            softmax.powers(p, scale);
            pipe.wait(n + 1);
            acc_to_a(operand, p);
            for (int step = 1; step < n_steps; step++) {
                const int k = n + 2 * step, v = k - 1; // these keys, the last step's values
                pipe.wait(k);
                ask_scores<S>(p, q, pipe.tile(k));
                ask_sums<S>(o, operand, pipe.tile(v));
                wait_for<1>(p);
                pipe.release(k);
                mask(p, item.s, row, step * S::kStep, -INFINITY);
                const bool moved = softmax.powers(p, scale);
                pipe.wait(k + 1); // here, since ptxas moves no power across a branch: the next wait, it would move up
                wait_for<0>(o);
                pipe.release(v);
                if (moved) { // rare after the first steps; a row that did not move gets a factor of exactly 1
                    UNROLL
                    for (int j = 0; j < S::D / 8; j++) {
                        UNROLL
                        for (int r = 0; r < 4; r++) o[0][j][r] *= softmax.fade[r / 2];
                    }
                }
                acc_to_a(operand, p);
            }
            const int v = n + 2 * n_steps - 1;
            ask_sums<S>(o, operand, pipe.tile(v));
            pipe.release_own();
            wait_for<0>(o);
            pipe.release(v);
        } else if (item.n_steps > 0) {
            pipe.release_own();
        }
        pipe.pass_over(n + 2 * n_steps, n + 2 * item.n_steps);
        n += 2 * item.n_steps;

        float inverse[2];
        quad_reduce2(softmax.sum[0], softmax.sum[1], OpSum{}); // the lanes of a row faded alike
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int at = row + acc_row(lane, 0, 2 * h);
            const float total = softmax.sum[h];
            inverse[h] = total == 0.f ? 0.f : 1.f / total; // a NaN stays one
            if (lane % 4 == 0 && at < item.s.q_len)
                a.lse[(size_t)item.head * a.T + item.s.q_begin + at] =
                    total == 0.f ? -INFINITY : softmax.peak[h] * a.scale + logf(total);
        }
        store_sums(a.o + (size_t)(item.s.q_begin + row) * a.ldo + item.own_column(), a.ldo, item.s.q_len - row, o, inverse);
    });
}

template <class S>
LC_INLINE void dq(const lc_attention_bwd_args& a, int n_items, const Pipe<S>& pipe) {
    const int group = threadIdx.x / 128 - 1, lane = lane_id(), warp_row = threadIdx.x / 32 % 4 * 16;
    const act *const q = pipe.own(0, group), *const d_o = pipe.own(1, group);
    const float scale = a.scale * kLog2e;
    int n = 0, n_own = 0;
    each_item(n_items, [&](int w) {
        const QueryItem<S> item(a, w);
        const int n_steps = item.steps_to(item.first + (group + 1) * kGroupRows);
        const int row = item.first + group * kGroupRows + warp_row;
        float sum[1][S::D / 8][4], lse[2], delta[2];
        acc_zero(sum);
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int at = row + acc_row(lane, 0, 2 * h);
            const size_t place = (size_t)item.head * a.T + item.s.q_begin + at;
            lse[h] = at < item.s.q_len ? a.lse[place] * kLog2e : 0.f;
            delta[h] = at < item.s.q_len ? a.delta[place] : 0.f;
        }
        float p[1][S::kStep / 8][4], ds[1][S::kStep / 8][4];
        act2 operand[S::kStep / 16][1][4];
        // The scores of a step are here before; its gradient's sums are under way afterwards.
        auto gradient = [&](int step) {
            const int k = n + 2 * step, v = k + 1;
            pipe.wait(v);
            ask_scores<S>(ds, d_o, pipe.tile(v));
            UNROLL
            for (int j = 0; j < S::kStep / 8; j++) {
                UNROLL
                for (int r = 0; r < 4; r++) p[0][j][r] = fast_exp2(p[0][j][r] * scale - lse[r / 2]);
            }
            mask(p, item.s, row, step * S::kStep, 0.f);
            wait_for<0>(ds);
            pipe.release(v);
            UNROLL
            for (int j = 0; j < S::kStep / 8; j++) {
                UNROLL
                for (int r = 0; r < 4; r++) ds[0][j][r] = p[0][j][r] * (ds[0][j][r] - delta[r / 2]);
            }
            acc_to_a(operand, ds);
            ask_sums<S>(sum, operand, pipe.tile(k));
        };
        if (item.n_steps > 0) pipe.wait_own(n_own++);
        if (n_steps > 0) {
            pipe.wait(n);
            ask_scores<S>(p, q, pipe.tile(n));
            wait_for<0>(p);
            const int last = n_steps - 1;
            for (int step = 0; step < last; step++) {
                const int k = n + 2 * step;
                gradient(step);
                pipe.wait(k + 2);
                ask_scores<S>(p, q, pipe.tile(k + 2));
                wait_for<0>(sum);
                wait_for<0>(p);
                pipe.release(k);
            }
            gradient(last);
            wait_for<0>(sum);
            pipe.release(n + 2 * last);
        }
        if (item.n_steps > 0) pipe.release_own();
        pipe.pass_over(n + 2 * n_steps, n + 2 * item.n_steps);
        n += 2 * item.n_steps;
        const float factor[2] = {a.scale, a.scale};
        store_sums(a.dq + (size_t)(item.s.q_begin + row) * a.lddq + item.own_column(), a.lddq, item.s.q_len - row, sum,
                   factor);
    });
}

// lse and delta of kStep queries, the first of them number `at` of [H,T], into the warp's own patch of shared memory.
template <class S>
LC_INLINE void fetch_numbers(float* patch, const lc_attention_bwd_args& a, int at, int n_valid) {
    const int lane = lane_id();
    float lse[S::kStep / 32], delta[S::kStep / 32];
    UNROLL
    for (int i = 0; i < S::kStep / 32; i++) {
        const bool valid = i * 32 + lane < n_valid;
        lse[i] = valid ? a.lse[at + i * 32 + lane] * kLog2e : 0.f;
        delta[i] = valid ? a.delta[at + i * 32 + lane] : 0.f;
    }
    __syncwarp(); // the last ones have been read
    UNROLL
    for (int i = 0; i < S::kStep / 32; i++) patch[i * 32 + lane] = lse[i], patch[S::kStep + i * 32 + lane] = delta[i];
    __syncwarp();
}

// Transposed: this warpgroup's keys are the rows of the scores, queries are their columns. Registers are dear: two
// gradients take 128 a thread, the scores of a step 64 and their operands 32, so little else stays in them.
template <class S>
LC_INLINE void dkv(const lc_attention_bwd_args& a, int n_items, const Pipe<S>& pipe, float* patches) {
    const int group = threadIdx.x / 128 - 1, lane = lane_id(), own_row = group * kGroupRows + threadIdx.x / 32 % 4 * 16;
    const act *const k = pipe.own(0, group), *const v = pipe.own(1, group);
    float* const patch = patches + (threadIdx.x / 32 - 4) * 2 * S::kStep;
    const float scale = a.scale * kLog2e;
    int n = 0, n_own = 0; // n: the fill with the queries of this step
    each_item(n_items, [&](int w) {
        float dk[1][S::D / 8][4], dv[1][S::D / 8][4], p[1][S::kStep / 8][4], ds[1][S::kStep / 8][4];
        act2 p16[S::kStep / 16][1][4], ds16[S::kStep / 16][1][4];
        acc_zero(dk);
        acc_zero(dv);
        const KeyItem<S> item(a, w);
        if (item.n_steps > 0) {
            // Of every head's steps the first do not see this warpgroup's keys.
            const int n_unseen = item.unseen(group), first = item.first_query + n_unseen * S::kStep, q_len = item.s.q_len;
            const int row = item.first + own_row, n_keys = item.s.k_len - row, position = item.s.q_pos - row; // from row on
            int query = first, left = (item.per_head - n_unseen) * item.heads;
            int numbers = item.kv_head * item.heads * a.T + item.s.q_begin; // of the head
            // The scores of a step are here before; the sums of both gradients are under way afterwards.
            auto gradients = [&] {
                pipe.wait(n + 1);
                ask_scores<S>(ds, v, pipe.tile(n + 1));
                UNROLL
                for (int j = 0; j < S::kStep / 8; j++) {
                    const float2 lse = *reinterpret_cast<const float2*>(patch + acc_col(lane, j, 0));
                    UNROLL
                    for (int r = 0; r < 4; r++) p[0][j][r] = fast_exp2(p[0][j][r] * scale - (r % 2 ? lse.y : lse.x));
                }
                if (15 > position + query || 16 > n_keys || query + S::kStep > q_len) {
                    UNROLL
                    for (int j = 0; j < S::kStep / 8; j++) {
                        UNROLL
                        for (int r = 0; r < 4; r++) {
                            const int key = acc_row(lane, 0, r), i = query + acc_col(lane, j, r);
                            if (key >= n_keys || key > position + i || i >= q_len) p[0][j][r] = 0.f;
                        }
                    }
                }
                acc_to_a(p16, p);
                ask_sums<S>(dv, p16, pipe.tile(n + 1));
                wait_for<1>(ds);
                UNROLL
                for (int j = 0; j < S::kStep / 8; j++) {
                    const float2 delta = *reinterpret_cast<const float2*>(patch + S::kStep + acc_col(lane, j, 0));
                    UNROLL
                    for (int r = 0; r < 4; r++) ds[0][j][r] = p[0][j][r] * (ds[0][j][r] - (r % 2 ? delta.y : delta.x));
                }
                acc_to_a(ds16, ds);
                ask_sums<S>(dk, ds16, pipe.tile(n));
            };
            auto release = [&] {
                pipe.release(n);
                pipe.release(n + 1);
            };
            pipe.wait_own(n_own++);
            const int n_passed = left > 0 ? n_unseen : item.n_steps;
            pipe.pass_over(n, n + 2 * n_passed);
            n += 2 * n_passed;
            if (left > 0) {
                pipe.wait(n);
                ask_scores<S>(p, k, pipe.tile(n));
                fetch_numbers<S>(patch, a, numbers + query, q_len - query);
                wait_for<0>(p);
                while (--left > 0) {
                    gradients();
                    int next = n + 2;
                    query += S::kStep;
                    if (query >= q_len) { // the next head
                        pipe.pass_over(next, next + 2 * n_unseen);
                        next += 2 * n_unseen, query = first, numbers += a.T;
                    }
                    pipe.wait(next);
                    ask_scores<S>(p, k, pipe.tile(next));
                    fetch_numbers<S>(patch, a, numbers + query, q_len - query);
                    wait_for<0>(dv);
                    wait_for<0>(dk);
                    wait_for<0>(p);
                    release();
                    n = next;
                }
                gradients();
                wait_for<0>(dv);
                wait_for<0>(dk);
                release();
                n += 2;
            }
            pipe.release_own();
        }
        const KeyItem<S> out(a, w); // looked up again
        const int row = out.first + own_row, n_valid = max(out.s.q_len, out.s.k_len) - row;
        const float one[2] = {1.f, 1.f}, factor[2] = {a.scale, a.scale};
        const size_t at = (size_t)(out.s.k_begin + row);
        // Rows past k_len, which nobody sees, are set to zero.
        store_sums(a.dk + at * a.lddk + out.own_column(), a.lddk, n_valid, dk, factor);
        store_sums(a.dv + at * a.lddv + out.own_column(), a.lddv, n_valid, dv, one);
    });
}

// One warpgroup copies, giving its registers to the two that multiply.
template <class S, template <class> class Item, class Args, class Consume>
LC_INLINE void divide(const Maps& maps, const Args& a, int n_items, const Pipe<S>& pipe, Consume consume) {
    if (threadIdx.x < 128) {
        give_registers<24>();
        if (threadIdx.x == 0) produce<S, Item>(maps, a, n_items, pipe);
        __syncwarp();
    } else {
        take_registers<240>();
        consume();
    }
}

template <class S>
__global__ void __launch_bounds__(kThreads, 1)
    attention_wgmma_fwd(LC_GRID_CONSTANT Maps maps, lc_attention_fwd_args a) {
#if LC_SM90
    Arena arena;
    const Pipe<S> pipe(arena);
    const int n_items = a.n_q_tiles * a.H;
    divide<S, QueryItem>(maps, a, n_items, pipe, [&] { forward<S>(a, n_items, pipe); });
#endif
}
template <class S>
__global__ void __launch_bounds__(kThreads, 1) attention_wgmma_dq(LC_GRID_CONSTANT Maps maps, lc_attention_bwd_args a) {
#if LC_SM90
    Arena arena;
    const Pipe<S> pipe(arena);
    const int n_items = a.n_q_tiles * a.H;
    divide<S, QueryItem>(maps, a, n_items, pipe, [&] { dq<S>(a, n_items, pipe); });
#endif
}
template <class S>
__global__ void __launch_bounds__(kThreads, 1) attention_wgmma_dkv(LC_GRID_CONSTANT Maps maps, lc_attention_bwd_args a) {
#if LC_SM90
    Arena arena;
    const Pipe<S> pipe(arena);
    float* const patches = arena.take<float>(S::kPatchFloats);
    const int n_items = a.n_k_tiles * a.KV;
    divide<S, KeyItem>(maps, a, n_items, pipe, [&] { dkv<S>(a, n_items, pipe, patches); });
#endif
}

dim3 blocks_for(int n_items) {
#ifdef __CUDACC__
    return dim3((unsigned)min(n_items, this_gpu().n_sms));
#else
    return dim3((unsigned)min(n_items, 6)); // few, so that each makes several items
#endif
}

template <int D>
lc_status run(const lc_attention_fwd_args& a, lc_stream stream) {
    using S = Forward<D>;
    Maps maps = {};
    LC_TRY(make_tensor_map(&maps.own[0], a.q, a.H * D, a.T, a.ldq, kRows));
    LC_TRY(make_tensor_map(&maps.walked[0], a.k, a.KV * D, a.T, a.ldk, S::kStep));
    LC_TRY(make_tensor_map(&maps.walked[1], a.v, a.KV * D, a.T, a.ldv, S::kStep));
    return launch<attention_wgmma_fwd<S>>(blocks_for(a.n_q_tiles * a.H), dim3(kThreads), S::kBytes, stream, maps, a);
}

template <int D>
lc_status run(const lc_attention_bwd_args& a, lc_stream stream) {
    using Q = Dq<D>;
    using K = Dkv<D>;
    Maps by_query = {}, by_key = {};
    LC_TRY(make_tensor_map(&by_query.own[0], a.q, a.H * D, a.T, a.ldq, kRows));
    LC_TRY(make_tensor_map(&by_query.own[1], a.d_o, a.H * D, a.T, a.ldd_o, kRows));
    LC_TRY(make_tensor_map(&by_query.walked[0], a.k, a.KV * D, a.T, a.ldk, Q::kStep));
    LC_TRY(make_tensor_map(&by_query.walked[1], a.v, a.KV * D, a.T, a.ldv, Q::kStep));
    LC_TRY(make_tensor_map(&by_key.own[0], a.k, a.KV * D, a.T, a.ldk, kRows));
    LC_TRY(make_tensor_map(&by_key.own[1], a.v, a.KV * D, a.T, a.ldv, kRows));
    LC_TRY(make_tensor_map(&by_key.walked[0], a.q, a.H * D, a.T, a.ldq, K::kStep));
    LC_TRY(make_tensor_map(&by_key.walked[1], a.d_o, a.H * D, a.T, a.ldd_o, K::kStep));
    constexpr size_t k_bytes = K::kBytes + arena_bytes<float>(K::kPatchFloats);
    LC_TRY(launch<attention_wgmma_dq<Q>>(blocks_for(a.n_q_tiles * a.H), dim3(kThreads), Q::kBytes, stream, by_query, a));
    return launch<attention_wgmma_dkv<K>>(blocks_for(a.n_k_tiles * a.KV), dim3(kThreads), k_bytes, stream, by_key, a);
}

template <class Args>
lc_status run_by_size(const Args& a, lc_stream stream) {
#ifdef __CUDACC__
    LC_REQUIRE(this_gpu().architecture == 90, LC_UNSUPPORTED);
#endif
    switch (a.D) {
        case 64: return run<64>(a, stream);
        case 128: return run<128>(a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a.D, "head size 64 or 128"};
}
} // namespace
#endif

LC_API lc_status LC(attention_wgmma_fwd)(const lc_attention_fwd_args* a, lc_stream stream) {
#ifdef LC_FP32
    return lc_status{LC_UNSUPPORTED, 0, "operands of 16 bits"};
#else
    LC_TRY(check_args(*a));
    LC_REQUIRE(a->own_keys == 1, LC_UNSUPPORTED);
    return run_by_size(*a, stream);
#endif
}

LC_API lc_status LC(attention_wgmma_bwd)(const lc_attention_bwd_args* a, lc_stream stream) {
#ifdef LC_FP32
    return lc_status{LC_UNSUPPORTED, 0, "operands of 16 bits"};
#else
    LC_TRY(LC(attention_delta)(a, stream));
    return run_by_size(*a, stream);
#endif
}
