#!/usr/bin/env python3
"""docs/benchmarks.md from what prove.sh left on a GPU: ours beside the peers, and the goals of issue 4 with the gap to each.

    python3 tools/side_by_side.py [RESULTS] [--out docs/benchmarks.md]     RESULTS: the folder OUT of prove.sh

Reads record.json (device, driver, date), versions.json, peers.jsonl, ours.jsonl, micro.jsonl and bench.jsonl, each if it is
there. A row that was not run says "not run", one that failed says why; nothing is estimated. Rehearsals on the CPU device
are left out. Losses of the first step of equal batches must agree to 1e-2, or the row says DISAGREE and the exit code is 1.
"""
import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
AGREE = 1e-2
NOT_RUN = "not run"

# What a table has a row for: workload, and of each the settings: engine, tag, rows of a micro-batch (none: as it comes), name.
# A default is what the engine's own documentation tells a user to type.
WORKLOADS = [
    ("S = 2,048, packed", "fixed", 2048, False, 16384, [
        ("peer", "hf-recipe-gc1-sdpa", 1, "HF PEFT + bitsandbytes: the tutorials' recipe (default)"),
        ("peer", "hf-recipe-gc1-sdpa", 4, "HF PEFT + bitsandbytes: the recipe, 4 rows"),
        ("peer", "hf-tuned-gc1-sdpa", 4, "HF PEFT + bitsandbytes: bf16 LoRA, Liger, checkpointing"),
        ("peer", "hf-tuned-gc0-sdpa", 1, "HF PEFT + bitsandbytes: bf16 LoRA, Liger, no checkpointing"),
        ("peer", "unsloth-gc_unsloth", 2, "Unsloth: its published setting (default)"),
        ("peer", "unsloth-gc_unsloth", 4, "Unsloth: its checkpointing, 4 rows"),
        ("peer", "unsloth-gc_true", 4, "Unsloth: plain checkpointing, 4 rows"),
        ("peer", "unsloth-gc_false", 1, "Unsloth: no checkpointing"),
        ("ours", "llamacare-default", None, "llamacare: the recipe (default)"),
        ("ours", "llamacare-4096", None, "llamacare: micro-batches of 4,096 tokens"),
    ]),
    ("S = 4,096", "fixed", 4096, False, 16384, [
        ("peer", "hf-recipe-gc1-sdpa", 1, "HF PEFT + bitsandbytes: the recipe (default)"),
        ("peer", "hf-tuned-gc1-sdpa", 1, "HF PEFT + bitsandbytes: bf16 LoRA, Liger, checkpointing"),
        ("peer", "unsloth-gc_unsloth", 1, "Unsloth: its checkpointing (default)"),
        ("peer", "unsloth-gc_true", 1, "Unsloth: plain checkpointing"),
        ("ours", "llamacare-default-long", None, "llamacare: the recipe (default)"),
    ]),
    ("Joint task, S = 1,200, ECI head of 98.6M", "fixed", 1200, True, 16800, [
        ("peer", "hf-tuned-gc1-eci-sdpa", 2, "HF PEFT + bitsandbytes: bf16 LoRA, Liger, checkpointing"),
        ("ours", "llamacare-default-eci", None, "llamacare: the recipe (default)"),
    ]),
    ("Ragged rows of 48 to 512 tokens; real tokens counted", "ragged", None, False, 15317, [
        ("peer", "hf-recipe-gc1-sdpa-ragged", 8, "HF PEFT + bitsandbytes: the recipe (default), padded"),
        ("peer", "hf-tuned-gc1-sdpa-ragged", 8, "HF PEFT + bitsandbytes: bf16 LoRA, Liger, checkpointing, padded"),
        ("peer", "unsloth-gc_unsloth-ragged", 8, "Unsloth: its checkpointing (default), padded"),
        ("peer", "unsloth-gc_true-ragged", 8, "Unsloth: plain checkpointing, padded"),
        ("ours", "llamacare-default-ragged", None, "llamacare: packed (default)"),
    ]),
]
GEMM = ["matmul q, o", "matmul q,k,v", "matmul gate", "matmul gate,up", "matmul down", "matmul dX of o", "matmul dX of down",
        "matmul dX of q,k,v", "matmul dX of gate,up", "matmul logits", "matmul dX of logits"]
