// machine.cu - what the CUDA machine on a CPU promises to kernels, as small kernels whose results are known.
//
// Compiled into the crate's archive with the kernels, in every variant, and run by tests/machine (nothing else refers
// to it, so the linker leaves it out of the binaries). Fragment layouts are transcribed from the PTX manual's formulas
// (groupID = laneid >> 2, threadID_in_group = laneid % 4), not from the machine's code. Products use small integers:
// every order of summation is exact, so results are compared bit for bit.
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/reduce.cuh"
#include "promises.h"

namespace {
// ---- fragments ------------------------------------------------------------------------------------------------------
__global__ void load_matrices(const uint16_t* in, uint32_t* out, bool trans) {
    SHARED(uint16_t, s, 4 * 64);
    const int l = threadIdx.x;
    for (int i = l; i < 256; i += 32) s[i] = in[i];
    __syncwarp();
    uint32_t r[4];
    const act* row = reinterpret_cast<const act*>(s + l * 8);
    if (trans)
        ldmatrix_x4_trans(r, row);
    else
        ldmatrix_x4(r, row);
    for (int i = 0; i < 4; i++) out[l * 4 + i] = r[i];
}

bool ldmatrix_follows_the_manual() {
    Global<uint16_t> in(256);
    Global<uint32_t> out(128);
    for (int i = 0; i < 256; i++) in.v[i] = (uint16_t)(1000 + i);
    for (int trans = 0; trans < 2; trans++) {
        RUN(launch<load_matrices>(dim3(1), dim3(32), 0, nullptr, (const uint16_t*)in.p(), out.p(), (bool)trans));
        for (int laneid = 0; laneid < 32; laneid++)
            for (int matrix = 0; matrix < 4; matrix++)
                for (int i = 0; i < 2; i++) {
                    int row = laneid / 4, col = laneid % 4 * 2 + i;
                    int want = 1000 + matrix * 64 + (trans ? col * 8 + row : row * 8 + col);
                    int got = (int)(out.v[laneid * 4 + matrix] >> (16 * i) & 0xffff);
                    EXPECT(got == want, "lane %d matrix %d element %d trans %d: %d, not %d", laneid, matrix, i, trans,
                           got, want);
                }
    }
    return true;
}

__global__ void one_mma(const uint32_t* a, const uint32_t* b, const float* c, float* d) {
    const int l = threadIdx.x;
    uint32_t fa[4];
    float fd[4];
    for (int i = 0; i < 4; i++) fa[i] = a[l * 4 + i], fd[i] = c[l * 4 + i];
    mma_m16n8k16(fd, fa, b[l * 2], b[l * 2 + 1]);
    for (int i = 0; i < 4; i++) d[l * 4 + i] = fd[i];
}

uint32_t bf16_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u >> 16;
}

bool mma_follows_the_manual() {
    uint32_t state = 1;
    float A[16][16], B[16][8], C[16][8];
    for (auto& row : A)
        for (float& x : row) x = small_integer(state);
    for (auto& row : B)
        for (float& x : row) x = small_integer(state);
    for (auto& row : C)
        for (float& x : row) x = small_integer(state);
    Global<uint32_t> a(128), b(64);
    Global<float> c(128), d(128);
    for (int laneid = 0; laneid < 32; laneid++) {
        int group = laneid >> 2, in_group = laneid % 4;
        for (int i = 0; i < 8; i++) {
            int row = (i < 2 || (4 <= i && i < 6)) ? group : group + 8, col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
            a.v[laneid * 4 + i / 2] |= bf16_bits(A[row][col]) << (16 * (i & 1));
        }
        for (int i = 0; i < 4; i++) {
            int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0), col = group;
            b.v[laneid * 2 + i / 2] |= bf16_bits(B[row][col]) << (16 * (i & 1));
        }
        for (int i = 0; i < 4; i++) c.v[laneid * 4 + i] = C[group + (i < 2 ? 0 : 8)][in_group * 2 + (i & 1)];
    }
    RUN(launch<one_mma>(dim3(1), dim3(32), 0, nullptr, (const uint32_t*)a.p(), (const uint32_t*)b.p(),
                        (const float*)c.p(), d.p()));
    for (int laneid = 0; laneid < 32; laneid++)
        for (int i = 0; i < 4; i++) {
            int row = (laneid >> 2) + (i < 2 ? 0 : 8), col = (laneid % 4) * 2 + (i & 1);
            float want = C[row][col];
            for (int k = 0; k < 16; k++) want += A[row][k] * B[k][col];
            EXPECT(d.v[laneid * 4 + i] == want, "lane %d element %d: %g, not %g", laneid, i, d.v[laneid * 4 + i], want);
        }
    return true;
}

