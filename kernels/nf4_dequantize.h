/* nf4_dequantize.h - an NF4 weight to dense storage, bit for bit as bitsandbytes decodes it (nf4.h).
 *
 *   y[n,k] = round(map16[code[n,k]] scale[(n K + k) / 64])
 */
#pragma once
#include "nf4.h"

typedef struct lc_nf4_dequantize_args {
    lc_nf4 w;  /* [N,K] in  */
    lc_act *y; /* [N,K] out */
} lc_nf4_dequantize_args;

LC_API lc_status LC(nf4_dequantize)(const lc_nf4_dequantize_args *a, lc_stream stream);
