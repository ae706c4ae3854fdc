// planted_hopper.cu - one small pipeline of bulk copies and products, right, and wrong in one of four ways.
//
// tests/machine/checked_hopper.rs runs it in the checked build: the right one gives the right sum without a word, and of each
// wrong one the fault is named at the marked line ("BUG <name>"), or its result is no number.
#include "device/sm90/wgmma.cuh"
#include <vector>

#if LC_CHECKED && !defined(LC_FP32)
namespace {
enum class Fault { kNone, kNoWaitForCopy, kNoWaitForRelease, kReleaseTooEarly, kSumTooEarly };

// out[64,64] = sum over `n` boxes of A_i B_i^T, one stage.
template <Fault F>
__global__ void pipeline(TensorMap map_a, TensorMap map_b, int n, float* out) {
    Arena arena;
    act *const a = take_swizzled(arena, 64 * 64), *const b = take_swizzled(arena, 64 * 64);
    Mbarrier *const full = arena.take<Mbarrier>(1), *const empty = arena.take<Mbarrier>(1);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 4);
    }
    __syncthreads();
    if (threadIdx.x == 128) {
        for (int i = 0; i < n; i++) {
            if (F != Fault::kNoWaitForRelease) mbarrier_wait(empty, (i & 1) ^ 1);
            mbarrier_expect(full, 2 * 64 * 64 * sizeof(act));
            tma_load(a, &map_a, i * 64, 0, full);  // BUG release_too_early
            tma_load(b, &map_b, i * 64, 0, full);
            if (F == Fault::kNoWaitForRelease && i == 0) mbarrier_wait(full, 0);
        }
    }
    if (threadIdx.x >= 128) return;
    float acc[8][4] = {};
    for (int i = 0; i < n; i++) {
        // (Waiting for both phases, it would hang: as on a GPU, one of two parities is missed.)
        if (F != Fault::kNoWaitForCopy && (F != Fault::kNoWaitForRelease || i == 0)) mbarrier_wait(full, i & 1);
        warpgroup_begin();
        warpgroup_mma<4, Major::kRows>(acc, a, b);  // BUG no_wait_for_copy, no_wait_for_release
        warpgroup_commit();
        if (F == Fault::kReleaseTooEarly && threadIdx.x % 32 == 0) mbarrier_arrive(empty, 0);
        if (F == Fault::kReleaseTooEarly && i + 1 < n) mbarrier_wait(full, (i & 1) ^ 1);
        if (F != Fault::kSumTooEarly) warpgroup_wait<0>(acc);
        if (F != Fault::kReleaseTooEarly && threadIdx.x % 32 == 0) mbarrier_arrive(empty, 0);
    }
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    for (int j = 0; j < 8; j++)
        for (int r = 0; r < 4; r++) out[(row + r / 2 * 8) * 64 + j * 8 + lane % 4 * 2 + r % 2] = acc[j][r];
    if (F == Fault::kSumTooEarly) warpgroup_wait<0>(acc);
}

template <Fault F>
lc_status run(const act* ab, int n, float* out) {
    TensorMap a, b;
    LC_TRY(make_tensor_map(&a, ab, n * 64, 64, n * 64, 64));
    LC_TRY(make_tensor_map(&b, ab + 64 * n * 64, n * 64, 64, n * 64, 64));
    return launch<pipeline<F>>(dim3(1), dim3(160), 32768, nullptr, a, b, n, out);
}
}  // namespace

// ab: [2, 64, 64 n], out: [64, 64].
LC_API lc_status LC(planted_hopper)(int32_t which, const act* ab, int32_t n, float* out) {
    switch ((Fault)which) {
        case Fault::kNone: return run<Fault::kNone>(ab, n, out);
        case Fault::kNoWaitForCopy: return run<Fault::kNoWaitForCopy>(ab, n, out);
        case Fault::kNoWaitForRelease: return run<Fault::kNoWaitForRelease>(ab, n, out);
        case Fault::kReleaseTooEarly: return run<Fault::kReleaseTooEarly>(ab, n, out);
        case Fault::kSumTooEarly: return run<Fault::kSumTooEarly>(ab, n, out);
    }
    return lc_status{LC_UNSUPPORTED, which, "which is 0 to 4"};
}
#endif
