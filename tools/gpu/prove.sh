#!/usr/bin/env bash
# Proves on a machine with a GPU what tools/gpu/pack.sh built elsewhere: tests, verify, compute-sanitizer, demo, benchmarks,
# and Llama-2-13B at a cap of 23.5 GiB on a made-up base.
#
#     carry/prove.sh                 everything, at most STEP_SECONDS (default 500) each
#     carry/prove.sh tests verify    these steps only: tests verify sanitizer demo bench plan train chat policies peers
#
# bench     every kernel at 13B's shapes, and a step of 13B by parts; bench.jsonl
# plan      the memory plan of the run below
# train     20 steps of 13B: 2,816 tokens, rank 16 on seven linears, ECI of 1,200 positions; losses, tokens/s, memory
# chat      answers of the same base to its own rows, one at a time and sixteen: tokens/s and joules a token
# policies  three steps of each way to keep activations, beside train's losses
# peers     the comparison with HF PEFT and Unsloth (gpu/peers.sh), in parts that can be named instead: peers_micro peers_hf
#           peers_hf_more peers_unsloth peers_unsloth_more peers_ours, less than ten minutes each. Where pack.sh was not given
#           the peers, ours alone runs. tools/side_by_side.py makes the table of what they leave in $OUT
#
# Leaves in $OUT (default ./prove): record.json with device, driver, date and what came of each step, and a log each. Called
# again with the same OUT it adds to the record. The base is made in $BASE_DIR (default /dev/shm) and stays for the next call.
# Exit code 0: all passed; 1: something failed; 2: called wrongly; 3: there is no GPU here, nothing was run.
#
# PROVE_REHEARSE=1 runs the same path on the CPU device with a tiny base, so that the scripts are known to work before a GPU
# is there. The record says that it is a rehearsal and not a GPU's. BASE_SIZE, BUDGET, TOKENS, STEPS: another run than 13B's;
# POLICIES: other ways than all of them.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-$PWD/prove}
seconds=${STEP_SECONDS:-500}
rehearse=${PROVE_REHEARSE:-}
parts="micro hf hf_more unsloth unsloth_more ours"
all="tests verify sanitizer demo bench plan train chat policies peers"
named="$all $(printf ' peers_%s' $parts)"
say() { echo "prove: $*"; }

for name in "$@"; do
    case " $named " in *" $name "*) ;; *) say "$name: no such step; there are $all"; exit 2 ;; esac
done
if [ -z "$rehearse" ] && { ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; }; then
    say "no NVIDIA GPU on this machine (nvidia-smi finds none); nothing was run"
    exit 3
fi
if [ ! -f "$here/carry.tar.gz" ]; then
    say "no carry.tar.gz beside this script; run tools/gpu/pack.sh where nvcc is, and start carry/prove.sh"
    exit 2
fi
device=cuda
[ -z "$rehearse" ] || device=cpu
size=${BASE_SIZE:-$([ -n "$rehearse" ] && echo tiny || echo 13b)}
base=${BASE_DIR:-/dev/shm}/llamacare-$size
mkdir -p "$OUT/steps"
OUT=$(cd "$OUT" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xzf "$here/carry.tar.gz"
cd "$work" || exit 1
wanted=" ${*:-$all} "
wants() { case $wanted in *" $1 "*) true ;; *) false ;; esac; }

text() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/[\\"]/\\&/g')"; }
failed=0
# note NAME JSON: what the record says of a step.
note() { printf '%s' "$2" >"$OUT/steps/$1.json"; }
# limited NAME COMMAND...: runs it for at most the time of a step, output to its log; sets rc and took.
limited() {
    local name=$1 begin=$SECONDS
    shift
    say "$name"
    timeout "$seconds" "$@" >"$OUT/$name.log" 2>&1
    rc=$?
    took=$((SECONDS - begin))
}
# step NAME PATTERN COMMAND...: the last line that matches PATTERN is what the record says of it. Without such a line it has
# failed, whatever its exit code.
step() {
    local name=$1 pattern=$2 line
    shift 2
    limited "$name" "$@"
    line=$(grep -E "$pattern" "$OUT/$name.log" | tail -n 1)
    [ "$rc" -eq 0 ] && [ -n "$line" ] || failed=1
    say "$name: exit code $rc after $took s; ${line:-no result}"
    note "$name" "{\"name\": \"$name\", \"exit_code\": $rc, \"seconds\": $took, \"result\": $(text "$line")}"
}
absent() {
    say "$1: left out, $2"
    note "$1" "{\"name\": \"$1\", \"exit_code\": null, \"seconds\": 0, \"result\": $(text "left out: $2")}"
}
demo=(bin/finetune --device "$device" --overwrite)

