#!/usr/bin/env python3
"""A peer's bench script on ragged rows instead of rows of one length.

    python3 peer_ragged.py PEERS/bench_hf.py CKPT --mode tuned --gc 1 --mb 8 --accum 7

The peers' scripts train on full rows only. This runs one of them as it is, with the training loop that it imports replaced
by one over rows of 48 to 512 tokens, padded to the longest of their micro-batch as these engines have it. Padding is masked
and has no target; tok_s counts real tokens. The loss is the mean over all targets of a step, as everywhere here, while the
gradient is the mean of the micro-batches' means, which is these engines' own way.
"""
import json
import os
import runpy
import statistics
import sys
import time

script = os.path.abspath(sys.argv[1])
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(script))
if "unsloth" in os.path.basename(script):
    import unsloth  # noqa: F401  it patches the others, so it comes first
import torch

import common


def train(tag, model, params, V, mb, S, accum, steps, opt, fwd, warm=3, dev="cuda"):
    """As common.train, on common.padded."""
    tag += "-ragged"
    autocast = not tag.startswith("hf-tuned")  # as each script wraps its own forward
    micro = [(x.to(dev), m.to(dev)) for x, m in common.padded(V, mb, accum)]
    tokens = [int(m.sum()) for _, m in micro]
    targets = [n - mb for n in tokens]  # the first token of a row is nobody's target
    peak = None
    if dev == "cuda":
        torch.cuda.reset_peak_memory_stats()
        peak = common.Peak()
        peak.start()
    wait = torch.cuda.synchronize if dev == "cuda" else lambda: None
    times, losses = [], []
    for step in range(warm + steps):
        wait()
        begin, total = time.perf_counter(), 0.0
        for (x, m), n in zip(micro, targets):
            with torch.autocast(dev, torch.bfloat16, enabled=autocast):
                loss = model(input_ids=x, attention_mask=m, labels=x.masked_fill(m == 0, -100)).loss
            (loss / accum).backward()
            total = total + loss.detach() * n
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        opt.step()
        opt.zero_grad(set_to_none=True)
        wait()
        losses.append(float(total) / sum(targets))
        if step >= warm:
            times.append(time.perf_counter() - begin)
    if peak:
        peak.on = False
        peak.join()
    middle, free = statistics.median(times), os.environ.get("FREE_GIB")
    row = {"tag": tag, "kind": "ragged", "mb": mb, "S": max(x.shape[1] for x, _ in micro), "accum": accum,
           "tok_per_step": sum(tokens), "s_per_step": middle, "spread": [min(times), max(times)],
           "tok_s": sum(tokens) / middle, "loss": [losses[0], losses[-1]],
           "device_gib": float(free) - peak.low / common.GIB if peak and free else None,
           "alloc_gib": torch.cuda.max_memory_allocated() / common.GIB if dev == "cuda" else None}
    print(json.dumps(row), flush=True)
    if os.environ.get("OUT"):
        with open(os.path.join(os.environ["OUT"], "peers.jsonl"), "a") as file:
            file.write(json.dumps(row) + "\n")
    return row


common.train = train
runpy.run_path(script, run_name="__main__")