# Kernels bound by memory at 13B's sizes, by the name of their line and a word of its shape.
MEMORY = [("rms_norm forward", "C=5120"), ("rms_norm fwd + bwd", "C=5120"), ("rotary", "heads=40"), ("swiglu forward", "F=13824"),
          ("swiglu fwd + bwd", "F=13824"), ("cross_entropy", "V=32000"), ("adamw", "n="), ("adamw8", "n="), ("grad_norm", "n=")]
# FlashAttention-3's own figure, H100, forward, causal, D = 128 (its paper's plot): it is not among the peers' wheels.
FA3_PUBLISHED = {2048: 521.0, 4096: 579.0}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def document(path: Path) -> dict:
    return json.loads(path.read_text()) if path.is_file() else {}


class Results:
    """All that was measured."""

    def __init__(self, folder):
        at = (lambda name: folder / name) if folder else (lambda name: Path("/nonexistent"))
        self.record, self.versions = document(at("record.json")), document(at("versions.json"))
        gpu = self.record.get("gpu") is True
        if folder and not gpu:
            print(f"{folder}: no record of a GPU there; its rows are left out", file=sys.stderr)
        self.peers = [row for row in lines(at("peers.jsonl")) if gpu]
        self.ours = [row for row in lines(at("ours.jsonl")) if gpu and not row.get("rehearsal")]
        self.micro = [row for row in lines(at("micro.jsonl")) if gpu]
        bench = lines(at("bench.jsonl")) if gpu else []
        self.ceilings = next((row for row in bench if "ceilings" in row), {}) if bench and bench[0].get("gpu") else {}
        self.bench = [row for row in bench if "name" in row] if self.ceilings else []
        self.disagree = []

    def find(self, who, tag, mb, kind, length):
        """The last row of this case."""
        rows = self.peers if who == "peer" else self.ours
        fits = lambda r: (r.get("tag") == tag and r.get("kind", "fixed") == kind and (length is None or r.get("S") == length)
                          and (mb is None or r.get("mb") == mb))
        return next((row for row in reversed(rows) if fits(row)), None)

    def failure(self, tag, mb, length):
        """How a case ended that left no row but for its command."""
        if tag.startswith("llamacare"):
            rows = [row for row in self.ours if f"--tag {tag} " in row.get("failed", "") + " "]
            return f"failed: {rows[-1].get('error') or 'exit code %s' % rows[-1].get('exit_code')}" if rows else None
        if tag.startswith("hf-"):
            mode, gc = tag.split("-")[1:3]
            words = ["bench_hf.py", f"--mode {mode}", f"--gc {gc[2:]}"]
        else:
            words = ["bench_unsloth.py", f"--gc {tag.split('gc_')[1].split('-')[0]}"]
        words += [f"--mb {mb}"]
        for row in reversed(self.peers):
            text = row.get("failed", "") + " "
            length_said = int(text.split("--S ")[1].split()[0]) if "--S " in text else 2048
            of_this = all(word + " " in text for word in words) and ("-eci" in tag) == ("--eci" in text)
            if text.strip() and of_this and ("ragged" in tag) == ("ragged" in text) and ("ragged" in tag or length_said == length):
                return f"failed: {row.get('error') or 'exit code %s' % row.get('exit_code')}"
        return None

    def workload(self, entry):
        """(name, row or none, why none) of every setting."""
        _, kind, length, _, _, settings = entry
        out = []
        for who, tag, mb, name in settings:
            row = self.find(who, tag, mb, kind, length)
            out.append((who, name, row, None if row else self.failure(tag, mb, length) or NOT_RUN))
        return out


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def agreement(results, row, own, joint, tokens, name):
    """What the loss column says of a peer's row beside ours."""
    if own is None:
        return "ours not run"
    if joint:
        return "not compared: heads start apart"
    if row.get("tok_per_step") != tokens or own.get("tok_per_step") != tokens:
        return "other batch: not compared"
    difference = abs(row["loss"][0] - own["loss"][0])
    if difference <= AGREE:
        return f"agrees ({difference:.4f})"
    results.disagree.append(f"{name}: first loss {row['loss'][0]}, ours {own['loss'][0]}")
    return f"DISAGREE ({difference:.4f})"