if wants tests; then
    # Tests look for their files where they were compiled.
    root=$(cat build_root)
    if [ ! -e "$root" ]; then
        mkdir -p "$(dirname "$root")" && ln -s "$work" "$root" && trap 'rm -rf "$work" "$root"' EXIT
    fi
    [ -d "$root/tests/golden" ] || { say "the tests need their golden files at $root, which cannot be made here"; exit 1; }
    step unit_tests '^test result: .* [1-9][0-9]* passed' bin/unit_tests
    # rules reads sources, which are not here; machine is about the CPU; cli starts binaries from where they were built.
    step tests '^test result: .* [1-9][0-9]* passed' bin/main_tests --skip rules:: --skip machine:: --skip cli:: --nocapture
    if [ -z "$rehearse" ] && grep -q '^not on a GPU' "$OUT/tests.log"; then
        say "the tests ran without the GPU: $(grep -m 1 '^not on a GPU' "$OUT/tests.log")"
        failed=1
    fi
fi
if wants verify; then
    if [ -d oracle ]; then
        step verify 'quantities' bin/verify --oracle oracle --device "$device"
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

# The run that this engine exists for. The learning rate stands still, so that runs of three and of twenty steps can be
# compared; no row is kept back, because the adapter is not what is measured.
run=(bin/finetune --config llama2-13b --model "$base" --data "$base/rows.jsonl" --template "$base/rows.jinja"
    --labels yes,no,maybe --validation-share 0 --test-share 0 --tokens "${TOKENS:-2816}" --accumulate 1 --rank 16
    --eci paper --eci-positions 1200 --schedule constant --warmup 0 --budget "${BUDGET:-23.5GiB}" --device "$device")
free_mib() { nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits 2>/dev/null | head -n 1; }
# measured NAME FLAGS...: a run whose log, report and memory go into the record; its own memory is sampled twice a second.
measured() {
    local name=$1 sampler
    shift
    free_mib >"$OUT/$name.free"
    (while sleep 0.5; do free_mib; done >>"$OUT/$name.free") &
    sampler=$!
    limited "$name" "${run[@]}" --out "$work/$name" "$@"
    kill "$sampler" 2>/dev/null
    wait "$sampler" 2>/dev/null
    sleep 1
    free_mib >>"$OUT/$name.free"
    for file in log.jsonl report.json config.toml; do
        [ -f "$work/$name/$file" ] && cp "$work/$name/$file" "$OUT/$name.$file"
    done
    python3 gpu/record_run.py --run "$work/$name" --name "$name" --exit-code "$rc" --seconds "$took" \
        --plan "$OUT/$name.log" --free "$OUT/$name.free" --like "$OUT/steps/train.json" >"$work/$name.json" &&
        cp "$work/$name.json" "$OUT/steps/$name.json" || rc=1
    say "$name: exit code $rc after $took s; $(grep -m 1 '^error' "$OUT/$name.log" || tail -n 1 "$OUT/$name.log")"
    return "$rc"
}
wants_peers() { wants peers || wants "peers_$1"; }
some_peers() { for part in $parts; do wants_peers "$part" && return; done; false; }
if wants plan || wants train || wants chat || wants policies || wants bench || some_peers; then
    if ! command -v python3 >/dev/null; then
        absent base "python3 is not on this machine, which makes the base and reads the logs"
        failed=1
        wanted=" "
    elif [ ! -f "$base/config.json" ]; then
        rm -rf "$base"
        step base ' GiB in ' python3 gpu/make_synthetic_base.py --size "$size" --out "$base"
    fi
