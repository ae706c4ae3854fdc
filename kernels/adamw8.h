/* adamw8.h - AdamW (adamw.h) whose moments are stored in 8 bits: a code an element, an fp32 scale per block of 256.
 *
 * m       = signed_map[m_codes[i]] m_scales[i / 256]               m_scales[b] = max |m| of the block
 * sqrt(v) = unsigned_map[v_codes[i]] v_scales[i / 256]             v_scales[b] = max sqrt(v) of the block
 * code(y) = the number of midpoints between neighbours of the map that lie strictly below y / scale; for sqrt(v) > 0 at least 1
 *
 * The update takes this step's m and v before they are rounded. The maps are bitsandbytes' dynamic ones (ascending). It
 * stores v by the unsigned map; we store its root: a v that rounds to 0 beside a living m makes a step of m / eps, and
 * the map's seven decades hold fourteen of v this way. What is below them gets the smallest code, never 0.
 * Zeros everywhere are the state of a start: a scale of 0 gives 0 for every code.
 */
#pragma once
#include "adamw.h"

#define LC_ADAMW8_BLOCK 256 /* elements that share a scale */

typedef struct lc_adamw8_args {
    float *master;             /* [n]             in, out                          */
    lc_gradient grad;          /* [n]             in                               */
    uint8_t *m_codes;          /* [n]             in, out                          */
    uint8_t *v_codes;          /* [n]             in, out                          */
    float *m_scales;           /* [ceil(n / 256)] in, out                          */
    float *v_scales;           /* [ceil(n / 256)] in, out                          */
    const float *signed_map;   /* [256]           in                               */
    const float *unsigned_map; /* [256]           in                               */
    lc_act *copy;              /* [n]             out, or NULL                     */
    const float *clip;         /* [1]             in, or NULL for 1; on the device */
    int64_t n;
    lc_adamw_step step;
} lc_adamw8_args;

LC_API lc_status LC(adamw8)(const lc_adamw8_args *a, lc_stream stream);
