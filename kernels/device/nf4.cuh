// nf4.cuh - the sixteen values of NF4, the scale of a block, and eight weights at a time.
//
// NF4_TABLE(name) makes the values readable by any index at full speed: on a GPU sixteen words of shared memory lie in
// sixteen banks, so that no two lanes ever conflict (constant memory would serialise them); a plain array on the host.
// NF4_PAIRS(name, T) makes name(packed, i) both values of byte i, as float2 or act2, in one load: on a GPU the 256 pairs lie
// side by side as often as fill 128 bytes (32 KB in all), a copy for each bank or pair of banks, so that no lane waits for
// another (with one copy a half-warp waits three times as long), and the place of a pair is a shift and one LOP3.
// mul_rn and add_rn are never contracted into a fused multiply-add: scales must come out bit for bit as bitsandbytes'.
#pragma once
#include "device/kernel.cuh"
#include "nf4.h"

static __constant__ float kNf4Map[16] = {-1.0f,
                                         -0.6961928009986877f,
                                         -0.5250730514526367f,
                                         -0.39491748809814453f,
                                         -0.28444138169288635f,
                                         -0.18477343022823334f,
                                         -0.09105003625154495f,
                                         0.0f,
                                         0.07958029955625534f,
                                         0.16093020141124725f,
                                         0.24611230194568634f,
                                         0.33791524171829224f,
                                         0.44070982933044434f,
                                         0.5626170039176941f,
                                         0.7229568362236023f,
                                         1.0f};

LC_INLINE void nf4_pair(float first, float second, float2& pair) { pair = make_float2(first, second); }
LC_INLINE void nf4_pair(float first, float second, act2& pair) { pair = pack2(first, second); }

#ifdef __CUDACC__
#define NF4_TABLE(name)                                          \
    __shared__ float name[16];                                   \
    if (threadIdx.x < 16) name[threadIdx.x] = kNf4Map[threadIdx.x]; \
    __syncthreads()
