/* nf4_quantize.h - a dense weight to NF4, byte for byte as bitsandbytes does it.
 *
 *   absmax[b] = max |w| over a block of 64     code = number of midpoints of map16 strictly below w (1 / max(absmax, 1e-38))
 *   double quantisation of the scales, where absmax_q is given:
 *   offset = mean_b absmax[b] (in PyTorch's order)     nested_absmax[c] = max |absmax - offset| over 256 blocks
 *   absmax_q = number of midpoints of nested_map strictly below (absmax - offset) (1 / max(nested_absmax, 1e-38))
 * An odd count leaves the code of zero, 7, in the last low nibble.
 */
#pragma once
#include "lc.h"

typedef struct lc_nf4_quantize_args {
    const lc_act *w;         /* [n] in; or NULL                          */
    const float *w32;        /* [n] in; exactly one of w, w32            */
    uint8_t *packed;         /* [ceil(n / 2)] out                        */
    float *absmax;           /* [n_blocks] out, n_blocks = ceil(n / 64)  */
    uint8_t *absmax_q;       /* [n_blocks] out, or NULL: plain scales    */
    float *nested_absmax;    /* [ceil(n_blocks / 256)] out, or NULL      */
    float *offset;           /* [1] out, or NULL                         */
    const float *nested_map; /* [256] in, ascending, or NULL             */
    int64_t n;
} lc_nf4_quantize_args;

LC_API lc_status LC(nf4_quantize)(const lc_nf4_quantize_args *a, lc_stream stream);
