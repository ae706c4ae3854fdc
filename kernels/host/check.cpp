// check.cpp - the checked build: every access of every kernel is watched, the compute-sanitizer of a machine without a
// GPU.
//
// Kernel files are compiled with -fsanitize=thread, which marks each load and store with a call to a __tsan_ hook; the
// sanitizer's runtime is never linked, the hooks are here. They know CUDA's barriers, so what they find does not depend
// on the order in which this machine happened to run the threads:
//
//   shared memory   Two accesses of one byte, at least one a write, are ordered when one thread makes both, when a
//                   __syncthreads lies between (another epoch), or when both are lanes of one warp and a warp
//                   collective lies between (another generation). Anything else is a race. Per byte it is enough to
//                   remember the last writer, the last reader, and one reader of another warp: two unordered readers of
//                   other warps are equally at fault with any writer, and within a warp only the last generation can be
//                   unordered. Bytes outside the declared arrays, and reads of bytes nobody wrote, are faults (and
//                   arrays start as NaN). A cp.async is a write that lasts from its issue to its wait.
//   global memory   Must lie in a registered buffer. Two threads that write one byte, or one that reads what another
//   wrote,
//                   in one launch, are at fault unless they are of one block with a barrier between. (A read before a
//                   foreign write is not remembered: the price of one word of shadow a byte.)
//   barriers        Threads of a block that meet at different __syncthreads are at fault.
//
// Each fault is one sentence on stderr; the launch then returns LC_CHECK and their number.
#include "lc.h"
#include "host/check_parts.h"
#include <algorithm>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

extern "C" {
extern char __executable_start, _end;
}

