// fp8.cu - what the CUDA machine promises about e4m3: its numbers, its fragments, its warp products (see machine.cu).
//
// Formulas are transcribed from the PTX manual (mma.m16n8k32, 8-bit; groupID = laneid >> 2, threadID_in_group = laneid % 4),
// not from the machine's code. Products use small integers, so every order of summation is exact.
#include "device/async_copy.cuh"
#include "device/fp8.cuh"
#include "device/mma_fp8.cuh"
#include "promises.h"

namespace {

// S.EEEE.MMM with bias 7, subnormals at E = 0, and NaN at S.1111.111.
double value_of(int code) {
    const int e = code >> 3 & 15, m = code & 7;
    const double size = e ? ldexp(1 + m / 8., e - 7) : ldexp(m / 8., -6);
    return (code & 0x7f) == 0x7f ? (double)NAN : code & 0x80 ? -size : size;
}

int code_of(float x) { return (int)e4m3_by_hand(x); }

bool rounding_to_e4m3_takes_the_nearest_and_on_a_tie_the_even() {
    for (int code = 0; code < 255; code++)
        if ((code & 0x7f) != 0x7f) EXPECT(code_of((float)value_of(code)) == code, "code %02x", code);
    uint32_t state = 1;
    for (int i = 0; i < 20000; i++) {
        // Sizes from below the smallest to above the largest, a third of them ties.
        const int at = (int)(next_random(state) % 0x7e);
        float x = (float)(value_of(at) + (value_of(at + 1) - value_of(at)) * (i % 3 ? next_random(state) / 65536. : 0.5));
        if (i % 7 == 0) x = -x;
        int best = 0;
        for (int code = 0; code < 0x7f; code++) {
            const double off = fabs(fabs((double)x) - value_of(code)), least = fabs(fabs((double)x) - value_of(best));
            if (off < least || (off == least && code % 2 == 0)) best = code;
        }
        EXPECT(code_of(x) == (x < 0 ? best | 0x80 : best), "%.9g: %02x, not %02x", x, code_of(x), best);
    }
    EXPECT(code_of(448.f) == 0x7e && code_of(500.f) == 0x7e && code_of(-INFINITY) == 0xfe && code_of(1e38f) == 0x7e, "above");
    EXPECT((code_of(NAN) & 0x7f) == 0x7f && (code_of(-NAN) & 0x7f) == 0x7f, "NaN");
    EXPECT(code_of(0.f) == 0 && code_of(-0.f) == 0x80 && code_of(1e-10f) == 0 && code_of(0.0009765625f) == 0, "below");
    return true;
}

#ifndef LC_FP32
bool the_table_holds_every_value() {
    for (int code = 0; code < 256; code++) {
        const uint32_t bits = (uint32_t)lc_host::e4m3_to_bf16((uint8_t)code) << 16;
        float value;
        memcpy(&value, &bits, 4);
        const bool nan = (code & 0x7f) == 0x7f;
        EXPECT(nan ? value != value : (double)value == value_of(code), "code %02x: %g", code, value);
        EXPECT(nan || (bits >> 31) == (uint32_t)(code >> 7), "code %02x: its sign", code);
    }
    return true;
}

uint8_t small_code(uint32_t& state) { return (uint8_t)code_of(small_integer(state)); }

__global__ void one_mma(const uint32_t* a, const uint32_t* b, const float* c, float* d) {
    const int l = threadIdx.x;
    uint32_t fa[4];
    float fd[4];
    for (int i = 0; i < 4; i++) fa[i] = a[l * 4 + i], fd[i] = c[l * 4 + i];
    mma_m16n8k32_e4m3(fd, fa, b[l * 2], b[l * 2 + 1]);
    for (int i = 0; i < 4; i++) d[l * 4 + i] = fd[i];
}

bool mma_follows_the_manual() {
    uint32_t state = 1;
    uint8_t A[16][32], B[32][8];
    float C[16][8];
    for (auto& row : A)
        for (uint8_t& x : row) x = small_code(state);
    for (auto& row : B)
        for (uint8_t& x : row) x = small_code(state);
    for (auto& row : C)
        for (float& x : row) x = (float)(next_random(state) % 100);
    Global<uint32_t> a(128), b(64);
    Global<float> c(128), d(128);
    for (int laneid = 0; laneid < 32; laneid++) {
        const int group = laneid >> 2, in_group = laneid % 4;
        for (int i = 0; i < 16; i++) {
            const int row = (i < 4 || (8 <= i && i < 12)) ? group : group + 8;
            const int col = i < 8 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16;
            a.v[laneid * 4 + i / 4] |= (uint32_t)A[row][col] << (8 * (i & 3));
        }
        for (int i = 0; i < 8; i++) {
            const int row = i < 4 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16;
            b.v[laneid * 2 + i / 4] |= (uint32_t)B[row][group] << (8 * (i & 3));
        }
        for (int i = 0; i < 4; i++) c.v[laneid * 4 + i] = C[group + (i < 2 ? 0 : 8)][in_group * 2 + (i & 1)];
    }
    RUN(launch<one_mma>(dim3(1), dim3(32), 0, nullptr, (const uint32_t*)a.p(), (const uint32_t*)b.p(), (const float*)c.p(),
                        d.p()));
    for (int laneid = 0; laneid < 32; laneid++)
        for (int i = 0; i < 4; i++) {
            const int row = (laneid >> 2) + (i < 2 ? 0 : 8), col = (laneid % 4) * 2 + (i & 1);
            double want = C[row][col];
            for (int k = 0; k < 32; k++) want += value_of(A[row][k]) * value_of(B[k][col]);
            EXPECT(d.v[laneid * 4 + i] == want, "lane %d element %d: %g, not %g", laneid, i, d.v[laneid * 4 + i], want);
        }
    return true;
}

template <int KS, int MT, int NT, bool kSteps>
__global__ void product(const uint8_t* a, const uint8_t* b, float* c) {
    constexpr int M = MT * 16, N = NT * 8, K = KS * 32, ld = K + 16;
    Arena arena;
    uint8_t *sa = arena.take<uint8_t>(M * ld), *sb = arena.take<uint8_t>(N * ld);
    const int l = threadIdx.x;
    auto copy = [&](uint8_t* to, const uint8_t* from, int rows) {
        for (int i = l * 16; i < rows * K; i += 512)
            copy8_async(reinterpret_cast<act*>(to + i / K * ld + i % K), reinterpret_cast<const act*>(from + i), true);
    };
    copy(sa, a, M);
    copy(sb, b, N);
    async_commit();
    async_wait<0>();
    __syncthreads();
    float acc[MT][NT][4];
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < NT; j++)
            for (int r = 0; r < 4; r++) acc[i][j][r] = (float)(acc_row(l, i, r) - acc_col(l, j, r));
    if (kSteps)
        warp_mma_fp8_steps<KS>(acc, sa, ld, sb, ld);
    else
        warp_mma_fp8<KS>(acc, sa, ld, sb, ld);
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < NT; j++)
            for (int r = 0; r < 4; r++) c[acc_row(l, i, r) * N + acc_col(l, j, r)] = acc[i][j][r];
}

