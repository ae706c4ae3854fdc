// promises.h - what the lists of promises share (machine.cu, fp8.cu, hopper.cu): memory, expectations, small integers, the list.
#pragma once
#include "device/kernel.cuh"
#include <stdio.h>
#include <vector>

namespace {
// Global memory of a test; the checked build knows its size.
template <class T>
struct Global {
    std::vector<T> v;
    explicit Global(size_t n, T fill = T()) : v(n, fill) {
#if LC_CHECKED
        lc_check_register(v.data(), n * sizeof(T), "a test's buffer");
#endif
    }
    Global(const Global&) = delete;
    ~Global() {
#if LC_CHECKED
        lc_check_unregister(v.data());
#endif
    }
    T* p() { return v.data(); }
};

uint32_t next_random(uint32_t& state) { return state = state * 1664525u + 1013904223u, state >> 16; }
float small_integer(uint32_t& state) { return (float)((int)(next_random(state) % 9) - 4); }

struct Promise {
    const char* text;
    bool (*holds)();
};

// Runs promise i and says what it is: 1 held, 0 broken, -1 there is no promise i.
template <size_t N>
int32_t run_promise(const Promise (&promises)[N], int32_t i, const char** text) {
    if (i < 0 || i >= (int32_t)N) return -1;
    *text = promises[i].text;
    return promises[i].holds();
}
}  // namespace

#define EXPECT(condition, ...)                                              \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                   \
            fputc('\n', stderr);                                            \
            return false;                                                   \
        }                                                                   \
    } while (0)
#define RUN(...) EXPECT((__VA_ARGS__).code == LC_OK, "the launch failed")