// ---- warp products --------------------------------------------------------------------------------------------------
template <int KS, Major A, Major B, int MT, int NT, bool kSteps>
__global__ void product(const act* a, const act* b, float* c) {
    constexpr int M = MT * 16, N = NT * 8, K = KS * 16;
    constexpr int a_rows = A == Major::kRows ? M : K, a_cols = A == Major::kRows ? K : M, lda = a_cols + 8;
    constexpr int b_rows = B == Major::kRows ? N : K, b_cols = B == Major::kRows ? K : N, ldb = b_cols + 8;
    Arena arena;
    act *sa = arena.take<act>(a_rows * lda), *sb = arena.take<act>(b_rows * ldb);
    const int l = threadIdx.x;
    for (int i = l; i < a_rows * a_cols / 8; i += 32)
        copy8_async(sa + i * 8 / a_cols * lda + i * 8 % a_cols, a + i * 8, true);
    for (int i = l; i < b_rows * b_cols / 8; i += 32)
        copy8_async(sb + i * 8 / b_cols * ldb + i * 8 % b_cols, b + i * 8, true);
    async_commit();
    async_wait<0>();
    __syncthreads();
    float acc[MT][NT][4];
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < NT; j++)
            for (int r = 0; r < 4; r++) acc[i][j][r] = (float)(acc_row(l, i, r) - acc_col(l, j, r));
#ifndef LC_FP32
    if (kSteps)
        warp_mma_steps<KS, A, B>(acc, sa, lda, sb, ldb);
    else
#endif
        warp_mma<KS, A, B>(acc, sa, lda, sb, ldb);
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < NT; j++)
            for (int r = 0; r < 4; r++) c[acc_row(l, i, r) * N + acc_col(l, j, r)] = acc[i][j][r];
}

// x[i,j] of a tile that lies as rows or as columns.
float at(const std::vector<act>& x, int i, int j, int rows, int cols, Major major) {
    return to_f(major == Major::kRows ? x[(size_t)i * cols + j] : x[(size_t)j * rows + i]);
}

template <int KS, Major A, Major B, int MT, int NT>
bool product_is_exact() {
    constexpr int M = MT * 16, N = NT * 8, K = KS * 16;
    uint32_t state = 7;
    Global<act> a(M * K), b(N * K);
    for (act& x : a.v) x = from_f(small_integer(state));
    for (act& x : b.v) x = from_f(small_integer(state));
    Global<float> fused(M * N), steps(M * N);
    size_t smem = arena_bytes<act>(M * K + 8 * (M + K)) + arena_bytes<act>(N * K + 8 * (N + K));
    RUN(launch<product<KS, A, B, MT, NT, false>>(dim3(1), dim3(32), smem, nullptr, (const act*)a.p(), (const act*)b.p(),
                                                 fused.p()));
    RUN(launch<product<KS, A, B, MT, NT, true>>(dim3(1), dim3(32), smem, nullptr, (const act*)a.p(), (const act*)b.p(),
                                                steps.p()));
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float want = (float)(m - n);
            for (int k = 0; k < K; k++) want += at(a.v, m, k, M, K, A) * at(b.v, n, k, N, K, B);
            EXPECT(fused.v[m * N + n] == want, "%dx%dx%d A %d B %d, (%d,%d): %g, not %g", M, N, K, (int)A, (int)B, m, n,
                   fused.v[m * N + n], want);
            EXPECT(steps.v[m * N + n] == want, "steps %dx%dx%d A %d B %d, (%d,%d): %g, not %g", M, N, K, (int)A, (int)B,
                   m, n, steps.v[m * N + n], want);
        }
    return true;
}

