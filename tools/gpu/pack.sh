#!/usr/bin/env bash
# Builds here, where nvcc is, what tools/gpu/prove.sh runs there, where the GPU is: no compiler and no network needed there.
#
#     tools/gpu/pack.sh [ORACLE]     ORACLE: a folder of cases for `verify` to take along
#     PEERS=DIR tools/gpu/pack.sh    DIR: the peers' bench scripts and their wheels/, for the step `peers`
#
# Fills carry/ (ignored by git): stripped binaries, golden files, assets, the makers of the synthetic base, the cases. Refuses
# more than 64 MiB, which is what such a machine usually takes.
#
# To try the scripts themselves: LLAMACARE_PACK_ANY=1 packs a build without CUDA kernels too, LLAMACARE_PACK_BINARIES=DIR packs
# the binaries in DIR and builds none, LLAMACARE_PACK_OUT=DIR fills another folder than carry/.
set -euo pipefail
cd "$(dirname "$0")/../.."
limit_mib=64
say() { echo "pack: $*" >&2; }
[ $# -le 1 ] || { say "usage: tools/gpu/pack.sh [ORACLE]"; exit 2; }
[ $# -eq 0 ] || [ -d "$1" ] || { say "$1: no such folder of oracle cases"; exit 2; }
carry=${LLAMACARE_PACK_OUT:-carry}
rm -rf "$carry"
mkdir -p "$carry/stage/bin"

# Where cargo put a test or bench binary is in its messages only.
built() { cargo "$@" --no-run --message-format=json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1; }
take() { [ -x "$1" ] || { say "cargo named no binary for $2"; exit 1; }; cp "$1" "$carry/stage/bin/$2"; }
if [ -n "${LLAMACARE_PACK_BINARIES:-}" ]; then
    for name in finetune verify chat unit_tests main_tests bench; do take "$LLAMACARE_PACK_BINARIES/$name" "$name"; done
else
    [ "${LLAMACARE_PACK_ANY:-}" = 1 ] || tools/install_cuda.sh
    cargo build --release --bins
    for name in finetune verify chat; do take "${CARGO_TARGET_DIR:-target}/release/$name" "$name"; done
    take "$(built test --release --lib)" unit_tests
    take "$(built test --release --test main)" main_tests
    take "$(built bench --bench main)" bench
fi
if [ "${LLAMACARE_PACK_ANY:-}" != 1 ] && ! grep -qa 'lc_rms_norm_fwd_cuda' "$carry/stage/bin/finetune"; then
    say "the binaries hold no CUDA kernels; touch build.rs and look at its warning"
    exit 1
fi
strip "$carry"/stage/bin/*
mkdir "$carry/stage/tests"
cp -r tests/golden "$carry/stage/tests/golden"
cp -r assets "$carry/stage/assets"
mkdir "$carry/stage/gpu"
cp tools/gpu/*.py tools/gpu/peers.sh "$carry/stage/gpu/"
if [ -n "${PEERS:-}" ]; then
    for file in bench_hf.py bench_unsloth.py common.py ballast.py make_ckpt.py micro.py wheels; do
        [ -e "$PEERS/$file" ] || { say "$PEERS: there is no $file; PEERS names the folder with the peers' scripts and wheels"; exit 2; }
    done
    mkdir "$carry/stage/peers"
    cp -rL "$PEERS"/*.py "$PEERS/wheels" "$carry/stage/peers/"
fi
[ $# -eq 0 ] || cp -rL "$1" "$carry/stage/oracle"
# Tests look for their files where they were compiled; prove.sh makes that path lead to where it unpacked them.
pwd > "$carry/stage/build_root"
{ git rev-parse HEAD || echo unknown; git status --porcelain | sed 's/^/changed: /'; } > "$carry/stage/commit"
tar -C "$carry/stage" -czf "$carry/carry.tar.gz" .
rm -r "$carry/stage"
cp tools/gpu/prove.sh "$carry/prove.sh"

mib=$(($(du -sk "$carry" | cut -f1) / 1024 + 1))
if [ "$mib" -gt "$limit_mib" ]; then
    du -ak "$carry" | sort -rn | head -n 5 >&2
    say "$carry has $mib MiB, $limit_mib at most; take fewer oracle cases along"
    exit 1
fi
say "$carry has $mib MiB; run $carry/prove.sh on the machine with the GPU"
