/* lc.h - the words every contract header shares. C, so that bindgen reads what the C++ compilers read.
 *
 * One header per operation states its formula, an argument struct with shape, dtype and direction beside every
 * pointer, and its launchers:  LC_API lc_status LC(<op>_fwd)(const lc_<op>_args *, lc_stream).
 * A launcher checks what the kernel relies on and returns a value; the sentence is written in Rust, which knows names.
 * The same launcher is compiled once per variant (CUDA, CPU with bf16 storage, CPU with fp32 storage): LC() names it.
 */
#pragma once
#include <stdint.h>

/* lc_act: the storage type of activations and dense weights. bf16; float in the fp32 build of the CPU device. */
#ifdef __cplusplus
#include "device/act.cuh"
#define LC_API extern "C"
#else
typedef struct lc_act lc_act;
#define LC_API
#endif

#define LC_JOIN_(a, b, c) a##b##_##c
#define LC_JOIN(a, b, c) LC_JOIN_(a, b, c)
#ifdef LC_VARIANT
#define LC(name) LC_JOIN(lc_, name, LC_VARIANT)
#else
#define LC(name) lc_##name
#endif

typedef enum lc_code {
    LC_OK = 0,
    LC_BAD_SHAPE = 1,   /* a size the kernel does not take; `where` is the equation that failed  */
    LC_MISALIGNED = 2,  /* a pointer that is not 16-byte aligned                                 */
    LC_UNSUPPORTED = 3, /* a combination there is no kernel for                                  */
    LC_CUDA = 4,        /* the CUDA runtime refused; `detail` is its error number                */
    LC_CHECK = 5,       /* the checked host machine found `detail` faults; they are on stderr    */
} lc_code;

typedef struct lc_status {
    int32_t code;      /* lc_code */
    int32_t detail;
    const char *where; /* static text or NULL */
} lc_status;

typedef struct lc_stream_handle *lc_stream; /* a CUstream; NULL on the CPU device */

/* How a result is written: the first gradient of a tensor sets it, later ones add to it. */
typedef enum lc_write { LC_SET = 0, LC_ADD = 1 } lc_write;
