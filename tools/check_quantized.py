#!/usr/bin/env python3
"""Proves that a folder written by `convert quantize` is what bitsandbytes and transformers make of the same weights.

    python tools/check_quantized.py SOURCE QUANTISED

SOURCE is the dense Llama folder, QUANTISED what `convert quantize --model SOURCE --out QUANTISED` wrote. Three things must hold:

    bytes   every tensor of a linear layer is, byte for byte, what bitsandbytes' own quantisation of the source stores
    values  transformers loads the folder, and every layer decodes to the bits that bitsandbytes' quantisation decodes to
    rest    every other tensor is the source's

bitsandbytes means its PyTorch kernels (tools/golden/bnb.py says why); in how many codes its compiled CPU kernel for scales leaves
them is printed.

Needs torch, transformers, bitsandbytes and safetensors; where they are absent it says so and skips. Exit code 1 on a difference.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "golden"))
try:
    import bitsandbytes.functional as F
    import bnb
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM
except ImportError as missing:
    sys.exit(print(f"skipped: {missing} (tools/install_oracle.sh brings it)"))


def tensors(folder):
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    index = pathlib.Path(folder, "model.safetensors.index.json")
    if index.exists():
        assert json.loads(index.read_text())["weight_map"].keys() == found.keys(), "the index names other tensors"
    return found


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))


def main(source_dir, quantised_dir):
    torch.set_num_threads(1)  # the mean of the scales is summed in the order of one thread
    source, ours = tensors(source_dir), tensors(quantised_dir)
    double = json.loads(pathlib.Path(quantised_dir, "config.json").read_text())["quantization_config"]["bnb_4bit_use_double_quant"]
    model = AutoModelForCausalLM.from_pretrained(quantised_dir, device_map={"": "cpu"})
    loaded = {f"{name}.weight": layer.weight for name, layer in model.named_modules() if type(layer).__name__ == "Linear4bit"}
    linears = {name: weight for name, weight in source.items() if name.endswith("_proj.weight")}
    quantise = lambda weight: F.quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type="nf4")
    compiled = {name: quantise(weight)[1].absmax for name, weight in linears.items()}
    bnb.use_its_pytorch_kernels()
    theirs = {name: weight for name, weight in source.items() if name not in linears}
    faults, n_bytes, n_values, n_compiled, n_scales = [], 0, 0, 0, 0
    for name, weight in linears.items():
        packed, state = quantise(weight)
        theirs[name] = packed
        theirs |= {f"{name}.{part}": tensor for part, tensor in state.as_dict(packed=True).items()}
        here = loaded.pop(name)
        expected = bnb.dequantize(bnb.stored(packed, state), weight.shape, weight.dtype)
        found = bnb.dequantize(bnb.stored(here.data, here.quant_state), here.quant_state.shape, here.quant_state.dtype)
        n_values += expected.numel()
        n_scales += state.absmax.numel()
        n_compiled += (compiled[name] != state.absmax).sum().item()
        if not same(expected, found):
            faults.append(f"{name}: the decoded values differ")
    theirs = {name: t for name, t in theirs.items() if name in ours or "rotary_emb" not in name}
    for name in sorted(theirs.keys() | ours.keys()):
        if name not in ours or name not in theirs:
            faults.append(f"{name} is only in {'theirs' if name in theirs else 'ours'}")
        elif not same(ours[name], theirs[name]):
            faults.append(f"{name}: {theirs[name].dtype} {tuple(theirs[name].shape)} of bitsandbytes, "
                          f"{ours[name].dtype} {tuple(ours[name].shape)} of ours, or other bytes")
        n_bytes += raw(ours[name]).numel() if name in ours else 0
    faults += [f"{name} was loaded in 4 bits but is no linear layer of the source" for name in loaded]
    print("\n".join(faults[:20]), end="\n" if faults else "")
    print(f"its compiled CPU kernel gives {n_compiled} of {n_scales} scales another code")
    print(f"{quantised_dir}: {len(ours)} tensors, {n_bytes} bytes, {n_values} decoded values, {len(faults)} differences")
    return min(1, len(faults))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
