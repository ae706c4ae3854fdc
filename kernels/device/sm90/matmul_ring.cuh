// matmul_ring.cuh - the loop of products on Hopper: a ring of tiles between one warpgroup that copies and two that multiply.
//
// Operands are rows of 16-bit elements, or of e4m3, two of which take the place of one: a stage is 128 bytes of k of every row
// either way, copied and swizzled alike, and only the instruction differs. matmul_wgmma.cu says how the work is split, and what it
// costs; matmul_fp8_wgmma.cu, what becomes of scales. Both translate their arguments to these.
//
// Of segments in e4m3 (a_scales set) k is contiguous in both operands, whatever the layout. Where one ends, the accumulators are
// brought to the scale of the next, acc a_scales[m] / next_a_scales[m] b_scales[n] / next_b_scales[n], and to 1 for 16 bits and y.
#pragma once
#include "device/gpu.cuh"
#include "device/sm90/wgmma.cuh"
#include "matmul.h"

#ifndef LC_FP32
namespace {
struct RingSegment {
    const act *a, *b;                  // pairs of e4m3 are elements here
    const float *a_scales, *b_scales;  // null: 16 bits
    int K, lda, ldb;                   // in elements
};
struct RingArgs {
    RingSegment segment[LC_MAX_SEGMENTS];
    lc_matmul_output output[LC_MAX_OUTPUTS];
    int n_outputs, M;
    bool add;
    float alpha;
};

constexpr int kFp8Stages = 4; // a partial sum in e4m3 is 512 long: added up longer, the tensor cores lose bits
constexpr int kBM = 128, kBK = 64, kCluster = 2, kConsumers = 2, kGroup = 8, kThreads = 128 * (1 + kConsumers);

template <int kBN, int kStages>
struct Tile {
    static constexpr int BN = kBN, NT = BN / 8, Stages = kStages;
    static constexpr int AElems = kBM * kBK, BElems = BN * kBK, StageElems = AElems + BElems;
    static constexpr uint32_t StageBytes = StageElems * sizeof(act);
    static constexpr size_t Bytes = kSwizzleAlign + (size_t)Stages * (StageBytes + 2 * sizeof(Mbarrier)) + 128;
    static_assert(Bytes <= 227 << 10, "what a block may have");
};
typedef Tile<256, 4> Wide;
typedef Tile<192, 5> Medium;
typedef Tile<128, 6> Slim;

struct alignas(128) Maps {
    TensorMap a[LC_MAX_SEGMENTS], b[LC_MAX_SEGMENTS];
};

// A cluster's tile number t: which output, and where.
struct Place {
    int output, m0, n0;
};
template <int BN>
LC_INLINE Place place_of(const RingArgs& a, int t) {
    const int pairs = ceil_div(a.M, kCluster * kBM);
    int o = 0, tiles_n = ceil_div(a.output[0].N, BN);
    while (t >= pairs * tiles_n) {
        t -= pairs * tiles_n;
        tiles_n = ceil_div(a.output[++o].N, BN);
    }
    const int group = t / (kGroup * tiles_n), in_group = t % (kGroup * tiles_n);
    const int rows = min(pairs - group * kGroup, kGroup);
    return Place{o, (group * kGroup + in_group % rows) * kCluster * kBM, in_group / rows * BN};
}

// The ring's next stage, and the parity of the phase that will use it.
struct Cursor {
    int slot = 0;
    uint32_t parity = 0;
    LC_INLINE void step(int n_stages) {
        if (++slot == n_stages) slot = 0, parity ^= 1;
    }
};

// Copies stage after stage of every tile: one thread.
template <lc_layout L, class T, bool kFp8>
LC_INLINE void produce(const Maps& maps, const RingArgs& a, int n_tiles, act* ring, Mbarrier* full, Mbarrier* empty) {
    const int rank = (int)cluster_rank(), cluster = blockIdx.x / kCluster, n_clusters = gridDim.x / kCluster;
    Cursor at;
    for (int t = cluster; t < n_tiles; t += n_clusters) {
        const Place p = place_of<T::BN>(a, t);
        const lc_matmul_output& out = a.output[p.output];
        for (int s = out.first_segment; s < out.first_segment + out.n_segments; s++) {
            for (int k = 0; k < a.segment[s].K; k += kBK) {
                mbarrier_wait(&empty[at.slot], at.parity ^ 1);
                mbarrier_expect(&full[at.slot], T::StageBytes);
                act *tile_a = ring + at.slot * T::StageElems, *tile_b = tile_a + T::AElems;
                tma_load(tile_a, &maps.a[s], k, p.m0 + rank * kBM, &full[at.slot]);
                if (L == LC_NT || (kFp8 && a.segment[s].a_scales)) { // half of the rows of W
                    constexpr int kHalf = T::BN / kCluster;
                    tma_load_ranks(tile_b + rank * kHalf * kBK, &maps.b[s], k, p.n0 + rank * kHalf, &full[at.slot], 3);
                } else { // every other box of 64 columns
                    for (int box = rank; box < T::BN / kSwizzleElems; box += kCluster)
                        tma_load_ranks(tile_b + box * kBK * kSwizzleElems, &maps.b[s], p.n0 + box * kSwizzleElems, k,
                                       &full[at.slot], 3);
                }
                at.step(T::Stages);
            }
        }
    }
}

// This lane's part of two neighbouring tiles of 8 columns, rounded: four columns of one of them, 8 bytes.
LC_INLINE uint2 four_columns(act2 left, act2 right, bool odd) {
    const act2 theirs = __shfl_xor_sync(0xffffffffu, odd ? left : right, 1);
    return odd ? uint2{theirs, right} : uint2{left, theirs};
}

template <int NT>
LC_INLINE void store(const RingArgs& a, const lc_matmul_output& out, int m, int n0, float (&acc)[NT][4]) {
    const int lane = lane_id(), pair = lane % 4 * 2;
    const bool odd = lane & 1;
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = m + lane / 4 + 8 * h;
        const bool in_m = row < a.M;
        const size_t at = (size_t)(in_m ? row : 0) * out.ldy;
        UNROLL
        for (int j = 0; j < NT; j += 2) {
            float v[2][2];
            UNROLL
            for (int i = 0; i < 2; i++) {
                const int n = n0 + (j + i) * 8 + pair;
                UNROLL
                for (int r = 0; r < 2; r++) v[i][r] = a.alpha * acc[j + i][2 * h + r];
                if (!in_m || n >= out.N) continue;
                if (out.y32) {
                    float2* y = reinterpret_cast<float2*>(out.y32 + at + n);
                    const float2 old = a.add ? *y : float2{0.f, 0.f};
                    *y = float2{v[i][0] + old.x, v[i][1] + old.y};
                } else if (a.add) {
                    UNROLL
                    for (int r = 0; r < 2; r++) v[i][r] += to_f(out.y[at + n + r]);
                }
            }
            if (out.y32) continue;
            const uint2 y = four_columns(pack2(v[0][0], v[0][1]), pack2(v[1][0], v[1][1]), odd);
            const int n = n0 + (j + odd) * 8 + lane % 4 / 2 * 4;
            if (in_m && n < out.N) *reinterpret_cast<uint2*>(out.y + at + n) = y;
        }
    }
}

