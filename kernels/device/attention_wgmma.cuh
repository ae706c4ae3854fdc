// attention_wgmma.cuh - what the three kernels of attention on sm_90 share: items of work, tiles that pass by, products.
//
// An item is 128 rows of a sequence and a head, the block's own, and the steps it walks on the other side. One thread copies
// (produce), two warpgroups of 64 own rows multiply. Between them lies a Pipe: the own tiles, and a ring of walked tiles, each
// with a pair of mbarriers: `full` counts bytes that arrive, `empty` warps that are done. Fills are numbered through all items, so
// that a fill's number says its place in the ring and its parity.
#pragma once
#include "device/attention.cuh"
#include "device/sm90/wgmma.cuh"

#ifndef LC_FP32
namespace {
constexpr int kRows = LC_ATTENTION_TILE, kGroupRows = 64, kGroups = kRows / kGroupRows, kThreads = 128 * (1 + kGroups);

// A block's kOwn tiles of kRows rows, and a ring of kSlots tiles of kStep rows that pass by, two a step.
template <int kD, int kOwn_, int kStep_, int kSlots_>
struct Shape {
    static constexpr int D = kD, kOwn = kOwn_, kStep = kStep_, kSlots = kSlots_, kBoxes = D / kSwizzleElems;
    static constexpr int kOwnElems = kRows * kBoxes * kSwizzleElems, kStepElems = kStep * kBoxes * kSwizzleElems;
    static constexpr uint32_t kOwnBytes = kOwn * kOwnElems * sizeof(act), kStepBytes = kStepElems * sizeof(act);
    static constexpr size_t kPatchFloats = kGroups * 4 * 2 * kStep; // per warp, 2 numbers a query: dK, dV
    static constexpr size_t kBytes = kSwizzleAlign + kOwnBytes + kSlots * kStepBytes + arena_bytes<Mbarrier>(2 + 2 * kSlots);
    static_assert(kBytes + kPatchFloats * sizeof(float) <= 227 << 10, "what a block may have");
};
template <int D>
using Forward = Shape<D, 1, 128, 4>;
template <int D>
using Dq = Shape<D, 2, 128, 4>;
template <int D>
using Dkv = Shape<D, 2, 64, 8>;

struct alignas(128) Maps {
    TensorMap own[2], walked[2];
};

// Item number w of queries: 128 rows of a sequence, one head; it walks keys and values. Tiles come longest first, and all
// heads of one after another, so that what a group of heads shares is in L2.
template <class S>
struct QueryItem {
    lc_sequence s;
    int first, head, kv_head, n_steps;

    template <class Args>
    LC_INLINE QueryItem(const Args& a, int w) {
        const lc_tile tile = a.q_tiles[w / a.H];
        s = a.sequences[tile.sequence], first = tile.first;
        head = w % a.H, kv_head = head / (a.H / a.KV);
        n_steps = steps_to(first + kRows);
    }
    // Steps in which rows before `end` see keys.
    LC_INLINE int steps_to(int end) const {
        const int last = min(end, s.q_len) - 1;
        return last < first ? 0 : ceil_div(max(0, min(s.k_len, s.q_pos + last + 1)), S::kStep);
    }
    LC_INLINE int own_row() const { return s.q_begin + first; }
    LC_INLINE int own_column() const { return head * S::D; }
    LC_INLINE int row(int step) const { return s.k_begin + step * S::kStep; }
    LC_INLINE int column(int) const { return kv_head * S::D; }
};

// The same of keys: it walks the queries, and their gradients, of all heads of the group.
template <class S>
struct KeyItem {
    lc_sequence s;
    int first, kv_head, heads, first_query, per_head, n_steps;

    LC_INLINE KeyItem(const lc_attention_bwd_args& a, int w) {
        const lc_tile tile = a.k_tiles[w / a.KV];
        s = a.sequences[tile.sequence], first = tile.first;
        kv_head = w % a.KV, heads = a.H / a.KV;
        first_query = max(0, first - s.q_pos) / S::kStep * S::kStep;
        per_head = first >= s.k_len ? 0 : max(0, ceil_div(s.q_len - first_query, S::kStep));
        n_steps = per_head * heads;
    }
    // Of a head's steps, those in which no query sees the keys of this warpgroup.
    LC_INLINE int unseen(int group) const {
        const int key = first + group * kGroupRows;
        return key >= s.k_len ? per_head : min(per_head, max(0, key - s.q_pos - first_query) / S::kStep);
    }
    LC_INLINE int own_row() const { return s.k_begin + first; }
    LC_INLINE int own_column() const { return kv_head * S::D; }
    LC_INLINE int head(int step) const { return kv_head * heads + step / per_head; }
    LC_INLINE int query(int step) const { return first_query + step % per_head * S::kStep; }
    LC_INLINE int row(int step) const { return s.q_begin + query(step); }
    LC_INLINE int column(int step) const { return head(step) * S::D; }
};

// This block's items, one of each round of all blocks: there, and on the way back from the other end.
template <class Each>
LC_INLINE void each_item(int n_items, Each each) {
    const int n_blocks = gridDim.x;
    for (int w = blockIdx.x; w < n_items; w = 2 * (w / n_blocks + 1) * n_blocks - 1 - w) each(w);
}

// The block's own tiles and the ring, and who waits for whom. Fills are numbered through all items.
template <class S>
struct Pipe {
    act *own_tiles, *ring;
    Mbarrier *own_full, *own_empty, *full, *empty;

