// embedding.cu - h[t,:] = table[ids[t],:], a copy of rows.
//
// precision  none is lost: the bits are copied.
// work       one thread copies 16 bytes; a row's threads are neighbours.
// safety     an id outside the table reads nothing and gives a row of NaN, which stops the run. Rust refuses it first.
// cost       reads and writes T C: bound by memory.
// checked    tests/ops/embedding.rs against tools/golden/embedding.py
#include "embedding.h"
#include "device/kernel.cuh"

namespace {
constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) embedding_fwd(lc_embedding_fwd_args a) {
    const size_t at = ((size_t)blockIdx.x * kThreads + threadIdx.x) * 8;
    if (at >= (size_t)a.T * a.C) return;
    const int id = a.ids[at / a.C];
    act8 h;
    if (id >= 0 && id < a.V) {
        h = load8(a.table + (size_t)id * a.C + at % a.C);
    } else {
        for (int i = 0; i < 8; i++) h.v[i] = from_f(NAN);
    }
    store8(a.h + at, h);
}
} // namespace

LC_API lc_status LC(embedding_fwd)(const lc_embedding_fwd_args* a, lc_stream stream) {
    LC_REQUIRE(a->T > 0 && a->V > 0 && a->C > 0 && a->C % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->table, a->h), LC_MISALIGNED);
    const unsigned blocks = (unsigned)ceil_div<int64_t>((int64_t)a->T * a->C, 8 * kThreads);
    return launch<embedding_fwd>(dim3(blocks), dim3(kThreads), 0, stream, *a);
}
