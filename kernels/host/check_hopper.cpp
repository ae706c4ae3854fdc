// check_hopper.cpp - the checked build's eye on mbarriers, bulk copies and products of a warpgroup.
//
// Copies and products are not made by a thread, and mbarriers order them without a __syncthreads; so they have books of
// their own, per 16 bytes of shared memory and per warp:
//
//   a copy      lands as late as the program allows: when somebody waits in vain. From its issue on its target is in flight,
//               and a product may read it only if its warp has waited for the mbarrier and the phase in which it landed.
//   a product   is made only when its own warp waits for it; until then its accumulators are NaN, and what it reads is being
//               read. Every warp has a tick that moves on when one of its lanes arrives at an mbarrier; what was read is
//               stamped with it at the wait. A copy may overwrite what nobody is reading, and what warp w read at tick t if
//               the issuing warp knows that w has arrived since, that is, has waited for a phase with an arrival of w (or
//               of somebody who knew) behind t.
//
// __syncthreads and the cluster's barrier make everybody know everything.
#include "lc.h"
#include "host/check_parts.h"
#include "host/hopper.h"
#include <map>
#include <string.h>

namespace lc_host {
namespace {
constexpr uint32_t kGranule = 16, kGranules = (kSmemBytes + (16 << 10)) / kGranule, kAgents = kMaxCluster * 32;

enum class State : uint8_t { kOther, kInFlight, kLanded };
struct Granule {
    uint32_t read_tick[32];  // by warp; 0: not since it was last written
    uint16_t reading[32];    // products under way, by warp
    uint32_t barrier, phase;
    State state;
};
struct Knowledge {
    uint32_t tick[kAgents] = {};               // of every warp of the cluster
    std::map<uint32_t, uint32_t> phases_over;  // by place of the mbarrier
    void join(const Knowledge& other) {
        for (uint32_t i = 0; i < kAgents; i++) tick[i] = std::max(tick[i], other.tick[i]);
        for (auto [barrier, n] : other.phases_over) phases_over[barrier] = std::max(phases_over[barrier], n);
    }
};
struct BarrierBook {
    uint32_t phases_over = 0;
    Knowledge arriving, over;
};
struct Product {
    WarpgroupCall call;
    float* acc;
    const void* a_regs;
    uint32_t group;
};
struct LaneProducts {
    std::vector<Product> products;
    std::map<float*, std::vector<float>> hidden;  // accumulators as they were before they became NaN
    uint32_t group = 0;
};
struct Copy {
    TensorMap map;
    uint32_t rank, to, barrier, thread;
    int inner, outer;
    const void* pc;
};
}  // namespace

struct HopperWatch {
    std::vector<Granule> granules{kGranules};
    Knowledge knows[32];
    uint32_t tick[32];
    std::map<uint32_t, BarrierBook> barriers;
    LaneProducts lane[1024];
    std::vector<Copy> copies;  // pending, of the whole cluster: kept by its first block
    HopperWatch() {
        for (uint32_t& t : tick) t = 1;
    }
};

namespace {
HopperWatch& of(const Block* b) {
    Block* own = b->cluster[b->rank];
    if (!own->hopper) own->hopper = new HopperWatch();
    return *own->hopper;
}
uint32_t warp_of(const Fiber* f) { return (uint32_t)(f - block->fiber) / 32; }
Knowledge& mine() { return of(block).knows[warp_of(current)]; }
uint32_t agent(const Block* b, uint32_t warp) { return b->rank * 32 + warp; }
uint32_t place(const Mbarrier* m, const Block* b) { return (uint32_t)((const char*)m - b->smem); }

template <class Each>
void each_granule(const TensorMap& map, uint32_t to, Each each) {
    for (uint32_t r = 0; r < map.box_outer; r++)
        for (uint32_t c = 0; c < map.box_inner * 2; c += kGranule) each(swizzle(to + r * kSwizzleRow + c));
}

// What the warps of these blocks know becomes known to all of them; an arrival nobody needs to wait for.
void all_know_all(Block* const* blocks, uint32_t n) {
    Knowledge all;
    for (uint32_t r = 0; r < n; r++) {
        if (!blocks[r]->hopper) continue;
        HopperWatch& watch = *blocks[r]->hopper;
        for (uint32_t w = 0; w < 32; w++) {
            all.join(watch.knows[w]);
            all.tick[agent(blocks[r], w)] = watch.tick[w]++;
        }
    }
    for (uint32_t r = 0; r < n; r++)
        if (blocks[r]->hopper)
            for (Knowledge& k : blocks[r]->hopper->knows) k.join(all);
}
}  // namespace

void hopper_forget(Block* b) {
    delete b->hopper;
    b->hopper = nullptr;
}
void hopper_epoch(Block* b) {
    if (b->hopper) all_know_all(&b, 1);
}
void check_cluster_epoch() { all_know_all(block->cluster, block->launch->cluster); }

void check_mbarrier_arrive(const Mbarrier* barrier, const Block* b) {
    HopperWatch& own = of(block);
    const uint32_t w = warp_of(current);
    Knowledge& said = of(b).barriers[place(barrier, b)].arriving;
    said.join(own.knows[w]);
    said.tick[agent(block, w)] = own.tick[w]++;
}

void check_mbarrier_complete(const Mbarrier* barrier, const Block* b) {
    BarrierBook& book = of(b).barriers[place(barrier, b)];
    book.over = book.arriving;
    book.phases_over++;
}

void check_mbarrier_waited(const Mbarrier* barrier) {
    const uint32_t at = place(barrier, block);
    const BarrierBook& book = of(block).barriers[at];
    mine().join(book.over);
    mine().phases_over[at] = book.phases_over;
}

void check_copy(void* to, const TensorMap* map, int inner, int outer, void* barrier, uint32_t ranks, const void* pc) {
    const Who me(current, pc);
    TensorMap readable = *map;
    for (uint32_t r = 0; r < map->box_outer && readable.inner; r++) {
        const int64_t y = (int64_t)outer + r, end = std::min<int64_t>(map->inner, (int64_t)inner + map->box_inner);
        if (y < 0 || y >= map->outer || inner >= end) continue;
        if (!global_access(me, map->base + y * map->row_bytes + (uint64_t)inner * 2, (size_t)(end - inner) * 2, false))
            readable.inner = 0;  // zeros arrive: what waits for bytes goes on
    }
    const uint32_t at = shared_offset(to), thread = me.thread;
    for (uint32_t r = 0; r < block->launch->cluster; r++) {
        if (!(ranks >> r & 1)) continue;
        Block* b = block->cluster[r];
        HopperWatch& watch = of(b);
        bool good = true;
        each_granule(*map, at, [&](uint32_t offset) {
            if (!good) return;
            if (!shared_copy_access(b, thread, offset, kGranule, false, pc)) {
                good = false;
                return;
            }
            Granule& g = watch.granules[offset / kGranule];
            for (uint32_t w = 0; w < 32 && good; w++)
                if (g.reading[w] || g.read_tick[w] > mine().tick[agent(b, w)]) {
                    fault(pc, nullptr,
                          "thread %u: a bulk copy overwrites shared memory (offset %u, block %u of the cluster) that warp "
                          "%u may still be multiplying: it has not arrived at an mbarrier that was waited for",
                          thread, offset, r, w);
                    good = false;
                }
            memset(g.read_tick, 0, sizeof g.read_tick);
            g.state = State::kInFlight;
        });
        of(block->cluster[0]).copies.push_back({readable, r, at, shared_offset(barrier), thread, inner, outer, pc});
    }
}

bool check_one_copy() {
    std::vector<Copy>& copies = of(block->cluster[0]).copies;
    if (copies.empty()) return false;
    const Copy c = copies.front();
    copies.erase(copies.begin());
    Block* b = block->cluster[c.rank];
    HopperWatch& watch = of(b);
    const uint32_t phase = watch.barriers[c.barrier].phases_over;
    each_granule(c.map, c.to, [&](uint32_t offset) {
        shared_copy_access(b, c.thread, offset, kGranule, true, c.pc);
        Granule& g = watch.granules[offset / kGranule];
        g.barrier = c.barrier;
        g.phase = phase;
        g.state = State::kLanded;
    });
    copy_box(b, c.to, c.map, c.inner, c.outer, c.barrier);
    return true;
}

static __thread const void* counted[32];
static __thread uint32_t n_counted;

// Products of the running warp begin and end to read 16 bytes.
static void begin_reading(uint32_t at, const void* pc) {
    HopperWatch& watch = of(block);
    const uint32_t w = warp_of(current);
    if (at / kGranule >= kGranules) die("a product reads outside shared memory");
    // Four core matrices of eight rows are an ldmatrix.x4 to the counters: eight rows in different banks cost one wavefront.
    counted[n_counted++] = block->smem + at;
    if (n_counted == 32) {
        check_matrices(counted, pc);
        n_counted = 0;
    }
    Granule& g = watch.granules[at / kGranule];
    g.reading[w]++;
    if (g.state == State::kOther) {
        for (uint32_t i = 0; i < kGranule; i += 4) check_read(current->lane, block->smem + at + i, 4, pc);
        return;
    }
    auto known = watch.knows[w].phases_over.find(g.barrier);
    if (g.state == State::kLanded && known != watch.knows[w].phases_over.end() && known->second > g.phase) return;
    fault(pc, nullptr,
          "warp %u: a product reads shared memory (offset %u) that a bulk copy may still be writing: its mbarrier was not "
          "waited for",
          w, at);
}
static void end_reading(uint32_t at, const void*) {
    HopperWatch& watch = of(block);
    const uint32_t w = warp_of(current);
    Granule& g = watch.granules[at / kGranule];
    g.reading[w]--;
    g.read_tick[w] = watch.tick[w];
}

void check_product(const WarpgroupCall& call, float* acc, const void* a_regs) {
    LaneProducts& lane = of(block).lane[current - block->fiber];
    lane.products.push_back({call, acc, a_regs, lane.group});
    lane.products.back().call.pc = __builtin_return_address(0);
    const Product& p = lane.products.back();
    std::vector<float>& hidden = lane.hidden[acc];
    if (hidden.empty()) {
        hidden.assign(acc, acc + call.nt * 4);
        std::fill(acc, acc + call.nt * 4, NAN);
    }
    Fiber* f = current;
    Warp* w = enter_warp(f);
    rendezvous(f, w, w->generation, [&] {
        n_counted = 0;
        each_read(p.call, a_regs, begin_reading);
    });
}

void check_products_commit() { of(block).lane[current - block->fiber].group++; }

void check_products_wait(uint32_t n_groups_left) {
    Fiber* f = current;
    Warp* w = enter_warp(f);
    rendezvous(f, w, w->generation, [&] {
        LaneProducts* lanes = &of(block).lane[(current - block->fiber) / 32 * 32];
        for (int l = 0; l < 32; l++) {
            if (lanes[l].products.size() != lanes[0].products.size() || lanes[l].group != lanes[0].group)
                die("products of a warpgroup in divergent code");
            for (auto& [acc, values] : lanes[l].hidden) std::copy(values.begin(), values.end(), acc);
        }
        size_t done = 0;
        for (; done < lanes[0].products.size(); done++) {
            const Product& p = lanes[0].products[done];
            if (p.group + n_groups_left >= lanes[0].group) break;
            float* acc[32];
            const void* a_regs[32];
            for (int l = 0; l < 32; l++) acc[l] = lanes[l].products[done].acc, a_regs[l] = lanes[l].products[done].a_regs;
            warpgroup_product(p.call, acc, p.a_regs ? a_regs : nullptr);
            each_read(p.call, p.a_regs, end_reading);
        }
        for (int l = 0; l < 32; l++) {
            std::vector<Product>& left = lanes[l].products;
            left.erase(left.begin(), left.begin() + (long)done);
            lanes[l].hidden.clear();
            for (const Product& p : left) {
                std::vector<float>& hidden = lanes[l].hidden[p.acc];
                if (!hidden.empty()) continue;
                hidden.assign(p.acc, p.acc + p.call.nt * 4);
                std::fill(p.acc, p.acc + p.call.nt * 4, NAN);
            }
        }
    });
}
}  // namespace lc_host
