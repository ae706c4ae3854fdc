// matmul.cu - y = alpha A B on tensor cores, in three layouts, K laid together from segments (matmul.h).
//
// precision  bf16 inputs, fp32 accumulation over all of K, one rounding when y is stored; `write` adds in fp32.
// work       a block makes a BM x BN tile of y. A ring of STAGES k-tiles in shared memory is filled with asynchronous
//            copies; one barrier per k-tile both publishes the tile that arrived and frees the one just used. Rows are
//            padded by 8 elements, an odd number of 16-byte units, so that ldmatrix has no bank conflicts. Each warp
//            makes one warp_mma per k-tile. The result passes through the ring's memory to be stored 16 bytes a lane.
//            Blocks run down eight tiles of M before they step along N: what is read twice is still in L2.
// edges      rows and columns outside are zeros in shared memory and are not stored; a segment whose K is no multiple
//            of BK ends in a tile filled up with zeros (for LoRA's rank 16: 16 of 5152 columns at BK = 32).
// order      every sum runs along k in one block: the same bytes on every run. No split-K.
// checked    tests/ops/matmul.rs against tools/golden/matmul.py
#include "matmul.h"
#include <algorithm>
#include "device/async_copy.cuh"
#include "device/mma.cuh"

namespace {
// A block's tile BM x BN, its k step, the grid of warps over it, and the depth of the ring.
template <int kBM, int kBN, int kBK, int kWarpsM, int kWarpsN, int kStages>
struct Tile {
    static constexpr int BM = kBM, BN = kBN, BK = kBK, WarpsN = kWarpsN, Stages = kStages;
    static constexpr int Warps = kWarpsM * kWarpsN, Threads = 32 * Warps;
    static constexpr int WM = BM / kWarpsM, WN = BN / kWarpsN, MT = WM / 16, NT = WN / 8;
};

// The table of tiles: by shape and by kind of device. The checked build watches the GPU's.
#if defined(__CUDACC__) || LC_CHECKED
typedef Tile<128, 128, 32, 2, 4, 4> Large; // 80 KiB of shared memory: fits every GPU from sm_80 on
typedef Tile<64, 64, 64, 2, 2, 3> Small;   // where large tiles would leave multiprocessors idle
typedef Tile<64, 16, 64, 4, 1, 4> Narrow;  // N <= 16: x A^T, dy B, dB of LoRA
typedef Tile<16, 128, 64, 1, 4, 3> Flat;   // M <= 16: dA of LoRA, a few tokens
constexpr long kEnoughTiles = 64;
#else
typedef Tile<128, 128, 64, 2, 2, 2> Large; // a larger warp tile converts less per product
typedef Tile<64, 64, 64, 2, 2, 2> Small;
typedef Tile<64, 16, 128, 2, 1, 2> Narrow;
typedef Tile<16, 64, 128, 1, 2, 2> Flat;
constexpr long kEnoughTiles = 4;
#endif

constexpr int kPad = 8, kGroup = 8;

template <lc_layout L, class T>
struct Shape {
    static constexpr Major A = L == LC_TN ? Major::kCols : Major::kRows;
    static constexpr Major B = L == LC_NT ? Major::kRows : Major::kCols;
    static constexpr int ARows = A == Major::kRows ? T::BM : T::BK, ACols = A == Major::kRows ? T::BK : T::BM;
    static constexpr int BRows = B == Major::kRows ? T::BN : T::BK, BCols = B == Major::kRows ? T::BK : T::BN;
    static constexpr int LdA = ACols + kPad, LdB = BCols + kPad;
    static constexpr int StageElems = ARows * LdA + BRows * LdB;
    static constexpr int LdPatch = T::WN + 8; // four rows of fragments fill the banks
    static constexpr size_t RingBytes = T::Stages * StageElems * sizeof(act);
    static constexpr size_t PatchBytes = T::Warps * T::WM * LdPatch * sizeof(float);
    static constexpr size_t Bytes = RingBytes > PatchBytes ? RingBytes : PatchBytes;
};

// kRows x kCols elements from (row0, col0) of a matrix [rows, cols] into padded shared memory; zeros outside. Eight lanes
// write at a time: where a row is shorter than that, they take rows so far apart that no two meet in a bank.
template <int kRows, int kCols, int kThreads>
LC_INLINE void load_tile(act* tile, const act* from, int ld, int row0, int col0, int rows, int cols) {
    constexpr int kUnits = kCols / 8, kTogether = kUnits < 8 ? 8 / kUnits : 1;
    static_assert(kRows * kUnits % kThreads == 0, "every thread copies as many units");
    static_assert(kRows % 8 == 0 && (kUnits >= 8 || 8 % kUnits == 0), "rows go by eights");
    UNROLL
    for (int i = 0; i < kRows * kUnits / kThreads; i++) {
        const int u = i * kThreads + threadIdx.x, nth = u / kUnits, c = u % kUnits * 8;
        const int r = kUnits >= 8 ? nth : nth / 8 * 8 + nth % kTogether * kUnits + nth % 8 / kTogether;
        const bool valid = row0 + r < rows && col0 + c < cols;
        const act* p = valid ? from + (size_t)(row0 + r) * ld + (col0 + c) : from;
        copy8_async(tile + r * (kCols + kPad) + c, p, valid);
    }
}

// The tile of a block: the outputs' columns of tiles stand side by side, and blocks run down eight tiles of M.
struct Place {
    int output, m0, n0;
};
template <class T>
LC_INLINE Place place_of(const lc_matmul_args& a, int nth) {
    const int tiles_m = ceil_div(a.M, T::BM);
    int tiles_n = 0;
    for (int o = 0; o < a.n_outputs; o++) tiles_n += ceil_div(a.output[o].N, T::BN);
    const int group = nth / (kGroup * tiles_n), in_group = nth % (kGroup * tiles_n);
    const int group_m = min(tiles_m - group * kGroup, kGroup);
    int output = 0, column = in_group / group_m;
    while (column >= ceil_div(a.output[output].N, T::BN)) column -= ceil_div(a.output[output++].N, T::BN);
    return Place{output, (group * kGroup + in_group % group_m) * T::BM, column * T::BN};
}

template <lc_layout L, class T>
__global__ void __launch_bounds__(T::Threads) matmul(lc_matmul_args a) {
    using S = Shape<L, T>;
    Arena arena;
    unsigned char* const shared = arena.take<unsigned char>(S::Bytes);
    act* const ring = reinterpret_cast<act*>(shared);

    const Place place = place_of<T>(a, blockIdx.x);
    const lc_matmul_output& out = a.output[place.output];
    const int m0 = place.m0, n0 = place.n0, N = out.N, end_segment = out.first_segment + out.n_segments;

    int n_tiles = 0;
    for (int s = out.first_segment; s < end_segment; s++) n_tiles += ceil_div(a.segment[s].K, T::BK);

    int load_segment = out.first_segment, load_k = 0, load_slot = 0; // the next k-tile to fetch
    auto load_next = [&] {
        if (load_segment < end_segment) {
            const act *from_a = a.segment[load_segment].a, *from_b = a.segment[load_segment].b;
            const int lda = a.segment[load_segment].lda, ldb = a.segment[load_segment].ldb;
            const int K = a.segment[load_segment].K;
            act *tile_a = ring + load_slot * S::StageElems, *tile_b = tile_a + S::ARows * S::LdA;
            if (S::A == Major::kRows)
                load_tile<S::ARows, S::ACols, T::Threads>(tile_a, from_a, lda, m0, load_k, a.M, K);
            else
                load_tile<S::ARows, S::ACols, T::Threads>(tile_a, from_a, lda, load_k, m0, K, a.M);
            if (S::B == Major::kRows)
                load_tile<S::BRows, S::BCols, T::Threads>(tile_b, from_b, ldb, n0, load_k, N, K);
            else
                load_tile<S::BRows, S::BCols, T::Threads>(tile_b, from_b, ldb, load_k, n0, K, N);
            load_k += T::BK;
            if (load_k >= K) load_segment++, load_k = 0;
            load_slot = load_slot + 1 == T::Stages ? 0 : load_slot + 1;
        }
        async_commit(); // also an empty group: the count of groups is the count of tiles
    };

    const int warp = threadIdx.x / 32, wm = warp / T::WarpsN * T::WM, wn = warp % T::WarpsN * T::WN;
    float acc[T::MT][T::NT][4];
    acc_zero(acc);
    for (int s = 0; s < T::Stages - 1; s++) load_next();
    int slot = 0;
    for (int t = 0; t < n_tiles; t++) {
        async_wait<T::Stages - 2>();
        __syncthreads(); // tile t is there for all; tile t - 1 has been used by all, and its slot is refilled
        load_next();
        const act *tile_a = ring + slot * S::StageElems, *tile_b = tile_a + S::ARows * S::LdA;
        warp_mma<T::BK / 16, S::A, S::B>(acc, tile_a + (S::A == Major::kRows ? wm * S::LdA : wm), S::LdA,
                                         tile_b + (S::B == Major::kRows ? wn * S::LdB : wn), S::LdB);
        slot = slot + 1 == T::Stages ? 0 : slot + 1;
    }

    __syncthreads(); // the ring becomes a patch of fp32 for each warp
    const int lane = threadIdx.x % 32;
    float* const patch = reinterpret_cast<float*>(shared) + warp * T::WM * S::LdPatch;
    UNROLL
    for (int i = 0; i < T::MT; i++) {
        UNROLL
        for (int j = 0; j < T::NT; j++) {
            UNROLL
            for (int r = 0; r < 4; r += 2) {
                float* p = patch + acc_row(lane, i, r) * S::LdPatch + acc_col(lane, j, r);
                *reinterpret_cast<float2*>(p) = make_float2(a.alpha * acc[i][j][r], a.alpha * acc[i][j][r + 1]);
            }
        }
    }
    __syncwarp();
    for (int u = lane; u < T::WM * T::WN / 8; u += 32) {
        const int r = u / (T::WN / 8), c = u % (T::WN / 8) * 8, m = m0 + wm + r, n = n0 + wn + c;
        if (m >= a.M || n >= N) continue;
        const float* p = patch + r * S::LdPatch + c;
        const size_t at = (size_t)m * out.ldy + n;
        Floats8 of_patch = load_floats8(p);
        float(&v)[8] = of_patch.v;
        if (out.y) {
            act8 y;
            if (a.write == LC_ADD) {
                y = load8(out.y + at);
                UNROLL
                for (int i = 0; i < 8; i++) v[i] += to_f(y.v[i]);
            }
            UNROLL
            for (int i = 0; i < 8; i++) y.v[i] = from_f(v[i]);
            store8(out.y + at, y);
        } else {
            float4* y = reinterpret_cast<float4*>(out.y32 + at);
            if (a.write == LC_ADD) {
                const float4 lo = y[0], hi = y[1];
                v[0] += lo.x, v[1] += lo.y, v[2] += lo.z, v[3] += lo.w;
                v[4] += hi.x, v[5] += hi.y, v[6] += hi.z, v[7] += hi.w;
            }
            y[0] = make_float4(v[0], v[1], v[2], v[3]);
            y[1] = make_float4(v[4], v[5], v[6], v[7]);
        }
    }
}

template <class T>
long count_tiles(const lc_matmul_args& a) {
    long n = 0;
    for (int o = 0; o < a.n_outputs; o++) n += (long)ceil_div(a.M, T::BM) * ceil_div(a.output[o].N, T::BN);
    return n;
}

template <lc_layout L, class T>
lc_status run(const lc_matmul_args& a, lc_stream stream) {
    return launch<matmul<L, T>>(dim3(count_tiles<T>(a)), dim3(T::Threads), Shape<L, T>::Bytes, stream, a);
}

template <lc_layout L>
lc_status run_by_shape(const lc_matmul_args& a, lc_stream stream) {
    int widest = 0;
    for (int o = 0; o < a.n_outputs; o++) widest = std::max(widest, a.output[o].N);
    if (widest <= Narrow::BN) return run<L, Narrow>(a, stream);
    if (a.M <= Flat::BM) return run<L, Flat>(a, stream);
    if (a.M >= Large::BM && widest >= Large::BN && count_tiles<Large>(a) >= kEnoughTiles)
        return run<L, Large>(a, stream);
    return run<L, Small>(a, stream);
}
} // namespace

