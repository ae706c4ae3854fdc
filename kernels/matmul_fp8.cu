// matmul_fp8.cu - products in e4m3 on tensor cores, continued in bf16 (matmul_fp8.h).
//
// precision  e4m3 times e4m3 is exact; sums in fp32 (inside a GPU's instruction in less, device/mma_fp8.cuh); scales are applied
//            to the accumulator in fp32, where a segment ends; one rounding when y is stored.
// work       as matmul.cu: a block makes a BM x BN tile of y from a ring of k-tiles filled with asynchronous copies, one barrier
//            a k-tile. A k-tile is so many bytes of k of every row: twice as many numbers in e4m3 as in bf16, the same copies,
//            the same padding (an odd number of 16-byte units), the same addresses for ldmatrix. The grid covers the tiles of
//            output 0, then of 1 and 2; in each, blocks run down eight tiles of M before they step along N.
// cost       half the bytes and half the instructions of bf16 a product; scales are read once a segment.
// order      every sum runs along k in one block: the same bytes on every run.
// checked    tests/ops/fp8.rs against tools/golden/fp8.py; every tile against a triple loop
#include "matmul_fp8.h"
#include "device/async_copy.cuh"
#include "device/gpu.cuh"
#include "device/matmul_fp8.cuh"
#include "device/mma_fp8.cuh"
#include "matmul_fp8_wgmma.h"

#ifndef LC_FP32
namespace {
// A block's tile, the bytes of k in a step, the grid of warps, and the depth of the ring.
template <int kBM, int kBN, int kBytes, int kWarpsM, int kWarpsN, int kStages>
struct Tile {
    static constexpr int BM = kBM, BN = kBN, Bytes = kBytes, WarpsN = kWarpsN, Stages = kStages;
    static constexpr int Warps = kWarpsM * kWarpsN, Threads = 32 * Warps;
    static constexpr int WM = BM / kWarpsM, WN = BN / kWarpsN, MT = WM / 16, NT = WN / 8;
    static constexpr int Ld = Bytes + 16, LdTurned = 2 * BN + 16; // of rows of k; of rows of n, in bf16
    static constexpr int StageBytes = (BM + BN) * Ld, LdPatch = WN + 8;
    static_assert(Bytes / 2 * LdTurned <= BN * Ld, "either orientation of a k-tile of B fits its place");
    static constexpr size_t RingBytes = (size_t)Stages * StageBytes;
    static constexpr size_t PatchBytes = (size_t)Warps * WM * LdPatch * sizeof(float);
    static constexpr size_t SharedBytes = RingBytes > PatchBytes ? RingBytes : PatchBytes;
};
#if defined(__CUDACC__) || LC_CHECKED
typedef Tile<128, 128, 64, 2, 4, 4> Large; // 80 KiB of shared memory: fits sm_89's 99
typedef Tile<64, 64, 128, 2, 2, 3> Small;
constexpr long kEnoughTiles = 64;
#else
typedef Tile<128, 128, 128, 2, 2, 2> Large;
typedef Tile<64, 64, 128, 2, 2, 2> Small;
constexpr long kEnoughTiles = 4;
#endif

constexpr int kGroup = 8;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
constexpr bool kHasFp8 = false; // an empty kernel, which the launcher never launches
#else
constexpr bool kHasFp8 = true;
#endif

// kRows x kBytes from (row0, byte0) of a matrix of `rows` rows of `bytes` bytes, ld apart, to rows kBytes + 16 apart; zeros
// outside. Eight lanes write at a time: where a row is shorter than that, they take rows so far apart that no two meet in a bank.
template <int kRows, int kBytes, int kThreads>
LC_INLINE void load_tile(uint8_t* tile, const void* from, size_t ld, int row0, int byte0, int rows, int bytes) {
    constexpr int kUnits = kBytes / 16, kTogether = kUnits < 8 ? 8 / kUnits : 1;
    static_assert(kRows * kUnits % kThreads == 0, "every thread copies as many units");
    static_assert(kRows % 8 == 0 && (kUnits >= 8 || 8 % kUnits == 0), "rows go by eights");
    UNROLL
    for (int i = 0; i < kRows * kUnits / kThreads; i++) {
        const int u = i * kThreads + threadIdx.x, nth = u / kUnits, c = u % kUnits * 16;
        const int r = kUnits >= 8 ? nth : nth / 8 * 8 + nth % kTogether * kUnits + nth % 8 / kTogether;
        const bool valid = row0 + r < rows && byte0 + c < bytes;
        const uint8_t* p = static_cast<const uint8_t*>(from) + (valid ? (size_t)(row0 + r) * ld + (byte0 + c) : 0);
        copy8_async(reinterpret_cast<act*>(tile + r * (kBytes + 16) + c), reinterpret_cast<const act*>(p), valid);
    }
}

// Brings the accumulator from the scales of a segment to those of the next one; null: to 1.
template <class T>
LC_INLINE void rescale(float (&acc)[T::MT][T::NT][4], const float* a_scales, const float* b_scales, const float* next_a,
                       const float* next_b, int M, int N, int m0, int n0, int lane) {
    float of_n[T::NT][2];
    UNROLL
    for (int j = 0; j < T::NT; j++) {
        UNROLL
        for (int r = 0; r < 2; r++) {
            const int n = n0 + acc_col(lane, j, r);
            of_n[j][r] = n < N ? b_scales[n] / (next_b ? next_b[n] : 1.f) : 0.f;
        }
    }
    UNROLL
    for (int i = 0; i < T::MT; i++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            const int m = m0 + acc_row(lane, i, 2 * h);
            const float of_m = m < M ? a_scales[m] / (next_a ? next_a[m] : 1.f) : 0.f;
            UNROLL
            for (int j = 0; j < T::NT; j++) {
                UNROLL
                for (int r = 0; r < 2; r++) acc[i][j][2 * h + r] = acc[i][j][2 * h + r] * of_m * of_n[j][r];
            }
        }
    }
}