template <int KS, int MT, int NT>
bool product_is_exact_in_every_order() {
    return product_is_exact<KS, Major::kRows, Major::kRows, MT, NT>() &&
           product_is_exact<KS, Major::kRows, Major::kCols, MT, NT>() &&
           product_is_exact<KS, Major::kCols, Major::kRows, MT, NT>() &&
           product_is_exact<KS, Major::kCols, Major::kCols, MT, NT>();
}

bool warp_mma_equals_the_triple_loop() {
    return product_is_exact_in_every_order<1, 1, 2>() && product_is_exact_in_every_order<2, 2, 4>() &&
           product_is_exact_in_every_order<4, 1, 6>() && product_is_exact_in_every_order<4, 4, 8>() &&
           product_is_exact_in_every_order<8, 4, 16>() && product_is_exact_in_every_order<3, 3, 2>();
}

// P V as attention does it: the first product's accumulators are the second one's A.
template <int KS, Major B, int MT, int NT, bool kSteps>
__global__ void product_from_registers(const act* b, float* c) {
    constexpr int N = NT * 8, K = KS * 16, b_rows = B == Major::kRows ? N : K, b_cols = B == Major::kRows ? K : N,
                  ldb = b_cols + 8;
    Arena arena;
    act* sb = arena.take<act>(b_rows * ldb);
    const int l = threadIdx.x;
    for (int i = l; i < b_rows * b_cols / 8; i += 32)
        store8(sb + i * 8 / b_cols * ldb + i * 8 % b_cols, load8(b + i * 8));
    __syncthreads();
    float p[MT][2 * KS][4], acc[MT][NT][4];
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < 2 * KS; j++)
            for (int r = 0; r < 4; r++) p[i][j][r] = (float)((acc_row(l, i, r) * 3 + acc_col(l, j, r) * 5) % 17 - 8);
    acc_zero(acc);
    act2 a[KS][MT][4];
    acc_to_a<KS>(a, p);
#ifndef LC_FP32
    if (kSteps)
        warp_mma_ra_steps<KS, B>(acc, a, sb, ldb);
    else
#endif
        warp_mma_ra<KS, B>(acc, a, sb, ldb);
    for (int i = 0; i < MT; i++)
        for (int j = 0; j < NT; j++)
            for (int r = 0; r < 4; r++) c[acc_row(l, i, r) * N + acc_col(l, j, r)] = acc[i][j][r];
}

template <int KS, Major B, int MT, int NT>
bool product_from_registers_is_exact() {
    constexpr int M = MT * 16, N = NT * 8, K = KS * 16;
    uint32_t state = 3;
    Global<act> b(N * K);
    for (act& x : b.v) x = from_f(small_integer(state));
    Global<float> fused(M * N), steps(M * N);
    size_t smem = arena_bytes<act>(N * K + 8 * (N + K));
    RUN(launch<product_from_registers<KS, B, MT, NT, false>>(dim3(1), dim3(32), smem, nullptr, (const act*)b.p(),
                                                             fused.p()));
    RUN(launch<product_from_registers<KS, B, MT, NT, true>>(dim3(1), dim3(32), smem, nullptr, (const act*)b.p(),
                                                            steps.p()));
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float want = 0.f;
            for (int k = 0; k < K; k++) want += (float)((m * 3 + k * 5) % 17 - 8) * at(b.v, n, k, N, K, B);
            EXPECT(fused.v[m * N + n] == want && steps.v[m * N + n] == want,
                   "%dx%dx%d B %d, (%d,%d): %g and %g, not %g", M, N, K, (int)B, m, n, fused.v[m * N + n],
                   steps.v[m * N + n], want);
        }
    return true;
}

