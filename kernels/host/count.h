// count.h - what the checked build counts of every kernel: memory transactions, as a GPU would make them.
//
// The 32 lanes' accesses of one instruction are one request. A request to global memory costs as many transactions
// as it touches sectors of 32 bytes; the least possible is what its distinct bytes would fill. A request to shared
// memory costs wavefronts: 16-byte accesses run in four phases of 8 lanes, 8-byte ones in two of 16, others in one,
// ldmatrix in one a matrix; a phase takes as many wavefronts as the fullest of 32 banks holds different words, and
// one at least.
//
// Which accesses belong together: same place in the code, same width, and for each lane the n-th time there since the
// warp's last collective or barrier. That is what a GPU does where the lanes of a warp stay together. Where a loop's length
// differs between lanes, a GPU may join later; the counts join the n-th with the n-th.
//
// Counted is bf16 storage only: the fp32 build is not what runs on a GPU. Constants, arguments and registers (a
// thread's own arrays) are not memory here.
#pragma once

namespace lc_host {
enum class Memory : uint8_t { kGlobalLoad, kGlobalStore, kSharedLoad, kSharedStore };

struct Counts;  // a table: sums by kernel, place, kind and width
struct Tally;   // of one OS thread, while it runs blocks of a counted launch

extern __thread __attribute__((tls_model("initial-exec"))) Tally* tally;  // null: nobody counts

Counts* counts_of_this_thread();  // where launches of the calling thread are counted; null: nowhere
void count_begin_block(Counts* counts);
void count_end_block(const Launch& launch, Counts* counts);
// At most 16 bytes, aligned to their number.
void count(Tally& t, uint32_t thread, uint32_t epoch, uint32_t generation, size_t address, size_t n_bytes,
           Memory memory, const void* pc);
// One ldmatrix.x4: lane l reads the 16 bytes at row[l].
void count_matrices(Tally& t, const size_t (&row)[32], const void* pc);
}  // namespace lc_host

extern "C" {
// From here on launches of the calling thread are counted, in a table of their own.
void lc_count_begin();
// Ends that, and moves the table into `text`: a header and tab-separated rows, a total for every kernel and kind of
// access and below it the lines that make it up, the worst first. Returns its length. LC_COUNT=FILE counts all other
// launches of a process and writes the same table when it ends.
size_t lc_count_take(char* text, size_t n_bytes);
}
