/* adamw.h - AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW computes it.
 *
 * g = grad[i] clip        w *= 1 - lr weight_decay
 * m += (1 - beta1) (g - m)        v = beta2 v + (1 - beta2) g^2
 * w -= lr / (1 - beta1^step)  m / (sqrt(v) / sqrt(1 - beta2^step) + eps)          copy[i] = w, rounded to storage
 *
 * clip == 0 (see grad_norm.h): nothing is touched.
 */
#pragma once
#include "gradient.h"

typedef struct lc_adamw_step {
    double lr, beta1, beta2, eps, weight_decay;
    int32_t step;      /* 1 for the first update                                     */
} lc_adamw_step;

typedef struct lc_adamw_args {
    float *master;     /* [n] in, out                                                */
    lc_gradient grad;  /* [n] in                                                     */
    float *m;          /* [n] in, out                                                */
    float *v;          /* [n] in, out                                                */
    lc_act *copy;      /* [n] out, or NULL: the weights the kernels read             */
    const float *clip; /* [1] in, or NULL for 1; on the device                       */
    int64_t n;
    lc_adamw_step step;
} lc_adamw_args;

LC_API lc_status LC(adamw)(const lc_adamw_args *a, lc_stream stream);
