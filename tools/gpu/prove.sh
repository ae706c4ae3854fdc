#!/usr/bin/env bash
# Proves on a machine with a GPU what tools/gpu/pack.sh built elsewhere: tests, verify, compute-sanitizer, demo, benchmarks.
#
#     carry/prove.sh                 everything, at most STEP_SECONDS (default 500) each
#     carry/prove.sh tests verify    these steps only: tests verify sanitizer demo bench
#
# Leaves in $OUT (default ./prove): record.json with device, driver, date and the outcome of each step, and a log each.
# Exit code 0: all passed; 1: something failed; 3: there is no GPU here, nothing was run.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$PWD/prove}
seconds=${STEP_SECONDS:-500}
say() { echo "prove: $*"; }

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
    say "no NVIDIA GPU on this machine (nvidia-smi finds none); nothing was run"
    exit 3
fi
if [ ! -f "$here/carry.tar.gz" ]; then
    say "no carry.tar.gz beside this script; run tools/gpu/pack.sh where nvcc is, and start carry/prove.sh"
    exit 2
fi
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xzf "$here/carry.tar.gz"
cd "$work" || exit 1
root=$(cat build_root)
if [ ! -e "$root" ]; then
    mkdir -p "$(dirname "$root")" && ln -s "$work" "$root" && trap 'rm -rf "$work" "$root"' EXIT
fi
[ -d "$root/tests/golden" ] || { say "the tests need their golden files at $root, which cannot be made here"; exit 1; }

query() { nvidia-smi --query-gpu="$1" --format=csv,noheader | head -n 1; }
text() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g')"; }
steps=""
failed=0
# step NAME PATTERN COMMAND...: runs it; the last line that matches PATTERN is what the record says of it. Without such a
# line it has failed, whatever its exit code.
step() {
    local name=$1 pattern=$2 begin=$SECONDS rc
    shift 2
    say "$name"
    timeout "$seconds" "$@" >"$OUT/$name.log" 2>&1
    rc=$?
    local line
    line=$(grep -E "$pattern" "$OUT/$name.log" | tail -n 1)
    [ "$rc" -eq 0 ] && [ -n "$line" ] || failed=1
    say "$name: exit code $rc after $((SECONDS - begin)) s; ${line:-no result}"
    steps="$steps${steps:+,}
    {\"name\": \"$name\", \"exit_code\": $rc, \"seconds\": $((SECONDS - begin)), \"result\": $(text "$line")}"
}
absent() {
    say "$1: left out, $2"
    steps="$steps${steps:+,}
    {\"name\": \"$1\", \"exit_code\": null, \"seconds\": 0, \"result\": $(text "left out: $2")}"
}
wanted=" ${*:-tests verify sanitizer demo bench} "
wants() { case $wanted in *" $1 "*) true ;; *) false ;; esac; }
demo=(bin/finetune --device cuda --overwrite)

nvidia-smi >"$OUT/nvidia-smi.log" 2>&1
if wants tests; then
    step unit_tests '^test result: .* [1-9][0-9]* passed' bin/unit_tests
    # rules reads sources, which are not here; machine is about the CPU.
    step tests '^test result: .* [1-9][0-9]* passed' bin/main_tests --skip rules:: --skip machine:: --nocapture
    if [ -f "$OUT/tests.log" ] && grep -q '^not on a GPU' "$OUT/tests.log"; then
        say "the tests ran without the GPU: $(grep -m 1 '^not on a GPU' "$OUT/tests.log")"
        failed=1
    fi
fi
if wants verify; then
    if [ -d oracle ]; then
        step verify 'quantities' bin/verify --oracle oracle --device cuda
    else
        absent verify "no oracle cases were packed"
    fi
fi
if wants sanitizer; then
    if sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null); then
        for tool in memcheck racecheck synccheck initcheck; do
            step "sanitizer_$tool" 'ERROR SUMMARY|SUMMARY' "$sanitizer" --tool "$tool" --error-exitcode 9 \
                "${demo[@]}" --out "$work/$tool" --steps 2 --eval-rows 3
        done
    else
        absent sanitizer "compute-sanitizer is not on this machine"
    fi
fi
wants demo && step demo 'ECI|accuracy|error' "${demo[@]}" --out "$OUT/demo"
wants bench && step bench '[0-9] us ' bin/bench --bench

cat >"$OUT/record.json" <<END
{
  "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "device": $(text "$(query name)"),
  "compute_capability": $(text "$(query compute_cap)"),
  "driver": $(text "$(query driver_version)"),
  "memory": $(text "$(query memory.total)"),
  "commit": $(text "$(head -n 1 commit)"),
  "files_changed_since": $(grep -c '^changed' commit),
  "steps": [$steps
  ]
}
END
say "record and logs are in $OUT"
exit "$failed"
