// driver.cpp - runs the machine's promises (machine.cu, hopper.cu) without Rust: for cross-compiled builds under an emulator.
// Blocks run on four threads, a quarter each.
#include "lc.h"
#include <stdio.h>
#include <thread>
#include <vector>

extern "C" void lc_host_parallel_for(size_t n_blocks, void (*run)(void*, size_t, size_t), void* context) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 4; i++) threads.emplace_back(run, context, n_blocks * i / 4, n_blocks * (i + 1) / 4);
    for (std::thread& t : threads) t.join();
}
extern "C" size_t lc_host_locate(const void* pc, char* text, size_t n) { return (size_t)snprintf(text, n, "%p", pc); }
extern "C" int lc_host_cpu_ok();
extern "C" int32_t lc_machine_promise_cpu_bf16(int32_t i, const char** text);
extern "C" int32_t lc_machine_promise_cpu_fp32(int32_t i, const char** text);
extern "C" int32_t lc_hopper_promise_cpu_bf16(int32_t i, const char** text);

int main() {
    int n_broken = !lc_host_cpu_ok();
    for (auto promise : {lc_machine_promise_cpu_bf16, lc_machine_promise_cpu_fp32, lc_hopper_promise_cpu_bf16}) {
        const char* text = "";
        for (int32_t i = 0, held; (held = promise(i, &text)) >= 0; i++) {
            printf("%s  %s\n", held ? "holds " : "BROKEN", text);
            n_broken += !held;
        }
    }
    return n_broken != 0;
}