    LC_INLINE explicit Pipe(Arena& arena) {
        own_tiles = take_swizzled(arena, S::kOwn * S::kOwnElems + S::kSlots * S::kStepElems), ring = own_tiles + S::kOwn * S::kOwnElems;
        own_full = arena.take<Mbarrier>(2 + 2 * S::kSlots), own_empty = own_full + 1;
        full = own_full + 2, empty = full + S::kSlots;
        if (threadIdx.x == 0) {
            mbarrier_init(own_full, 1);
            mbarrier_init(own_empty, 4 * kGroups); // warps
            for (int i = 0; i < S::kSlots; i++) {
                mbarrier_init(&full[i], 1);
                mbarrier_init(&empty[i], 4 * kGroups);
            }
        }
        cluster_barrier();
    }
    LC_INLINE const act* own(int i, int group) const { return own_tiles + i * S::kOwnElems + group * kGroupRows * kSwizzleElems; }
    LC_INLINE act* tile(int n) const { return ring + n % S::kSlots * S::kStepElems; }

    LC_INLINE void fill_own(int n, const Maps& maps, int row, int column) const {
        mbarrier_wait(own_empty, (n & 1) ^ 1);
        mbarrier_expect(own_full, S::kOwnBytes);
        for (int i = 0; i < S::kOwn * S::kBoxes; i++)
            tma_load(own_tiles + i * kRows * kSwizzleElems, &maps.own[i / S::kBoxes], column + i % S::kBoxes * kSwizzleElems,
                     row, own_full);
    }
    LC_INLINE void fill(int n, const TensorMap& map, int row, int column) const {
        Mbarrier* const b = &full[n % S::kSlots];
        mbarrier_wait(&empty[n % S::kSlots], (n / S::kSlots & 1) ^ 1);
        mbarrier_expect(b, S::kStepBytes);
        for (int i = 0; i < S::kBoxes; i++)
            tma_load(tile(n) + i * S::kStep * kSwizzleElems, &map, column + i * kSwizzleElems, row, b);
    }
    LC_INLINE void wait_own(int n) const { mbarrier_wait(own_full, n & 1); }
    LC_INLINE void wait(int n) const { mbarrier_wait(&full[n % S::kSlots], n / S::kSlots & 1); }
    // A lane speaks for its warp once all lanes have seen the phase: one that comes late would wait for a parity long gone.
    LC_INLINE void release_own() const {
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(own_empty, 0);
    }
    LC_INLINE void release(int n) const {
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(&empty[n % S::kSlots], 0);
    }
    // Fills that this warpgroup has no use for.
    LC_INLINE void pass_over(int from, int to) const {
        for (int n = from; n < to; n++) {
            wait(n);
            release(n);
        }
    }
};

// All copies of all items: one thread.
template <class S, template <class> class Item, class Args>
LC_INLINE void produce(const Maps& maps, const Args& a, int n_items, const Pipe<S>& pipe) {
    int n = 0, n_own = 0;
    each_item(n_items, [&](int w) {
        const Item<S> item(a, w);
        if (item.n_steps == 0) return;
        pipe.fill_own(n_own++, maps, item.own_row(), item.own_column());
        for (int step = 0; step < item.n_steps; step++) {
            pipe.fill(n++, maps.walked[0], item.row(step), item.column(step));
            pipe.fill(n++, maps.walked[1], item.row(step), item.column(step));
        }
    });
}

// acc[own row, walked row] = own . walked
template <class S, int NT>
LC_INLINE void ask_scores(float (&acc)[1][NT][4], const act* own, const act* walked) {
    acc_zero(acc);
    warpgroup_begin();
    UNROLL
    for (int i = 0; i < S::kBoxes; i++)
        warpgroup_mma<4, Major::kRows>(acc[0], own + i * kRows * kSwizzleElems, walked + i * S::kStep * kSwizzleElems);
    warpgroup_commit();
}
// acc[own row, column] += p . walked, over the walked rows
template <class S, int KS>
LC_INLINE void ask_sums(float (&acc)[1][S::D / 8][4], const act2 (&p)[KS][1][4], const act* walked) {
    static_assert(KS * 16 == S::kStep, "a step");
    warpgroup_begin();
    warpgroup_mma_ra<KS, Major::kCols>(acc[0], p, walked, S::kStep);
    warpgroup_commit();
}
template <int N, int NT>
LC_INLINE void wait_for(float (&acc)[1][NT][4]) {
    warpgroup_wait<N>(acc[0]);
}

// The warp's 16 rows, times a factor for each of a lane's two. Lanes exchange halves with their neighbour, all of a row's
// before any is stored, so that four fill a sector of 32 bytes.
template <int NT>
LC_INLINE void store_sums(act* to, int ld, int n_valid, const float (&acc)[1][NT][4], const float (&factor)[2]) {
    const int lane = lane_id();
    const bool odd = lane & 1;
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = acc_row(lane, 0, 2 * h);
        uint2 four[NT / 2];
        UNROLL
        for (int j = 0; j < NT; j += 2) {
            const act2 left = pack2(acc[0][j][2 * h] * factor[h], acc[0][j][2 * h + 1] * factor[h]);
            const act2 right = pack2(acc[0][j + 1][2 * h] * factor[h], acc[0][j + 1][2 * h + 1] * factor[h]);
            const act2 theirs = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
            four[j / 2] = odd ? uint2{theirs, right} : uint2{left, theirs};
        }
        if (row >= n_valid) continue;
        act* const p = to + (size_t)row * ld + odd * 8 + lane % 4 / 2 * 4;
        UNROLL
        for (int j = 0; j < NT; j += 2) *reinterpret_cast<uint2*>(p + j * 8) = four[j / 2];
    }
}
} // namespace
#endif
