/* embedding.h - the row of the table that belongs to each token. The table is frozen: no backward.
 *
 * forward   h[t,c] = table[ids[t],c]
 */
#pragma once
#include "lc.h"

typedef struct lc_embedding_fwd_args {
    const lc_act *table; /* [V,C] in, frozen             */
    const int32_t *ids;  /* [T]   in, 0 <= ids[t] < V    */
    lc_act *h;           /* [T,C] out                    */
    int32_t T, C, V;     /* C % 8 == 0                   */
} lc_embedding_fwd_args;

LC_API lc_status LC(embedding_fwd)(const lc_embedding_fwd_args *a, lc_stream stream);
