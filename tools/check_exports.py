#!/usr/bin/env python3
"""Proves that what `convert` writes gives the adapter's logits in the programs it is written for.

    python tools/check_exports.py CONVERT MODEL ADAPTER

CONVERT is the binary, MODEL a dense Llama folder, ADAPTER an adapter on it. The truth is PEFT on transformers in fp32; held against it:

    ours    `convert verify-adapter`: this engine's own logits
    merge   the merged folder in f32, f16 and bf16, loaded by transformers, and tensor by tensor PEFT's merge_and_unload
    fold    the folded adapter, loaded by PEFT
    gguf    f32, f16, bf16 and q8_0 with the adapter summed in: read back by the `gguf` package, and loaded by transformers' own reader
    lora    the GGUF adapter: read back, and summed by hand as llama.cpp does, alpha / r and rows in its order

Needs torch, transformers, peft, safetensors and gguf; where they are absent it says so and skips. A folder without tokenizer.json
has no GGUF. Exit code 1 where something lies further apart than its rounding explains.
"""
import atexit
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    import gguf
    import numpy as np
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
except ImportError as missing:
    sys.exit(print(f"skipped: {missing} (tools/install_oracle.sh brings torch, transformers and peft; pip install gguf)"))

# Largest difference beside the largest logit. 16 bits: a half step of each weight; Q8_0: 1/254 of a block's largest.
LIMITS = {"f32": 1e-5, "f16": 5e-3, "bf16": 4e-2, "q8_0": 1e-1}
faults = []


def say(what, ok, figure):
    print(f"{'ok  ' if ok else 'FAIL'} {what}: {figure}")
    if not ok:
        faults.append(what)


def load(folder, **more):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more).eval()


def logits(model):
    n = min(48, model.config.max_position_embeddings)
    ids = torch.arange(2 * n).reshape(2, n) * 7 % model.config.vocab_size
    with torch.no_grad():
        return model(ids).logits


def compare(what, found, expected, limit):
    off = ((found - expected).abs().max() / expected.abs().max()).item()
    say(what, off <= limit, f"{off:.2e} of the largest logit apart, {limit:g} allowed")


def main(convert, model, adapter):
    torch.set_num_threads(1)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="check_exports"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)

    def run(command, out=None, *more):
        words = [convert, command, *([] if command == "fold" else ["--model", model]), "--adapter", adapter, *more]
        words += ["--device", "cpu", "--quiet"] if command in ("merge", "gguf") else []
        done = subprocess.run(words + (["--out", str(scratch / out)] if out else []), capture_output=True, text=True)
        say(f"convert {command} {' '.join(more)}", done.returncode == 0, (done.stdout + done.stderr).strip().splitlines()[-1])
        return scratch / out if out else None

    plain = logits(load(model))
    peft = PeftModel.from_pretrained(load(model), adapter).eval()
    truth = logits(peft)
    say("the adapter acts", (truth - plain).abs().max() > 0.05 * plain.abs().max(), f"{(truth - plain).abs().max():.3g}")
    run("verify-adapter", None, "--python", sys.executable)

    theirs = peft.merge_and_unload().state_dict()
    for dtype in ["f32", "f16", "bf16"]:
        folder = run("merge", f"merged_{dtype}", "--dtype", dtype)
        compare(f"merged in {dtype}, by transformers", logits(load(folder)), truth, LIMITS[dtype])
    ours = {k: t for path in (scratch / "merged_f32").glob("*.safetensors") for k, t in load_file(path).items()}
    worst = max((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max() for k in ours)
    say("merged in f32, tensor by tensor", worst < 1e-6, f"{worst:.2e} apart")
    compare("folded, by PEFT", logits(PeftModel.from_pretrained(load(model), run("fold", "folded"))), truth, 1e-5)

    if not pathlib.Path(model, "tokenizer.json").exists():
        print("no GGUF: the model has no tokenizer.json")
        return
    for kind in ["f32", "f16", "bf16", "q8_0"]:
        file = run("gguf", f"{kind}.gguf", "--type", kind)
        read = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}
        say(f"{kind}.gguf, by the gguf package", all(np.isfinite(t).all() for t in read.values()), f"{len(read)} tensors")
        compare(f"{kind}.gguf, by transformers", logits(load(scratch, gguf_file=file.name)), truth, LIMITS[kind])
    lora(gguf.GGUFReader(run("gguf", "lora.gguf", "--adapter-only")), gguf.GGUFReader(scratch / "f32.gguf"), base_file(scratch, convert, model))


def base_file(scratch, convert, model):
    """The base alone as GGUF."""
    out = scratch / "base.gguf"
    subprocess.run([convert, "gguf", "--model", model, "--out", str(out), "--type", "f32", "--device", "cpu", "--quiet"], check=True, capture_output=True)
    return {t.name: t.data for t in gguf.GGUFReader(out).tensors}


def lora(adapter, merged, base):
    """Base and adapter summed as llama.cpp does must be the file with the adapter summed in."""
    alpha = adapter.fields["adapter.lora.alpha"].contents()
    halves, worst = {t.name: t.data for t in adapter.tensors}, 0.0
    for t in merged.tensors:
        expected = base[t.name]
        if f"{t.name}.lora_a" in halves:
            a, b = halves[f"{t.name}.lora_a"], halves[f"{t.name}.lora_b"]
            expected = expected + alpha / a.shape[0] * (b @ a)
        worst = max(worst, np.abs(t.data - expected).max() / np.abs(expected).max())
    say("lora.gguf on the base's GGUF", worst < 1e-6 and len(halves) > 0, f"{len(halves) // 2} pairs, {worst:.2e} apart")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
    sys.exit(print(f"{len(faults)} faults") or min(1, len(faults)))