bool warp_mma_ra_equals_the_triple_loop() {
    return product_from_registers_is_exact<1, Major::kRows, 1, 2>() &&
           product_from_registers_is_exact<4, Major::kRows, 1, 8>() &&
           product_from_registers_is_exact<4, Major::kCols, 1, 16>() &&
           product_from_registers_is_exact<2, Major::kCols, 2, 4>() &&
           product_from_registers_is_exact<2, Major::kRows, 4, 4>();
}

#ifdef __x86_64__
// One call of each compiled copy that this processor can run, on the same operands: from memory in both orders, or with
// A from registers. Sums differ by rounding alone.
bool leaves_agree_on(lc_host::MmaCall call, const std::vector<act2>& registers) {
    const int n = call.mt * call.nt * 4, m = call.mt * 16, k = call.ks * 16;
    const void* a_regs[32];
    for (int l = 0; l < 32; l++) a_regs[l] = registers.data() + l * call.ks * call.mt * 4;
    auto run = [&](lc_host::Leaf leaf) {
        std::vector<float> acc(32 * n, 0.5f);
        float* lanes[32];
        for (int l = 0; l < 32; l++) lanes[l] = acc.data() + l * n;
        leaf(call, lanes, a_regs);
        return acc;
    };
    std::vector<float> base = run(lc_host::leaf_base::mma_tile), others[2];
    if (lc_host::has_avx512()) others[0] = run(lc_host::leaf_avx512::mma_tile);
    if (lc_host::has_avx512_bf16() && sizeof(act) == 2) others[1] = run(lc_host::leaf_bf16::mma_tile);
    for (const auto& other : others)
        for (size_t i = 0; i < other.size(); i++)
            EXPECT(fabsf(base[i] - other[i]) <= 1e-6f * k, "%dx%dx%d columns %d %d, copy %d, element %zu: %g and %g", m,
                   call.nt * 8, k, call.a_cols, call.b_cols, (int)(&other - others), i, base[i], other[i]);
    return true;
}

bool compiled_copies_of_the_tensor_core_agree() {
    uint32_t state = 5;
    std::vector<act> x(128 * 136);
    for (act& e : x) e = from_f((float)next_random(state) / 32768.f - 1.f);
    const int shapes[][3] = {{1, 2, 1}, {2, 4, 4}, {4, 8, 4}, {1, 16, 8}, {3, 6, 3}};
    for (auto [mt, nt, ks] : shapes) {
        std::vector<act2> registers(32 * ks * mt * 4);
        for (act2& e : registers)
            e = pack2((float)next_random(state) / 32768.f - 1.f, (float)next_random(state) / 32768.f - 1.f);
        for (int columns = 0; columns < 4; columns++) {
            bool a_cols = columns & 1, b_cols = columns & 2;
            if (!leaves_agree_on({mt, nt, ks, a_cols, b_cols, x.data() + 8, 136, x.data(), 136, sizeof(act)},
                                 registers))
                return false;
            if (!leaves_agree_on({mt, nt, ks, false, b_cols, nullptr, 0, x.data(), 136, sizeof(act)}, registers))
                return false;
        }
    }
    return true;
}
#endif

// ---- collectives and barriers ---------------------------------------------------------------------------------------
__global__ void shuffles(int* out) {
    const int t = threadIdx.x, v = t * t;
    out[t * 5] = __shfl_sync(0xffffffffu, v, 7);
    out[t * 5 + 1] = __shfl_xor_sync(0xffffffffu, v, 5);
    out[t * 5 + 2] = __shfl_down_sync(0xffffffffu, v, 4);
    out[t * 5 + 3] = (int)(__shfl_sync(0xffffffffu, (uint64_t)v << 33, (t + 1) % 32) >> 33);
    out[t * 5 + 4] = lane_id();
}

