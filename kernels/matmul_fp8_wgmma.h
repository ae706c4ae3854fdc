/* matmul_fp8_wgmma.h - the products of matmul_fp8.h as sm_90 makes them: bulk copies, wgmma on e4m3, clusters of two blocks.
 *
 *   y[m,n] (=|+=) sum_s a_scales_s[m] b_scales_s[n] sum_k a8_s[m,k] b8_s[n,k] + sum_s sum_k a_s[m,k] b_s    as matmul_fp8.h
 *
 * The same arguments and results as LC(matmul_fp8), which comes here on a Hopper GPU: without wgmma Hopper has no product in
 * e4m3, its mma.sync unpacks to fp16. Refused elsewhere, except on the CPU device with bf16 storage, for the tests.
 */
#pragma once
#include "matmul_fp8.h"

LC_API lc_status LC(matmul_fp8_wgmma)(const lc_matmul_fp8_args *a, lc_stream stream);
