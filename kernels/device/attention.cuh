// attention.cuh - what the kernels of attention share: a block's shape and the table of shapes, a warp's operand, rows in
// and out, and a launcher's checks.
//
// The table is the one place that knows devices. Three facts made it (bytes at D = 128 in bf16; kernels/README.md counts):
//   registers    16 rows a warp take 64 accumulators (dK and dV together 128), so an SM holds 8 warps whatever is chosen;
//   memory       100 KB an SM (sm_86, 89, 120) or 164 and more (sm_80, 90) decide how many rows those warps can stage;
//   ldmatrix     feeds two products of 16 rows in 4 clocks. GeForce takes 16 clocks for them, sm_80 4, sm_90 less: there
//                forward warps own 32 rows, and read half as much.
#pragma once
#include "attention.h"
#include "device/async_copy.cuh"
#include "device/mma.cuh"

constexpr float kLog2e = 1.44269504088896341f; // powers are of 2

// kWarps warps of kM x 16 rows, in steps of kStep rows of the other side, which pass through kStages places of a ring.
// Held: the block's own operands stay in registers, and their tiles borrow the ring's memory on the way there.
template <int kD, int kWarps_, int kM, int kStep_, int kStages_, bool kHeld_>
struct Block {
    static constexpr int D = kD, kWarps = kWarps_, MT = kM, kStep = kStep_, kStages = kStages_, kThreads = 32 * kWarps;
    static constexpr bool kHeld = kHeld_;
    static constexpr int kWarpRows = 16 * MT, kTile = kWarps * kWarpRows;
    static constexpr int kRow = D + 8; // an odd number of 16-byte units: no bank conflicts
    static constexpr int kTileElems = kTile * kRow, kStepElems = kStep * kRow;
    static constexpr size_t kTileBytes = arena_bytes<act>(kTileElems), kRingBytes = arena_bytes<act>(kStages * kStepElems);
    static_assert(LC_ATTENTION_TILE % kTile == 0, "the host's tiles are cut into the block's");
};

// By head size and lc_attention_blocks. Small heads fit everywhere.
template <int D, int kBlocks>
struct Table {
    using Forward = Block<D, 4, 1, 64, 2, false>;
    using Dq = Block<D, 4, 1, 64, 2, false>;
    using Dkv = Block<D, 4, 1, 32, 2, false>;
};
template <>
struct Table<128, LC_ATTENTION_100K> {
    using Forward = Block<128, 4, 1, 64, 2, true>;
    using Dq = Block<128, 4, 1, 64, 2, true>;
    using Dkv = Block<128, 8, 1, 16, 2, false>;
};
template <>
struct Table<128, LC_ATTENTION_164K> {
    using Forward = Block<128, 4, 2, 32, 4, false>;
    using Dq = Block<128, 4, 1, 64, 4, true>;
    using Dkv = Block<128, 8, 1, 32, 2, false>;
};
// The block's sequence and its first row there; blocks that share one of the host's tiles take the last rows, which see
// most, first.
template <class B>
LC_INLINE lc_tile block_tile(const lc_tile* tiles) {
    constexpr int kParts = LC_ATTENTION_TILE / B::kTile;
    lc_tile tile = tiles[blockIdx.x / kParts];
    tile.first += (kParts - 1 - (int)blockIdx.x % kParts) * B::kTile;
    return tile;
}

// kRows rows of D into a padded tile, zeros from n_valid on: what is not there must not be a NaN. A thread keeps its
// column, so that only the row's address moves.
template <class B, int kRows>
LC_INLINE void load_rows(act* tile, const act* from, int ld, int n_valid) {
    constexpr int kUnits = B::D / 8, kTogether = B::kThreads / kUnits;
    const int row = threadIdx.x / kUnits, c = threadIdx.x % kUnits * 8;
    const act* p = from + (size_t)row * ld + c;
    act* to = tile + row * B::kRow + c;
    UNROLL
    for (int r = 0; r < kRows; r += kTogether, p += (size_t)kTogether * ld) {
        if (kRows % kTogether == 0 || row + r < kRows) copy8_async(to + r * B::kRow, p, row + r < n_valid);
    }
}

// This warp's rows of an operand of the block: a place in shared memory, or its fragments.
template <class B>
struct Operand {
    act2 held[B::kHeld ? B::D / 16 : 1][B::MT][4];
    const act* rows;

