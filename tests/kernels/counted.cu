// counted.cu - kernels whose memory transactions can be counted by hand: two blocks of two warps each.
//
// tests/machine/counters.rs knows the counts of each and compares exactly. Where a kernel has something to be named, the
// line is marked "WORST <name>".
#include "device/async_copy.cuh"
#include "device/mma.cuh"

#if LC_CHECKED
namespace {
constexpr int kThreads = 64, kBlocks = 2;

// in: [64 * 128] floats; out: the same; tile: [64 * 72] elements. All begin on a multiple of 256 bytes.
struct Data {
    const float* in;
    float* out;
    const act* tile;
};
LC_INLINE int index() { return blockIdx.x * kThreads + threadIdx.x; }

__global__ void copy(Data d) { d.out[index()] = d.in[index()]; }
__global__ void stride_2(Data d) { d.out[index()] = d.in[index() * 2]; }    // WORST stride_2
__global__ void stride_32(Data d) { d.out[index()] = d.in[index() * 32]; }  // WORST stride_32
__global__ void shifted(Data d) { d.out[index()] = d.in[index() + 1]; }     // WORST shifted
__global__ void same_word(Data d) { d.out[index()] = d.in[7]; }
__global__ void reversed(Data d) { d.out[127 - index()] = d.in[index()]; }
__global__ void one_lane(Data d) {
    if (threadIdx.x % 32 == 0) d.out[index()] = 1.f;
}
__global__ void sixteen_bytes(Data d) {
    store8(reinterpret_cast<act*>(d.out) + index() * 8, load8(d.tile + index() * 8));
}
__global__ void four_floats(Data d) {
    reinterpret_cast<float4*>(d.out)[index()] = reinterpret_cast<const float4*>(d.in)[index()];
}
// Even lanes make three steps, odd ones two.
__global__ void uneven_loop(Data d) {
    float sum = 0.f;
    for (int i = 0, n = 3 - threadIdx.x % 2; i < n; i++) sum += d.in[i * 32 + threadIdx.x % 32];
    d.out[index()] = sum;
}
// The same line again after a collective is another request, also for lanes that were not there before: even ones make two
// steps, odd ones only the second.
__global__ void between_collectives(Data d) {
    float sum = 0.f;
    for (int k = 0; k < (int)gridDim.x; k++) {
        if (k == 1 || threadIdx.x % 2 == 0) sum += d.in[k * 32 + threadIdx.x % 32];
        __syncwarp();
    }
    d.out[index()] = sum;
}
// Five words a lane, of which the compiler knows no more than a word's alignment.
__global__ void five_words(Data d) {
    struct Five {
        float v[5];
    };
    const Five five = reinterpret_cast<const Five*>(d.in)[index()];
    float sum = 0.f;
    for (int i = 0; i < 5; i++) sum += five.v[(i + threadIdx.x) % 5];
    d.out[index()] = sum;
}

// A warp turns 32 x 32 floats through shared memory with rows of kRow.
template <int kRow>
__global__ void transpose(Data d) {
    SHARED(float, s, 2 * 32 * kRow);
    const int lane = threadIdx.x % 32;
    float* const mine = s + threadIdx.x / 32 * 32 * kRow;
    const size_t first = (size_t)(index() / 32) * 1024;
    for (int r = 0; r < 32; r++) mine[r * kRow + lane] = d.in[first + r * 32 + lane];
    __syncwarp();
    for (int r = 0; r < 32; r++) d.out[first + r * 32 + lane] = mine[lane * kRow + r];  // WORST transpose<32>
}

// 16 bytes a lane, each from a row of its own.
template <int kRow>
__global__ void rows_of_16_bytes(Data d) {
    SHARED(act, s, 64 * kRow);
    const int t = threadIdx.x;
    store8(s + t * kRow, load8(d.tile + t * 8));  // WORST rows_of_16_bytes<64>
    __syncthreads();
    d.out[index()] = to_f(s[0]);
}
// 8 bytes a lane, 8 bytes apart from the next.
__global__ void every_second_pair(Data d) {
    SHARED(float, s, 256);
    const int t = threadIdx.x;
    *reinterpret_cast<float2*>(s + t * 4) = make_float2(1.f, 2.f);  // WORST every_second_pair
    __syncthreads();
    d.out[index()] = s[0];
}
// 2 bytes a lane: neighbours share a word.
__global__ void halves(Data d) {
    SHARED(act, s, kThreads);
    s[threadIdx.x] = from_f(1.f);
    __syncthreads();
    d.out[index()] = to_f(s[0]);
}

// Where ldmatrix reads: rows of kRow elements, and of either major.
template <int kRow, Major A, Major B>
__global__ void product(Data d) {
    SHARED(act, s, 64 * kRow);
    for (int r = threadIdx.x; r < 64; r += kThreads)
        for (int c = 0; c < 64; c++) s[r * kRow + c] = from_f(1.f);
    __syncthreads();
    float acc[1][4][4];
    acc_zero(acc);
    warp_mma<4, A, B>(acc, s, kRow, s, kRow);  // WORST product<64>
    d.out[index()] = acc[0][0][0];
}
template <int kRow>
__global__ void matrices(Data d) {
    SHARED(act, s, 64 * kRow);
    for (int r = threadIdx.x; r < 64; r += kThreads)
        for (int c = 0; c < 8; c++) s[r * kRow + c] = from_f(1.f);
    __syncthreads();
#ifndef LC_FP32
    uint32_t r[4];
    ldmatrix_x4(r, s + threadIdx.x * kRow);
    d.out[index()] = (float)r[0];
#endif
}

// The first warp copies, the second fills up with zeros.
__global__ void async_copy(Data d) {
    SHARED(act, s, kThreads * 8);
    const int t = threadIdx.x;
    copy8_async(s + t * 8, d.tile + t * 8, t < 32);
    async_commit();
    async_wait<0>();
    __syncthreads();
    d.out[index()] = to_f(s[0]);
}

template <auto K>
lc_status go(const Data& d, lc_status before) {
    return before.code == LC_OK ? launch<K>(dim3(kBlocks), dim3(kThreads), 0, nullptr, d) : before;
}
}  // namespace

LC_API lc_status LC(counted)(const float* in, float* out, const void* tile) {
    const Data d{in, out, static_cast<const act*>(tile)};
    lc_status s{LC_OK, 0, nullptr};
    s = go<copy>(d, s);
    s = go<stride_2>(d, s);
    s = go<stride_32>(d, s);
    s = go<shifted>(d, s);
    s = go<same_word>(d, s);
    s = go<reversed>(d, s);
    s = go<one_lane>(d, s);
    s = go<sixteen_bytes>(d, s);
    s = go<four_floats>(d, s);
    s = go<uneven_loop>(d, s);
    s = go<between_collectives>(d, s);
    s = go<five_words>(d, s);
    s = go<transpose<32>>(d, s);
    s = go<transpose<33>>(d, s);
    s = go<rows_of_16_bytes<64>>(d, s);
    s = go<rows_of_16_bytes<72>>(d, s);
    s = go<every_second_pair>(d, s);
    s = go<halves>(d, s);
    s = go<product<64, Major::kRows, Major::kRows>>(d, s);
    s = go<product<72, Major::kRows, Major::kRows>>(d, s);
    s = go<product<72, Major::kCols, Major::kCols>>(d, s);
    s = go<matrices<64>>(d, s);
    s = go<matrices<72>>(d, s);
    return go<async_copy>(d, s);
}
#endif
