// async_copy.cuh - eight elements from global to shared memory without passing through registers (cp.async, sm_80).
//
// copy8_async(dst, src, valid): valid == false writes zeros and reads nothing; copy_float_async is the same for one float,
// for arrays of statistics that start anywhere. async_commit() closes a group;
// async_wait<N>() waits until at most N groups are under way, for this thread: a barrier must follow before other
// threads read. The host copies at once, or, in checked builds, when it is waited for, so that a missing wait shows.
#pragma once
#include "device/kernel.cuh"

#ifdef __CUDACC__
LC_INLINE void copy8_async(act* dst, const act* src, bool valid) {
    unsigned d = (unsigned)__cvta_generic_to_shared(dst);
    int n_bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(d), "l"(src), "r"(n_bytes));
}
LC_INLINE void copy_float_async(float* dst, const float* src, bool valid) {
    unsigned d = (unsigned)__cvta_generic_to_shared(dst);
    int n_bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(d), "l"(src), "r"(n_bytes));
}
LC_INLINE void async_commit() { asm volatile("cp.async.commit_group;" ::); }
template <int N>
LC_INLINE void async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
}
#elif LC_CHECKED
LC_INLINE void copy8_async(act* dst, const act* src, bool valid) {
    lc_host::check_async_copy(dst, src, sizeof(act8), valid);
}
LC_INLINE void copy_float_async(float* dst, const float* src, bool valid) {
    lc_host::check_async_copy(dst, src, sizeof(float), valid);
}
LC_INLINE void async_commit() { lc_host::check_async_commit(); }
template <int N>
LC_INLINE void async_wait() {
    lc_host::check_async_wait(N);
}
#else
LC_INLINE void copy8_async(act* dst, const act* src, bool valid) {
    if (valid)
        *reinterpret_cast<act8*>(dst) = *reinterpret_cast<const act8*>(src);
    else
        memset(dst, 0, sizeof(act8));
}
LC_INLINE void copy_float_async(float* dst, const float* src, bool valid) { *dst = valid ? *src : 0.f; }
LC_INLINE void async_commit() {}
template <int N>
LC_INLINE void async_wait() {}
#endif
