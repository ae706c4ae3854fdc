// count.cpp - sectors and bank conflicts of every kernel in the checked build (count.h says what is counted, and how).
//
// Lanes run one after another, so a request is complete only when its warp has passed the next collective or
// barrier: until then the accesses wait in a log of their warp. Every OS thread adds up its blocks by itself; a
// block that ends adds to the launch's table under a lock.
#include "lc.h"
#include "host/check_parts.h"
#include <algorithm>
#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <unordered_map>

namespace lc_host {
__thread __attribute__((tls_model("initial-exec"))) Tally* tally;

namespace {
constexpr size_t kSector = 32, kBanks = 32;

struct Sums {
    uint64_t requests = 0, transactions = 0, least = 0;
    void add(const Sums& more) {
        requests += more.requests;
        transactions += more.transactions;
        least += more.least;
    }
    uint64_t excess() const { return transactions - least; }
};

struct Place {
    const void* pc;
    Memory memory;
    uint8_t n_bytes;  // of one lane
    bool operator==(const Place& o) const { return pc == o.pc && memory == o.memory && n_bytes == o.n_bytes; }
};
struct HashPlace {
    size_t operator()(const Place& p) const {
        return ((size_t)p.pc * 8 + (size_t)p.memory * 2 + p.n_bytes / 16) * 0x9e3779b97f4a7c15ull >> 16;
    }
};

struct Request {
    uint32_t lanes = 0;
    size_t address[32];
};

size_t sectors(const Request& r, size_t n_bytes, size_t& least) {
    size_t begin[32], n = 0, count = 0, bytes = 0, last_sector = ~(size_t)0, end = 0;
    for (uint32_t l = 0; l < 32; l++)
        if (r.lanes >> l & 1) begin[n++] = r.address[l];
    std::sort(begin, begin + n);
    for (size_t i = 0; i < n; i++) {
        const size_t from = begin[i], to = from + n_bytes;
        count += from / kSector != last_sector;  // aligned to its width, an access lies in one sector
        last_sector = from / kSector;
        bytes += from >= end ? n_bytes : to - end;
        end = to;
    }
    least = (bytes + kSector - 1) / kSector;
    return count;
}

size_t wavefronts(const Request& r, size_t n_bytes, size_t& least) {
    const uint32_t lanes_a_phase = n_bytes == 16 ? 8 : n_bytes == 8 ? 16 : 32;
    size_t count = 0;
    least = 0;
    for (uint32_t first = 0; first < 32; first += lanes_a_phase) {
        size_t words[128], n = 0, in_bank[kBanks] = {}, fullest = 0;
        for (uint32_t l = first; l < first + lanes_a_phase; l++)
            if (r.lanes >> l & 1)
                for (size_t w = r.address[l] / 4; w <= (r.address[l] + n_bytes - 1) / 4; w++) words[n++] = w;
        std::sort(words, words + n);
        n = (size_t)(std::unique(words, words + n) - words);
        for (size_t i = 0; i < n; i++) fullest = std::max(fullest, ++in_bank[words[i] % kBanks]);
        count += fullest;
        least += n > 0;
    }
    return count;
}

Sums sums_of(const Request& r, const Place& place) {
    size_t least;
    const bool global = place.memory == Memory::kGlobalLoad || place.memory == Memory::kGlobalStore;
    const size_t n = global ? sectors(r, place.n_bytes, least) : wavefronts(r, place.n_bytes, least);
    return {1, n, least};
}

// What one warp has asked for at one place since its last collective or barrier.
struct Log {
    std::vector<Request> requests;
    uint32_t times[32] = {};  // of each lane
};
struct WarpLog {
    uint32_t epoch = 0, generation = 0;
    std::vector<Log> logs;  // by number of the place
    std::vector<uint32_t> open;
};
}  // namespace

struct Tally {
    std::unordered_map<Place, uint32_t, HashPlace> number;
    std::vector<Place> places;
    std::vector<Sums> sums;
    WarpLog warp[32];