LC_API lc_status LC(matmul)(const lc_matmul_args* a, lc_stream stream) {
    LC_REQUIRE(a->M > 0 && (a->layout != LC_TN || a->M % 8 == 0), LC_BAD_SHAPE);
    LC_REQUIRE(a->n_outputs >= 1 && a->n_outputs <= LC_MAX_OUTPUTS, LC_BAD_SHAPE);
    LC_REQUIRE(a->n_slices == 1, LC_UNSUPPORTED);
    for (int o = 0; o < a->n_outputs; o++) {
        const lc_matmul_output& out = a->output[o];
        const int begin = out.first_segment, end = begin + out.n_segments;
        LC_REQUIRE(out.N > 0 && out.N % 8 == 0 && out.ldy % 8 == 0 && out.ldy >= out.N, LC_BAD_SHAPE);
        LC_REQUIRE(begin >= 0 && begin < end && end <= LC_MAX_SEGMENTS, LC_BAD_SHAPE);
        LC_REQUIRE((out.y != nullptr) != (out.y32 != nullptr), LC_UNSUPPORTED);
        LC_REQUIRE(aligned16(out.y, out.y32), LC_MISALIGNED);
        for (int i = begin; i < end; i++) {
            const lc_matmul_segment& s = a->segment[i];
            LC_REQUIRE(s.K > 0 && (a->layout == LC_TN || s.K % 8 == 0), LC_BAD_SHAPE);
            LC_REQUIRE(s.lda % 8 == 0 && s.lda >= (a->layout == LC_TN ? a->M : s.K), LC_BAD_SHAPE);
            LC_REQUIRE(s.ldb % 8 == 0 && s.ldb >= (a->layout == LC_NT ? s.K : out.N), LC_BAD_SHAPE);
            LC_REQUIRE(aligned16(s.a, s.b), LC_MISALIGNED);
        }
    }
    switch (a->layout) {
        case LC_NT: return run_by_shape<LC_NT>(*a, stream);
        case LC_NN: return run_by_shape<LC_NN>(*a, stream);
        case LC_TN: return run_by_shape<LC_TN>(*a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a->layout, "layout is one of NT, NN, TN"};
}