bool shuffles_move_values_between_lanes() {
    Global<int> out(96 * 5);
    RUN(launch<shuffles>(dim3(1), dim3(96), 0, nullptr, out.p()));
    for (int t = 0; t < 96; t++) {
        int warp = t / 32 * 32, lane = t % 32, down = lane + 4 > 31 ? t : t + 4, next = warp + (t + 1) % 32;
        int want[5] = {(warp + 7) * (warp + 7), (t ^ 5) * (t ^ 5), down * down, next * next, lane};
        for (int i = 0; i < 5; i++)
            EXPECT(out.v[t * 5 + i] == want[i], "thread %d, result %d: %d, not %d", t, i, out.v[t * 5 + i], want[i]);
    }
    return true;
}

__global__ void reductions(const float* in, float* out) {
    SHARED(float, scratch, 32);
    const int t = threadIdx.x;
    float v = in[t], tree = v, x = v, y = -v;
    for (int d = 16; d; d >>= 1) tree = tree + __shfl_xor_sync(0xffffffffu, tree, d);
    quad_reduce2(x, y, OpMax{});
    float* o = out + t * 6;
    o[0] = warp_sum(v), o[1] = tree, o[2] = warp_max(v), o[3] = x, o[4] = y;
    o[5] = block_reduce<4>(v, scratch, OpSum{});
    o[5] += block_reduce<4>(1.f, scratch, OpSum{});
}

bool reductions_are_the_butterflies() {
    uint32_t state = 9;
    Global<float> in(128), out(128 * 6);
    for (float& x : in.v) x = (float)next_random(state) / 1000.f - 30.f;
    RUN(launch<reductions>(dim3(1), dim3(128), 0, nullptr, (const float*)in.p(), out.p()));
    double all = 0;
    for (float x : in.v) all += x;
    for (int t = 0; t < 128; t++) {
        const float* o = &out.v[t * 6];
        float largest = in.v[t / 32 * 32], x = in.v[t / 4 * 4], y = -x;
        for (int i = t / 32 * 32; i < t / 32 * 32 + 32; i++) largest = fmaxf(largest, in.v[i]);
        for (int i = t / 4 * 4; i < t / 4 * 4 + 4; i++) x = fmaxf(x, in.v[i]), y = fmaxf(y, -in.v[i]);
        EXPECT(o[0] == o[1], "thread %d: warp_sum %g, five shuffles %g", t, o[0], o[1]);
        EXPECT(o[2] == largest && o[3] == x && o[4] == y, "thread %d: %g %g %g", t, o[2], o[3], o[4]);
        EXPECT(fabs(o[5] - (all + 128)) < 1e-2 && o[5] == out.v[5], "thread %d: block sum %g, not %g", t, o[5],
               all + 128);
    }
    return true;
}

// Rounds of a rotation through shared memory. Thread t leaves after round t % 7 + 1 (kThreads: of 96, the last warp at
// once): those who left count as arrived.
__global__ void rotate(int* out, int rounds) {
    SHARED(int, s, 2 * 96);
    const int t = threadIdx.x;
    if (t >= 64) return;
    int v = t;
    for (int i = 0; i < rounds; i++) {
        s[i % 2 * 96 + t] = v;
        __syncthreads();
        if (i == t % 7) break;
        v = s[i % 2 * 96 + (t / 7 * 7 + 6 < 64 ? t / 7 * 7 + 6 : 6)] + 1;  // from one who stays to the end
    }
    out[t] = v;
}

bool barriers_count_those_who_left() {
    Global<int> out(96, -1);
    RUN(launch<rotate>(dim3(1), dim3(96), 0, nullptr, out.p(), 7));
    for (int t = 0; t < 64; t++) {
        int from = t / 7 * 7 + 6 < 64 ? t / 7 * 7 + 6 : 6, want = t % 7 == 0 ? t : from + t % 7;
        EXPECT(out.v[t] == want, "thread %d: %d, not %d", t, out.v[t], want);
    }
    EXPECT(out.v[70] == -1, "a thread that left wrote %d", out.v[70]);
    return true;
}

