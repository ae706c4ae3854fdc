/* blocks8.h - activations in 8 bits: what lies between forward and backward in half the memory.
 *
 *   m = max |x| over a block of 128 finite elements            scale = m / 64516
 *   code = sign(x) rint((sqrt(16129 + 774192 |x| / m) - 127) / 6)       in -127 .. 127
 *   x' = round(code (127 + 3 |code|) scale)
 *
 * A step is a quarter of a uniform one at zero and 7/4 of it at m: one outlier does not cost its block the small values. Relative
 * error of a uniform code and of this one: Gaussian 0.66 and 0.63 %, Student's t of 4 degrees 1.09 and 0.75 %, Gaussian with one
 * value in a thousand twenty times larger 1.45 and 0.74 % (e4m3: 2.2 to 2.6 %). tools/golden/blocks8.py prints these figures.
 *
 * Code -128 stands for what is not finite and comes back as NaN, alone: its neighbours are not touched. A block whose m is
 * below 1e-33 is stored as zeros. m itself comes back exactly in bf16. */
#pragma once
#include "lc.h"

enum { LC_BLOCKS8 = 128 };

typedef struct lc_blocks8_quantize_args {
    const lc_act *x; /* [n] in                             */
    int8_t *codes;   /* [n] out                            */
    float *scales;   /* [ceil(n / 128)] out                */
    int64_t n;       /* n % 8 == 0; the last block is short */
} lc_blocks8_quantize_args;

typedef struct lc_blocks8_dequantize_args {
    const int8_t *codes; /* [n] in              */
    const float *scales; /* [ceil(n / 128)] in  */
    lc_act *x;           /* [n] out             */
    int64_t n;           /* n % 8 == 0          */
} lc_blocks8_dequantize_args;

LC_API lc_status LC(blocks8_quantize)(const lc_blocks8_quantize_args *a, lc_stream stream);
LC_API lc_status LC(blocks8_dequantize)(const lc_blocks8_dequantize_args *a, lc_stream stream);
