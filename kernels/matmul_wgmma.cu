// matmul_wgmma.cu - y = alpha A B on Hopper's tensor cores (matmul_wgmma.h): sm_90a, and the CPU device.
//
// precision  as matmul.cu: bf16 inputs, fp32 accumulation over all of K, one rounding when y is stored.
// work       a cluster of two blocks makes tiles of 2 x 128 rows and BN columns: each block 128 rows, both the same columns,
//            so that each fetches half of B and sends it to both. Blocks stay for many tiles (persistent). Of a block's three
//            warpgroups one only copies, giving its registers to the two that multiply 64 rows each, BN columns wide, in up
//            to 128 registers of accumulators a thread. A ring of stages of 64 of k lies between them, one pair of mbarriers
//            a stage: `full` counts bytes that arrive, `empty` the warps of both blocks that are done with it. While
//            warpgroups store a tile the ring fills with the next one's.
//            A product runs while its predecessor's stage is released: one group is always under way.
// raster     clusters walk down eight pairs of rows before they step along N: what is read twice is still in L2.
// store      lanes exchange halves with their neighbour, so that four lanes fill sectors of 32 bytes. No staging in shared
//            memory: it would cost a stage of the ring.
// edges      outside a matrix copies bring zeros; nothing is stored there. K that is no multiple of 64 ends in a stage of
//            which only the 16-wide steps with something in them are multiplied: LoRA's rank 16 costs a quarter of a stage.
// order      every sum runs along k in one warpgroup: the same bytes on every run.
// cost       a stage of 128 x 256 x 64 takes 1024 cycles of the tensor cores (4096 flops a cycle and multiprocessor) and
//            reads 80 bytes of shared memory a cycle, of 128; L2 sends each block 16 KiB of A and 16 of B a stage, 32 a cycle.
// checked    tests/ops/matmul.rs against tools/golden/matmul.py, tests/kernels/hopper.cu
#include "matmul_wgmma.h"
#include "device/gpu.cuh"
#include "device/sm90/wgmma.cuh"

