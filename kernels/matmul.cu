// matmul.cu - y = alpha A B on tensor cores, in three layouts, K laid together from segments (matmul.h).
//
// precision  bf16 inputs, fp32 accumulation over all of K, one rounding when y is stored; `write` adds in fp32.
// work       a block makes a BM x BN tile of an output, or, where K is cut, of one slice of it. A ring of STAGES k-tiles in
//            shared memory is filled with asynchronous copies; one barrier per k-tile both publishes the tile that arrived
//            and frees the one just used. Rows are padded by 8 elements, an odd number of 16-byte units, so that ldmatrix
//            has no bank conflicts. Each warp makes one warp_mma per k-tile. The result passes through the ring's memory
//            in strips of whole rows of fragments, to be stored in whole sectors. Blocks run down eight tiles of M before
//            they step along N, through all outputs: what is read twice is still in L2.
// edges      rows and columns outside are zeros in shared memory and are not stored; a segment whose K is no multiple
//            of BK ends in a tile filled up with zeros (for LoRA's rank 16: 16 of 5152 columns at BK = 32).
// order      a sum runs along k in one block; slices of K are added in their order. The same bytes on every run.
// checked    tests/ops/matmul.rs against tools/golden/matmul.py
#include "matmul.h"
#include <algorithm>
#include "device/async_copy.cuh"
#include "device/gpu.cuh"
#include "device/matmul.cuh"
#include "device/mma.cuh"
#include "matmul_wgmma.h"

namespace {
// A block's tile BM x BN, its k step, the grid of warps over it, and the depth of the ring.
template <int kBM, int kBN, int kBK, int kWarpsM, int kWarpsN, int kStages, int kBlocks = 1>
struct Tile {
    static constexpr int BM = kBM, BN = kBN, BK = kBK, WarpsN = kWarpsN, Stages = kStages, Blocks = kBlocks;
    static constexpr int Warps = kWarpsM * kWarpsN, Threads = 32 * Warps;
    static constexpr int WM = BM / kWarpsM, WN = BN / kWarpsN, MT = WM / 16, NT = WN / 8;
};

// The table of tiles. A rate is how fast a tile's area is made by a multiprocessor, relative to the largest: predicted, from
// shared memory read for each product (352 of 512 cycles on sm_80 in the largest, all 256 in the next, 96 of 64 in the small).
typedef Tile<128, 256, 32, 2, 4, 3> Huge;     // 92 KB of shared memory; warps of 64 x 64
typedef Tile<128, 128, 32, 2, 4, 4, 2> Large; // 80 KB: one block on sm_86 and sm_89, two elsewhere
typedef Tile<64, 64, 64, 2, 2, 3> Small;      // where larger tiles would leave multiprocessors idle
typedef Tile<64, 16, 64, 4, 1, 4> Narrow;     // N <= 16: x A^T, dy B, dB of LoRA
typedef Tile<16, 128, 64, 1, 4, 3> Flat;      // M <= 16: dA of LoRA, a few tokens
// The CPU's: a larger warp tile converts less per product.
typedef Tile<128, 128, 64, 2, 2, 2> CpuLarge;
typedef Tile<64, 64, 64, 2, 2, 2> CpuSmall;
typedef Tile<64, 16, 128, 2, 1, 2> CpuNarrow;
typedef Tile<16, 64, 128, 1, 2, 2> CpuFlat;

// Their places in the table, as `tile` of the arguments names them.
// The last three are those of matmul_wgmma.cu, which only Hopper and the CPU device have.
enum Nth { kChoose, kHuge, kLarge, kSmall, kNarrow, kFlat, kCpuLarge, kCpuSmall, kCpuNarrow, kCpuFlat, kWgmma, kWgmmaEnd = kWgmma + 3 };

constexpr int kPad = 8, kGroup = 8;
constexpr size_t kSharedBytes = 99 << 10; // of a block on sm_86, sm_89 and sm_120, the least there is

template <lc_layout L, class T>
struct Shape {
    static constexpr Major A = L == LC_TN ? Major::kCols : Major::kRows;
    static constexpr Major B = L == LC_NT ? Major::kRows : Major::kCols;
    static constexpr int ARows = A == Major::kRows ? T::BM : T::BK, ACols = A == Major::kRows ? T::BK : T::BM;
    static constexpr int BRows = B == Major::kRows ? T::BN : T::BK, BCols = B == Major::kRows ? T::BK : T::BN;
    static constexpr int LdA = ACols + kPad, LdB = BCols + kPad;
    static constexpr int StageElems = ARows * LdA + BRows * LdB;
    static constexpr size_t RingBytes = T::Stages * StageElems * sizeof(act);
    // A warp's patch: rows of fragments, 16 at a time, as many as find room in the ring. Four rows fill the banks.
    static constexpr int LdPatch = T::WN + 8;
    static constexpr size_t StripBytes = T::Warps * 16 * LdPatch * sizeof(float);
    static constexpr int strips(int n) { return n > 1 && (T::MT % n || n * StripBytes > RingBytes) ? strips(n - 1) : n; }
    static constexpr int Strip = strips(T::MT);
    static constexpr size_t Bytes = std::max(RingBytes, Strip * StripBytes);
    static_assert(Bytes <= kSharedBytes || sizeof(act) == 4, "fits every GPU from sm_80 on");
};

// Copies an operand's k-tiles, kRows x kCols each as they lie in memory, into padded shared memory; zeros outside. Eight lanes
// write at a time: where a row is shorter than that, they take rows so far apart that no two meet in a bank. A thread
// keeps the address of its first unit, so that a tile costs it an addition, not a computation.
template <Major kMajor, int kRows, int kCols, int kThreads>
struct Feed {
    static constexpr int kUnits = kCols / 8, kTogether = kUnits < 8 ? 8 / kUnits : 1, kStep = kThreads / kUnits;
    static_assert(kRows % kStep == 0, "every thread copies as many units, all of one column");
    static_assert(kRows % 8 == 0 && (kUnits >= 8 || (8 % kUnits == 0 && kStep % 8 == 0)), "rows go by eights");
    const act* at;
    int ld;

