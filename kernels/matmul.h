/* matmul.h - matrix products on tensor cores, with the K axis laid together from up to eight segments.
 *
 *   NT   y[m,n] (=|+=) alpha sum_s sum_k a_s[m,k] b_s[n,k]      forward        y  = x W^T
 *   NN   y[m,n] (=|+=) alpha sum_s sum_k a_s[m,k] b_s[k,n]      input gradient dx = dy W
 *   TN   y[m,n] (=|+=) alpha sum_s sum_k a_s[k,m] b_s[k,n]      weight gradient dW = dy^T x
 *
 * The K loop runs through the segments one after another, as if the a_s, and the b_s, lay side by side: LoRA is the
 * segments (x, W), (s x A^T, B), and the gradient of an input that q, k and v share is one product of six segments.
 * Nothing is copied together and y is written once.
 */
#pragma once
#include "lc.h"

typedef enum lc_layout { LC_NT = 0, LC_NN = 1, LC_TN = 2 } lc_layout;

typedef enum lc_matmul_size { LC_MAX_SEGMENTS = 8 } lc_matmul_size;

typedef struct lc_matmul_segment {
    const lc_act *a;  /* in  NT, NN: [M,K]   TN: [K,M]    rows lda apart */
    const lc_act *b;  /* in  NT: [N,K]   NN, TN: [K,N]    rows ldb apart */
    int32_t lda, ldb; /* multiples of 8                                  */
    int32_t K;        /* > 0; a multiple of 8 unless TN                  */
} lc_matmul_segment;

typedef struct lc_matmul_args {
    lc_matmul_segment segment[LC_MAX_SEGMENTS];
    lc_act *y;          /* [M,N] out, rows ldy apart; or NULL              */
    float *y32;         /* [M,N] out, the same in fp32; one of y, y32      */
    int32_t n_segments; /* 1 to LC_MAX_SEGMENTS                            */
    int32_t M, N;       /* N a multiple of 8; M as well in TN              */
    int32_t ldy;        /* a multiple of 8                                 */
    int32_t layout;     /* lc_layout                                       */
    int32_t write;      /* lc_write                                        */
    float alpha;
} lc_matmul_args;

LC_API lc_status LC(matmul)(const lc_matmul_args *a, lc_stream stream);
