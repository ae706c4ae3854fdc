/* matmul.h - matrix products on tensor cores: up to three outputs in one launch, each with its K laid together from segments.
 *
 *   NT   y[m,n] (=|+=) alpha sum_s sum_k a_s[m,k] b_s[n,k]      forward        y  = x W^T
 *   NN   y[m,n] (=|+=) alpha sum_s sum_k a_s[m,k] b_s[k,n]      input gradient dx = dy W
 *   TN   y[m,n] (=|+=) alpha sum_s sum_k a_s[k,m] b_s[k,n]      weight gradient dW = dy^T x
 *
 * The K loop runs through an output's segments one after another, as if the a_s, and the b_s, lay side by side: LoRA is the
 * segments (x, W), (s x A^T, B), and the gradient of an input that q, k and v share is one product of six segments.
 * Nothing is copied together and y is written once.
 *
 * Outputs share M, layout, write and alpha, nothing else: q, k and v are three outputs of one grid, whose last wave is
 * then one of all tiles instead of one each. The grid covers the tiles of output 0, then of 1, then of 2.
 *
 * n_slices > 1 cuts K: slice i makes the sums over its part of the k-tiles in fp32 into `partial`, and a second kernel
 * adds the slices in order and applies alpha, write and rounding. For outputs of so few tiles that walking K alone
 * would leave most of a GPU idle. Who calls decides, from the shape alone, so that a memory plan knows the scratch.
 */
#pragma once
#include "lc.h"

typedef enum lc_layout { LC_NT = 0, LC_NN = 1, LC_TN = 2 } lc_layout;

typedef enum lc_matmul_size {
    LC_MAX_SEGMENTS = 8,
    LC_MAX_OUTPUTS = 3,
    LC_MAX_SLICES = 16,
    LC_MATMUL_WIDE = 128 /* N of outputs that share a launch: all less, or none */
} lc_matmul_size;

typedef struct lc_matmul_segment {
    const lc_act *a;  /* in  NT, NN: [M,K]   TN: [K,M]    rows lda apart */
    const lc_act *b;  /* in  NT: [N,K]   NN, TN: [K,N]    rows ldb apart */
    int32_t lda, ldb; /* multiples of 8                                  */
    int32_t K;        /* > 0; a multiple of 8 unless TN                  */
} lc_matmul_segment;

typedef struct lc_matmul_output {
    lc_act *y;              /* [M,N] out, rows ldy apart; or NULL                  */
    float *y32;             /* [M,N] out, the same in fp32; one of y, y32          */
    int32_t N, ldy;         /* multiples of 8                                      */
    int32_t first_segment;  /* its segments are [first_segment, first_segment + n_segments) */
    int32_t n_segments;     /* > 0                                                 */
} lc_matmul_output;

typedef struct lc_matmul_args {
    lc_matmul_segment segment[LC_MAX_SEGMENTS];
    lc_matmul_output output[LC_MAX_OUTPUTS];
    float *partial;     /* [n_slices, M, sum of N] scratch; NULL if n_slices is 1 */
    int32_t n_outputs;  /* 1 to LC_MAX_OUTPUTS                                    */
    int32_t n_slices;   /* 1 to LC_MAX_SLICES                                     */
    int32_t M;          /* > 0; a multiple of 8 in TN                             */
    int32_t layout;     /* lc_layout                                              */
    int32_t write;      /* lc_write                                               */
    int32_t tile;       /* 0: chosen by shape and device; i: the i-th of the table in matmul.cu, for tests */
    float alpha;
} lc_matmul_args;

LC_API lc_status LC(matmul)(const lc_matmul_args *a, lc_stream stream);
