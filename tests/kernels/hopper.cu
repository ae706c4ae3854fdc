// hopper.cu - what the CUDA machine promises of sm_90's parts: clusters, mbarriers, bulk copies, products of a warpgroup.
//
// As machine.cu: small kernels whose results are known, compiled in every variant and run by tests/machine. The swizzle and the
// layouts are transcribed from the PTX manual (tensor maps, CU_TENSOR_MAP_SWIZZLE_128B; wgmma, m64nNk16), not from the
// machine's code; products use small integers, so every order of summation is exact.
#include "device/sm90/wgmma.cuh"
#include "promises.h"

#ifndef LC_FP32
namespace {
// ---- bulk copies ----------------------------------------------------------------------------------------------------
// One box of 16 rows; the block's threads then say what lies where.
__global__ void one_box(TensorMap map, int inner, int outer, uint16_t* out) {
    Arena arena;
    act* const box = take_swizzled(arena, 16 * 64);
    Mbarrier* const full = arena.take<Mbarrier>(1);
    if (threadIdx.x == 0) mbarrier_init(full, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(full, 16 * 64 * sizeof(act));
        tma_load(box, &map, inner, outer, full);
    }
    mbarrier_wait(full, 0);
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * 64; i += 32) out[i] = box[i].bits;
}

bool a_bulk_copy_swizzles_and_fills_with_zeros() {
    const int rows = 20, columns = 72, ld = 80;
    Global<act> in(rows * ld);
    for (int i = 0; i < rows * ld; i++) in.v[i].bits = (uint16_t)(1 + i);
    TensorMap map;
    RUN(make_tensor_map(&map, in.p(), columns, rows, ld, 16));
    for (auto [inner, outer] : {std::pair<int, int>{0, 0}, {32, 8}, {64, 16}, {0, 64}}) {
        Global<uint16_t> out(16 * 64);
        RUN(launch<one_box>(dim3(1), dim3(32), 4096, nullptr, map, inner, outer, out.p()));
        for (int r = 0; r < 16; r++)
            for (int c = 0; c < 64; c++) {
                // The manual's 128-byte swizzle: of each group of eight rows, row r has its 16-byte units xored with r.
                const int at = r * 64 + ((c / 8) ^ (r % 8)) * 8 + c % 8, x = inner + c, y = outer + r;
                const int want = x < columns && y < rows ? (uint16_t)(1 + y * ld + x) : 0;
                EXPECT(out.v[at] == want, "row %d column %d: %d, not %d", r, c, out.v[at], want);
            }
    }
    return true;
}

// ---- clusters -------------------------------------------------------------------------------------------------------
// Every block sends its number to both; then each arrives at the other's mbarrier, and waits for its own.
__global__ void exchange(TensorMap map, uint16_t* out) {
    Arena arena;
    act* const boxes = take_swizzled(arena, 2 * 8 * 64);
    Mbarrier *const full = arena.take<Mbarrier>(1), *const other = arena.take<Mbarrier>(1);
    const uint32_t rank = cluster_rank();
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(other, 1);
    }
    cluster_barrier();
    if (threadIdx.x == 0) {
        mbarrier_expect(full, 2 * 8 * 64 * sizeof(act));
        tma_load_ranks(boxes + rank * 8 * 64, &map, 0, (int)blockIdx.x * 8, full, 3);
        mbarrier_arrive(other, rank ^ 1);
        mbarrier_wait(other, 0);
    }
    mbarrier_wait(full, 0);
    __syncthreads();
    if (threadIdx.x < 2) out[blockIdx.x * 2 + threadIdx.x] = boxes[threadIdx.x * 8 * 64].bits;
    cluster_barrier();
}

bool blocks_of_a_cluster_send_to_each_other() {
    const int n_blocks = 6;
    Global<act> in(n_blocks * 8 * 64);
    for (int b = 0; b < n_blocks; b++)
        for (int i = 0; i < 8 * 64; i++) in.v[b * 8 * 64 + i].bits = (uint16_t)(100 + b);
    TensorMap map;
    RUN(make_tensor_map(&map, in.p(), 64, n_blocks * 8, 64, 8));
    Global<uint16_t> out(2 * n_blocks);
    RUN(launch_clusters<exchange>(dim3(n_blocks), dim3(64), 2, 8192, nullptr, map, out.p()));
    for (int b = 0; b < n_blocks; b++)
        for (int r = 0; r < 2; r++)
            EXPECT(out.v[b * 2 + r] == 100 + b / 2 * 2 + r, "block %d has %d from rank %d", b, out.v[b * 2 + r], r);
    EXPECT(launch_clusters<exchange>(dim3(3), dim3(64), 2, 8192, nullptr, map, out.p()).code == LC_BAD_SHAPE,
           "half a cluster was launched");
    return true;
}

// A ring of one place between two warps: the first writes i, the second adds up what it reads.
__global__ void ping_pong(int n, int* sum) {
    SHARED(int, place, 1);
    SHARED(Mbarrier, full, 1);
    SHARED(Mbarrier, empty, 1);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 32);
        mbarrier_init(empty, 1);
    }
    __syncthreads();
    int total = 0;
    for (int i = 0; i < n; i++) {
        if (threadIdx.x < 32) {
            mbarrier_wait(empty, (i & 1) ^ 1);
            if (threadIdx.x == (unsigned)i % 32) *(volatile int*)place = i;
            mbarrier_arrive(full, 0);
        } else {
            mbarrier_wait(full, i & 1);
            total += *(volatile int*)place;
            __syncwarp();
            if (threadIdx.x == 32) mbarrier_arrive(empty, 0);
        }
    }
    if (threadIdx.x == 63) *sum = total;
}

