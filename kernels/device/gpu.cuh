// gpu.cuh - what a launcher asks of the GPU it runs on, once per device: for tables of tiles.
#pragma once
#include "device/kernel.cuh"

struct Gpu {
    int architecture;  // 80, 86, 89, 90, 120
    int n_sms;         // multiprocessors
    int shared_bytes;  // shared memory of one, which its blocks share
};

#ifdef __CUDACC__
inline const Gpu& this_gpu() {
    static Gpu known[64];
    int device = 0;
    cudaGetDevice(&device);
    Gpu& gpu = known[device % 64];
    if (!gpu.n_sms) { // two threads at once find the same
        Gpu found{};
        int major = 0, minor = 0;
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
        cudaDeviceGetAttribute(&found.shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
        found.architecture = 10 * major + minor;
        cudaDeviceGetAttribute(&found.n_sms, cudaDevAttrMultiProcessorCount, device);
        gpu = found;
    }
    return gpu;
}
#else
// The CPU device stands in for an RTX 4090, the card this engine is made for.
inline const Gpu& this_gpu() {
    static const Gpu gpu{89, 128, 100 << 10};
    return gpu;
}
#endif
