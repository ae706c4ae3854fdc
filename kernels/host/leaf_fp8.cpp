// leaf_fp8.cpp - e4m3 products on a CPU: widened through a table, then the bf16 leaf; and one mma, lane by lane.
#include "lc.h"
#include "host/leaf_fp8.h"

namespace lc_host {
namespace {
struct Table {
    uint16_t bf16[256];
    Table() {
        for (int code = 0; code < 256; code++) {
            const int exponent = code >> 3 & 15, mantissa = code & 7;
            float value = exponent ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
            if ((code & 0x7f) == 0x7f) value = NAN;
            if (code & 0x80) value = -value;
            uint32_t bits;
            memcpy(&bits, &value, 4);
            bf16[code] = (uint16_t)(bits >> 16);
        }
    }
};
const Table table;

float value_of(uint32_t code) {
    const uint32_t bits = (uint32_t)table.bf16[code & 255] << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

struct alignas(64) Scratch {
    uint16_t a[kMaxM * kMaxK];
    uint16_t b[kMaxN * kMaxK];
};
__thread __attribute__((tls_model("initial-exec"))) Scratch scratch;

void widen(uint16_t* to, const uint8_t* from, int ld, int rows, int k) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < k; j++) to[i * k + j] = table.bf16[from[i * ld + j]];
}

#if LC_CHECKED
// What the call's body in steps would read, by changing lanes, and its ldmatrix.x4 one after another.
void check_tile(const uint8_t* tile, int ld, int rows, int k, bool rows_first, const void* pc) {
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < k; c += 16) check_read((uint32_t)(i + c / 8) & 31, tile + (size_t)i * ld + c, 16, pc);
    for (int k0 = 0; k0 < k; k0 += 32)
        for (int row0 = 0; row0 < rows; row0 += 16) {
            const void* row[32];
            for (int l = 0; l < 32; l++) {
                const int low = l >> 3 & 1, high = l >> 4;
                row[l] = tile + (size_t)(row0 + (l & 7) + 8 * (rows_first ? low : high)) * ld + k0 +
                         16 * (rows_first ? high : low);
            }
            check_matrices(row, pc);
        }
}
#endif
}  // namespace

uint16_t e4m3_to_bf16(uint8_t code) { return table.bf16[code]; }

void fp8_tile(const Fp8Call& call, float* const* acc) {
    const int m = call.mt * 16, n = call.nt * 8, k = call.ks * 32;
#if LC_CHECKED
    const void* pc = __builtin_return_address(0);
    check_tile(call.a, call.lda, m, k, true, pc);
    check_tile(call.b, call.ldb, n, k, false, pc);
#endif
    widen(scratch.a, call.a, call.lda, m, k);
    widen(scratch.b, call.b, call.ldb, n, k);
    const MmaCall wide{call.mt, call.nt, call.ks * 2, false, false, scratch.a, k, scratch.b, k, 2};
#ifdef __x86_64__
    static const bool vectors = has_avx512(), pairs = has_avx512_bf16();
    if (pairs) return leaf_bf16::mma_tile(wide, acc, nullptr);
    if (vectors) return leaf_avx512::mma_tile(wide, acc, nullptr);
#endif
    leaf_base::mma_tile(wide, acc, nullptr);
}

void fp8_leaf(float* const* d, const uint32_t* const* a, const uint32_t* const* b) {
    float A[16][32], B[8][32];
    for (int l = 0; l < 32; l++) {
        const int g = l >> 2, t = l & 3;
        for (int byte = 0; byte < 4; byte++) {
            for (int r = 0; r < 4; r++)
                A[g + (r & 1) * 8][4 * t + (r >> 1) * 16 + byte] = value_of(a[l][r] >> (8 * byte));
            for (int r = 0; r < 2; r++) B[g][4 * t + r * 16 + byte] = value_of(b[l][r] >> (8 * byte));
        }
    }
    for (int l = 0; l < 32; l++)
        for (int r = 0; r < 4; r++) {
            const int m = (l >> 2) + (r >> 1) * 8, n = (l & 3) * 2 + (r & 1);
            float c = d[l][r];
            for (int k = 0; k < 32; k++) c = __builtin_fmaf(A[m][k], B[n][k], c);
            d[l][r] = c;
        }
}
}  // namespace lc_host
