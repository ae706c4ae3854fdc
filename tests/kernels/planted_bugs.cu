// planted_bugs.cu - eleven kernels, each with one fault and, as the same template, its correct twin.
//
// tests/machine/checked.rs runs every one in the checked build and wants kernel, block, threads and the marked line
// named; the twins must stay silent. A line marked "BUG <name>" is the one that the report has to point at.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/reduce.cuh"

#if LC_CHECKED
namespace {
constexpr int kThreads = 64;

// in, out: [n] floats, n = grid * 64. tile: 64 x 64 elements.
struct Data {
    const float* in;
    float* out;
    const act* tile;
    int n;
};

template <bool kCorrect>
__global__ void barrier_after_write(Data d) {
    SHARED(float, s, kThreads);
    const int t = threadIdx.x;
    s[t] = d.in[blockIdx.x * kThreads + t];
    if (kCorrect) __syncthreads();
    d.out[blockIdx.x * kThreads + t] = s[(t + 32) % kThreads];  // BUG barrier_after_write
    __syncthreads();
}

template <bool kCorrect>
__global__ void barrier_at_loop_end(Data d) {
    SHARED(float, s, kThreads);
    const int t = threadIdx.x;
    float sum = 0.f;
    for (int i = 0; i < 3; i++) {
        s[t] = d.in[blockIdx.x * kThreads + t] * (float)i;  // BUG barrier_at_loop_end
        __syncthreads();
        sum += s[(t + 32) % kThreads];
        if (kCorrect) __syncthreads();
    }
    d.out[blockIdx.x * kThreads + t] = sum;
}

template <bool kCorrect>
__global__ void shared_write_out_of_bounds(Data d) {
    SHARED(float, s, kThreads);
    const int t = threadIdx.x;
    s[kCorrect ? t : t + 1] = d.in[blockIdx.x * kThreads + t];  // BUG shared_write_out_of_bounds
    __syncthreads();
    d.out[blockIdx.x * kThreads + t] = s[kCorrect ? t : t | 1];
}

template <bool kCorrect>
__global__ void uninitialised_shared_read(Data d) {
    SHARED(float, s, kThreads);
    const int t = threadIdx.x;
    if (kCorrect || t % 2 == 0) s[t] = d.in[blockIdx.x * kThreads + t];
    __syncthreads();
    d.out[blockIdx.x * kThreads + t] = s[kThreads - 1 - t];  // BUG uninitialised_shared_read
}

template <bool kCorrect>
__global__ void global_read_past_the_tail(Data d) {
    const int i = blockIdx.x * kThreads + threadIdx.x, at = i + 3;
    if (kCorrect && at >= d.n) return;
    const float x = d.in[at];  // BUG global_read_past_the_tail
    d.out[i] = x;
}

template <bool kCorrect>
__global__ void syncwarp_between_lanes(Data d) {
    SHARED(float, s, kThreads);
    const int t = threadIdx.x;
    s[t] = d.in[blockIdx.x * kThreads + t];
    if (kCorrect) __syncwarp();
    d.out[blockIdx.x * kThreads + t] = s[t ^ 1];  // BUG syncwarp_between_lanes
    __syncthreads();
}

template <bool kCorrect>
__global__ void divergent_barrier(Data d) {
    SHARED(float, s, kThreads);
    const int t = threadIdx.x;
    s[t] = d.in[blockIdx.x * kThreads + t];
    if (kCorrect || t < 32) {
        __syncthreads();
    } else {
        __syncthreads();  // BUG divergent_barrier
    }
    d.out[blockIdx.x * kThreads + t] = s[(t + 32) % kThreads];
}

template <bool kCorrect>
__global__ void wrong_tile_stride(Data d) {
    constexpr int kStride = 72;  // 64 columns and a gap that nobody fills
    SHARED(act, s, 64 * kStride);
    const int t = threadIdx.x;
    for (int i = t; i < 64 * 8; i += kThreads) store8(s + i / 8 * kStride + i % 8 * 8, load8(d.tile + i * 8));
    __syncthreads();
    float acc[1][4][4];
    acc_zero(acc);
    warp_mma<4>(acc, s + t / 32 * 16 * kStride, kStride, s, kCorrect ? kStride : 64);  // BUG wrong_tile_stride
    d.out[blockIdx.x * kThreads + t] = acc[0][0][0];
}

template <bool kCorrect>
__global__ void two_blocks_write_one_address(Data d) {
    const int t = threadIdx.x, i = blockIdx.x * kThreads + t;
    d.out[kCorrect ? i : t] = d.in[i];  // BUG two_blocks_write_one_address
}

template <bool kCorrect>
__global__ void async_copy_not_waited_for(Data d) {
    SHARED(act, s, kThreads * 8);
    const int t = threadIdx.x;
    copy8_async(s + t * 8, d.tile + t * 8, true);
    async_commit();
    if (kCorrect) async_wait<0>();
    __syncthreads();
    d.out[blockIdx.x * kThreads + t] = to_f(s[(t + 32) % kThreads * 8]);  // BUG async_copy_not_waited_for
}

// The copy into a buffer that the other warp may still be reading: done late it would look right, so the issue counts.
template <bool kCorrect>
__global__ void async_copy_too_early(Data d) {
    SHARED(act, s, kThreads * 8);
    const int t = threadIdx.x;
    store8(s + t * 8, load8(d.tile + t * 8));
    __syncthreads();
    const float x = to_f(s[(t + 32) % kThreads * 8]);
    if (kCorrect) __syncthreads();
    copy8_async(s + t * 8, d.tile + 512 + t * 8, true);  // BUG async_copy_too_early
    async_commit();
    __syncthreads();
    async_wait<0>();
    d.out[blockIdx.x * kThreads + t] = x + to_f(s[t * 8]);
}

template <bool kCorrect>
lc_status planted_bug(int which, dim3 grid, const Data& d) {
    switch (which) {
        case 0:
            return launch<barrier_after_write<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 1:
            return launch<barrier_at_loop_end<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 2:
            return launch<shared_write_out_of_bounds<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 3:
            return launch<uninitialised_shared_read<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 4:
            return launch<global_read_past_the_tail<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 5:
            return launch<syncwarp_between_lanes<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 6:
            return launch<divergent_barrier<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 7:
            return launch<wrong_tile_stride<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 8:
            return launch<two_blocks_write_one_address<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 9:
            return launch<async_copy_not_waited_for<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        case 10:
            return launch<async_copy_too_early<kCorrect>>(grid, dim3(kThreads), 0, nullptr, d);
        default:
            return lc_status{LC_UNSUPPORTED, 0, "eleven bugs"};
    }
}
}  // namespace

LC_API lc_status LC(planted_bug)(int32_t which, bool correct, const float* in, float* out, const act* tile,
                                 int32_t n_blocks) {
    Data d{in, out, tile, n_blocks * kThreads};
    return correct ? planted_bug<true>(which, dim3(n_blocks), d) : planted_bug<false>(which, dim3(n_blocks), d);
}
#endif
