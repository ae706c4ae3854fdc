// matmul_wgmma.cu - y = alpha A B on Hopper's tensor cores (matmul_wgmma.h): sm_90a, and the CPU device.
//
// precision  as matmul.cu: bf16 inputs, fp32 accumulation over all of K, one rounding when y is stored.
// work       a cluster of two blocks makes tiles of 2 x 128 rows and BN columns: each block 128 rows, both the same columns,
//            so that each fetches half of B and sends it to both. Blocks stay for many tiles (persistent). Of a block's three
//            warpgroups one only copies, giving its registers to the two that multiply 64 rows each, BN columns wide, in up
//            to 128 registers of accumulators a thread. A ring of stages of 64 of k lies between them, one pair of mbarriers
//            a stage: `full` counts bytes that arrive, `empty` the warps of both blocks that are done with it. While
//            warpgroups store a tile the ring fills with the next one's.
//            A product runs while its predecessor's stage is released: one group is always under way.
// raster     clusters walk down eight pairs of rows before they step along N: what is read twice is still in L2.
// store      lanes exchange halves with their neighbour, so that four lanes fill sectors of 32 bytes. No staging in shared
//            memory: it would cost a stage of the ring.
// edges      outside a matrix copies bring zeros; nothing is stored there. K that is no multiple of 64 ends in a stage of
//            which only the 16-wide steps with something in them are multiplied: LoRA's rank 16 costs a quarter of a stage.
// order      every sum runs along k in one warpgroup: the same bytes on every run.
// cost       a stage of 128 x 256 x 64 takes 1024 cycles of the tensor cores (4096 flops a cycle and multiprocessor) and
//            reads 80 bytes of shared memory a cycle, of 128; L2 sends each block 16 KiB of A and 16 of B a stage, 32 a cycle.
// checked    tests/ops/matmul.rs against tools/golden/matmul.py, tests/kernels/hopper.cu
#include "matmul_wgmma.h"
#include "device/matmul.cuh"
#include "device/sm90/matmul_ring.cuh"

#ifndef LC_FP32
namespace {
// Narrower tiles waste less of the last wave (N = 5120) and read more shared memory a product, 86 bytes a cycle at 192 columns
// and 96 at 128. What that costs is predicted.
template <lc_layout L>
lc_status run_by_waves(const RingArgs& a, int tile, lc_stream stream) {
    const float wide = cost_of<Wide>(a, 1.f), medium = cost_of<Medium>(a, 1.03f), slim = cost_of<Slim>(a, 1.1f);
    if (!tile) tile = wide <= medium && wide <= slim ? 1 : medium <= slim ? 2 : 3;
    switch (tile) {
        case 1: return run_ring<L, Wide, false>(a, stream);
        case 2: return run_ring<L, Medium, false>(a, stream);
        case 3: return run_ring<L, Slim, false>(a, stream);
    }
    return lc_status{LC_UNSUPPORTED, tile, "tile is 0 to 3"};
}
} // namespace
#endif

LC_API lc_status LC(matmul_wgmma)(const lc_matmul_args* a, lc_stream stream) {
#ifdef LC_FP32
    (void)a, (void)stream;
    return lc_status{LC_UNSUPPORTED, 0, "operands of 16 bits"};
#else
#ifdef __CUDACC__
    LC_REQUIRE(this_gpu().architecture == 90, LC_UNSUPPORTED);
#endif
    LC_TRY(matmul_fault(*a));
    LC_REQUIRE((a->layout == LC_NT || a->layout == LC_NN) && a->n_slices == 1, LC_UNSUPPORTED);
    RingArgs ring = {};
    ring.n_outputs = a->n_outputs, ring.M = a->M, ring.add = a->write == LC_ADD, ring.alpha = a->alpha;
    for (int o = 0; o < a->n_outputs; o++) ring.output[o] = a->output[o];
    for (int i = 0; i < LC_MAX_SEGMENTS; i++) {
        const lc_matmul_segment& s = a->segment[i];
        ring.segment[i] = RingSegment{s.a, s.b, nullptr, nullptr, s.K, s.lda, s.ldb};
    }
    return a->layout == LC_NT ? run_by_waves<LC_NT>(ring, a->tile, stream) : run_by_waves<LC_NN>(ring, a->tile, stream);
#endif
}