namespace lc_host {
namespace {
constexpr uint32_t kCells = kSmemBytes + (16 << 10), kSentencesPerLaunch = 5;

uint64_t order_seed = [] {
    const char* s = getenv("LC_CHECK_SEED");
    return s ? strtoull(s, nullptr, 0) : 0ull;
}();
thread_local std::string untaken;  // sentences about launches of this thread

struct Cell {
    uint32_t block;                        // serial of the block that declared this byte
    uint16_t writer, reader, reader_else;  // thread + 1; reader_else: of another warp than reader, 0 if there is none
    uint16_t also;                         // another lane that read in read_generation, 0 if there is none
    bool in_flight;                        // an asynchronous copy may be writing
    uint32_t write_epoch, read_epoch, else_epoch, write_generation, read_generation;
    const void *write_pc, *read_pc;
};

struct AsyncCopy {
    char* dst;
    const void* src;
    size_t n_bytes;
    bool valid;
    uint32_t group;
    const void* pc;
};
struct AsyncQueue {
    std::vector<AsyncCopy> copies;
    uint32_t group = 0;
};

}  // namespace

// What is known about the block that runs in one seat.
struct Watch {
    Cell* cells = (Cell*)calloc(kCells, sizeof(Cell));
    AsyncQueue queue[1024];
    uint32_t block = 0, epoch = 0;
    ~Watch() { free(cells); }
};

namespace {
__thread Watch* watch;  // of the block that runs now

struct Sentence {
    const char* text;
    const void *pc, *other_pc;
    CheckedLaunch* launch;
    const char* kernel;
    uint3 index;
};

// On a thread of its own: a fibre's stack is too small for reading debug information.
void* tell(void* argument) {
    Sentence& s = *(Sentence*)argument;
    char place[512] = "unknown line", other[512] = "", name[256], sentence[1800];
    lc_host_locate(s.pc, place, sizeof place);
    if (s.other_pc) {
        strcpy(other, " at ");
        lc_host_locate(s.other_pc, other + 4, sizeof other - 4);
    }
    short_name(s.kernel, name, sizeof name);
    int n = snprintf(sentence, sizeof sentence, "checked: %s: kernel %s, block %u,%u,%u, %s%s\n", place, name,
                     s.index.x, s.index.y, s.index.z, s.text, other);
    fputs(sentence, stderr);
    s.launch->report.append(sentence, (size_t)n);
    return nullptr;
}

}  // namespace

void fault(const void* pc, const void* other_pc, const char* kind, ...) {
    CheckedLaunch* launch = block->launch->checked;
    std::lock_guard<std::mutex> guard(launch->lock);
    launch->n_faults++;
    std::pair<const void*, const char*> key(pc, kind);
    if (launch->seen.size() >= kSentencesPerLaunch || std::count(launch->seen.begin(), launch->seen.end(), key)) return;
    launch->seen.push_back(key);
    char text[400];
    va_list arguments;
    va_start(arguments, kind);
    vsnprintf(text, sizeof text, kind, arguments);
    va_end(arguments);
    Sentence s{text, pc, other_pc, launch, block->launch->kernel, block->index};
    pthread_t teller;
    if (pthread_create(&teller, nullptr, tell, &s) == 0) pthread_join(teller, nullptr);
}

Who::Who(const Fiber* f, const void* pc)
    : fiber(f), thread((uint32_t)(f - block->fiber)), epoch(watch->epoch), generation(f->warp->generation), pc(pc) {}

namespace {
enum class Access { kRead, kWrite, kAsyncIssue, kAsyncDone };

// False when the byte cannot be used: one sentence per access is enough.
bool read_cell(Cell& c, const Who& me, size_t at, size_t n) {
    if (!c.writer)
        return fault(me.pc, nullptr,
                     "thread %u: reads %zu bytes of shared memory (offset %zu) that nobody has written yet", me.thread,
                     n, at),
               false;
    const uint32_t writer = c.writer - 1u;
    if (c.in_flight)
        return fault(me.pc, c.write_pc,
                     "thread %u: reads %zu bytes of shared memory (offset %zu) that an asynchronous copy may "
                     "still be writing: not waited for by thread %u, which started it",
                     me.thread, n, at, writer),
               false;
    if (me.unordered(writer, c.write_epoch, c.write_generation))
        return fault(me.pc, c.write_pc,
                     "thread %u: race: reads %zu bytes of shared memory (offset %zu) with no barrier after "
                     "thread %u wrote them",
                     me.thread, n, at, writer),
               false;
    if (c.reader && c.read_epoch == me.epoch) {
        if (block->fiber[c.reader - 1].warp != me.fiber->warp) {
            c.reader_else = c.reader;
            c.else_epoch = me.epoch;
            c.also = 0;
        } else if (c.read_generation != me.generation) {
            c.also = 0;
        } else if (c.reader != me.thread + 1) {
            c.also = c.reader;
        }
    } else {
        c.also = 0;
    }
    c.reader = (uint16_t)(me.thread + 1);
    c.read_epoch = me.epoch;
    c.read_generation = me.generation;
    c.read_pc = me.pc;
    return true;
}

bool write_cell(Cell& c, const Who& me, size_t at, size_t n, Access access) {
    if (c.writer && access != Access::kAsyncDone) {
        const uint32_t writer = c.writer - 1u;
        if (c.in_flight)
            return fault(me.pc, c.write_pc,
                         "thread %u: writes %zu bytes of shared memory (offset %zu) that an asynchronous copy "
                         "may still be writing: not waited for by thread %u, which started it",
                         me.thread, n, at, writer),
                   false;
        if (me.unordered(writer, c.write_epoch, c.write_generation))
            return fault(me.pc, c.write_pc,
                         "thread %u: race: writes %zu bytes of shared memory (offset %zu) with no barrier "
                         "after thread %u wrote them",
                         me.thread, n, at, writer),
                   false;
    }
    uint32_t reader = 0;
    if (c.reader_else && c.else_epoch == me.epoch && block->fiber[c.reader_else - 1].warp != me.fiber->warp)
        reader = c.reader_else;
    if (c.reader && me.unordered(c.reader - 1u, c.read_epoch, c.read_generation)) reader = c.reader;
    if (c.also && me.unordered(c.also - 1u, c.read_epoch, c.read_generation)) reader = c.also;
    if (reader && access != Access::kAsyncDone)
        return fault(me.pc, c.read_pc,
                     "thread %u: race: writes %zu bytes of shared memory (offset %zu) with no barrier after "
                     "thread %u read them",
                     me.thread, n, at, reader - 1),
               false;
    c.writer = (uint16_t)(me.thread + 1);
    c.write_epoch = me.epoch;
    c.write_generation = me.generation;
    c.write_pc = me.pc;
    c.in_flight = access == Access::kAsyncIssue;
    c.reader = c.reader_else = c.also = 0;
    return true;
}

bool shared_access(const Who& me, size_t at, size_t n, Access access) {
    for (size_t i = at; i < at + n; i++) {
        Cell& c = watch->cells[i];
        if (i >= kCells || c.block != watch->block) {
            fault(me.pc, nullptr, "thread %u: %s %zu bytes outside every shared array (offset %zu)", me.thread,
                  access == Access::kRead ? "reads" : "writes", n, at);
            return false;
        }
        if (!(access == Access::kRead ? read_cell(c, me, at, n) : write_cell(c, me, at, n, access))) return false;
    }
    return true;
}

bool within(const void* p, const void* begin, size_t n_bytes) {
    return (size_t)((const char*)p - (const char*)begin) < n_bytes;
}

// Counts what an instruction of one thread asks for. What a collective reads, and the end of a copy, is no such thing:
// widest is 0. What the compiler knows no alignment of is loaded word by word.
LC_INLINE void count_own(const Who& me, size_t at, size_t n, size_t widest, Memory memory) {
    if (__builtin_expect(tally == nullptr, 1) || !widest) return;
    for (size_t done = 0; done < n; done += widest)
        count(*tally, me.thread, me.epoch, me.generation, at + done, std::min(n - done, widest), memory, me.pc);
}

bool access(const Fiber* f, const void* p, size_t n, Access kind, const void* pc, size_t widest) {
    Block* b = block;
    size_t at = (size_t)((const char*)p - b->smem);
    if (at < kCells) {
        const Who me(f, pc);
        count_own(me, at, n, widest, kind == Access::kRead ? Memory::kSharedLoad : Memory::kSharedStore);
        return shared_access(me, at, n, kind);
    }
    // The machine's own: stacks of the fibres, their records, this thread's two variables, the kernel's arguments,
    // constants.
    if (within(p, b->stacks, b->stacks_bytes) || within(p, b, b->own_bytes) || p == &current || p == &block ||
        within(p, b->launch->args, b->launch->args_bytes) ||
        within(p, &__executable_start, (size_t)(&_end - &__executable_start)))
        return true;
    const Who me(f, pc);
    count_own(me, (size_t)p, n, widest, kind == Access::kRead ? Memory::kGlobalLoad : Memory::kGlobalStore);
    return global_access(me, (const char*)p, n, kind != Access::kRead);
}

LC_INLINE void hook(const void* p, size_t n, bool write, const void* pc, size_t widest) {
    if (current) access(current, p, n, write ? Access::kWrite : Access::kRead, pc, widest);
}
}  // namespace

void check_begin_launch(Launch& launch) {
    launch.checked = new CheckedLaunch();
    list_buffers(*launch.checked);
    if (launch.bf16) launch.checked->counts = counts_of_this_thread();
}

int check_end_launch(Launch& launch) {
    CheckedLaunch* c = launch.checked;
    int n = (int)c->n_faults;
    if (c->n_faults > c->seen.size()) {
        std::string more = "checked: " + std::to_string(c->n_faults) + " faults in this launch, of " +
                           std::to_string(c->seen.size()) + " kinds or more\n";
        fputs(more.c_str(), stderr);
    }
    untaken += c->report;
    delete c;
    return n;
}

void check_begin_block(Block* b) {
    if (!b->watch) b->watch = new Watch();
    watch = b->watch;
    hopper_forget(b);
    watch->block++;
    watch->epoch = 0;
    b->barrier_line = 0;
    for (uint32_t i = 0; i < b->n_threads; i++) {
        b->order[i] = i;
        watch->queue[i].copies.clear();
        watch->queue[i].group = 0;
    }
    uint64_t index = b->index.x + (uint64_t)b->grid.x * (b->index.y + (uint64_t)b->grid.y * b->index.z);
    b->random = order_seed ? (order_seed + index) * 0x9e3779b97f4a7c15ull | 1 : 0;
    count_begin_block(b->launch->checked->counts);
    b->tally = tally;
}

void check_end_block(Block* b) { count_end_block(*b->launch, b->launch->checked->counts); }

void check_enter(Block* b) {
    watch = b->watch;
    tally = b->tally;
}

void check_forget(Block* b) {
    delete b->watch;
    hopper_forget(b);
}

void check_epoch() {
    watch->epoch++;
    hopper_epoch(block);
}

bool shared_copy_access(Block* b, uint32_t thread, size_t at, size_t n_bytes, bool done, const void* pc) {
    Block* running = block;
    block = b;
    watch = b->watch;
    const bool good = shared_access(Who(b->fiber + thread, pc), at, n_bytes, done ? Access::kAsyncDone : Access::kAsyncIssue);
    block = running;
    watch = running->watch;
    return good;
}

void check_declare(char* p, size_t n_bytes) {
    size_t at = (size_t)(p - block->smem);
    Cell* c = watch->cells + at;
    if (n_bytes == 0 || (c->block == watch->block && c[n_bytes - 1].block == watch->block))
        return;  // another thread did it
    memset(p, 0xff, n_bytes);
    memset((void*)c, 0, n_bytes * sizeof(Cell));
    for (size_t i = 0; i < n_bytes; i++) c[i].block = watch->block;
}

void check_barrier(int line) {
    Block* b = block;
    if (!b->fibrous || b->at_barrier == 0) {
        b->barrier_line = line;
    } else if (b->barrier_line != line) {
        fault(__builtin_return_address(0), nullptr,
              "thread %u: divergent barriers: arrives at the __syncthreads of line %d while others wait at that of "
              "line %d",
              (uint32_t)(current - b->fiber), line, b->barrier_line);
    }
}

void check_read(uint32_t lane, const void* p, size_t n_bytes, const void* pc) {
    const Fiber* f = block->fiber + (current - block->fiber) / 32 * 32 + lane;
    access(f, p, n_bytes, Access::kRead, pc, 0);
}

void check_matrices(const void* const* row, const void* pc) {
    if (!tally) return;
    size_t at[32];
    for (int l = 0; l < 32; l++) at[l] = (size_t)((const char*)row[l] - block->smem);
    count_matrices(*tally, at, pc);
}

void check_async_copy(void* dst, const void* src, size_t n_bytes, bool valid) {
    const void* pc = __builtin_return_address(0);
    if (valid) valid = access(current, src, n_bytes, Access::kRead, pc, n_bytes);
    if (!access(current, dst, n_bytes, Access::kAsyncIssue, pc, n_bytes)) return;
    AsyncQueue& q = watch->queue[current - block->fiber];
    q.copies.push_back({(char*)dst, src, n_bytes, valid, q.group, pc});
}

void check_async_commit() { watch->queue[current - block->fiber].group++; }

void check_async_wait(uint32_t n_groups_left) {
    AsyncQueue& q = watch->queue[current - block->fiber];
    size_t done = 0;
    for (; done < q.copies.size() && q.copies[done].group + n_groups_left < q.group; done++) {
        const AsyncCopy& c = q.copies[done];
        if (c.valid)
            memcpy(c.dst, c.src, c.n_bytes);
        else
            memset(c.dst, 0, c.n_bytes);
        access(current, c.dst, c.n_bytes, Access::kAsyncDone, c.pc, 0);
    }
    q.copies.erase(q.copies.begin(), q.copies.begin() + (long)done);
}
}  // namespace lc_host

using namespace lc_host;

extern "C" {
void lc_check_seed(uint64_t seed) { order_seed = seed; }
size_t lc_check_take_report(char* text, size_t n_bytes) {
    size_t n = std::min(untaken.size(), n_bytes);
    memcpy(text, untaken.data(), n);
    untaken.clear();
    return n;
}

// What -fsanitize=thread calls. GCC names a hook per size; unaligned and volatile accesses are accesses like any other.
#define HOOK(name, n, write, widest) \
    void __tsan_##name##n(void* p) { hook(p, n, write, __builtin_return_address(0), widest); }
#define HOOKS(n)                                                                                                  \
    HOOK(read, n, false, 16)                                                                                      \
    HOOK(write, n, true, 16) HOOK(unaligned_read, n, false, 4) HOOK(unaligned_write, n, true, 4)                  \
        HOOK(volatile_read, n, false, 16) HOOK(volatile_write, n, true, 16)
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16) void __tsan_read_range(void* p, size_t n) {
    hook(p, n, false, __builtin_return_address(0), 4);
}
void __tsan_write_range(void* p, size_t n) { hook(p, n, true, __builtin_return_address(0), 4); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
}
