// gradient.cuh - one element of a gradient that is stored or kept as factors (gradient.h), for the optimiser's kernels.
#pragma once
#include "device/kernel.cuh"
#include "gradient.h"
#include <math.h>

// Neighbouring threads read neighbouring x, and mostly the same dy: x comes from the L2 cache once per output.
LC_INLINE float gradient_at(const lc_gradient& g, int64_t i) {
    if (g.dense) return g.dense[i];
    const uint32_t o = (uint32_t)i / (uint32_t)g.n_in, c = (uint32_t)i % (uint32_t)g.n_in;
    float dw = 0.f;
    for (int r = 0; r < g.rows; r++) dw = fmaf(g.dy[(size_t)r * g.n_out + o], g.x[(size_t)r * g.n_in + c], dw);
    return dw;
}

// What gradient_at relies on, for launchers.
inline bool is_gradient_of(const lc_gradient& g, int64_t n) {
    return g.dense || (g.dy && g.x && g.rows >= 0 && g.n_in > 0 && n < 0x7fffffff && (int64_t)g.n_in * g.n_out == n);
}