def workload_table(results, entry):
    title, _, _, joint, tokens, _ = entry
    rows = results.workload(entry)
    own = next((row for who, _, row, _ in rows if who == "ours" and row), None)
    out = [f"### {title}", "", f"{tokens:,} tokens a step.", "",
           "| engine and setting | rows x micro-batches | tokens/s | seconds a step (spread) | device GiB | loss, first to last | first loss against ours |",
           "|---|---|---|---|---|---|---|"]
    for who, name, row, why in rows:
        if row is None:
            out.append(f"| {name} | {why} | | | | | |")
            continue
        against = "" if who == "ours" else agreement(results, row, own, joint, tokens, name)
        spread = f"{number(row['s_per_step'], 3)} ({number(row['spread'][0], 3)} to {number(row['spread'][1], 3)})"
        loss = f"{number(row['loss'][0], 4)} to {number(row['loss'][1], 4)}"
        out.append(f"| {name} | {row['mb']} x {row['accum']} | {number(row['tok_s'])} | {spread} | "
                   f"{number(row.get('device_gib'), 2)} | {loss} | {against} |")
    for who, name, row, _ in rows:
        if who == "ours" and row and row.get("settings"):
            out += ["", f"{name}: {row['settings']}."]
    return out + [""]


def goals(results):
    """(goal, what was measured or none, the least that is wanted, unit, against what)."""
    best = lambda rows, test: max((r["tok_s"] for who, name, r, _ in rows if r and test(who, name)), default=None)
    rows_2048, rows_4096 = results.workload(WORKLOADS[0]), results.workload(WORKLOADS[1])
    ours_2048, ours_4096 = (best(rows, lambda who, _: who == "ours") for rows in (rows_2048, rows_4096))
    ratio = lambda own, theirs: own / theirs if own and theirs else None
    peer = lambda who, _: who == "peer"
    # A best of all is one only once every setting was run.
    all_run = lambda rows: all(why != NOT_RUN for who, _, _, why in rows if who == "peer")
    whole = lambda rows, test: best(rows, test) if all_run(rows) else None
    line = lambda name, word="": [r for r in results.bench if r["name"] == name and word in r["shape"]]
    least = lambda values, n: min(values) if len(values) >= n else None
    useful = [r.get("useful_tflop_s") for who, _, r, _ in rows_2048 if who == "ours" and r]
    gemm = [r["of_cublaslt"] for name in GEMM for r in line(name) if r.get("of_cublaslt")]
    share = lambda name, word="": [r["percent_of_ceiling"] for r in line(name, word) if r.get("percent_of_ceiling")]
    memory = [value for name, word in MEMORY for value in share(name, word)]
    attention = {}
    for r in line("attention forward", "D=128"):
        attention[int(r["shape"].split("x")[1].split()[0])] = r["flops"] / r["us"] / 1e6
    flash = {r["S"]: r["fwd_TF"] for r in results.micro if r.get("k") == "sdpa" and r.get("be") == "flash" and "fwd_TF" in r}
    of_fa2 = [attention[s] / flash[s] for s in (512, 2048, 4096) if s in attention and s in flash]
    of_fa3 = [attention[s] / FA3_PUBLISHED[s] for s in FA3_PUBLISHED if s in attention]
    capability = str(results.record.get("compute_capability", ""))
    return [
        ("the HF PEFT recipe, S = 2,048", ratio(ours_2048, whole(rows_2048, lambda w, n: w == "peer" and "recipe" in n)), 2.5, "x"),
        ("Unsloth's default, S = 2,048", ratio(ours_2048, best(rows_2048, lambda w, n: n.startswith("Unsloth") and "default" in n)), 1.7, "x"),
        ("the best setting of any peer that fits, S = 2,048", ratio(ours_2048, whole(rows_2048, peer)), 1.3, "x"),
        ("the best peer, S = 4,096", ratio(ours_4096, whole(rows_4096, peer)), 1.6, "x"),
        ("useful TFLOP/s of a step, S = 2,048", max(useful, default=None), 575.0, "TFLOP/s"),
        ("our product against cuBLASLt, the worst of 13B's shapes", least(gemm, 2 * len(GEMM)), 0.95, "x"),
        ("NF4 decode, share of copy bandwidth, the worst shape", least(share("nf4 decode"), 3), 80.0, "%"),
        ("one token through NF4 (M = 1), share of copy bandwidth", least(share("nf4 product, decoding", "M=1 "), 3), 70.0, "%"),
        ("attention forward against FlashAttention-2 (PyTorch's)", least(of_fa2, 3) if capability[:1] == "8" else None, 0.9, "x"),
        ("attention forward against FlashAttention-3's published figure", least(of_fa3, 2) if capability == "9.0" else None, 0.8, "x"),
        ("kernels bound by memory, share of copy bandwidth, the worst", least(memory, len(MEMORY)), 85.0, "%"),
    ]


