/* rows.h - some rows of a matrix, in order, and the gradient back to them: logits are computed only where a target is.
 *
 * gather    y[i,c] = x[rows[i],c]
 * scatter   dx[rows[i],c] (=|+=) dy[i,c];  with LC_SET every other row of dx becomes zero
 */
#pragma once
#include "lc.h"

typedef struct lc_rows_gather_args {
    const lc_act *x;     /* [T,C] in                                          */
    const int32_t *rows; /* [n]   in, 0 <= rows[i] < T, strictly ascending    */
    lc_act *y;           /* [n,C] out                                         */
    int32_t n, T, C;     /* C % 8 == 0, n <= T                                */
} lc_rows_gather_args;

typedef struct lc_rows_scatter_args {
    const lc_act *dy;    /* [n,C] in                                          */
    const int32_t *rows; /* [n]   in, 0 <= rows[i] < T, strictly ascending    */
    lc_act *dx;          /* [T,C] out, written as `write` says                */
    int32_t n, T, C;     /* C % 8 == 0, n <= T                                */
    int32_t write;       /* lc_write                                          */
} lc_rows_scatter_args;

LC_API lc_status LC(rows_gather)(const lc_rows_gather_args *a, lc_stream stream);
LC_API lc_status LC(rows_scatter)(const lc_rows_scatter_args *a, lc_stream stream);
