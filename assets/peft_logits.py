"""What transformers and PEFT compute: the logits of an adapter on its base, for `convert verify-adapter`.

    python peft_logits.py BASE ADAPTER OUT < prompts.json

prompts.json is a list of lists of token ids. OUT gets the logits of each prompt [T, V], one behind the other, as little-endian fp32.
PEFT only warns of a tensor that it misses or does not know; here both end the program.
"""
import json
import pathlib
import sys

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM


def main(base, adapter, out):
    prompts = json.load(sys.stdin)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, adapter).eval()
    loaded = {name.replace(".default.", "."): p for name, p in model.named_parameters() if "lora_" in name}
    with safe_open(pathlib.Path(adapter, "adapter_model.safetensors"), "pt") as file:
        stored = {name: file.get_tensor(name).float() for name in file.keys()}
    if loaded.keys() != stored.keys():
        sys.exit(f"PEFT's tensors are not the file's: {sorted(loaded.keys() ^ stored.keys())[:4]}")
    for name, tensor in stored.items():
        if not torch.equal(loaded[name].float(), tensor):
            sys.exit(f"{name} did not arrive in PEFT as it is stored")
    with torch.no_grad(), open(out, "wb") as file:
        for ids in prompts:
            file.write(model(torch.tensor([ids])).logits[0].float().numpy().astype("<f4").tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
