/* cross_entropy.h - softmax cross entropy over the vocabulary, loss and gradient in one kernel.
 *
 * forward   loss[i] = log sum_v exp(logits[i,v]) - logits[i,targets[i]]                 v < V
 * and       dlogits[i,v] = (exp(logits[i,v]) / sum_u exp(logits[i,u]) - (v == targets[i])) scale
 *           columns V..Vp are padding: not read as logits, zero in dlogits.
 *           targets[i] < 0: no target; loss and gradient of the row are zero.
 */
#pragma once
#include "lc.h"

typedef struct lc_cross_entropy_args {
    const float *logits;    /* [n,Vp] in                                               */
    const int32_t *targets; /* [n]    in, targets[i] < V                               */
    float *loss;            /* [n]    out                                              */
    lc_act *dlogits;        /* [n,Vp] out, or NULL: the loss alone                     */
    int32_t n, V, Vp;       /* V <= Vp, Vp % 8 == 0                                    */
    float scale;            /* of the gradient: 1 / all target tokens of the step, say */
} lc_cross_entropy_args;

LC_API lc_status LC(cross_entropy)(const lc_cross_entropy_args *a, lc_stream stream);
