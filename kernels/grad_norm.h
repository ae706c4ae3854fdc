/* grad_norm.h - the norm of all gradients, the factor that clips them, and a search for values that are no numbers.
 *
 * norm  = sqrt(sum_i grad[i]^2)                      clip = min(1, max_norm / (norm + 1e-6))
 * bad[0] = how many grad[i] are NaN or infinite      bad[1] = the first such i, or -1
 *
 * The gradients come in parts, each flat: grad_norm_part sums one into its spans of `sums` and `bads`, a part begins with
 * a new span, and grad_norm_total makes one norm of all spans. Element j of a part whose first span is s is i = s SPAN + j.
 *
 * clip is 0 where bad[0] > 0 or the norm is not finite: adamw then leaves everything as it is, so that the run can stop
 * with its last good state. Results stay on the device: the optimiser needs no round trip to the host.
 */
#pragma once
#include "gradient.h"

#define LC_GRAD_NORM_SPAN 8192 /* elements that share one entry of `sums` */

typedef struct lc_grad_norm_part_args {
    lc_gradient grad;  /* [n]                  in                                                 */
    float *sums;       /* [ceil(n / SPAN)]     out, those of this part                            */
    int32_t *bads;     /* [2 ceil(n / SPAN)]   out, those of this part                            */
    int64_t n;         /* n < 2^31                                                                */
} lc_grad_norm_part_args;

typedef struct lc_grad_norm_total_args {
    const float *sums;   /* [n_spans]          in                                                 */
    const int32_t *bads; /* [2 n_spans]        in                                                 */
    float *norm;         /* [2]                out  norm, clip                                    */
    int32_t *bad;        /* [2]                out  count, first index                            */
    int64_t n_spans;     /* n_spans SPAN < 2^31                                                   */
    float max_norm;      /* infinity: never clipped                                               */
} lc_grad_norm_total_args;

LC_API lc_status LC(grad_norm_part)(const lc_grad_norm_part_args *a, lc_stream stream);
LC_API lc_status LC(grad_norm_total)(const lc_grad_norm_total_args *a, lc_stream stream);