def goal_table(results):
    out = ["## Goals", "", "| against | goal | measured | gap |", "|---|---|---|---|"]
    for name, measured, goal, unit in goals(results):
        wanted = f"at least {number(goal, 2 if unit == 'x' else 0)} {unit}"
        if measured is None:
            out.append(f"| {name} | {wanted} | {NOT_RUN} | unproven |")
        else:
            gap = "reached" if measured >= goal else f"{100 * (goal - measured) / goal:.1f} % short"
            out.append(f"| {name} | {wanted} | {number(measured, 2 if unit == 'x' else 1)} {unit} | {gap} |")
    return out + [""]


def counted():
    """What needs no GPU: from the committed tables, and from sizes."""
    linears = 40 * (4 * 5120 * 5120 + 3 * 5120 * 13824)
    attention = 14 * 5120 * 40 * 2049 / 2
    useful = 4 * (linears + 32000 * 5120) + 6 * 16 * 40 * (4 * 2 * 5120 + 3 * (5120 + 13824)) + attention
    packed = linears / 2 + linears / 64 + linears / 64 / 256 * 4
    at = 575e12 / useful
    return [
        "## Counted without a GPU", "",
        f"- A token of a row of 2,048 takes {useful / 1e9:.2f} useful GFLOP: 4 a frozen weight ({linears / 1e9:.3f} G of them, and the output layer),",
        f"  6 a LoRA weight, {attention / 1e9:.2f} attention (14 D a visible pair). 575 useful TFLOP/s are {at:,.0f} tokens/s.",
        f"- One pass over the base decodes {packed / 1e9:.2f} GB into {2 * linears / 1e9:.2f} GB of bf16: {(packed + 2 * linears) / 1e9:.2f} GB moved. One token through it",
        f"  reads {packed / 1e9:.2f} GB.",
        "- Registers, occupancy, tensor-core, asynchronous and 128-bit instructions of every kernel on five GPUs:",
        "  [static_kernels.tsv](../tools/static_kernels.tsv); a kernel that spills or loses its tensor cores fails `just static`.",
        "- Sectors and bank conflicts of every kernel: [access_counts.tsv](../tools/access_counts.tsv), held by `just checked`.",
        "- What is predicted from these: [kernels/README.md](../kernels/README.md).",
        "- Equal batches, equal losses: on a tiny checkpoint of make_ckpt.py, on a CPU, the first loss of the peers' HF script and ours were",
        "  6.2780 and 6.2780 (tuned without Liger, 4 rows of 64) and 6.2896 and 6.2896 (the recipe, 16 ragged rows); 2026-11-22, torch 2.15.0,",
        "  transformers 5.23.0, peft 0.21.2, bitsandbytes 0.50.2.", ""]