// Warps do different numbers of collectives between block barriers.
__global__ void uneven_warps(int* out) {
    SHARED(int, s, 4);
    const int warp = threadIdx.x / 32;
    int sum = 0;
    for (int round = 0; round < 50; round++) {
        int v = (int)threadIdx.x;
        for (int i = 0; i < (warp * 7 + round) % 11; i++) v = __shfl_xor_sync(0xffffffffu, v, 1 + i) + 1;
        if (lane_id() == 0) s[warp] = v;
        __syncthreads();
        sum += s[(warp + 1) % 4];
        __syncthreads();
    }
    out[threadIdx.x] = sum;
}

bool warps_may_run_apart_between_barriers() {
    Global<int> out(128);
    RUN(launch<uneven_warps>(dim3(1), dim3(128), 0, nullptr, out.p()));
    for (int t = 0; t < 128; t++) {
        int want = 0, other = (t / 32 + 1) % 4;
        for (int round = 0; round < 50; round++) {
            int lane = 0, steps = (other * 7 + round) % 11;
            for (int i = 0; i < steps; i++) lane ^= 1 + i;
            want += other * 32 + lane + steps;  // the lanes' values differ only by where they started
        }
        EXPECT(out.v[t] == want, "thread %d: %d, not %d", t, out.v[t], want);
    }
    return true;
}

// ---- launches -------------------------------------------------------------------------------------------------------
template <bool kBarrier>
__global__ void count_visits(int* visits) {
    size_t b = blockIdx.x + (size_t)gridDim.x * (blockIdx.y + (size_t)gridDim.y * blockIdx.z);
    size_t t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    if (kBarrier) __syncthreads();
    visits[b * blockDim.x * blockDim.y * blockDim.z + t] += 1;
}

bool every_thread_of_every_block_runs_once() {
    const dim3 grids[] = {dim3(1), dim3(5), dim3(3, 4), dim3(2, 3, 5), dim3(300)};
    const dim3 blocks[] = {dim3(1), dim3(31), dim3(32), dim3(33), dim3(128), dim3(8, 4, 3), dim3(1024)};
    for (dim3 g : grids)
        for (dim3 b : blocks)
            for (int barrier = 0; barrier < 2; barrier++) {
                size_t n = (size_t)g.x * g.y * g.z * b.x * b.y * b.z;
                if (n > 100000) continue;
                Global<int> visits(n);
                if (barrier)
                    RUN(launch<count_visits<true>>(g, b, 0, nullptr, visits.p()));
                else
                    RUN(launch<count_visits<false>>(g, b, 0, nullptr, visits.p()));
                for (size_t i = 0; i < n; i++)
                    EXPECT(visits.v[i] == 1, "grid %u,%u,%u block %u,%u,%u: thread %zu ran %d times", g.x, g.y, g.z,
                           b.x, b.y, b.z, i, visits.v[i]);
            }
    return true;
}

bool impossible_launches_are_refused() {
    Global<int> visits(1);
    EXPECT(launch<count_visits<false>>(dim3(1), dim3(1025), 0, nullptr, visits.p()).code == LC_BAD_SHAPE,
           "1025 threads");
    EXPECT(launch<count_visits<false>>(dim3(0), dim3(32), 0, nullptr, visits.p()).code == LC_BAD_SHAPE, "no block");
    EXPECT(launch<count_visits<false>>(dim3(1), dim3(32), 229 << 10, nullptr, visits.p()).code == LC_BAD_SHAPE,
           "229 KiB");
    return true;
}

