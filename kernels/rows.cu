// rows.cu - gathers some rows of a matrix, and scatters their gradient back.
//
// gather     y[i,:] = x[rows[i],:]
// scatter    dx[rows[i],:] (=|+=) dy[i,:], and with LC_SET zero in every other row
//
// precision  bits are copied; only LC_ADD computes, in fp32, and rounds once.
// work       one warp a row, 16-byte accesses. The scatter runs over the rows of dx and looks each up in `rows`, which is
//            sorted (a dozen cached reads a row), so that zeros and values are written by one kernel and once.
// cost       gather 2 n C; scatter n C read, T C written (LC_ADD: n C read twice, written once): bound by memory.
// checked    tests/ops/rows.rs against tools/golden/rows.py
#include "rows.h"
#include "device/kernel.cuh"

namespace {
constexpr int kRowsPerBlock = 4;

__global__ void __launch_bounds__(32 * kRowsPerBlock) rows_gather(lc_rows_gather_args a) {
    const int i = blockIdx.x * kRowsPerBlock + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= a.n) return;
    const size_t from = (size_t)a.rows[i] * a.C, to = (size_t)i * a.C;
    for (int c = lane * 8; c < a.C; c += 256) store8(a.y + to + c, load8(a.x + from + c));
}

// The place of t in `rows`, or -1.
LC_INLINE int find(const int32_t* rows, int n, int t) {
    int lo = 0, hi = n; // rows[i] < t for i < lo, rows[i] >= t for i >= hi
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (rows[mid] < t)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && rows[lo] == t ? lo : -1;
}

__global__ void __launch_bounds__(32 * kRowsPerBlock) rows_scatter(lc_rows_scatter_args a) {
    const int t = blockIdx.x * kRowsPerBlock + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (t >= a.T) return;
    const int i = find(a.rows, a.n, t);
    if (i < 0 && a.write == LC_ADD) return;
    const size_t from = (size_t)(i < 0 ? 0 : i) * a.C, to = (size_t)t * a.C;
    for (int c = lane * 8; c < a.C; c += 256) {
        act8 d;
        if (i < 0) {
            for (int k = 0; k < 8; k++) d.v[k] = from_f(0.f);
        } else {
            d = load8(a.dy + from + c);
            if (a.write == LC_ADD) {
                act8 old = load8(a.dx + to + c);
                UNROLL
                for (int k = 0; k < 8; k++) d.v[k] = from_f(to_f(old.v[k]) + to_f(d.v[k]));
            }
        }
        store8(a.dx + to + c, d);
    }
}
} // namespace

LC_API lc_status LC(rows_gather)(const lc_rows_gather_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n <= a->T && a->C > 0 && a->C % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->x, a->y), LC_MISALIGNED);
    return launch<rows_gather>(dim3(ceil_div(a->n, kRowsPerBlock)), dim3(32 * kRowsPerBlock), 0, stream, *a);
}

LC_API lc_status LC(rows_scatter)(const lc_rows_scatter_args* a, lc_stream stream) {
    LC_REQUIRE(a->n > 0 && a->n <= a->T && a->C > 0 && a->C % 8 == 0, LC_BAD_SHAPE);
    LC_REQUIRE(aligned16(a->dy, a->dx), LC_MISALIGNED);
    return launch<rows_scatter>(dim3(ceil_div(a->T, kRowsPerBlock)), dim3(32 * kRowsPerBlock), 0, stream, *a);
}