#ifndef LC_FP32
namespace {
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
typedef Tile<192, 5> Medium; // N = 5120 in fewer wasted waves
typedef Tile<128, 6> Slim;

struct alignas(128) Maps {
    TensorMap a[LC_MAX_SEGMENTS], b[LC_MAX_SEGMENTS];
};

// A cluster's tile number t: which output, and where.
struct Place {
    int output, m0, n0;
};
template <int BN>
LC_INLINE Place place_of(const lc_matmul_args& a, int t) {
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
template <lc_layout L, class T>
LC_INLINE void produce(const Maps& maps, const lc_matmul_args& a, int n_tiles, act* ring, Mbarrier* full, Mbarrier* empty) {
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
                if (L == LC_NT) { // half of the rows of W
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
LC_INLINE void store(const lc_matmul_args& a, const lc_matmul_output& out, int m, int n0, float (&acc)[NT][4]) {
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
                    const float2 old = a.write == LC_ADD ? *y : float2{0.f, 0.f};
                    *y = float2{v[i][0] + old.x, v[i][1] + old.y};
                } else if (a.write == LC_ADD) {
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

template <int KS, Major B, int NT>
LC_INLINE void multiply(float (&acc)[NT][4], const act* tile_a, const act* tile_b) {
    warpgroup_mma<KS, B>(acc, tile_a, tile_b);
    warpgroup_commit();
}

// Multiplies stage after stage: a warpgroup, 64 rows of the block's tile.
template <lc_layout L, class T>
LC_INLINE void consume(const lc_matmul_args& a, int n_tiles, const act* ring, Mbarrier* full, Mbarrier* empty) {
    constexpr Major B = L == LC_NT ? Major::kRows : Major::kCols;
    const int rank = (int)cluster_rank(), cluster = blockIdx.x / kCluster, n_clusters = gridDim.x / kCluster;
    const int group = threadIdx.x / 128 - 1, lane = lane_id();
    Cursor at;
    int last = -1; // the stage whose product is under way
    auto release_last = [&] {
        if (last >= 0 && lane < kCluster) mbarrier_arrive(&empty[last], lane);
    };
    for (int t = cluster; t < n_tiles; t += n_clusters) {
        const Place p = place_of<T::BN>(a, t);
        const lc_matmul_output& out = a.output[p.output];
        float acc[T::NT][4];
        UNROLL
        for (int j = 0; j < T::NT; j++) {
            UNROLL
            for (int r = 0; r < 4; r++) acc[j][r] = 0.f;
        }
        for (int s = out.first_segment; s < out.first_segment + out.n_segments; s++) {
            const int K = a.segment[s].K;
            for (int k = 0; k < K; k += kBK) {
                mbarrier_wait(&full[at.slot], at.parity);
                const act *tile_a = ring + at.slot * T::StageElems + group * 64 * kBK;
                const act *tile_b = ring + at.slot * T::StageElems + T::AElems;
                warpgroup_begin();
                switch (min(kBK, K - k + 15) / 16) { // a commit of its own in each: joined, it would be a group too many
                    case 1: multiply<1, B>(acc, tile_a, tile_b); break;
                    case 2: multiply<2, B>(acc, tile_a, tile_b); break;
                    case 3: multiply<3, B>(acc, tile_a, tile_b); break;
                    default: multiply<4, B>(acc, tile_a, tile_b);
                }
                warpgroup_wait<1>(acc);
                release_last();
                last = at.slot;
                at.step(T::Stages);
            }
        }
        warpgroup_wait<0>(acc);
        release_last();
        last = -1;
        store(a, out, p.m0 + rank * kBM + group * 64 + threadIdx.x % 128 / 32 * 16, p.n0, acc);
    }
}

template <lc_layout L, class T>
__global__ void __launch_bounds__(kThreads, 1) matmul_wgmma(LC_GRID_CONSTANT Maps maps, lc_matmul_args a) {
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
        if (threadIdx.x == 0) produce<L, T>(maps, a, n_tiles, ring, full, empty);
        __syncwarp();
    } else {
        take_registers<232>();
        consume<L, T>(a, n_tiles, ring, full, empty);
    }
    cluster_barrier(); // nobody leaves while the other may still send to it
#endif
}

template <lc_layout L, class T>
lc_status run(const lc_matmul_args& a, int n_clusters, lc_stream stream) {
    Maps maps;
    int n_tiles = 0;
    for (int o = 0; o < a.n_outputs; o++) {
        const lc_matmul_output& out = a.output[o];
        n_tiles += ceil_div(a.M, kCluster * kBM) * ceil_div(out.N, T::BN);
        for (int i = out.first_segment; i < out.first_segment + out.n_segments; i++) {
            const lc_matmul_segment& s = a.segment[i];
            LC_TRY(make_tensor_map(&maps.a[i], s.a, s.K, a.M, s.lda, kBM));
            if (L == LC_NT)
                LC_TRY(make_tensor_map(&maps.b[i], s.b, s.K, out.N, s.ldb, T::BN / kCluster));
            else
                LC_TRY(make_tensor_map(&maps.b[i], s.b, out.N, s.K, s.ldb, kBK));
        }
    }
    const unsigned n_blocks = kCluster * (unsigned)min(n_tiles, n_clusters);
    return launch_clusters<matmul_wgmma<L, T>>(dim3(n_blocks), dim3(kThreads), kCluster, T::Bytes, stream, maps, a);
}

// What the waves of a tile cost, in columns of a full one. Narrower tiles read more shared memory a product: 86 bytes a cycle
// at 192 columns and 96 at 128, of 128 there are. The shares are predicted.
template <class T>
float cost(const lc_matmul_args& a, int n_clusters, float share) {
    long n_tiles = 0;
    for (int o = 0; o < a.n_outputs; o++)
        n_tiles += (long)ceil_div(a.M, kCluster * kBM) * ceil_div(a.output[o].N, T::BN);
    return (float)ceil_div<long>(n_tiles, n_clusters) * T::BN * share;
}

template <lc_layout L>
lc_status run_by_waves(const lc_matmul_args& a, lc_stream stream) {
#ifdef __CUDACC__
    const int n_clusters = this_gpu().n_sms / kCluster;
#else
    const int n_clusters = 4; // few, so that each makes several tiles
#endif
    const float wide = cost<Wide>(a, n_clusters, 1.f), medium = cost<Medium>(a, n_clusters, 1.03f),
                slim = cost<Slim>(a, n_clusters, 1.1f);
    int tile = a.tile;
    if (!tile) tile = wide <= medium && wide <= slim ? 1 : medium <= slim ? 2 : 3;
    switch (tile) {
        case 1: return run<L, Wide>(a, n_clusters, stream);
        case 2: return run<L, Medium>(a, n_clusters, stream);
        case 3: return run<L, Slim>(a, n_clusters, stream);
    }
    return lc_status{LC_UNSUPPORTED, a.tile, "tile is 0 to 3"};
}
} // namespace
#endif

LC_API lc_status LC(matmul_wgmma)(const lc_matmul_args* a, lc_stream stream) {
#ifdef LC_FP32
    return lc_status{LC_UNSUPPORTED, 0, "operands of 16 bits"};
#else
#ifdef __CUDACC__
    LC_REQUIRE(this_gpu().architecture == 90, LC_UNSUPPORTED);
#endif
    LC_REQUIRE(a->layout == LC_NT || a->layout == LC_NN, LC_UNSUPPORTED);
    LC_REQUIRE(a->M > 0 && a->n_slices == 1 && a->n_outputs >= 1 && a->n_outputs <= LC_MAX_OUTPUTS, LC_BAD_SHAPE);
    for (int o = 0; o < a->n_outputs; o++) {
        const lc_matmul_output& out = a->output[o];
        LC_REQUIRE(out.N > 0 && out.N % 8 == 0 && out.ldy % 8 == 0 && out.ldy >= out.N, LC_BAD_SHAPE);
        LC_REQUIRE((out.y != nullptr) != (out.y32 != nullptr), LC_UNSUPPORTED);
        LC_REQUIRE(aligned16(out.y, out.y32), LC_MISALIGNED);
        LC_REQUIRE(out.n_segments > 0 && out.first_segment >= 0, LC_BAD_SHAPE);
        LC_REQUIRE(out.first_segment + out.n_segments <= LC_MAX_SEGMENTS, LC_BAD_SHAPE);
        for (int i = out.first_segment; i < out.first_segment + out.n_segments; i++) {
            const lc_matmul_segment& s = a->segment[i];
            LC_REQUIRE(s.K > 0 && s.K % 8 == 0 && s.lda % 8 == 0 && s.lda >= s.K, LC_BAD_SHAPE);
            LC_REQUIRE(s.ldb % 8 == 0 && s.ldb >= (a->layout == LC_NT ? s.K : out.N), LC_BAD_SHAPE);
            LC_REQUIRE(aligned16(s.a, s.b), LC_MISALIGNED);
        }
    }
    return a->layout == LC_NT ? run_by_waves<LC_NT>(*a, stream) : run_by_waves<LC_NN>(*a, stream);
#endif
}