template <int KS, Major B, bool kEight, int NT>
LC_INLINE void multiply(float (&acc)[NT][4], const act* tile_a, const act* tile_b) {
    if constexpr (kEight)
        warpgroup_mma_fp8<KS>(acc, tile_a, tile_b);
    else
        warpgroup_mma<KS, B>(acc, tile_a, tile_b);
    warpgroup_commit();
}

// One stage, of which `left` elements of k hold something. A commit of its own in each case: joined, it would be a group too many.
template <Major B, bool kEight, int NT>
LC_INLINE void multiply_stage(float (&acc)[NT][4], const act* tile_a, const act* tile_b, int left) {
    warpgroup_begin();
    switch (min(kBK, left + 15) / 16) {
        case 1: multiply<1, B, kEight>(acc, tile_a, tile_b); break;
        case 2: multiply<2, B, kEight>(acc, tile_a, tile_b); break;
        case 3: multiply<3, B, kEight>(acc, tile_a, tile_b); break;
        default: multiply<4, B, kEight>(acc, tile_a, tile_b);
    }
}

template <int NT>
LC_INLINE void set_zero(float (&acc)[NT][4]) {
    UNROLL
    for (int j = 0; j < NT; j++) {
        UNROLL
        for (int r = 0; r < 4; r++) acc[j][r] = 0.f;
    }
}

