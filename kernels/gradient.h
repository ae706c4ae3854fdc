/* gradient.h - the gradient of a stretch of flat weights, stored or as factors: what the optimiser's kernels read.
 *
 * grad[i] = dense[i]                                                                                    stored
 *         = sum_r dy[r, i / n_in] x[r, i % n_in], r ascending, a fused multiply-add a row               factors
 *
 * Factors stand for the gradient of a weight [n_out, n_in] over the `rows` of a step. dense.cu adds rows to a stored
 * gradient one by one with the same operation, so both forms have the same bits (tests/ops/dense.rs).
 */
#pragma once
#include "lc.h"

typedef struct lc_gradient {
    const float *dense;   /* [n], or NULL: the rest describes it                */
    const float *dy;      /* [rows, n_out]                                      */
    const float *x;       /* [rows, n_in]                                       */
    int32_t rows, n_in, n_out;
} lc_gradient;
