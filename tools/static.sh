#!/usr/bin/env bash
# Compiles every kernel for every GPU and holds the result to tools/static_kernels.tsv (tools/static_check.py).
set -euo pipefail
cd "$(dirname "$0")/.."
tools/install_cuda.sh
cargo build --release
out=$(ls -td "${CARGO_TARGET_DIR:-target}"/release/build/llamacare-*/out/rms_norm.cuda.o | head -n 1)
python3 tools/static_check.py "$@" "$(dirname "$out")"/*.cuda.o
