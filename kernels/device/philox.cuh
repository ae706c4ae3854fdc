// philox.cuh - Philox 4x32-10 (Salmon et al. 2011): random numbers as a function of a key and a counter, without state.
//
// Any element's number can be had at any time: the same on every device, with recompute, resume, or another launch shape.
#pragma once
#include "device/kernel.cuh"

// Four random words for (key, counter).
LC_INLINE uint4 philox(uint2 key, uint4 counter) {
    UNROLL
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}
