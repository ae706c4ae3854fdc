// check.h - what the checked build (LC_CHECKED) asks of kernels/host/check.cpp. Included by machine.h alone.
#pragma once

namespace lc_host {
void check_begin_launch(Launch& launch);
int check_end_launch(Launch& launch);  // how many faults
void check_begin_block(Block* b);
void check_end_block(Block* b);
void check_enter(Block* b);   // of a cluster's blocks this one runs now
void check_forget(Block* b);  // its memory goes
void check_epoch();  // every live thread of the block has arrived at the barrier

void check_declare(char* p, size_t n_bytes);  // a SHARED or Arena array of the running thread
void check_barrier(int line);                 // the running thread arrives at a barrier written on this line
void check_read(uint32_t lane, const void* p, size_t n_bytes, const void* pc);  // a warp collective called at pc reads
void check_matrices(const void* const* row, const void* pc);  // an ldmatrix.x4 at pc reads; only counts

// cp.async: the copy happens when it is waited for; until then whoever touches its target is at fault.
void check_async_copy(void* dst, const void* src, size_t n_bytes, bool valid);
void check_async_commit();
void check_async_wait(uint32_t n_groups_left);
}  // namespace lc_host

extern "C" {
// Which global memory kernels may touch. Nothing is reported about global memory until a first buffer is known.
void lc_check_register(const void* p, size_t n_bytes, const char* name);
void lc_check_unregister(const void* p);
// 0: threads and warps run in order; anything else draws an order for each block. First read from LC_CHECK_SEED.
void lc_check_seed(uint64_t seed);
// Moves the sentences about launches of the calling thread into `text`; returns their length.
size_t lc_check_take_report(char* text, size_t n_bytes);
}
