#!/bin/sh
# Builds the CUDA machine for aarch64 and runs its promises (tests/kernels/machine.cu) under qemu: the switch between
# fibres is assembly, and few of us sit at such a machine. Needs g++-aarch64-linux-gnu and qemu-user.
set -eu
cd "$(dirname "$0")/.."
for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
    command -v $tool >/dev/null || { echo "skipped: no $tool (apt-get install g++-aarch64-linux-gnu qemu-user)"; exit 0; }
done
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# As build.rs compiles for the host, without what is x86's own.
cxx="aarch64-linux-gnu-g++ -std=gnu++17 -O3 -g1 -fno-exceptions -fno-rtti -fno-math-errno -fno-trapping-math -Ikernels
    -fno-stack-protector -fomit-frame-pointer -Wall -Wno-unknown-pragmas -Wno-psabi -Wno-unused-function -Wno-ignored-attributes"
for file in machine lanes hopper leaf_fp8; do $cxx -c kernels/host/$file.cpp -o "$out/$file.o"; done
$cxx -DLC_LEAF=leaf_base -c kernels/host/leaf.cpp -o "$out/leaf.o"
$cxx -xc++ -DLC_VARIANT=cpu_bf16 -c tests/kernels/machine.cu -o "$out/bf16.o"
$cxx -xc++ -DLC_VARIANT=cpu_fp32 -DLC_FP32 -c tests/kernels/machine.cu -o "$out/fp32.o"
$cxx -xc++ -DLC_VARIANT=cpu_bf16 -c tests/kernels/hopper.cu -o "$out/hopper_bf16.o"
$cxx -c tests/kernels/driver.cpp -o "$out/driver.o"
$cxx -static -pthread "$out"/*.o -o "$out/driver"
qemu-aarch64 "$out/driver"
