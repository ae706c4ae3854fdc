/* softmax_ce.h - the classifier's last step: probabilities, cross entropy and its gradient, fp32, a few classes.
 *
 * forward   probs[b,k] = exp(logits[b,k]) / sum_j exp(logits[b,j])       loss[b] = -log probs[b,labels[b]]
 * and       dlogits[b,k] = (probs[b,k] - (k == labels[b])) scale
 *           labels[b] < 0: no label; loss and gradient of the row are zero, its probabilities are not.
 */
#pragma once
#include "lc.h"

typedef struct lc_softmax_ce_args {
    const float *logits;   /* [B,n_class] in                                                  */
    const int32_t *labels; /* [B]         in, labels[b] < n_class; NULL: probabilities alone  */
    float *probs;          /* [B,n_class] out                                                 */
    float *loss;           /* [B]         out; NULL without labels                            */
    float *dlogits;        /* [B,n_class] out, or NULL                                        */
    int32_t B, n_class;
    float scale;           /* of the gradient: 1 / labelled examples of the step, say         */
} lc_softmax_ce_args;

LC_API lc_status LC(softmax_ce)(const lc_softmax_ce_args *a, lc_stream stream);
