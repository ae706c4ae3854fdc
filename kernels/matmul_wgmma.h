/* matmul_wgmma.h - the products of matmul.h as sm_90 makes them: bulk copies, wgmma, clusters of two blocks.
 *
 * The same arguments and the same results as LC(matmul), for NT and NN without slices: what a Hopper GPU runs for large
 * outputs. LC(matmul) calls it where LC(matmul_wgmma_fits); called directly, it runs any M and N that matmul.h allows, and
 * is refused where there is no sm_90 (the CPU device runs it, except with fp32 storage: its operands are 16 bits).
 * `tile`: 0 chooses by waves; 1, 2, 3: 256, 192, 128 columns.
 */
#pragma once
#include "matmul.h"

LC_API lc_status LC(matmul_wgmma)(const lc_matmul_args *a, lc_stream stream);
