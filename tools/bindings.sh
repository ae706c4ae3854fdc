#!/usr/bin/env bash
# Writes src/ffi/bindings/*.rs from kernels/*.h; with --check, fails when one is stale. libclang comes from PyPI into .venv/
# (no root); it lacks the compiler's own headers, which gcc lends it.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${LIBCLANG_PATH:-}" ]; then
    [ -x .venv/bin/pip ] || python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check libclang==18.1.1
    LIBCLANG_PATH=$(.venv/bin/python -c 'import clang, os; print(os.path.join(os.path.dirname(clang.__file__), "native"))')
    export LIBCLANG_PATH
fi
export BINDGEN_EXTRA_CLANG_ARGS="${BINDGEN_EXTRA_CLANG_ARGS:--isystem $(gcc -print-file-name=include)}"
cargo run --quiet --release --manifest-path tools/bindings/Cargo.toml --target-dir target/bindings -- "$@"