template <Major B, class T>
__global__ void __launch_bounds__(T::Threads, 1) matmul_fp8(lc_matmul_fp8_args a) {
    if (!kHasFp8) return;
    Arena arena;
    uint8_t* const ring = arena.take<uint8_t>(T::SharedBytes);

    int block = blockIdx.x, nth = 0;
    const int tiles_m = ceil_div(a.M, T::BM);
    while (block >= tiles_m * ceil_div(a.output[nth].N, T::BN)) block -= tiles_m * ceil_div(a.output[nth++].N, T::BN);
    const int N = a.output[nth].N, tiles_n = ceil_div(N, T::BN);
    const int begin = a.output[nth].first_segment, end = begin + a.output[nth].n_segments;
    const int group = block / (kGroup * tiles_n), in_group = block % (kGroup * tiles_n);
    const int group_m = min(tiles_m - group * kGroup, kGroup);
    const int m0 = (group * kGroup + in_group % group_m) * T::BM, n0 = in_group / group_m * T::BN;

    int load_segment = begin, load_byte = 0, load_slot = 0; // the next k-tile to fetch
    auto load_next = [&] {
        if (load_segment < end) {
            const uint8_t *a8 = a.segment[load_segment].a8, *b8 = a.segment[load_segment].b8;
            const int K = a.segment[load_segment].K, bytes = a8 ? K : 2 * K;
            const void *from_a = a8 ? (const void*)a8 : a.segment[load_segment].a;
            const void *from_b = a8 ? (const void*)b8 : a.segment[load_segment].b;
            uint8_t *tile_a = ring + load_slot * T::StageBytes, *tile_b = tile_a + T::BM * T::Ld;
            load_tile<T::BM, T::Bytes, T::Threads>(tile_a, from_a, bytes, m0, load_byte, a.M, bytes);
            if (B == Major::kRows || a8)
                load_tile<T::BN, T::Bytes, T::Threads>(tile_b, from_b, bytes, n0, load_byte, N, bytes);
            else
                load_tile<T::Bytes / 2, 2 * T::BN, T::Threads>(tile_b, from_b, 2 * (size_t)N, load_byte / 2, 2 * n0, K,
                                                               2 * N);
            load_byte += T::Bytes;
            if (load_byte >= bytes) load_segment++, load_byte = 0;
            load_slot = load_slot + 1 == T::Stages ? 0 : load_slot + 1;
        }
        async_commit(); // also an empty group: the count of groups is the count of tiles
    };

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int wm = warp / T::WarpsN * T::WM, wn = warp % T::WarpsN * T::WN;
    float acc[T::MT][T::NT][4];
    acc_zero(acc);
    for (int s = 0; s < T::Stages - 1; s++) load_next();
    int slot = 0;
    for (int s = begin; s < end; s++) {
        const bool eight = a.segment[s].a8 != nullptr;
        const int bytes = eight ? a.segment[s].K : 2 * a.segment[s].K;
        for (int byte = 0; byte < bytes; byte += T::Bytes) {
            async_wait<T::Stages - 2>();
            __syncthreads(); // this tile is there for all; the one before has been used by all, and its slot is refilled
            load_next();
            const uint8_t *tile_a = ring + slot * T::StageBytes + wm * T::Ld;
            const uint8_t *tile_b = ring + slot * T::StageBytes + T::BM * T::Ld;
            if (eight) {
                warp_mma_fp8<T::Bytes / 32>(acc, tile_a, T::Ld, tile_b + wn * T::Ld, T::Ld);
            } else {
                const act* wide_b = reinterpret_cast<const act*>(B == Major::kRows ? tile_b + wn * T::Ld : tile_b + 2 * wn);
                warp_mma<T::Bytes / 32, Major::kRows, B>(acc, reinterpret_cast<const act*>(tile_a), T::Ld / 2, wide_b,
                                                         B == Major::kRows ? T::Ld / 2 : T::LdTurned / 2);
            }
            slot = slot + 1 == T::Stages ? 0 : slot + 1;
        }
        if (!eight) continue;
        const bool go_on = s + 1 < end && a.segment[s + 1].a8;
        rescale<T>(acc, a.segment[s].a_scales, a.segment[s].b_scales, go_on ? a.segment[s + 1].a_scales : nullptr,
                   go_on ? a.segment[s + 1].b_scales : nullptr, a.M, N, m0 + wm, n0 + wn, lane);
    }

    __syncthreads(); // the ring becomes a patch of fp32 for each warp
    float* const patch = reinterpret_cast<float*>(ring) + warp * T::WM * T::LdPatch;
    UNROLL
    for (int i = 0; i < T::MT; i++) {
        UNROLL
        for (int j = 0; j < T::NT; j++) {
            UNROLL
            for (int r = 0; r < 4; r += 2) {
                float* p = patch + acc_row(lane, i, r) * T::LdPatch + acc_col(lane, j, r);
                *reinterpret_cast<float2*>(p) = make_float2(acc[i][j][r], acc[i][j][r + 1]);
            }
        }
    }
    __syncwarp();
    for (int u = lane; u < T::WM * T::WN / 8; u += 32) {
        const int r = u / (T::WN / 8), c = u % (T::WN / 8) * 8, m = m0 + wm + r, n = n0 + wn + c;
        if (m >= a.M || n >= N) continue;
        Floats8 of_patch = load_floats8(patch + r * T::LdPatch + c);
        act* to = a.output[nth].y + (size_t)m * N + n;
        act8 y;
        if (a.write == LC_ADD) {
            y = load8(to);
            UNROLL
            for (int i = 0; i < 8; i++) of_patch.v[i] += to_f(y.v[i]);
        }
        UNROLL
        for (int i = 0; i < 8; i++) y.v[i] = from_f(of_patch.v[i]);
        store8(to, y);
    }
}

