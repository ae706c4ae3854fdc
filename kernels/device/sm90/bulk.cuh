// bulk.cuh - what moves tiles on sm_90 without registers: mbarriers, tensor maps, bulk copies, clusters.
//
// An mbarrier counts arrivals and bytes of one phase; when both are complete the phase is over and the next begins. One
// thread says how many bytes it expects (mbarrier_expect: an arrival, and a number of bytes), starts copies that report to it,
// and whoever needs the tile waits for the phase by its parity: 0, 1, 0, ...
// A tensor map describes a matrix in global memory and a box of it; a copy moves one box into shared memory, swizzled: bits
// 4-6 of the address are xored with bits 7-9, so that the eight rows of 16 bytes that a product reads at once lie in eight
// different groups of banks. What lies outside the matrix arrives as zeros, and counts as bytes. With `ranks` the same box goes
// to the same place of several blocks of the cluster, each of which is told at its own mbarrier.
// A kernel that uses any of this has its body under LC_SM90: elsewhere it is empty, and its launcher refuses.
#pragma once
#include "device/kernel.cuh"

#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LC_SM90 1
#else
#define LC_SM90 0
#endif

struct Mbarrier {
    uint64_t state;
};
constexpr int kSwizzleBytes = 128, kSwizzleElems = kSwizzleBytes / 2, kSwizzleAlign = 1024;

#ifdef __CUDACC__
#include <cuda.h>
typedef CUtensorMap TensorMap;
#define LC_GRID_CONSTANT const __grid_constant__

