// packed.cuh - a micro-batch is T tokens of S sequences laid end to end; cu_seqlens[S+1] says where each begins.
#pragma once
#include "device/kernel.cuh"

// The sequence that token t belongs to: the last whose beginning is at or before t (an empty one is passed over).
LC_INLINE int sequence_of(const int32_t* cu_seqlens, int S, int t) {
    int lo = 0, hi = S; // cu_seqlens[lo] <= t < cu_seqlens[hi]
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (cu_seqlens[mid] <= t)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}
