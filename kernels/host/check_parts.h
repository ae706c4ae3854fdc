// check_parts.h - what check.cpp and check_global.cpp share: a launch under watch, its faults, and who made an access.
#pragma once
#include "host/machine.h"
#include "host/count.h"
#include <mutex>
#include <string>
#include <vector>

extern "C" {
// "file:line" of the innermost line of a .cu file at this address; in src/ffi.
size_t lc_host_locate(const void* pc, char* text, size_t n_bytes);
}

namespace lc_host {
struct Buffer {
    const char* begin;
    size_t n_bytes;
    uint64_t* writes;  // one stamp a byte
    char* name;
};

struct CheckedLaunch {
    uint32_t id;
    std::vector<Buffer> buffers;  // as they were at the start, sorted: looked up without a lock
    std::mutex lock;
    std::vector<std::pair<const void*, const char*>> seen;  // place and kind of the faults already told
    std::string report;
    uint32_t n_faults = 0;
    Counts* counts = nullptr;  // where its accesses are counted; null: nowhere
};

// Counts a fault of the running block; the first of each place and kind becomes a sentence. `kind` is the format of the
// sentence's end, one string literal per kind of fault.
__attribute__((format(printf, 3, 4))) void fault(const void* pc, const void* other_pc, const char* kind, ...);

// The thread that makes an access, and what orders it with others.
struct Who {
    const Fiber* fiber;
    uint32_t thread, epoch, generation;
    const void* pc;
    Who(const Fiber* f, const void* pc);
    bool unordered(uint32_t other, uint32_t other_epoch, uint32_t other_generation) const {
        return other_epoch == epoch && other != thread &&
               (block->fiber[other].warp != fiber->warp || other_generation == generation);
    }
};

// 16 bytes or so that a bulk copy started by `thread` writes into block b; `done`: has written.
bool shared_copy_access(Block* b, uint32_t thread, size_t at, size_t n_bytes, bool done, const void* pc);
void hopper_epoch(Block* b);  // a __syncthreads
void hopper_forget(Block* b);

void list_buffers(CheckedLaunch& launch);
bool global_access(const Who& me, const char* p, size_t n_bytes, bool write);
}  // namespace lc_host