def bench_table(results):
    """Every line of `cargo bench` at 13B's sizes."""
    out = ["## Kernels at 13B's sizes", ""]
    if not results.bench:
        return out + [f"{NOT_RUN}: `carry/prove.sh bench` on a GPU (CONTRIBUTING.md).", ""]
    c = results.ceilings["ceilings"]
    copy = next((r["GBs"] for r in results.micro if r.get("k") == "copy"), None)
    gemm = [r["fwd_TF"] for r in results.micro if r.get("k") == "gemm" and "fwd_TF" in r]
    decode = [r["GBs"] for r in results.micro if r.get("k") == "bnb_dequant"]
    if results.micro:
        out += [f"PyTorch's and bitsandbytes' own on this machine (micro.py): copy {number(copy)} GB/s; product at 13B's shapes "
                f"{number(min(gemm, default=None))} to {number(max(gemm, default=None))} TFLOP/s; NF4 decode {number(max(decode, default=None))} GB/s.", ""]
    out += [f"Ceilings of the same run: copy {number(c['copy_gb_s'])} GB/s; bf16 product {number(c['product_tflop_s'], 1)} TFLOP/s by "
            f"{c['product_by']}. L2 flushed before every sample; medians.", "",
            "| kernel | shape | us | TFLOP/s | GB/s | % of ceiling | of cuBLASLt |", "|---|---|---|---|---|---|---|"]
    for r in results.bench:
        if r["name"].startswith("step"):
            continue
        rate = lambda amount, scale: number(amount / r["us"] / scale, 1) if amount else "-"
        out.append(f"| {r['name']} | {r['shape']} | {number(r['us'], 1)} | {rate(r['flops'], 1e6)} | {rate(r['bytes'], 1e3)} | "
                   f"{number(r.get('percent_of_ceiling'), 1)} | {number(r.get('of_cublaslt'), 2)} |")
    for r in results.bench:
        if r["name"] == "step 13B":
            w = r["watched"]
            out += ["", f"A step of 13B by parts ({r['shape']}; {number(r['tokens_per_second'])} tokens/s unwatched):", "",
                    "| part | launches | ms | % |", "|---|---|---|---|"]
            parts = sorted(w["parts"].items(), key=lambda item: -item[1]["seconds"])
            parts += [("gaps", {"calls": "", "seconds": w["gaps"]})]
            for part, p in parts:
                out.append(f"| {part} | {p['calls']} | {number(1e3 * p['seconds'], 2)} | {100 * p['seconds'] / w['seconds']:.1f} |")
            out += [f"| beside, in another lane: {part} | {p['calls']} | {number(1e3 * p['seconds'], 2)} | |" for part, p in w["beside"].items()]
    return out + [""]


def page(results):
    record = results.record
    out = ["# Benchmarks", "", "<!-- Written by tools/side_by_side.py; change that. -->", ""]
    if record.get("gpu") is True:
        versions = ", ".join(f"{name} {v}" for name, v in results.versions.items() if v) or NOT_RUN
        out += [f"Device: {record.get('device')}, driver {record.get('driver')}, {record.get('date')}, commit {record.get('commit')}.",
                f"Peers: {versions}.", ""]
    else:
        out += ["**No GPU has run any of this yet**: every row below says so, and no figure of a GPU stands here that was not measured.", ""]
    out += ["All engines read one Llama-2-13B checkpoint of random weights in NF4 with double quantisation, on a card cut to 23.5 GiB by a",
            "ballast, and train on the same token ids: LoRA of rank 16 on seven linears, no dropout, bf16, clip at 1, AdamW at 1e-4. The peers use",
            "8-bit AdamW of bitsandbytes, ours fp32. tokens/s is the median of the steps behind three that warm up. How to run it: the step `peers`",
            "in [CONTRIBUTING.md](../CONTRIBUTING.md#on-a-gpu).", ""]
    out += goal_table(results) + ["## Side by side", ""]
    for entry in WORKLOADS:
        out += workload_table(results, entry)
    out += bench_table(results) + counted()
    return "\n".join(out).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    a = parser.parse_args()
    if a.results and not a.results.is_dir():
        sys.exit(f"{a.results}: no such folder; name the OUT of prove.sh")
    results = Results(a.results)
    text = page(results)
    a.out.write_text(text)
    print(f"{a.out}: written")
    if results.disagree:
        sys.exit("losses of equal batches DISAGREE by more than 1e-2:\n  " + "\n  ".join(results.disagree))


if __name__ == "__main__":
    main()
