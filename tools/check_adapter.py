"""Proves that PEFT loads an adapter as we meant it.

    python tools/check_adapter.py BASE ADAPTER

BASE is a Hugging Face Llama folder, ADAPTER a folder with adapter_config.json and adapter_model.safetensors. PEFT must load every
tensor bit for bit, use none that is not in the file, and compute with it what the formula says: the logits of the adapted model must
equal those of a base into whose weights `scale * B @ A` was added by hand. Needs torch, transformers, peft and safetensors.
"""

import json
import math
import pathlib
import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4  # of fp32 logits of size 1 to 10; merging only changes the order of sums


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def main(base_dir, adapter_dir):
    torch.set_num_threads(1)
    warnings.simplefilter("error", UserWarning)  # PEFT only warns of missing or unknown keys
    tensors = load_file(pathlib.Path(adapter_dir, "adapter_model.safetensors"))
    config = json.loads(pathlib.Path(adapter_dir, "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config["use_rslora"] else config["r"])

    model = PeftModel.from_pretrained(base_model(base_dir), adapter_dir).eval()
    loaded = {name.replace(".default", ""): t for name, t in model.named_parameters() if "lora_" in name}
    assert loaded.keys() == tensors.keys(), f"PEFT's tensors differ from the file's: {loaded.keys() ^ tensors.keys()}"
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32 and torch.equal(loaded[name], tensor), f"{name} did not arrive bit for bit"

    plain = base_model(base_dir)
    ids = torch.arange(48).reshape(2, 24) * 5 % plain.config.vocab_size
    with torch.no_grad():
        before = plain(ids).logits
        for name, a in tensors.items():
            if name.endswith(".lora_A.weight"):
                b = tensors[name.replace(".lora_A.", ".lora_B.")]
                module = plain.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
                module.weight += scale * (b.double() @ a.double()).float()
        merged, adapted = plain(ids).logits, model(ids).logits
    error, effect = (adapted - merged).abs().max().item(), (adapted - before).abs().max().item()
    print(f"{len(tensors)} tensors, scale {scale:g}: adapter moves the logits by {effect:.3g}, PEFT and the formula differ by {error:.3g}")
    zero = all(not t.any() for name, t in tensors.items() if ".lora_B." in name)
    assert zero or effect > 10 * TOLERANCE, "the adapter does not act"
    assert error < TOLERANCE, "PEFT computes something other than the formula"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
