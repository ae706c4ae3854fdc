#!/usr/bin/env bash
# One part of the comparison with the peers, each of less than ten minutes; prove.sh runs it.
#
#     peers.sh micro | hf | hf_more | unsloth | unsloth_more | ours
#
# micro          the machine's own ceilings, by the peers' library calls
# hf, unsloth    the peers' settings at rows of 2,048 tokens, and the joint task (hf)
# .._more        rows of 4,096 tokens, and ragged rows of 48 to 512
# ours           the same rows on this engine
#
# Every engine sees a card of FREE_GIB (23.5), cut down by a ballast that holds the rest, and reads the checkpoint in CKPT, which
# the first call writes; without the peers there is no ballast, and ours reads whatever base lies there. Results are JSON lines in $OUT: micro.jsonl, peers.jsonl, ours.jsonl; a case that fails leaves one
# too, with its error. Environment: PEERS, the folder with the peers' scripts and their wheels; BENCH, our bench binary;
# DEVICE, cuda or cpu; LIM, seconds a case (85; Unsloth 110).
#
# On the CPU device (a rehearsal) only `ours` runs: a tiny base, few tokens, no ballast, and lines that say so.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
part=${1:-}
: "${OUT:?}" "${CKPT:?}" "${DEVICE:=cuda}" "${PEERS:=}"
export OUT FREE_GIB=${FREE_GIB:-23.5} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True TOKENIZERS_PARALLELISM=false
scratch=$(mktemp -d)
ballast=
trap '[ -z "$ballast" ] || kill "$ballast" 2>/dev/null; rm -rf "$scratch"' EXIT

