#!/usr/bin/env bash
# Builds here, where nvcc is, what tools/gpu/prove.sh runs there, where the GPU is: no compiler and no network needed there.
#
#     tools/gpu/pack.sh [ORACLE]     ORACLE: a folder of cases for `verify` to take along
#
# Fills carry/ (ignored by git): stripped binaries, golden files, assets, the cases. Refuses more than 64 MiB, which is what
# such a machine usually takes. LLAMACARE_PACK_ANY=1 packs a build without CUDA kernels too, to try the script itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
limit_mib=64
say() { echo "pack: $*" >&2; }
[ $# -le 1 ] || { say "usage: tools/gpu/pack.sh [ORACLE]"; exit 2; }
[ $# -eq 0 ] || [ -d "$1" ] || { say "$1: no such folder of oracle cases"; exit 2; }
[ "${LLAMACARE_PACK_ANY:-}" = 1 ] || tools/install_cuda.sh

target=${CARGO_TARGET_DIR:-target}
cargo build --release --bins
# Where cargo put a test or bench binary is in its messages only.
built() { cargo "$@" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1; }
unit=$(built test --release --lib)
main=$(built test --release --test main)
bench=$(built bench --bench main)
for file in "$unit" "$main" "$bench"; do [ -x "$file" ] || { say "cargo named no binary"; exit 1; }; done
if [ "${LLAMACARE_PACK_ANY:-}" != 1 ] && ! grep -qa 'lc_rms_norm_fwd_cuda' "$target/release/finetune"; then
    say "the binaries hold no CUDA kernels; touch build.rs and look at its warning"
    exit 1
fi

rm -rf carry
mkdir -p carry/stage/bin
for name in finetune verify; do cp "$target/release/$name" carry/stage/bin/; done
cp "$unit" carry/stage/bin/unit_tests
cp "$main" carry/stage/bin/main_tests
cp "$bench" carry/stage/bin/bench
strip carry/stage/bin/*
mkdir carry/stage/tests
cp -r tests/golden carry/stage/tests/golden
cp -r assets carry/stage/assets
[ $# -eq 0 ] || cp -rL "$1" carry/stage/oracle
# Tests look for their files where they were compiled; prove.sh makes that path lead to where it unpacked them.
pwd > carry/stage/build_root
{ git rev-parse HEAD; git status --porcelain | sed 's/^/changed: /'; } > carry/stage/commit
tar -C carry/stage -czf carry/carry.tar.gz .
rm -r carry/stage
cp tools/gpu/prove.sh carry/prove.sh

mib=$(($(du -sk carry | cut -f1) / 1024 + 1))
if [ "$mib" -gt "$limit_mib" ]; then
    du -ak carry | sort -rn | head -n 5 >&2
    say "carry/ has $mib MiB, $limit_mib at most; take fewer oracle cases along"
    exit 1
fi
say "carry/ has $mib MiB; run carry/prove.sh on the machine with the GPU"