template <class T>
long n_tiles(const lc_matmul_fp8_args& a) {
    long n = 0;
    for (int i = 0; i < a.n_outputs; i++) n += (long)ceil_div(a.M, T::BM) * ceil_div(a.output[i].N, T::BN);
    return n;
}

template <Major B, class T>
lc_status run(const lc_matmul_fp8_args& a, lc_stream stream) {
#ifdef __CUDACC__
    // On a GPU without code of its own the driver takes that of sm_80, in which this kernel is empty.
    static const bool has_code = [] { // asked once: a process trains on one GPU
        cudaFuncAttributes found;
        return cudaFuncGetAttributes(&found, matmul_fp8<B, T>) == cudaSuccess && found.ptxVersion >= 89;
    }();
    LC_REQUIRE(has_code, LC_UNSUPPORTED);
#endif
    return launch<matmul_fp8<B, T>>(dim3((unsigned)n_tiles<T>(a)), dim3(T::Threads), T::SharedBytes, stream, a);
}

template <Major B>
lc_status run_by_shape(const lc_matmul_fp8_args& a, lc_stream stream) {
    if (a.M >= Large::BM && n_tiles<Large>(a) >= kEnoughTiles) return run<B, Large>(a, stream);
    return run<B, Small>(a, stream);
}
} // namespace
#endif

LC_API lc_status LC(matmul_fp8)(const lc_matmul_fp8_args* a, lc_stream stream) {
#ifdef LC_FP32
    (void)a, (void)stream;
    return lc_status{LC_UNSUPPORTED, 0, "bf16 storage"};
#else
    LC_TRY(matmul_fp8_fault(*a));
#ifdef __CUDACC__
    if (this_gpu().architecture == 90) return LC(matmul_fp8_wgmma)(a, stream);
#endif
    return a->layout == LC_NT ? run_by_shape<Major::kRows>(*a, stream) : run_by_shape<Major::kCols>(*a, stream);
#endif
}
