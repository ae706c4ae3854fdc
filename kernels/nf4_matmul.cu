// nf4_matmul.cu - y = x W^T for a few tokens, W decoded from NF4 in registers (nf4_matmul.h).
//
// precision  fp32 throughout: a unit of eight weights is summed with its codes' values, then scaled and added once.
// work       a warp makes four rows of W for up to eight tokens. Lanes read neighbouring units, so a warp's load of W is
//            128 contiguous bytes a row and its load of x 512 contiguous bytes a token; the four rows' loads fly together
//            and each x is used four times. x is small and every warp reads all of it, so it stays in L1: staging it in
//            shared memory would cost a barrier and save nothing. Lanes' partial sums are laid out in shared memory and
//            summed by one lane per result, in lane order: one exchange instead of five shuffles a result.
// cost       reads W once per eight tokens, N K / 2 bytes: bound by memory.
// checked    tests/ops/nf4.rs against tools/golden/nf4.py
#include "nf4_matmul.h"
#include "device/nf4.cuh"

namespace {
constexpr int kWarps = 4, kRows = 4, kMaxTokens = 8;

template <int kTokens>
__global__ void __launch_bounds__(32 * kWarps) nf4_matmul(lc_nf4_matmul_args a) {
    constexpr int kValues = kTokens * kRows;
    NF4_TABLE(table);
    SHARED(float, parts, kWarps * 32 * (kValues + 1));
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, N = a.w.N, K = a.w.K;
    const int n0 = (blockIdx.x * kWarps + warp) * kRows, m0 = blockIdx.y * kTokens;
    if (n0 >= N) return; // a whole warp leaves

    float acc[kTokens][kRows];
    UNROLL
    for (int m = 0; m < kTokens; m++) {
        UNROLL
        for (int r = 0; r < kRows; r++) acc[m][r] = 0.f;
    }
    for (int k = lane * 8; k < K; k += 256) {
        uint32_t packed[kRows];
        float scale[kRows], w[kRows][8];
        UNROLL
        for (int r = 0; r < kRows; r++) {
            const size_t at = (size_t)min(n0 + r, N - 1) * K + k;
            packed[r] = load4(a.w.packed + at / 2);
            scale[r] = nf4_scale(a.w, at / LC_NF4_BLOCK);
        }
        UNROLL
        for (int r = 0; r < kRows; r++) nf4_decode8(table, packed[r], w[r]);
        UNROLL
        for (int m = 0; m < kTokens; m++) {
            if (m0 + m >= a.M) continue;
            const act8 x = load8(a.x + (size_t)(m0 + m) * a.ldx + k);
            UNROLL
            for (int r = 0; r < kRows; r++) {
                float part = 0.f;
                UNROLL
                for (int i = 0; i < 8; i++) part += to_f(x.v[i]) * w[r][i];
                acc[m][r] += scale[r] * part;
            }
        }
    }

    float* const mine = parts + warp * 32 * (kValues + 1);
    UNROLL
    for (int m = 0; m < kTokens; m++) {
        UNROLL
        for (int r = 0; r < kRows; r++) mine[lane * (kValues + 1) + m * kRows + r] = acc[m][r];
    }
    __syncwarp();
    if (lane >= kValues) return;
    const int m = m0 + lane / kRows, n = n0 + lane % kRows;
    if (m >= a.M || n >= N) return;
    float sum = 0.f;
    for (int l = 0; l < 32; l++) sum += mine[l * (kValues + 1) + lane];
    act* const y = a.y + (size_t)m * a.ldy + n;
    *y = from_f(a.write == LC_ADD ? to_f(*y) + sum : sum);
}

template <int kTokens>
lc_status run(const lc_nf4_matmul_args& a, lc_stream stream) {
    const dim3 grid(ceil_div(a.w.N, kWarps * kRows), ceil_div(a.M, kTokens));
    return launch<nf4_matmul<kTokens>>(grid, dim3(32 * kWarps), 0, stream, a);
}
} // namespace

LC_API lc_status LC(nf4_matmul)(const lc_nf4_matmul_args* a, lc_stream stream) {
    if (const char* fault = nf4_fault(a->w)) return lc_status{LC_BAD_SHAPE, 0, fault};
    LC_REQUIRE(a->w.K % 8 == 0 && a->M > 0 && a->ldx % 8 == 0 && a->ldx >= a->w.K && a->ldy >= a->w.N, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x), LC_MISALIGNED);
    if (a->M == 1) return run<1>(*a, stream);
    if (a->M == 2) return run<2>(*a, stream);
    if (a->M <= 4) return run<4>(*a, stream);
    return run<kMaxTokens>(*a, stream);
}