fi
if wants bench; then
    rm -f "$OUT/bench.jsonl"
    # cuBLASLt lies with the toolkit, or with PyTorch's wheels.
    libraries=$(python3 -c 'import glob, sys
print(":".join(p for d in sys.path + ["/usr/local/cuda"] for p in glob.glob(d + "/nvidia/*/lib") + glob.glob(d + "/lib64")))')
    LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$libraries" \
        step bench '[0-9] us ' bin/bench --bench --device "$device" --base "$base" --json "$OUT/bench.jsonl"
fi
if wants plan; then
    step plan '^all ' "${run[@]}" --plan
    note plan "{\"name\": \"plan\", \"exit_code\": $rc, \"lines\": $(python3 -c 'import json, sys
print(json.dumps(open(sys.argv[1]).read().splitlines(), ensure_ascii=False))' "$OUT/plan.log")}"
fi
if wants train; then
    measured train --steps "${STEPS:-20}" || failed=1
fi
if wants chat; then
    # Weights are random, so answers are too; all are cut at the same length or end by chance.
    head -n "${QUESTIONS:-32}" "$base/rows.jsonl" >"$work/questions.jsonl"
    for n in 1 16; do
        step "chat_$n" 'tokens/s' bin/chat --once --model "$base" --template "$base/rows.jinja" --in "$work/questions.jsonl" \
            --out "$OUT/chat_$n.jsonl" --overwrite --at-once "$n" --new-tokens "${NEW_TOKENS:-64}" --max-length 2048 \
            --budget "${BUDGET:-23.5GiB}" --device "$device"
    done
fi
if wants policies; then
    for keep in ${POLICIES:-outputs eight host gateup input}; do
        # One that does not fit the budget says so, which is what it is to do.
        measured "policy_$keep" --steps 3 --keep "$keep" ||
            grep -q '^error: the run needs .* of device memory' "$OUT/policy_$keep.log" || failed=1
    done
fi

for part in $parts; do
    wants_peers "$part" || continue
    if [ "$part" != ours ] && { [ ! -d peers ] || [ -n "$rehearse" ]; }; then
        absent "peers_$part" "$([ -n "$rehearse" ] && echo "the peers need a GPU" || echo "pack.sh was given no peers")"
        continue
    fi
    peers= ckpt=$base
    if [ -d peers ] && [ -z "$rehearse" ]; then
        peers=$work/peers ckpt=${BASE_DIR:-/dev/shm}/llamacare-peers-$size
    fi
    PEERS=$peers CKPT=$ckpt DEVICE=$device BENCH=$work/bin/bench \
        step "peers_$part" '^\{|^FAIL' bash gpu/peers.sh "$part"
done

query() { if [ -n "$rehearse" ]; then echo "$2"; else nvidia-smi --query-gpu="$1" --format=csv,noheader | head -n 1; fi; }
[ -n "$rehearse" ] || nvidia-smi >"$OUT/nvidia-smi.log" 2>&1
steps=""
# In the order in which they were run.
while read -r file; do
    steps="$steps${steps:+,
}$(sed 's/^/    /' "$file")"
done < <(ls -tr "$OUT"/steps/*.json 2>/dev/null)
cat >"$OUT/record.json" <<END
{
  "date": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "gpu": $([ -n "$rehearse" ] && echo false || echo true),
  "device": $(text "$(query name "rehearsal on the CPU device, not a GPU")"),
  "compute_capability": $(text "$(query compute_cap none)"),
  "driver": $(text "$(query driver_version none)"),
  "memory": $(text "$(query memory.total none)"),
  "base": $(text "$size, made up by tools/gpu/make_synthetic_base.py"),
  "commit": $(text "$(head -n 1 commit)"),
  "files_changed_since": $(grep -c '^changed' commit),
  "steps": [
$steps
  ]
}
END
say "record and logs are in $OUT"
exit "$failed"
