#!/usr/bin/env bash
# Brings nvcc into .cuda/ (ignored by git): wheels from PyPI, 276 MiB on disk, no root, no driver. Every version is
# pinned: nvcc's own wheel takes its parts at the newest, and a newer front end writes PTX that this ptxas refuses.
set -euo pipefail
cd "$(dirname "$0")/.."
nvcc=.cuda/nvidia/cu13/bin/nvcc
if [ ! -x "$nvcc" ]; then
    rm -rf .cuda .cuda.tmp
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --target .cuda.tmp \
        nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-cccl==13.0.85 nvidia-cuda-cuobjdump==13.2.86 nvidia-cuda-nvdisasm==13.2.86
    mv .cuda.tmp .cuda
    touch build.rs # build.rs looks for nvcc when it runs; now it must run again
fi
"$nvcc" --version | tail -n 2