// acc += more, and more = 0.
template <int NT>
LC_INLINE void add_up(float (&acc)[NT][4], float (&more)[NT][4]) {
    UNROLL
    for (int j = 0; j < NT; j++) {
        UNROLL
        for (int r = 0; r < 4; r++) acc[j][r] += more[j][r];
    }
    set_zero(more);
}

// From the scales of segment `s` to those of `next`; null: to 1. m is the warp's first row.
template <int NT>
LC_INLINE void rescale(float (&acc)[NT][4], const RingSegment& s, const RingSegment* next, int M, int N, int m, int n0) {
    const int lane = lane_id();
    float of_m[2];
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = m + lane / 4 + 8 * h;
        of_m[h] = row < M ? s.a_scales[row] / (next ? next->a_scales[row] : 1.f) : 0.f;
    }
    UNROLL
    for (int j = 0; j < NT; j++) {
        const int n = n0 + j * 8 + lane % 4 * 2;
        UNROLL
        for (int r = 0; r < 2; r++) {
            const float of_n = n < N ? s.b_scales[n + r] / (next ? next->b_scales[n + r] : 1.f) : 0.f;
            UNROLL
            for (int h = 0; h < 2; h++) acc[j][2 * h + r] = acc[j][2 * h + r] * of_m[h] * of_n;
        }
    }
}

// Multiplies stage after stage: a warpgroup, 64 rows of the block's tile.
template <lc_layout L, class T, bool kFp8>
LC_INLINE void consume(const RingArgs& a, int n_tiles, const act* ring, Mbarrier* full, Mbarrier* empty) {
    constexpr Major B = L == LC_NT ? Major::kRows : Major::kCols;
    const int rank = (int)cluster_rank(), cluster = blockIdx.x / kCluster, n_clusters = gridDim.x / kCluster;
    const int group = threadIdx.x / 128 - 1, lane = lane_id();
    Cursor at;
    int last = -1; // the stage whose product is under way
    auto release_last = [&] {
        if (last >= 0 && lane < kCluster) mbarrier_arrive(&empty[last], lane);
        last = -1;
    };
    for (int t = cluster; t < n_tiles; t += n_clusters) {
        const Place p = place_of<T::BN>(a, t);
        const lc_matmul_output& out = a.output[p.output];
        const int m = p.m0 + rank * kBM + group * 64 + threadIdx.x % 128 / 32 * 16;
        float acc[T::NT][4];
        set_zero(acc);
        for (int s = out.first_segment; s < out.first_segment + out.n_segments; s++) {
            const RingSegment& segment = a.segment[s];
            const bool eight = kFp8 && segment.a_scales;
            float part[kFp8 ? T::NT : 1][4]; // of a few stages in e4m3
            if (eight) set_zero(part);
            for (int k = 0, stage = 1; k < segment.K; k += kBK, stage++) {
                mbarrier_wait(&full[at.slot], at.parity);
                const act *tile_a = ring + at.slot * T::StageElems + group * 64 * kBK;
                const act *tile_b = ring + at.slot * T::StageElems + T::AElems;
                if constexpr (kFp8) {
                    if (eight) {
                        multiply_stage<Major::kRows, true>(part, tile_a, tile_b, segment.K - k);
                        warpgroup_wait<1>(part);
                    }
                }
                if (!eight) {
                    multiply_stage<B, false>(acc, tile_a, tile_b, segment.K - k);
                    warpgroup_wait<1>(acc);
                }
                release_last();
                last = at.slot;
                at.step(T::Stages);
                if constexpr (kFp8) {
                    if (eight && (stage % kFp8Stages == 0 || k + kBK >= segment.K)) {
                        warpgroup_wait<0>(part);
                        release_last();
                        add_up(acc, part);
                    }
                }
            }
            if constexpr (kFp8) {
                if (eight) {
                    const bool go_on = s + 1 < out.first_segment + out.n_segments && a.segment[s + 1].a_scales;
                    rescale(acc, segment, go_on ? &a.segment[s + 1] : nullptr, a.M, out.N, m, p.n0);
                }
            }
        }
        warpgroup_wait<0>(acc);
        release_last();
        store(a, out, m, p.n0, acc);
    }
}

