// check_global.cpp - global memory in the checked build: what is registered, and who wrote each byte in this launch.
#include "lc.h"
#include "host/check_parts.h"
#include <algorithm>
#include <stdlib.h>

namespace lc_host {
namespace {
std::mutex buffers_lock;
std::vector<Buffer> all_buffers;  // sorted by address
uint32_t n_launches = 0;

bool begins_after(const char* p, const Buffer& buffer) { return p < buffer.begin; }

// Who wrote a byte, and when: 20 bits of launch, 18 of block, 10 of thread, 8 of epoch, 8 of generation.
uint64_t stamp(const Who& me, uint32_t launch) {
    const Block& b = *block;
    uint64_t index = b.index.x + (uint64_t)b.grid.x * (b.index.y + (uint64_t)b.grid.y * b.index.z);
    return (uint64_t)(launch & 0xfffff) << 44 | (index & 0x3ffff) << 26 | (uint64_t)me.thread << 16 |
           (me.epoch & 255) << 8 | (me.generation & 255);
}

bool unordered_stamps(uint64_t mine, uint64_t old) {
    if (!old || mine >> 44 != old >> 44) return false;
    if ((mine ^ old) >> 26) return true;                                     // another block
    if (((mine ^ old) >> 16) == 0 || ((mine ^ old) & 0xff00)) return false;  // the same thread, or a barrier between
    bool one_warp = !((mine ^ old) >> 21 & 31);
    return !one_warp || !((mine ^ old) & 0xff);
}
}  // namespace

void list_buffers(CheckedLaunch& launch) {
    std::lock_guard<std::mutex> guard(buffers_lock);
    launch.id = ++n_launches;
    launch.buffers = all_buffers;
}

bool global_access(const Who& me, const char* p, size_t n, bool write) {
    CheckedLaunch* launch = block->launch->checked;
    const char* does = write ? "writes" : "reads";
    if (launch->buffers.empty()) return true;
    // Most accesses are to the buffer of the one before; an index, for another launch has another list.
    static __thread size_t last;
    const std::vector<Buffer>& buffers = launch->buffers;
    const Buffer* u = last < buffers.size() ? &buffers[last] : nullptr;
    if (!u || p < u->begin || p >= u->begin + u->n_bytes) {
        auto after = std::upper_bound(buffers.begin(), buffers.end(), p, begins_after);
        u = after == buffers.begin() ? nullptr : &*(after - 1);
        const char* end = u ? u->begin + u->n_bytes : nullptr;
        if (!u || p >= end) {
            // What begins a little behind a buffer is the usual tail that was not masked.
            if (u && p < end + 4096)
                fault(me.pc, nullptr,
                      "thread %u: %s %zu bytes of global memory %zu bytes behind the end of `%s` (%zu bytes)",
                      me.thread, does, n, (size_t)(p - end), u->name, u->n_bytes);
            else
                fault(me.pc, nullptr, "thread %u: %s %zu bytes outside every buffer, at %p", me.thread, does, n, p);
            return false;
        }
        last = (size_t)(u - buffers.data());
    }
    const size_t at = (size_t)(p - u->begin);
    if (at + n > u->n_bytes) {
        fault(me.pc, nullptr, "thread %u: %s %zu bytes at %zu of `%s`, over its end at %zu", me.thread, does, n, at,
              u->name, u->n_bytes);
        return false;
    }
    const uint64_t mine = stamp(me, launch->id);
    for (size_t i = at; i < at + n; i++) {
        uint64_t* cell = &u->writes[i];
        uint64_t old =
            write ? __atomic_exchange_n(cell, mine, __ATOMIC_RELAXED) : __atomic_load_n(cell, __ATOMIC_RELAXED);
        if (!unordered_stamps(mine, old)) continue;
        const uint32_t index = (uint32_t)(old >> 26) & 0x3ffff, thread = (uint32_t)(old >> 16) & 1023;
        fault(me.pc, nullptr,
              "thread %u: race: %s %zu bytes at %zu of `%s` that thread %u of block number %u wrote in the same launch",
              me.thread, does, n, at, u->name, thread, index);
        return false;
    }
    return true;
}
}  // namespace lc_host

using namespace lc_host;

extern "C" {
void lc_check_register(const void* p, size_t n_bytes, const char* name) {
    Buffer u{(const char*)p, n_bytes, (uint64_t*)calloc(n_bytes + 1, sizeof(uint64_t)), strdup(name)};
    std::lock_guard<std::mutex> guard(buffers_lock);
    auto at = std::upper_bound(all_buffers.begin(), all_buffers.end(), u.begin, begins_after);
    all_buffers.insert(at, u);
}
void lc_check_unregister(const void* p) {
    std::lock_guard<std::mutex> guard(buffers_lock);
    for (size_t i = 0; i < all_buffers.size(); i++)
        if (all_buffers[i].begin == p) {
            free(all_buffers[i].writes);
            free(all_buffers[i].name);
            all_buffers.erase(all_buffers.begin() + (long)i);
            return;
        }
}
}