bool phases_of_mbarriers_alternate() {
#if !LC_CHECKED // plain reads and writes that only mbarriers order are no part of the checked build's books
    Global<int> sum(1);
    for (int n : {1, 2, 7, 64}) {
        RUN(launch<ping_pong>(dim3(1), dim3(64), 0, nullptr, n, sum.p()));
        EXPECT(sum.v[0] == n * (n - 1) / 2, "%d: %d", n, sum.v[0]);
    }
#endif
    return true;
}

// ---- products of a warpgroup ----------------------------------------------------------------------------------------
// D[64, 8 NT] = A[64, 64] B, twice over, with B [N, 64] (kRows) or [64, N] (kCols), A from shared memory or registers.
template <Major B, int NT, bool kRegisters>
__global__ void one_product(TensorMap map_a, TensorMap map_b, const act* a, float* out) {
    Arena arena;
    act *const tile_a = take_swizzled(arena, 64 * 64), *const tile_b = take_swizzled(arena, 64 * NT * 8);
    Mbarrier* const full = arena.take<Mbarrier>(1);
    if (threadIdx.x == 0) mbarrier_init(full, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_expect(full, (64 * 64 + 64 * NT * 8) * sizeof(act));
        tma_load(tile_a, &map_a, 0, 0, full);
        if (B == Major::kRows) {
            tma_load(tile_b, &map_b, 0, 0, full);
        } else {
            for (int n = 0; n < NT * 8; n += 64) tma_load(tile_b + n * 64, &map_b, n, 0, full);
        }
    }
    mbarrier_wait(full, 0);
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, pair = lane % 4 * 2;
    act2 regs[4][1][4];
    for (int s = 0; s < 4; s++)
        for (int r = 0; r < 4; r++) {
            const act* p = a + (row + r % 2 * 8) * 64 + s * 16 + pair + r / 2 * 8;
            regs[s][0][r] = pack2(to_f(p[0]), to_f(p[1]));
        }
    float acc[NT][4];
    for (int j = 0; j < NT; j++)
        for (int r = 0; r < 4; r++) acc[j][r] = 0.f;
    for (int time = 0; time < 2; time++) {
        warpgroup_begin();
        if constexpr (kRegisters)
            warpgroup_mma_ra<4, B>(acc, regs, tile_b);
        else
            warpgroup_mma<4, B>(acc, tile_a, tile_b);
        warpgroup_commit();
        warpgroup_wait<1>(acc);
    }
    warpgroup_wait<0>(acc);
    for (int j = 0; j < NT; j++)
        for (int r = 0; r < 4; r++) out[(row + r / 2 * 8) * NT * 8 + j * 8 + pair + r % 2] = acc[j][r];
}

template <Major B, int NT, bool kRegisters>
bool product_is_right() {
    constexpr int N = NT * 8;
    Global<act> a(64 * 64), b(64 * N);
    Global<float> out(64 * N);
    uint32_t state = NT;
    for (act& v : a.v) v = from_f(small_integer(state));
    for (act& v : b.v) v = from_f(small_integer(state));
    TensorMap map_a, map_b;
    RUN(make_tensor_map(&map_a, a.p(), 64, 64, 64, 64));
    if (B == Major::kRows)
        RUN(make_tensor_map(&map_b, b.p(), 64, N, 64, N));
    else
        RUN(make_tensor_map(&map_b, b.p(), N, 64, N, 64));
    RUN(launch<one_product<B, NT, kRegisters>>(dim3(1), dim3(128), 65536, nullptr, map_a, map_b, (const act*)a.p(),
                                               out.p()));
    for (int m = 0; m < 64; m++)
        for (int n = 0; n < N; n++) {
            float want = 0.f;
            for (int k = 0; k < 64; k++)
                want += to_f(a.v[m * 64 + k]) * to_f(b.v[B == Major::kRows ? n * 64 + k : k * N + n]);
            EXPECT(out.v[m * N + n] == 2 * want, "N %d, row %d column %d: %g, not %g", N, m, n, out.v[m * N + n], 2 * want);
        }
    return true;
}

bool products_of_a_warpgroup_equal_the_triple_loop() {
    return product_is_right<Major::kRows, 8, false>() && product_is_right<Major::kRows, 16, false>() &&
           product_is_right<Major::kRows, 24, false>() && product_is_right<Major::kRows, 32, false>() &&
           product_is_right<Major::kCols, 8, false>() && product_is_right<Major::kCols, 16, false>() &&
           product_is_right<Major::kCols, 24, false>() && product_is_right<Major::kCols, 32, false>() &&
           product_is_right<Major::kRows, 8, true>() && product_is_right<Major::kCols, 16, true>();
}

const Promise kPromises[] = {
    {"a bulk copy swizzles, and fills with zeros", a_bulk_copy_swizzles_and_fills_with_zeros},
    {"blocks of a cluster send to each other", blocks_of_a_cluster_send_to_each_other},
    {"phases of mbarriers alternate", phases_of_mbarriers_alternate},
    {"products of a warpgroup equal the triple loop", products_of_a_warpgroup_equal_the_triple_loop},
};
}  // namespace

LC_API int32_t LC(hopper_promise)(int32_t i, const char** text) {
    return run_promise(kPromises, i, text);
}
#endif