// ---- copies and numbers ---------------------------------------------------------------------------------------------
__global__ void staged_copies(const act* in, act* out) {
    SHARED(act, s, 3 * 32 * 8);
    const int t = threadIdx.x;
    for (int i = 0; i < 2; i++) {
        copy8_async(s + (i * 32 + t) * 8, in + (i * 32 + t) * 8, true);
        async_commit();
    }
    for (int i = 0; i < 4; i++) {
        async_wait<1>();
        __syncthreads();
        store8(out + (i * 32 + t) * 8, load8(s + (i % 3 * 32 + (t + 1) % 32) * 8));
        copy8_async(s + ((i + 2) % 3 * 32 + t) * 8, in + (i + 2 < 4 ? i + 2 : 0) * 256 + t * 8, i + 2 < 4);
        async_commit();
    }
}

bool asynchronous_copies_arrive_in_groups() {
    Global<act> in(4 * 256), out(4 * 256);
    for (size_t i = 0; i < in.v.size(); i++) in.v[i] = from_f((float)(i / 8));
    RUN(launch<staged_copies>(dim3(1), dim3(32), 0, nullptr, (const act*)in.p(), out.p()));
    for (int i = 0; i < 128; i++)
        EXPECT(to_f(out.v[i * 8]) == (float)(i / 32 * 32 + (i + 1) % 32), "row %d: %g", i, to_f(out.v[i * 8]));
    return true;
}

bool bf16_rounds_to_nearest_even() {
#ifndef LC_FP32
    const uint32_t cases[][2] = {{0x3f808000u, 0x3f80}, {0x3f818000u, 0x3f82}, {0x3f808001u, 0x3f81},
                                 {0x3f807fffu, 0x3f80}, {0x7f7fffffu, 0x7f80}, {0xff800000u, 0xff80},
                                 {0x00000001u, 0x0000}, {0x80000000u, 0x8000}};
    for (auto& c : cases)
        EXPECT(from_f(__uint_as_float(c[0])).bits == c[1], "%08x: %04x", c[0], from_f(__uint_as_float(c[0])).bits);
    float nan = to_f(from_f(__uint_as_float(0x7f800001u)));
    EXPECT(nan != nan, "a NaN became %g", nan);
#endif
    return true;
}

bool fast_exp_is_near_exp() {
    for (float x = -87.f; x < 88.f; x += 0.0137f) {
        double want = exp((double)x), error = fabs(fast_exp(x) - want) / want;
        EXPECT(error < 1e-6 * (1 + fabs(x) / 16), "exp(%g): relative error %g", x, error);
    }
    EXPECT(fast_exp(-200.f) == 0.f && fast_exp(-INFINITY) == 0.f && fast_exp(NAN) != fast_exp(NAN), "the ends");
    return true;
}

const Promise kPromises[] = {
    {"ldmatrix follows the manual", ldmatrix_follows_the_manual},
    {"mma.sync follows the manual", mma_follows_the_manual},
    {"warp_mma equals the triple loop, fused and in steps", warp_mma_equals_the_triple_loop},
    {"warp_mma_ra equals the triple loop, fused and in steps", warp_mma_ra_equals_the_triple_loop},
#ifdef __x86_64__
    {"compiled copies of the tensor core agree", compiled_copies_of_the_tensor_core_agree},
#endif
    {"shuffles move values between lanes", shuffles_move_values_between_lanes},
    {"reductions are the butterflies", reductions_are_the_butterflies},
    {"barriers count those who left", barriers_count_those_who_left},
    {"warps may run apart between barriers", warps_may_run_apart_between_barriers},
    {"every thread of every block runs once", every_thread_of_every_block_runs_once},
    {"impossible launches are refused", impossible_launches_are_refused},
    {"asynchronous copies arrive in groups", asynchronous_copies_arrive_in_groups},
    {"bf16 rounds to nearest even", bf16_rounds_to_nearest_even},
    {"fast_exp is near exp", fast_exp_is_near_exp},
};
}  // namespace

LC_API int32_t LC(machine_promise)(int32_t i, const char** text) {
    return run_promise(kPromises, i, text);
}