    static LC_INLINE int row() {
        const int nth = threadIdx.x / kUnits;
        return kUnits >= 8 ? nth : nth / 8 * 8 + nth % kTogether * kUnits + nth % 8 / kTogether;
    }
    static LC_INLINE int col() { return threadIdx.x % kUnits * 8; }

    // The next tile begins at `outer` (of M or N) and k.
    LC_INLINE void seat(const act* from, int ld_, int outer, int k) {
        ld = ld_;
        at = from + (size_t)((kMajor == Major::kRows ? outer : k) + row()) * ld +
             (kMajor == Major::kRows ? k : outer) + col();
    }
    // Left: how much of M or N, and of k, there is from the tile's beginning on.
    LC_INLINE void load(act* tile, int outer_left, int k_left) {
        const int rows_left = kMajor == Major::kRows ? outer_left : k_left;
        const int left = col() < (kMajor == Major::kRows ? k_left : outer_left) ? rows_left - row() : 0;
        act* to = tile + row() * (kCols + kPad) + col();
        UNROLL
        for (int i = 0; i < kRows; i += kStep)
            copy8_async(to + i * (kCols + kPad), at + (size_t)i * ld, i < left);
        at += kMajor == Major::kRows ? kCols : (size_t)kRows * ld;
    }
};

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

// K is cut at multiples of this from the beginning of a segment, which every BK divides: a sum is the same in all tiles.
constexpr int kSliceStep = 128;

// How many k-tiles lie before so many steps of an output's K.
template <int BK>
LC_INLINE int tiles_before(const lc_matmul_args& a, const lc_matmul_output& out, int steps) {
    static_assert(kSliceStep % BK == 0, "a k-tile belongs to one slice");
    int n = 0;
    for (int s = out.first_segment; s < out.first_segment + out.n_segments && steps > 0; s++) {
        const int K = a.segment[s].K, of_segment = ceil_div(K, kSliceStep);
        n += steps >= of_segment ? ceil_div(K, BK) : steps * (kSliceStep / BK);
        steps -= of_segment;
    }
    return n;
}

// Where the outputs before this one end in a slice of `partial`, and where all do.
LC_INLINE size_t partial_begin(const lc_matmul_args& a, int output) {
    size_t n = 0;
    for (int o = 0; o < output; o++) n += a.output[o].N;
    return n * a.M;
}

// Four elements of an output.
struct alignas(4 * sizeof(act)) act4 {
    act v[4];
};
LC_INLINE void write4(const lc_matmul_output& out, size_t at, float4 v, float alpha, bool add) {
    v.x *= alpha, v.y *= alpha, v.z *= alpha, v.w *= alpha;
    if (out.y32) {
        float4* y = reinterpret_cast<float4*>(out.y32 + at);
        if (add) {
            const float4 old = *y;
            v.x += old.x, v.y += old.y, v.z += old.z, v.w += old.w;
        }
        *y = v;
    } else {
        act4* y = reinterpret_cast<act4*>(out.y + at);
        if (add) {
            const act4 old = *y;
            v.x += to_f(old.v[0]), v.y += to_f(old.v[1]), v.z += to_f(old.v[2]), v.w += to_f(old.v[3]);
        }
        *y = act4{{from_f(v.x), from_f(v.y), from_f(v.z), from_f(v.w)}};
    }
}
LC_INLINE void write8(const lc_matmul_output& out, size_t at, Floats8 f, float alpha, bool add) {
    act8 y;
    UNROLL
    for (int i = 0; i < 8; i++) f.v[i] *= alpha;
    if (add) {
        y = load8(out.y + at);
        UNROLL
        for (int i = 0; i < 8; i++) f.v[i] += to_f(y.v[i]);
    }
    UNROLL
    for (int i = 0; i < 8; i++) y.v[i] = from_f(f.v[i]);
    store8(out.y + at, y);
}

// Eight floats of a patch. Every other four lanes take the upper half first: then eight lanes read from all banks.
LC_INLINE Floats8 load_turned(const float* p, int lane) {
    const bool turned = lane & 4;
    const float4 first = *reinterpret_cast<const float4*>(p + (turned ? 4 : 0));
    const float4 second = *reinterpret_cast<const float4*>(p + (turned ? 0 : 4));
    const float4 lo = turned ? second : first, hi = turned ? first : second;
    return Floats8{{lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}};
}

// kRows rows of a warp's patch to (m, n) of an output: 16 bytes a lane.
template <int kRows, int kCols, int kLd>
LC_INLINE void store_patch(const lc_matmul_output& out, const float* patch, int m, int n, int M, float alpha, bool add) {
    const int lane = threadIdx.x % 32;
    if (out.y) {
        UNROLL
        for (int u = lane; u < kRows * kCols / 8; u += 32) {
            const int r = u / (kCols / 8), c = u % (kCols / 8) * 8;
            if (m + r < M && n + c < out.N)
                write8(out, (size_t)(m + r) * out.ldy + n + c, load_turned(patch + r * kLd + c, lane), alpha, add);
        }
    } else {
        UNROLL
        for (int u = lane; u < kRows * kCols / 4; u += 32) {
            const int r = u / (kCols / 4), c = u % (kCols / 4) * 4;
            if (m + r < M && n + c < out.N)
                write4(out, (size_t)(m + r) * out.ldy + n + c, *reinterpret_cast<const float4*>(patch + r * kLd + c),
                       alpha, add);
        }
    }
}

template <lc_layout L, class T>
__global__ void __launch_bounds__(T::Threads, T::Blocks) matmul(lc_matmul_args a) {
    using S = Shape<L, T>;
    Arena arena;
    unsigned char* const shared = arena.take<unsigned char>(S::Bytes);
    act* const ring = reinterpret_cast<act*>(shared);

    const Place place = place_of<T>(a, blockIdx.x);
    lc_matmul_output out = a.output[place.output];
    const int m0 = place.m0, n0 = place.n0;

    int skip = 0, n_tiles = tiles_before<T::BK>(a, out, INT32_MAX);
    if (a.n_slices > 1) {
        const int steps = tiles_before<kSliceStep>(a, out, INT32_MAX), nth = blockIdx.y;
        skip = tiles_before<T::BK>(a, out, steps * nth / a.n_slices);
        n_tiles = tiles_before<T::BK>(a, out, steps * (nth + 1) / a.n_slices) - skip;
    }
    int load_segment = out.first_segment; // of the next k-tile to fetch, with its place there
    while (skip >= ceil_div(a.segment[load_segment].K, T::BK)) skip -= ceil_div(a.segment[load_segment++].K, T::BK);
    int k_left = a.segment[load_segment].K - skip * T::BK, load_slot = 0, to_load = n_tiles;
    Feed<S::A, S::ARows, S::ACols, T::Threads> feed_a;
    Feed<S::B, S::BRows, S::BCols, T::Threads> feed_b;
    auto seat = [&](int k) {
        const lc_matmul_segment& s = a.segment[load_segment];
        feed_a.seat(s.a, s.lda, m0, k);
        feed_b.seat(s.b, s.ldb, n0, k);
    };
    seat(skip * T::BK);
    auto load_next = [&] {
        if (to_load > 0) {
            act *tile_a = ring + load_slot * S::StageElems, *tile_b = tile_a + S::ARows * S::LdA;
            feed_a.load(tile_a, a.M - m0, k_left);
            feed_b.load(tile_b, out.N - n0, k_left);
            load_slot = load_slot + 1 == T::Stages ? 0 : load_slot + 1;
            k_left -= T::BK;
            if (--to_load > 0 && k_left <= 0) {
                k_left = a.segment[++load_segment].K;
                seat(0);
            }
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
        __syncthreads(); // tile t is there for all; tile t - 1 has been used by all, and its slot is refilled meanwhile
        const act *tile_a = ring + slot * S::StageElems, *tile_b = tile_a + S::ARows * S::LdA;
        warp_mma<T::BK / 16, S::A, S::B>(acc, tile_a + (S::A == Major::kRows ? wm * S::LdA : wm), S::LdA,
                                         tile_b + (S::B == Major::kRows ? wn * S::LdB : wn), S::LdB, load_next);
        slot = slot + 1 == T::Stages ? 0 : slot + 1;
    }

    // A slice's sums go to scratch as they are; a whole sum is an output.
    float alpha = a.alpha;
    bool add = a.write == LC_ADD;
    if (a.n_slices > 1) {
        out.y32 = a.partial + blockIdx.y * partial_begin(a, a.n_outputs) + partial_begin(a, place.output);
        out.y = nullptr, out.ldy = out.N, alpha = 1.f, add = false;
    }
    __syncthreads(); // the ring becomes a patch of fp32 for each warp
    const int lane = threadIdx.x % 32;
    float* const patch = reinterpret_cast<float*>(shared) + warp * S::Strip * 16 * S::LdPatch;
    UNROLL
    for (int i0 = 0; i0 < T::MT; i0 += S::Strip) {
        if (i0 > 0) __syncwarp();
        UNROLL
        for (int i = 0; i < S::Strip; i++) {
            UNROLL
            for (int j = 0; j < T::NT; j++) {
                UNROLL
                for (int r = 0; r < 4; r += 2) {
                    float* p = patch + acc_row(lane, i, r) * S::LdPatch + acc_col(lane, j, r);
                    *reinterpret_cast<float2*>(p) = make_float2(acc[i0 + i][j][r], acc[i0 + i][j][r + 1]);
                }
            }
        }
        __syncwarp();
        store_patch<S::Strip * 16, T::WN, S::LdPatch>(out, patch, m0 + wm + i0 * 16, n0 + wn, a.M, alpha, add);
    }
}

constexpr int kSumThreads = 256;

// Slices are added in their order, four elements a thread.
__global__ void __launch_bounds__(kSumThreads) sum_slices(lc_matmul_args a) {
    const size_t n_all = partial_begin(a, a.n_outputs), at = ((size_t)blockIdx.x * kSumThreads + threadIdx.x) * 4;
    if (at >= n_all) return;
    int o = 0;
    while (at >= partial_begin(a, o + 1)) o++;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int i = 0; i < a.n_slices; i++) {
        const float4 v = *reinterpret_cast<const float4*>(a.partial + i * n_all + at);
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    const lc_matmul_output& out = a.output[o];
    const size_t inside = at - partial_begin(a, o);
    write4(out, inside / out.N * out.ldy + inside % out.N, sum, a.alpha, a.write == LC_ADD);
}

template <class T>
long count_tiles(const lc_matmul_args& a) {
    long n = 0;
    for (int o = 0; o < a.n_outputs; o++) n += (long)ceil_div(a.M, T::BM) * ceil_div(a.output[o].N, T::BN);
    return n;
}

template <lc_layout L, class T>
lc_status run(const lc_matmul_args& a, lc_stream stream) {
    const dim3 grid(count_tiles<T>(a), a.n_slices);
    LC_TRY((launch<matmul<L, T>>(grid, dim3(T::Threads), Shape<L, T>::Bytes, stream, a)));
    if (a.n_slices == 1) return lc_status{LC_OK, 0, nullptr};
    size_t n_all = 0;
    for (int o = 0; o < a.n_outputs; o++) n_all += (size_t)a.M * a.output[o].N;
    return launch<sum_slices>(dim3(ceil_div(n_all / 4, (size_t)kSumThreads)), dim3(kSumThreads), 0, stream, a);
}

// The host's stand for its cores; one number, so that tiles are the same on all of them.
int n_multiprocessors() {
#if defined(__CUDACC__)
    return this_gpu().n_sms;
#else
    return 4;
#endif
}

// Large outputs on Hopper. Decided by each output's own shape, and by a number of columns that none of a launch's outputs
// crosses (src/ops/matmul.rs): what is made again alone must be made the same way.
bool for_wgmma(const lc_matmul_args& a) {
#if defined(__CUDACC__)
    return this_gpu().architecture == 90 && a.layout != LC_TN && a.n_slices == 1 && a.M >= 256 &&
           a.output[0].N >= LC_MATMUL_WIDE;
#else
    return false;
#endif
}

// Time of a grid of these tiles: the multiprocessor with most of them makes so much area at the tile's rate.
template <class T>
double time_of(const lc_matmul_args& a, double rate) {
    const long tiles = count_tiles<T>(a) * a.n_slices, waves = ceil_div(tiles, (long)n_multiprocessors());
    return (double)waves * T::BM * T::BN / rate;
}

Nth choose(const lc_matmul_args& a) {
    int widest = 0;
    for (int o = 0; o < a.n_outputs; o++) widest = std::max(widest, a.output[o].N);
#if defined(__CUDACC__) || LC_CHECKED // the checked build watches the GPU's
    if (widest <= Narrow::BN) return kNarrow;
    if (a.M <= Flat::BM) return kFlat;
    const double huge = time_of<Huge>(a, 1.0), large = time_of<Large>(a, 0.94), small = time_of<Small>(a, 0.6);
    return huge <= large && huge <= small ? kHuge : large <= small ? kLarge : kSmall;
#else
    if (widest <= CpuNarrow::BN) return kCpuNarrow;
    if (a.M <= CpuFlat::BM) return kCpuFlat;
    return time_of<CpuLarge>(a, 1.0) <= time_of<CpuSmall>(a, 0.8) ? kCpuLarge : kCpuSmall;
#endif
}

template <lc_layout L>
lc_status run_tile(const lc_matmul_args& a, lc_stream stream) {
    switch (a.tile == kChoose ? choose(a) : a.tile) {
        case kHuge: return run<L, Huge>(a, stream);
        case kLarge: return run<L, Large>(a, stream);
        case kSmall: return run<L, Small>(a, stream);
        case kNarrow: return run<L, Narrow>(a, stream);
        case kFlat: return run<L, Flat>(a, stream);
#if !defined(__CUDACC__)
        case kCpuLarge: return run<L, CpuLarge>(a, stream);
        case kCpuSmall: return run<L, CpuSmall>(a, stream);
        case kCpuNarrow: return run<L, CpuNarrow>(a, stream);
        case kCpuFlat: return run<L, CpuFlat>(a, stream);
#endif
    }
    return lc_status{LC_UNSUPPORTED, a.tile, "a tile of this device's table"};
}
} // namespace

LC_API lc_status LC(matmul)(const lc_matmul_args* a, lc_stream stream) {
    LC_TRY(matmul_fault(*a));
    if (a->tile == kChoose ? for_wgmma(*a) : a->tile >= kWgmma && a->tile < kWgmmaEnd) {
        lc_matmul_args hopper = *a;
        hopper.tile = a->tile == kChoose ? 0 : a->tile - kWgmma + 1;
        return LC(matmul_wgmma)(&hopper, stream);
    }
    switch (a->layout) {
        case LC_NT: return run_tile<LC_NT>(*a, stream);
        case LC_NN: return run_tile<LC_NN>(*a, stream);
        case LC_TN: return run_tile<LC_TN>(*a, stream);
    }
    return lc_status{LC_UNSUPPORTED, a->layout, "layout is one of NT, NN, TN"};
}