// Boxes of box_outer rows of 64 elements of the 16-bit matrix [outer, inner], its rows `ld` elements apart.
inline lc_status make_tensor_map(TensorMap* map, const act* base, int inner, int outer, int ld, int box_outer) {
    typedef CUresult Encode(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    static Encode* const encode = [] {
        void* f = nullptr; // the runtime is asked, so that no build links the driver
        cudaDriverEntryPointQueryResult found;
        cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
        return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? (Encode*)f : nullptr;
    }();
    if (!encode) return lc_status{LC_UNSUPPORTED, 0, "a driver that knows cuTensorMapEncodeTiled"};
    const cuuint64_t size[2] = {(cuuint64_t)inner, (cuuint64_t)outer}, stride[1] = {(cuuint64_t)ld * sizeof(act)};
    const cuuint32_t box[2] = {kSwizzleElems, (cuuint32_t)box_outer}, step[2] = {1, 1};
    const CUresult r = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<act*>(base), size, stride, box, step,
                              CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? lc_status{LC_OK, 0, nullptr} : lc_status{LC_CUDA, (int32_t)r, "cuTensorMapEncodeTiled"};
}

// launch_clusters<kernel>(grid, block, cluster, shared bytes, stream, args...): neighbouring blocks along x run together.
template <auto K, class... A>
inline lc_status launch_clusters(dim3 grid, dim3 block, uint32_t cluster, size_t smem, lc_stream stream, A... args) {
    cudaError_t e = cudaFuncSetAttribute(K, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    if (e != cudaSuccess) return lc_status{LC_CUDA, (int32_t)e, "cudaFuncSetAttribute"};
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = smem;
    config.stream = reinterpret_cast<cudaStream_t>(stream), config.attrs = &attribute, config.numAttrs = 1;
    e = cudaLaunchKernelEx(&config, K, args...);
    return e == cudaSuccess ? lc_status{LC_OK, 0, nullptr} : lc_status{LC_CUDA, (int32_t)e, "launch"};
}

LC_INLINE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
// By one thread, before a cluster_barrier that shows it to all, copies included.
LC_INLINE void mbarrier_init(Mbarrier* b, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
LC_INLINE void mbarrier_expect(Mbarrier* b, uint32_t n_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(n_bytes)
                 : "memory");
}
// At the same mbarrier of block `rank` of the cluster. This and the wait say no scope: they order copies, products and a
// block's own memory. At cluster scope ptxas makes a MEMBAR.GPU of every arrival, and a wait empties L1.
LC_INLINE void mbarrier_arrive(Mbarrier* b, uint32_t rank) {
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(b)), "r"(rank));
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(there) : "memory");
}
LC_INLINE void mbarrier_wait(Mbarrier* b, uint32_t parity) {
    uint32_t over;
    do {
        asm volatile(
            "{\n.reg .pred p;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(over)
            : "r"(shared_address(b)), "r"(parity)
            : "memory");
    } while (!over);
}
LC_INLINE void tma_load(act* to, const TensorMap* map, int inner, int outer, Mbarrier* b) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 ::"r"(shared_address(to)), "l"(map), "r"(inner), "r"(outer), "r"(shared_address(b))
                 : "memory");
}
LC_INLINE void tma_load_ranks(act* to, const TensorMap* map, int inner, int outer, Mbarrier* b, uint32_t ranks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
        "l"(map), "r"(inner), "r"(outer), "r"(shared_address(b)), "h"((uint16_t)ranks)
        : "memory");
}
LC_INLINE void tma_prefetch(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
LC_INLINE uint32_t cluster_rank() {
    uint32_t r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
// All threads of all blocks of the cluster that have not left.
LC_INLINE void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Moves registers between warpgroups: a copying one needs few, a multiplying one many. By all of its threads.
template <int N>
LC_INLINE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
LC_INLINE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
#else
#include "host/hopper.h"
#define LC_GRID_CONSTANT const
using lc_host::TensorMap;

inline lc_status make_tensor_map(TensorMap* map, const act* base, int inner, int outer, int ld, int box_outer) {
    if ((uintptr_t)base % 16 || ld % 8 || box_outer < 1 || box_outer > 256)
        return lc_status{LC_MISALIGNED, 0, "a tensor map needs rows of 16-byte units and boxes of at most 256 rows"};
    *map = TensorMap{(const char*)base, (uint64_t)ld * 2,         (uint32_t)inner,
                     (uint32_t)outer,   (uint32_t)kSwizzleElems, (uint32_t)box_outer};
    return lc_status{LC_OK, 0, nullptr};
}
LC_INLINE void mbarrier_init(Mbarrier* b, uint32_t arrivals) { lc_host::mbarrier_init(b, arrivals); }
LC_INLINE void mbarrier_expect(Mbarrier* b, uint32_t n_bytes) {
    lc_host::mbarrier_arrive(b, lc_host::block->rank, n_bytes);
}
LC_INLINE void mbarrier_arrive(Mbarrier* b, uint32_t rank) { lc_host::mbarrier_arrive(b, rank, 0); }
LC_INLINE void mbarrier_wait(Mbarrier* b, uint32_t parity) { lc_host::mbarrier_wait(b, parity); }
static __attribute__((noinline)) void tma_load_ranks(act* to, const TensorMap* map, int inner, int outer, Mbarrier* b,
                                                     uint32_t ranks) {
    lc_host::tma_load(to, map, inner, outer, b, ranks, __builtin_return_address(0));
}
LC_INLINE void tma_load(act* to, const TensorMap* map, int inner, int outer, Mbarrier* b) {
    tma_load_ranks(to, map, inner, outer, b, 1u << lc_host::block->rank);
}
LC_INLINE void tma_prefetch(const TensorMap*) {}
LC_INLINE uint32_t cluster_rank() { return lc_host::block->rank; }
static inline void cluster_barrier() { lc_host::cluster_barrier(); }
template <int N>
LC_INLINE void give_registers() {}
template <int N>
LC_INLINE void take_registers() {}
#endif

// n elements on a multiple of 1024 bytes, where swizzled boxes begin: the first thing taken. Costs up to 1024 bytes.
LC_INLINE act* take_swizzled(Arena& arena, size_t n) {
    unsigned char* p = arena.take<unsigned char>(n * sizeof(act) + kSwizzleAlign);
#ifdef __CUDACC__
    const uint32_t at = shared_address(p);
#else
    const uint32_t at = lc_host::shared_offset(p);
#endif
    return reinterpret_cast<act*>(p + (kSwizzleAlign - at % kSwizzleAlign) % kSwizzleAlign);
}