    LC_INLINE explicit Operand(const act* tile) : rows(tile + threadIdx.x / 32 * B::kWarpRows * B::kRow) {}
    // The tile has arrived; afterwards, and a barrier later, its memory may serve others.
    LC_INLINE void hold() {
        if constexpr (B::kHeld) warp_load_a(held, rows, B::kRow);
    }
    // acc[own row, other row] = own . other
    template <int NT>
    LC_INLINE void times(float (&acc)[B::MT][NT][4], const act* other) const {
        acc_zero(acc);
        if constexpr (B::kHeld)
            warp_mma_ra<B::D / 16>(acc, held, other, B::kRow);
        else
            warp_mma<B::D / 16>(acc, rows, B::kRow, other, B::kRow);
    }
};

// The rows of this warp, times a factor for each, through `patch`, a block's tile in shared memory that nobody reads any
// more, so that a lane stores 16 bytes and a row is whole sectors. `to` is the warp's first row.
template <class B>
LC_INLINE void store_rows(act* to, int ld, int n_valid, const float (&acc)[B::MT][B::D / 8][4],
                          const float (&factor)[B::MT][2], act* patch) {
    struct alignas(2 * sizeof(act)) Pair {
        act v[2];
    };
    const int lane = lane_id();
    patch += threadIdx.x / 32 * B::kWarpRows * B::kRow;
    UNROLL
    for (int i = 0; i < B::MT; i++) {
        UNROLL
        for (int j = 0; j < B::D / 8; j++) {
            UNROLL
            for (int h = 0; h < 2; h++) {
                const float f = factor[i][h];
                Pair pair = {{from_f(acc[i][j][2 * h] * f), from_f(acc[i][j][2 * h + 1] * f)}};
                act* p = patch + acc_row(lane, i, 2 * h) * B::kRow + acc_col(lane, j, 0);
                *reinterpret_cast<Pair*>(p) = pair;
            }
        }
    }
    __syncwarp();
    for (int u = lane; u < B::kWarpRows * (B::D / 8); u += 32) {
        const int row = u / (B::D / 8), c = u % (B::D / 8) * 8;
        if (row < n_valid) store8(to + (size_t)row * ld + c, load8(patch + row * B::kRow + c));
    }
    __syncwarp();
}

// What every launcher of attention relies on.
inline lc_status check_args(const lc_attention_fwd_args& args) {
    const lc_attention_fwd_args* const a = &args;
    LC_REQUIRE(a->n_q_tiles > 0 && a->T > 0 && a->KV > 0 && a->H > 0 && a->H % a->KV == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldq % 8 == 0 && a->ldk % 8 == 0 && a->ldv % 8 == 0 && a->ldo % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(min(a->ldq, a->ldo) >= a->H * a->D && min(a->ldk, a->ldv) >= a->KV * a->D, LC_BAD_SHAPE);
    LC_REQUIRE(a->scale > 0.f, LC_BAD_SHAPE); // the maximum is taken before scaling
    LC_REQUIRE(aligned16(a->q, a->k, a->v, a->o), LC_MISALIGNED);
    return lc_status{LC_OK, 0, nullptr};
}
inline lc_status check_args(const lc_attention_bwd_args& args) {
    const lc_attention_bwd_args* const a = &args;
    LC_REQUIRE(a->n_q_tiles > 0 && a->n_k_tiles > 0 && a->T > 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->KV > 0 && a->H > 0 && a->H % a->KV == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldq % 8 == 0 && a->ldk % 8 == 0 && a->ldv % 8 == 0 && a->ldo % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(a->ldd_o % 8 == 0 && a->lddq % 8 == 0 && a->lddk % 8 == 0 && a->lddv % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(min(min(a->ldq, a->ldo), min(a->ldd_o, a->lddq)) >= a->H * a->D, LC_BAD_SHAPE);
    LC_REQUIRE(min(min(a->ldk, a->ldv), min(a->lddk, a->lddv)) >= a->KV * a->D, LC_BAD_SHAPE);
    LC_REQUIRE(a->scale > 0.f, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->q, a->k, a->v, a->o, a->d_o, a->dq, a->dk, a->dv), LC_MISALIGNED);
    return lc_status{LC_OK, 0, nullptr};
}
