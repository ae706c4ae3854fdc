/* matmul_wgmma.h - the products of matmul.h as sm_90 makes them: bulk copies, wgmma, clusters of two blocks.
 *
 *   y[m,n] (=|+=) alpha sum_s sum_k a_s[m,k] b_s[n,k]     NT; NN with b_s[k,n]
 *
 * The same arguments and results as LC(matmul), without TN and without slices. LC(matmul) comes here for large outputs on a
 * Hopper GPU; elsewhere it is refused, except on the CPU device with bf16 storage, which runs it for the tests.
 * `tile`: 0 chooses by waves; 1, 2, 3 are 256, 192, 128 columns.
 */
#pragma once
#include "matmul.h"

LC_API lc_status LC(matmul_wgmma)(const lc_matmul_args *a, lc_stream stream);
