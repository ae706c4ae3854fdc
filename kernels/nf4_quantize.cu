// nf4_quantize.cu - a dense weight to NF4 with, where wanted, doubly quantised scales (nf4_quantize.h).
//
// precision  fp32 with every operation rounded by itself, as bitsandbytes; the mean of the scales is summed in fp64 in a
//            fixed order and rounded once. PyTorch sums it in fp32 in an order that depends on its threads, so there is
//            no order to copy; on every golden file the rounded fp64 mean is PyTorch's mean, bit for bit.
// work       a thread per block of 64 reads its 128 bytes twice (the second time from L1); a block of threads for the
//            mean; a block of 256 threads per 256 scales. Runs once per weight at load time: plain on purpose.
// checked    tests/ops/nf4.rs against tools/golden/nf4.py
#include "nf4_quantize.h"
#include "device/nf4.cuh"
#include "device/reduce.cuh"

namespace {
constexpr int kThreads = 128, kMeanThreads = 256;
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

// offset = mean of the scales: strided partial sums, then in the order of the threads.
__global__ void __launch_bounds__(kMeanThreads) mean_of_scales(lc_nf4_quantize_args a, int n_blocks) {
    SHARED(double, part, kMeanThreads);
    double sum = 0;
    for (int b = threadIdx.x; b < n_blocks; b += kMeanThreads) sum += a.absmax[b];
    part[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int t = 1; t < kMeanThreads; t++) sum += part[t];
    a.offset[0] = (float)(sum / n_blocks);
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
    LC_TRY((launch<mean_of_scales>(dim3(1), dim3(kMeanThreads), 0, stream, *a, n_blocks)));
    const dim3 nested_grid(ceil_div(n_blocks, (int)LC_NF4_NESTED_BLOCK));
    return launch<quantize_scales>(nested_grid, dim3(LC_NF4_NESTED_BLOCK), 0, stream, *a, n_blocks);
}
