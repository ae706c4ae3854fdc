// hopper.cpp - mbarriers, bulk tensor copies, clusters and products of a warpgroup (hopper.h), as the PTX manual has them.
#include "lc.h"
#include "host/hopper.h"
#include "host/leaf_fp8.h"

namespace lc_host {
namespace {
Mbarrier* at_rank(void* barrier, uint32_t rank) {
    return (Mbarrier*)(block->cluster[rank]->smem + shared_offset(barrier));
}

Mbarrier& in_use(Mbarrier* barrier) {
    if (!barrier->ready) die("an mbarrier is used that nobody has initialised");
    return *barrier;
}

void complete(Mbarrier& b, const Block* of) {
    if (b.missing || b.n_bytes) return;
#if LC_CHECKED
    check_mbarrier_complete(&b, of);
#endif
    b.parity ^= 1;
    b.missing = b.expected;
    got_on();
}
}  // namespace

void mbarrier_init(void* barrier, uint32_t arrivals) {
    *(Mbarrier*)barrier = Mbarrier{0, 1, arrivals, arrivals, 0};
}

void mbarrier_arrive(void* barrier, uint32_t rank, uint32_t n_bytes) {
    const Block* of = block->cluster[rank];
    Mbarrier& b = in_use(at_rank(barrier, rank));
    if (!of->live) die("a block of the cluster has left while another still arrives at its mbarrier");
    if (!b.missing) die("one arrival too many at an mbarrier");
#if LC_CHECKED
    check_mbarrier_arrive(&b, of);
#endif
    b.n_bytes += (int32_t)n_bytes;
    b.missing--;
    complete(b, of);
}

void mbarrier_wait(void* barrier, uint32_t parity) {
    Mbarrier& b = in_use((Mbarrier*)barrier);
    while (b.parity == parity) {
#if LC_CHECKED
        if (check_one_copy()) continue;
#endif
        wait_a_turn();
    }
    block->polls = 0;
#if LC_CHECKED
    check_mbarrier_waited(&b);
#endif
}

// One box into one block's shared memory, and the arrival of its bytes.
void copy_box(Block* to_block, uint32_t to, const TensorMap& map, int inner, int outer, uint32_t barrier) {
    for (uint32_t r = 0; r < map.box_outer; r++)
        for (uint32_t c = 0; c < map.box_inner; c += 8) {
            uint16_t unit[8] = {};
            for (uint32_t i = 0; i < 8; i++) {
                const int64_t x = (int64_t)inner + c + i, y = (int64_t)outer + r;
                if (x >= 0 && y >= 0 && x < map.inner && y < map.outer)
                    memcpy(&unit[i], map.base + (uint64_t)y * map.row_bytes + (uint64_t)x * 2, 2);
            }
            memcpy(to_block->smem + swizzle(to + r * kSwizzleRow + c * 2), unit, 16);
        }
    Mbarrier& b = in_use((Mbarrier*)(to_block->smem + barrier));
    b.n_bytes -= (int32_t)(map.box_outer * map.box_inner * 2);
    complete(b, to_block);
}

void tma_load(void* to, const TensorMap* map, int inner, int outer, void* barrier, uint32_t ranks, const void* pc) {
    if (shared_offset(to) % 1024) die("a bulk copy with this swizzle goes to a multiple of 1024 bytes");
#if LC_CHECKED
    check_copy(to, map, inner, outer, barrier, ranks, pc);
#else
    (void)pc;
    for (uint32_t r = 0; r < kMaxCluster; r++)
        if (ranks >> r & 1)
            copy_box(block->cluster[r], shared_offset(to), *map, inner, outer, shared_offset(barrier));
#endif
}

void cluster_barrier() {
    Fiber* f = current;
    enter_warp(f);
    Block* first = block->cluster[0];
    // Counted in the cluster's first block. Whoever looks last lets all go: who has left counts as arrived.
    const uint32_t generation = first->cluster_generation;
    first->at_cluster_barrier++;
    for (;;) {
        if (first->cluster_generation != generation) return;
        uint32_t live = 0;
        for (uint32_t r = 0; r < block->launch->cluster; r++) live += block->cluster[r]->live;
        if (first->at_cluster_barrier >= live) break;
        wait_a_turn();
    }
    first->at_cluster_barrier = 0;
    first->cluster_generation++;
    got_on();
#if LC_CHECKED
    check_cluster_epoch();
#endif
}

// The 16 bytes of row `row`, eight elements from `unit * 8` on (K-major); or of k row `row`, eight columns from there.
static uint32_t unit_at(uint64_t descriptor, uint32_t row, uint32_t unit, bool cols) {
    const uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4, leading = (uint32_t)(descriptor >> 16 & 0x3fff) << 4,
                   stride = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
    const uint32_t at = cols ? start + unit / 8 * leading + unit % 8 * 16 + row / 8 * stride + row % 8 * kSwizzleRow
                             : start + row / 8 * stride + row % 8 * kSwizzleRow + unit * 16;
    return swizzle(at);
}

namespace {
constexpr int kMaxColumns = 256, kMaxSteps = 8, kLdA = kMaxSteps * 16;
int ldb(const WarpgroupCall& call) { return call.b_cols ? call.nt * 8 : call.ks * 16 + 8; }
// What the running warp reads: each(16 bytes of shared memory, of A?, where among its elements), eight rows of a core matrix
// after one another.
template <class Each>
void each_unit(const WarpgroupCall& call, bool a_in_registers, Each each) {
    if (call.ks > kMaxSteps || call.nt * 8 > kMaxColumns) die("hopper.cpp: larger products of a warpgroup");
    if (call.b >> 62 != 1 || (!a_in_registers && call.a >> 62 != 1)) die("a descriptor without the swizzle of 128 bytes");
    const uint32_t first_row = (uint32_t)(current - block->fiber) / 32 % 4 * 16, n = (uint32_t)call.nt * 8;
    for (uint32_t s = 0; s < (uint32_t)call.ks; s++) {
        const uint64_t a = call.a + (uint64_t)s * call.a_step, b = call.b + (uint64_t)s * call.b_step;
        for (uint32_t u = 0; u < 2 && !a_in_registers; u++)
            for (uint32_t r = 0; r < 16; r++) each(unit_at(a, first_row + r, u, false), true, r * kLdA + s * 16 + u * 8);
        const uint32_t rows = call.b_cols ? 16 : n, units = call.b_cols ? n / 8 : 2;
        for (uint32_t u = 0; u < units; u++)
            for (uint32_t r = 0; r < rows; r++)
                each(unit_at(b, r, u, call.b_cols), false,
                     call.b_cols ? (s * 16 + r) * ldb(call) + u * 8 : r * ldb(call) + s * 16 + u * 8);
    }
}
}  // namespace

void each_read(const WarpgroupCall& call, bool a_in_registers, void (*each)(uint32_t at, const void* pc)) {
    each_unit(call, a_in_registers, [&](uint32_t at, bool, uint32_t) { each(at, call.pc); });
}

void warpgroup_product(const WarpgroupCall& call, float* const* acc, const void* const* a_regs) {
    static __thread uint16_t a[16 * kLdA], b[kMaxColumns * (kMaxSteps * 16 + 8)];
    const char* smem = block->smem;
    each_unit(call, a_regs, [&](uint32_t at, bool of_a, uint32_t to) { memcpy((of_a ? a : b) + to, smem + at, 16); });
    for (int j = 0; j < call.nt; j += kMaxN / 8) {
        const int nt = call.nt - j < kMaxN / 8 ? call.nt - j : kMaxN / 8;
        float* part[32];
        for (int l = 0; l < 32; l++) part[l] = acc[l] + j * 4;
        const uint16_t* from = b + (call.b_cols ? j * 8 : j * 8 * ldb(call));
        if (call.e4m3) // what was read as 16-bit elements is pairs of bytes
            fp8_leaf_tile({1, nt, call.ks, (const uint8_t*)a, 2 * kLdA, (const uint8_t*)from, 2 * ldb(call)}, part);
        else
            leaf_tile({1, nt, call.ks, false, call.b_cols, a_regs ? nullptr : a, kLdA, from, ldb(call), 2}, part, a_regs);
    }
}
}  // namespace lc_host