if [ -n "$PEERS" ]; then
    # Installed once for all calls, beside the checkpoint.
    site=$(dirname "$CKPT")/llamacare-peers-site
    if ls "$PEERS"/wheels/*.whl >/dev/null 2>&1 && [ ! -f "$site/.complete" ]; then
        rm -rf "$site"
        python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$PEERS"/wheels/*.whl || exit 1
        touch "$site/.complete"
    fi
    export PYTHONPATH=$site
    python3 - >"$OUT/versions.json" <<'PYTHON'
import importlib.metadata as m, json, platform
names = "torch transformers peft bitsandbytes unsloth unsloth_zoo triton liger_kernel trl accelerate".split()
installed = {d.metadata["Name"].lower().replace("-", "_"): d.version for d in m.distributions() if d.metadata["Name"]}
print(json.dumps({"python": platform.python_version()} | {n: installed.get(n) for n in names}))
PYTHON
fi

# case FILE COMMAND...: one case; a line of its own where it left none.
case_of() {
    local file=$1 before after
    shift
    before=$(cat "$OUT/$file" 2>/dev/null | wc -l)
    timeout "${LIM:-85}" "$@" >"$scratch/said" 2>"$scratch/err"
    local rc=$?
    after=$(cat "$OUT/$file" 2>/dev/null | wc -l)
    grep '^{' "$scratch/said"
    [ "$after" -gt "$before" ] && return 0
    echo "FAIL $* (exit code $rc)"
    grep -E "Error|OutOfMemory|error" "$scratch/err" | tail -n 2
    python3 - "$file" "$rc" "$(grep -E 'Error|OutOfMemory|error' "$scratch/err" | tail -n 1)" "$@" <<'PYTHON'
import json, os, sys
file, rc, error, *command = sys.argv[1:]
words = [os.path.basename(w) if "/" in w else w for w in command]
with open(os.path.join(os.environ["OUT"], file), "a") as out:
    out.write(json.dumps({"failed": " ".join(words), "exit_code": int(rc), "error": error[:300]}) + "\n")
PYTHON
    return 1
}
hf() { case_of peers.jsonl python3 "$PEERS/bench_hf.py" "$CKPT" --steps 3 "$@"; }
hf_ragged() { case_of peers.jsonl python3 "$here/peer_ragged.py" "$PEERS/bench_hf.py" "$CKPT" --steps 3 --mb 8 --accum 7 "$@"; }
unsloth() { case_of peers.jsonl python3 "$PEERS/bench_unsloth.py" "$CKPT" --steps 3 "$@"; }
unsloth_ragged() { case_of peers.jsonl python3 "$here/peer_ragged.py" "$PEERS/bench_unsloth.py" "$CKPT" --steps 3 --mb 8 --accum 7 "$@"; }
rows() { python3 "$here/peer_tokens.py" --vocab "$vocab" --out "$scratch/rows.json" "$@" || exit 1; }
# ours TAG FLAGS...: on the rows made last.
ours() {
    local tag=$1
    shift
    case_of ours.jsonl "$BENCH" --bench --device "$DEVICE" --ours "$scratch/rows.json" --base "$CKPT" --json "$OUT/ours.jsonl" \
        --tag "$tag" --warm "$warm" --steps "$steps" "$@" || failed=1
}

if [ "$part" = micro ]; then
    (cd "$PEERS" && python3 micro.py)
    exit
fi
if [ "$DEVICE" = cuda ]; then
    if [ -n "$PEERS" ]; then
        if [ ! -f "$CKPT/config.json" ]; then
            rm -rf "$CKPT"
            python3 "$PEERS/make_ckpt.py" "$CKPT" || exit 1
        fi
        python3 "$PEERS/ballast.py" "$FREE_GIB" >"$scratch/ballast" 2>&1 &
        ballast=$!
        for _ in $(seq 60); do grep -q READY "$scratch/ballast" && break; sleep 1; done
        cat "$scratch/ballast"
    else
        unset FREE_GIB # no ballast: what the device holds is not told
    fi
fi
failed=0
case $part in
hf)
    hf --mode recipe --gc 1 --mb 1 --accum 8 # what tutorials do
    hf --mode recipe --gc 1 --mb 4 --accum 2
    hf --mode tuned --gc 1 --mb 4 --accum 2
    hf --mode tuned --gc 0 --mb 1 --accum 8
    hf --mode tuned --gc 1 --mb 2 --S 1200 --accum 7 --eci
    ;;
hf_more)
    hf --mode recipe --gc 1 --mb 1 --S 4096 --accum 4
    hf --mode tuned --gc 1 --mb 1 --S 4096 --accum 4
    hf_ragged --mode recipe --gc 1
    hf_ragged --mode tuned --gc 1
    ;;
unsloth)
    LIM=${LIM:-110} # the first run compiles
    unsloth --gc unsloth --mb 2 --accum 4 # what it publishes
    unsloth --gc unsloth --mb 4 --accum 2
    unsloth --gc true --mb 4 --accum 2
    unsloth --gc false --mb 1 --accum 8
    ;;
unsloth_more)
    LIM=${LIM:-110}
    unsloth --gc unsloth --mb 1 --S 4096 --accum 4
    unsloth --gc true --mb 1 --S 4096 --accum 4
    unsloth_ragged --gc unsloth
    unsloth_ragged --gc true
    ;;
ours)
    if [ "$DEVICE" = cuda ]; then
        vocab=32000 warm=3 steps=3
        rows --length 2048 --rows 8
        ours llamacare-default --tokens 2816
        ours llamacare-4096 --tokens 4096
        rows --length 4096 --rows 4
        ours llamacare-default-long --tokens 4096
        rows --length 1200 --rows 14
        ours llamacare-default-eci --tokens 2816 --positions 1200
        rows --ragged --rows 56
        ours llamacare-default-ragged --tokens 2816
    else
        vocab=512 warm=1 steps=1
        rows --length 64 --rows 4
        ours rehearsal --tokens 128
        rows --length 64 --rows 4
        ours rehearsal-eci --tokens 128 --positions 64
    fi
    ;;
*)
    echo "peers.sh: $part: no such part" >&2
    exit 2
    ;;
esac
exit "$failed"