template <lc_layout L, class T, bool kFp8>
__global__ void __launch_bounds__(kThreads, 1) matmul_ring(LC_GRID_CONSTANT Maps maps, RingArgs a) {
#if LC_SM90
    Arena arena;
    act* const ring = take_swizzled(arena, T::Stages * T::StageElems);
    Mbarrier *const full = arena.take<Mbarrier>(2 * T::Stages), *const empty = full + T::Stages;
    if (threadIdx.x == 0) {
        for (int i = 0; i < T::Stages; i++) {
            mbarrier_init(&full[i], 1);
            mbarrier_init(&empty[i], 4 * kConsumers * kCluster); // warps
        }
    }
    cluster_barrier();
    int n_tiles = 0;
    for (int o = 0; o < a.n_outputs; o++)
        n_tiles += ceil_div(a.M, kCluster * kBM) * ceil_div(a.output[o].N, T::BN);
    if (threadIdx.x < 128) {
        give_registers<40>();
        if (threadIdx.x == 0) produce<L, T, kFp8>(maps, a, n_tiles, ring, full, empty);
        __syncwarp();
    } else {
        take_registers<232>();
        consume<L, T, kFp8>(a, n_tiles, ring, full, empty);
    }
    cluster_barrier(); // nobody leaves while the other may still send to it
#endif
}

template <class T>
long count_clusters(const RingArgs& a) {
    long n = 0;
    for (int o = 0; o < a.n_outputs; o++) n += (long)ceil_div(a.M, kCluster * kBM) * ceil_div(a.output[o].N, T::BN);
    return n;
}

inline int most_clusters() {
#ifdef __CUDACC__
    return this_gpu().n_sms / kCluster;
#else
    return 4; // few, so that each makes several tiles
#endif
}

template <lc_layout L, class T, bool kFp8>
lc_status run_ring(const RingArgs& a, lc_stream stream) {
    Maps maps;
    for (int o = 0; o < a.n_outputs; o++) {
        const lc_matmul_output& out = a.output[o];
        for (int i = out.first_segment; i < out.first_segment + out.n_segments; i++) {
            const RingSegment& s = a.segment[i];
            LC_TRY(make_tensor_map(&maps.a[i], s.a, s.K, a.M, s.lda, kBM));
            if (L == LC_NT || s.a_scales)
                LC_TRY(make_tensor_map(&maps.b[i], s.b, s.K, out.N, s.ldb, T::BN / kCluster));
            else
                LC_TRY(make_tensor_map(&maps.b[i], s.b, out.N, s.K, s.ldb, kBK));
        }
    }
    const unsigned n_blocks = kCluster * (unsigned)min(count_clusters<T>(a), (long)most_clusters());
    return launch_clusters<matmul_ring<L, T, kFp8>>(dim3(n_blocks), dim3(kThreads), kCluster, T::Bytes, stream, maps, a);
}

// What the waves of a tile cost, in columns: `share` is what a column of it costs more than one of the widest.
template <class T>
float cost_of(const RingArgs& a, float share) {
    return (float)ceil_div<long>(count_clusters<T>(a), most_clusters()) * T::BN * share;
}
} // namespace
#endif
