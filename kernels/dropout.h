/* dropout.h - dropout with a mask that is computed, never stored; the backward is the same function of dy.
 *
 *   y[e] (=|+=) x[e] keep[e] / (1 - p)        keep[e] = word[e] >= floor(p 2^32)
 *   word[e] = philox(key = seed, counter = (e / 4 low, e / 4 high, step, tensor))[e % 4]
 */
#pragma once
#include "lc.h"

typedef struct lc_dropout_args {
    const lc_act *x;  /* [n] in                                            */
    lc_act *y;        /* [n] out; may be x                                 */
    int64_t n;        /* a multiple of 8                                   */
    uint64_t seed;    /* of the run                                        */
    uint32_t step;    /* of the run, the micro-batch included              */
    uint32_t tensor;  /* which dropout of the model                        */
    float p;          /* 0 <= p < 1                                        */
    int32_t write;    /* lc_write                                          */
} lc_dropout_args;

LC_API lc_status LC(dropout)(const lc_dropout_args *a, lc_stream stream);