    uint32_t number_of(const Place& place) {
        auto [at, fresh] = number.try_emplace(place, (uint32_t)places.size());
        if (fresh) {
            places.push_back(place);
            sums.push_back({});
        }
        return at->second;
    }
    void close(WarpLog& w) {
        for (uint32_t i : w.open) {
            for (const Request& r : w.logs[i].requests) sums[i].add(sums_of(r, places[i]));
            w.logs[i].requests.clear();
            std::fill_n(w.logs[i].times, 32, 0);
        }
        w.open.clear();
    }
};

struct Counts {
    std::mutex lock;
    std::map<std::string, std::unordered_map<Place, Sums, HashPlace>> kernels;
};

namespace {
thread_local Counts* own_counts;

std::string table(Counts& counts);

// The table of LC_COUNT, written when the process ends.
struct OfProcess {
    const char* path = getenv("LC_COUNT");
    Counts counts;
    ~OfProcess() {
        if (!path) return;
        const std::string text = table(counts);
        FILE* file = fopen(path, "w");
        if (!file || fwrite(text.data(), 1, text.size(), file) != text.size() || fclose(file) != 0)
            fprintf(stderr, "LC_COUNT: %s cannot be written\n", path);
    }
} of_process;

const char* const kNames[] = {"global load", "global store", "shared load", "shared store"};

std::string row(const std::string& kernel, Memory memory, const std::string& where, int n_bytes, const Sums& s) {
    char text[1024];
    snprintf(text, sizeof text, "%s\t%s\t%s\t%d\t%llu\t%llu\t%llu\t%.2f\t%.1f\n", kernel.c_str(), kNames[(int)memory],
             where.c_str(), n_bytes, (unsigned long long)s.requests, (unsigned long long)s.transactions,
             (unsigned long long)s.least, (double)s.transactions / (double)s.requests,
             100. * (double)s.least / (double)s.transactions);
    return text;
}

std::string table(Counts& counts) {
    std::string text = "kernel\taccess\tline\tbytes\trequests\ttransactions\tleast\ta request\t%\n";
    for (const auto& [kernel, places] : counts.kernels)
        for (Memory memory : {Memory::kGlobalLoad, Memory::kGlobalStore, Memory::kSharedLoad, Memory::kSharedStore}) {
            std::map<std::pair<std::string, int>, Sums> lines;
            Sums total;
            for (const auto& [place, sums] : places) {
                if (place.memory != memory) continue;
                char where[512] = "an unknown line";
                lc_host_locate(place.pc, where, sizeof where);
                lines[{where, place.n_bytes}].add(sums);
                total.add(sums);
            }
            if (total.requests == 0) continue;
            text += row(kernel, memory, "total", 0, total);
            std::vector<std::pair<std::pair<std::string, int>, Sums>> sorted(lines.begin(), lines.end());
            std::stable_sort(sorted.begin(), sorted.end(),
                             [](const auto& a, const auto& b) { return a.second.excess() > b.second.excess(); });
            for (const auto& [line, sums] : sorted) text += row(kernel, memory, line.first, line.second, sums);
        }
    return text;
}
}  // namespace

Counts* counts_of_this_thread() { return own_counts ? own_counts : of_process.path ? &of_process.counts : nullptr; }

void count_begin_block(Counts* counts) { tally = counts ? new Tally() : nullptr; }

void count_end_block(const Launch& launch, Counts* counts) {
    if (!tally) return;
    for (WarpLog& w : tally->warp) tally->close(w);
    char name[256];
    short_name(launch.kernel, name, sizeof name);
    {
        std::lock_guard<std::mutex> guard(counts->lock);
        auto& places = counts->kernels[name];
        for (size_t i = 0; i < tally->places.size(); i++) places[tally->places[i]].add(tally->sums[i]);
    }
    delete tally;
    tally = nullptr;
}

void count(Tally& t, uint32_t thread, uint32_t epoch, uint32_t generation, size_t address, size_t n_bytes,
           Memory memory, const void* pc) {
    WarpLog& w = t.warp[thread / 32];
    if (w.epoch != epoch || w.generation != generation) {
        t.close(w);
        w.epoch = epoch;
        w.generation = generation;
    }
    const uint32_t i = t.number_of({pc, memory, (uint8_t)n_bytes}), lane = thread % 32;
    if (w.logs.size() <= i) w.logs.resize(i + 1);
    Log& log = w.logs[i];
    if (log.requests.empty()) w.open.push_back(i);
    const uint32_t nth = log.times[lane]++;
    if (log.requests.size() <= nth) log.requests.emplace_back();
    log.requests[nth].lanes |= 1u << lane;
    log.requests[nth].address[lane] = address;
}

void count_matrices(Tally& t, const size_t (&row)[32], const void* pc) {
    Request r;
    r.lanes = ~0u;
    std::copy(row, row + 32, r.address);
    const Place place{pc, Memory::kSharedLoad, 16};
    t.sums[t.number_of(place)].add(sums_of(r, place));
}
}  // namespace lc_host

using namespace lc_host;

extern "C" {
void lc_count_begin() {
    delete own_counts;
    own_counts = new Counts();
}
size_t lc_count_take(char* text, size_t n_bytes) {
    if (!own_counts) return 0;
    const std::string all = table(*own_counts);
    delete own_counts;
    own_counts = nullptr;
    const size_t n = std::min(all.size(), n_bytes);
    memcpy(text, all.data(), n);
    return n;
}
}