template <int KS, int MT, int NT>
bool product_is_exact() {
    constexpr int M = MT * 16, N = NT * 8, K = KS * 32;
    uint32_t state = 7;
    Global<uint8_t> a(M * K), b(N * K);
    for (uint8_t& x : a.v) x = small_code(state);
    for (uint8_t& x : b.v) x = small_code(state);
    Global<float> fused(M * N), steps(M * N);
    const size_t smem = arena_bytes<uint8_t>(M * (K + 16)) + arena_bytes<uint8_t>(N * (K + 16));
    const uint8_t *pa = a.p(), *pb = b.p();
    RUN(launch<product<KS, MT, NT, false>>(dim3(1), dim3(32), smem, nullptr, pa, pb, fused.p()));
    RUN(launch<product<KS, MT, NT, true>>(dim3(1), dim3(32), smem, nullptr, pa, pb, steps.p()));
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double want = m - n;
            for (int k = 0; k < K; k++) want += value_of(a.v[m * K + k]) * value_of(b.v[n * K + k]);
            const float one = fused.v[m * N + n], other = steps.v[m * N + n];
            EXPECT(one == want && other == want, "%dx%dx%d (%d,%d): %g and %g, not %g", M, N, K, m, n, one, other, want);
        }
    return true;
}

bool warp_mma_fp8_equals_the_triple_loop() {
    return product_is_exact<1, 1, 2>() && product_is_exact<2, 4, 4>() && product_is_exact<4, 2, 4>() &&
           product_is_exact<4, 4, 8>() && product_is_exact<3, 3, 2>();
}
#endif

const Promise kPromises[] = {
    {"rounding to e4m3 takes the nearest, on a tie the even", rounding_to_e4m3_takes_the_nearest_and_on_a_tie_the_even},
#ifndef LC_FP32
    {"the table holds every value of e4m3", the_table_holds_every_value},
    {"mma.sync m16n8k32 follows the manual", mma_follows_the_manual},
    {"warp_mma_fp8 equals the triple loop, fused and in steps", warp_mma_fp8_equals_the_triple_loop},
#endif
};
}  // namespace

LC_API int32_t LC(fp8_promise)(int32_t i, const char** text) {
    return run_promise(kPromises, i, text);
}
