/* grad_norm.h - the norm of all gradients, the factor that clips it, and a search for values that are no numbers.
 *
 * norm  = sqrt(sum_i grad[i]^2)                      clip = min(1, max_norm / (norm + 1e-6))
 * bad[0] = how many grad[i] are NaN or infinite      bad[1] = the first such i, or -1
 *
 * clip is 0 where bad[0] > 0 or the norm is not finite: adamw then leaves everything as it is, so that the run can stop
 * with its last good state. Results stay on the device: the optimiser needs no round trip to the host.
 */
#pragma once
#include "lc.h"

#define LC_GRAD_NORM_SPAN 8192 /* elements that share one entry of `sums` */

typedef struct lc_grad_norm_args {
    const float *grad; /* [n]                in                                                  */
    float *sums;       /* [ceil(n / SPAN)]   scratch                                             */
    int32_t *bads;     /* [2 ceil(n / SPAN)] scratch                                             */
    float *norm;       /* [2]                out  norm, clip                                     */
    int32_t *bad;      /* [2]                out  count, first index                             */
    int64_t n;         /* n < 2^31                                                               */
    float max_norm;    /* infinity: never clipped                                                */
} lc_grad_norm_args;

LC_API lc_status LC(grad_norm)(const lc_grad_norm_args *a, lc_stream stream);
