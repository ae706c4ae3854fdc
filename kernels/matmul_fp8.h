/* matmul_fp8.h - products with 8-bit operands, and bf16 ones behind them in the same sum: a frozen weight in e4m3 and its LoRA.
 *
 *   y[m,n] (=|+=) sum_s a_scales_s[m] b_scales_s[n] sum_k a8_s[m,k] b8_s[n,k]         segments in e4m3 (fp8_rows.h, nf4_fp8.h)
 *              +  sum_s sum_k a_s[m,k] b_s[n,k]                    NT: forward         segments in bf16
 *              or sum_s sum_k a_s[m,k] b_s[k,n]                    NN: input gradient
 *
 * Every segment in e4m3 has scales of its own: where it ends, the accumulator is brought to the scale of the next one,
 * acc a_scales_s[m] / a_scales_next[m] b_scales_s[n] / b_scales_next[n], and to scale 1 for bf16 and for y. So q, k and v share
 * one sum although their weights differ in size; y is rounded once. 8-bit operands have k contiguous, in both layouts: for the
 * input gradient the weight is decoded transposed.
 *
 * Up to three outputs in one launch, as in matmul.h: they share M, layout and write. Needs sm_89, sm_90 or sm_120; not in the
 * fp32 build.
 */
#pragma once
#include "matmul.h"

typedef enum lc_matmul_fp8_size { LC_FP8_SEGMENTS = 6, LC_FP8_OUTPUTS = 3 } lc_matmul_fp8_size;

typedef struct lc_matmul_fp8_segment {
    const uint8_t *a8;     /* in [M,K]; NULL: a segment in bf16                 */
    const uint8_t *b8;     /* in [N,K]                                          */
    const float *a_scales; /* in [M]                                            */
    const float *b_scales; /* in [N]                                            */
    const lc_act *a;       /* in [M,K]; where a8 is NULL                        */
    const lc_act *b;       /* in NT: [N,K]   NN: [K,N]                          */
    int32_t K;             /* > 0; a multiple of 16 in e4m3, of 8 in bf16       */
} lc_matmul_fp8_segment;

typedef struct lc_matmul_fp8_output {
    lc_act *y;             /* out [M,N]                                         */
    int32_t N;             /* a multiple of 8                                   */
    int32_t first_segment; /* its segments are [first_segment, first_segment + n_segments) */
    int32_t n_segments;    /* > 0                                               */
} lc_matmul_fp8_output;

typedef struct lc_matmul_fp8_args {
    lc_matmul_fp8_segment segment[LC_FP8_SEGMENTS];
    lc_matmul_fp8_output output[LC_FP8_OUTPUTS];
    int32_t n_outputs; /* 1 to LC_FP8_OUTPUTS         */
    int32_t M;         /* > 0                         */
    int32_t layout;    /* lc_layout: LC_NT or LC_NN   */
    int32_t write;     /* lc_write                    */
} lc_matmul_fp8_args;

LC_API lc_status LC(matmul_fp8)(const lc_matmul_fp8_args *a, lc_stream stream);
