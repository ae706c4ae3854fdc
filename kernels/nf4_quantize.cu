// nf4_quantize.cu - a dense weight to NF4 with, where wanted, doubly quantised scales (nf4_quantize.h).
//
// precision  fp32 with every operation rounded by itself, as bitsandbytes. The mean of the scales is a sum whose order
//            shows in its last bit (a third of random cases differ from the exact mean): ours is PyTorch's on one CPU
//            thread, so that a file made here is, byte for byte, the file bitsandbytes makes there.
// work       a thread per block of 64 reads its 128 bytes twice (the second time from L1); a warp for the mean; a block
//            of 256 threads per 256 scales. Runs once per weight at load time: plain on purpose.
// checked    tests/ops/nf4.rs against tools/golden/nf4.py
#include "nf4_quantize.h"
#include "device/nf4.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kThreads = 128;
constexpr float kTiny = 1e-38f; // stands for an absmax of 0: all codes become the code of 0

__global__ void __launch_bounds__(kThreads) quantize_blocks(lc_nf4_quantize_args a) {
    const size_t block = (size_t)blockIdx.x * kThreads + threadIdx.x, first = block * LC_NF4_BLOCK;
    const size_t n = a.n;
    if (first >= n) return;
    const int count = n - first < LC_NF4_BLOCK ? (int)(n - first) : LC_NF4_BLOCK;
    auto weight = [&](int i) { return a.w ? to_f(a.w[first + i]) : a.w32[first + i]; };
    float top = 0.f;
    for (int i = 0; i < count; i++) top = fmaxf(top, fabsf(weight(i)));
    a.absmax[block] = top;
    const float inverse = 1.f / fmaxf(top, kTiny);
    for (int i = 0; i < count; i += 2) {
        const int high = nf4_code(weight(i) * inverse);
        const int low = i + 1 < count ? nf4_code(weight(i + 1) * inverse) : 7;
        a.packed[(first + i) / 2] = (uint8_t)(high << 4 | low);
    }
}

// offset = mean of the scales, in one warp. PyTorch's order on one CPU thread: 32 running sums, element i to sum i % 32
// (four vectors of eight), each a cascade of four levels, so that a sum never grows long before it is put away; then the
// leftover vectors, the four vectors, the leftover elements and the eight lanes.
__global__ void __launch_bounds__(32) mean_of_scales(lc_nf4_quantize_args a, int n) {
    SHARED(float, part, 32);
    const int lane = threadIdx.x;
    const int n_vectors = n < 8 ? 0 : n / 8, n_rows = n_vectors / 4;
    int log2_rows = 0;
    while (1 << log2_rows < n_rows) log2_rows++;
    const int power = max(4, log2_rows / 4), step = 1 << power;
    float level[4] = {0.f, 0.f, 0.f, 0.f};
    int i = 0;
    while (i + step <= n_rows) {
        for (int j = 0; j < step; j++, i++) level[0] += a.absmax[i * 32 + lane];
        UNROLL
        for (int l = 1; l < 4; l++) {
            level[l] += level[l - 1];
            level[l - 1] = 0.f;
            if (i >> (l * power) & (step - 1)) break;
        }
    }
    for (; i < n_rows; i++) level[0] += a.absmax[i * 32 + lane];
    part[lane] = level[0] + level[1] + level[2] + level[3];
    __syncwarp();
    if (lane != 0) return;
    float sum = 0.f;
    if (n >= 8) {
        for (int r = n_rows * 4; r < n_vectors; r++)
            for (int v = 0; v < 8; v++) part[v] += a.absmax[r * 8 + v];
        for (int e = n_vectors * 8; e < n; e++) sum += a.absmax[e];
        for (int v = 0; v < 8; v++) sum += part[v] + part[8 + v] + part[16 + v] + part[24 + v];
    } else { // too short for vectors: four running sums
        float four[4] = {0.f, 0.f, 0.f, 0.f};
        const int n_fours = n / 4;
        for (int k = 0; k < n_fours * 4; k++) four[k] = a.absmax[k];
        for (int e = n_fours * 4; e < n; e++) four[0] += a.absmax[e];
        sum = four[0] + four[1] + four[2] + four[3];
    }
    a.offset[0] = sum / (float)n;
}

__global__ void __launch_bounds__(LC_NF4_NESTED_BLOCK) quantize_scales(lc_nf4_quantize_args a, int n_blocks) {
    SHARED(float, scratch, 32);
    const int block = blockIdx.x * LC_NF4_NESTED_BLOCK + threadIdx.x;
    const float d = block < n_blocks ? a.absmax[block] - a.offset[0] : 0.f;
    const float top = block_reduce<LC_NF4_NESTED_BLOCK / 32>(fabsf(d), scratch, OpMax{});
    if (threadIdx.x == 0) a.nested_absmax[blockIdx.x] = top;
    if (block >= n_blocks) return;
    const float x = d * (1.f / fmaxf(top, kTiny));
    int low = 0, high = 255; // the number of midpoints strictly below x lies between
    while (low < high) {
        const int mid = (low + high) / 2;
        if ((a.nested_map[mid] + a.nested_map[mid + 1]) * 0.5f < x)
            low = mid + 1;
        else
            high = mid;
    }
    a.absmax_q[block] = (uint8_t)low;
}
} // namespace

LC_API lc_status LC(nf4_quantize)(const lc_nf4_quantize_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n < (int64_t)LC_NF4_BLOCK << 31, LC_BAD_SHAPE);
    LC_REQUIRE((a->w != nullptr) != (a->w32 != nullptr), LC_UNSUPPORTED);
    LC_REQUIRE(a->packed && a->absmax, LC_UNSUPPORTED);
    const int n_blocks = (int)ceil_div<int64_t>(a->n, LC_NF4_BLOCK);
    LC_TRY((launch<quantize_blocks>(dim3(ceil_div(n_blocks, kThreads)), dim3(kThreads), 0, stream, *a)));
    if (!a->absmax_q) return lc_status{LC_OK, 0, nullptr};
    LC_REQUIRE(a->nested_absmax && a->offset && a->nested_map, LC_UNSUPPORTED);
    LC_TRY((launch<mean_of_scales>(dim3(1), dim3(32), 0, stream, *a, n_blocks)));
    const dim3 nested_grid(ceil_div(n_blocks, (int)LC_NF4_NESTED_BLOCK));
    return launch<quantize_scales>(nested_grid, dim3(LC_NF4_NESTED_BLOCK), 0, stream, *a, n_blocks);
}