// a & kMask | b: by itself the compiler masks before it shifts, and needs a second LOP3.
template <uint32_t kMask>
LC_INLINE uint32_t mask_or(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "n"(kMask), "r"(b));
    return r;
}
LC_INLINE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
LC_INLINE float add_rn(float a, float b) { return __fadd_rn(a, b); }
LC_INLINE uint32_t load4(const uint8_t* p) { return *reinterpret_cast<const uint32_t*>(p); }
// Bytes that are read once and should not push others out of L1.
LC_INLINE uint32_t load4_once(const uint8_t* p) {
    uint32_t v;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
LC_INLINE uint2 load8_once(const uint8_t* p) {
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
#else
#define NF4_TABLE(name) const float* const name = kNf4Map
template <uint32_t kMask>
LC_INLINE uint32_t mask_or(uint32_t a, uint32_t b) {
    return (a & kMask) | b;
}
LC_INLINE float mul_rn(float a, float b) {
    volatile float product = a * b; // through memory: the compiler cannot fuse it with what follows
    return product;
}
LC_INLINE float add_rn(float a, float b) { return a + b; }
LC_INLINE uint32_t load4(const uint8_t* p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
LC_INLINE uint32_t load4_once(const uint8_t* p) { return load4(p); }
LC_INLINE uint2 load8_once(const uint8_t* p) { return *reinterpret_cast<const uint2*>(p); }
#endif

// NF4_PAIRS(name, T): the two values of a byte as a T, at name(packed, i) for byte i of four. On a GPU a table in shared
// memory, copied so often that no two lanes meet in a bank; a CPU looks the values up one by one, except in the builds that
// stand for a GPU (checked, lanewise).
#if defined(__CUDACC__) || LC_CHECKED || defined(LC_LANEWISE)
#define NF4_PAIRS(name, T)                               \
    SHARED(T, name##_pairs, 256 * Nf4Pairs<T>::kCopies); \
    nf4_fill(name##_pairs);                              \
    __syncthreads();                                     \
    const Nf4Pairs<T> name = {name##_pairs, threadIdx.x % Nf4Pairs<T>::kCopies}
// A byte's copies fill 128 bytes: eight stores, which neighbouring lanes begin in different banks. A lane looks up one value
// and hands it round: sixteen places of constant memory at once would be served one after another.
template <class T>
LC_INLINE void nf4_fill(T* pairs) {
    constexpr unsigned kUnits = 16 / sizeof(T);
    struct alignas(16) Unit {
        T of[kUnits];
    };
    const float mine = kNf4Map[threadIdx.x % 16];
    for (unsigned byte = threadIdx.x; byte < 256; byte += blockDim.x) { // whole warps
        Unit unit;
        nf4_pair(__shfl_sync(0xffffffffu, mine, byte >> 4), __shfl_sync(0xffffffffu, mine, byte & 15), unit.of[0]);
        UNROLL
        for (unsigned i = 1; i < kUnits; i++) unit.of[i] = unit.of[0];
        UNROLL
        for (unsigned i = 0; i < 8; i++) reinterpret_cast<Unit*>(pairs)[byte * 8 + (i + byte) % 8] = unit;
    }
}
template <class T>
struct Nf4Pairs {
    static constexpr int kCopies = 128 / sizeof(T), kShift = sizeof(T) == 4 ? 5 : 4;
    const T* pairs;
    uint32_t copy;
    LC_INLINE T operator()(uint32_t packed, int i) const {
        const uint32_t shifted = i == 0 ? packed << kShift : packed >> (8 * i - kShift);
        return pairs[mask_or<255u << kShift>(shifted, copy)];
    }
};
#else
#define NF4_PAIRS(name, T) const Nf4Pairs<T> name
template <class T>
struct Nf4Pairs {
    LC_INLINE T operator()(uint32_t packed, int i) const {
        const uint32_t byte = packed >> (8 * i) & 255;
        T pair;
        nf4_pair(kNf4Map[byte >> 4], kNf4Map[byte & 15], pair);
        return pair;
    }
};
#endif

LC_INLINE float nf4_nested_scale(const lc_nf4& w, size_t block) {
    const float code = w.nested_map[w.absmax_q[block]];
    return add_rn(mul_rn(code, w.nested_absmax[block / LC_NF4_NESTED_BLOCK]), w.offset[0]);
}
LC_INLINE float nf4_scale(const lc_nf4& w, size_t block) {
    return w.absmax ? w.absmax[block] : nf4_nested_scale(w, block);
}

// Scales of 32 neighbouring blocks from `first` on, asked for by the whole warp: each lane decodes one.
struct Nf4Scales {
#if defined(__CUDACC__) || LC_CHECKED || defined(LC_LANEWISE)
    float mine;
    LC_INLINE Nf4Scales(const lc_nf4& w, size_t first) : mine(nf4_scale(w, first + threadIdx.x % 32)) {}
    LC_INLINE float operator()(int i) const { return __shfl_sync(0xffffffffu, mine, i); }
#else // threads that never meet stay a plain loop
    const lc_nf4& w;
    size_t first;
    LC_INLINE Nf4Scales(const lc_nf4& w, size_t first) : w(w), first(first) {}
    LC_INLINE float operator()(int i) const { return nf4_scale(w, first + i); }
#endif
};

// Eight codes in four bytes, the earlier element in the high nibble of its byte.
LC_INLINE void nf4_decode8(const float* table, uint32_t packed, float (&v)[8]) {
    UNROLL
    for (int i = 0; i < 4; i++) {
        const uint32_t byte = packed >> (8 * i) & 255;
        v[2 * i] = table[byte >> 4];
        v[2 * i + 1] = table[byte & 15];
    }
}

// How many of the fifteen midpoints lie strictly below x: a tie goes down.
LC_INLINE int nf4_code(float x) {
    int code = 0;
    UNROLL
    for (int i = 0; i < 15; i++) code += x > (kNf4Map[i] + kNf4Map[i + 1]) * 0.5f;
    return code;
}

// A launcher's check: everything is there, and aligned for the loads above.
inline const char* nf4_fault(const lc_nf4& w) {
    if (w.N <= 0 || w.K <= 0) return "N > 0 && K > 0";
    if (!w.packed || !aligned16(w.packed)) return "packed is there and 16-byte aligned";
    if (!w.absmax && !(w.absmax_q && w.nested_absmax && w.nested_map && w.offset)) return "absmax, or all of its nested form";
    return nullptr;
}
