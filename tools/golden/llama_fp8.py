"""The model of llama.py on an NF4 base: how far every LoRA gradient moves where the frozen products are in e4m3, in fp64.

Reads what llama.py wrote. Not the gradients themselves: where bf16 moves a value over the edge between two codes, it moves by a
whole step of e4m3, so that two right computations are as far from each other as from the truth. How far they are is what compares.
"""
import copy, os
import torch
import bnb
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM
from common import OUT, Golden, rel
from fp8 import meant, quantise

FOLDER = os.path.join(OUT, "llama")


def eight(x):
    """What a matrix is after rounding to e4m3 with a scale a row."""
    return meant(*quantise(x.detach().float()))


class Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(w)
        return eight(x[0])[None] @ eight(w).T

    @staticmethod
    def backward(ctx, dy):
        (w,) = ctx.saved_tensors
        return eight(dy[0])[None] @ eight(w.T.contiguous()).T, None


base = LlamaForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager")
model = PeftModel.from_pretrained(base, os.path.join(FOLDER, "adapter"), is_trainable=True).eval()
packed = load_file(os.path.join(OUT, "llama.safetensors"))
ids, cu, targets = [packed[f"packed.in.{name}"].long() for name in ("ids", "cu_seqlens", "targets")]


def gradients(in_e4m3):
    m = copy.deepcopy(model).double()
    for n, b in m.named_buffers():  # .to() changes the RoPE frequencies as well; they stay as they were
        b.data = dict(model.named_buffers())[n].data.clone()
    for layer in [module.base_layer for module in m.modules() if hasattr(module, "base_layer")]:
        w = bnb.dequantize(bnb.quantize(layer.weight.data.float()), layer.weight.shape).double()
        layer.weight.data = w
        if in_e4m3:
            layer.forward = lambda x, w=w: Frozen.apply(x, w)
    logits = torch.cat([m(input_ids=ids[b:e][None]).logits[0] for b, e in zip(cu[:-1].tolist(), cu[1:].tolist())])
    torch.nn.functional.cross_entropy(logits[targets >= 0], targets[targets >= 0]).backward()
    return {n.replace(".default.", "."): p.grad for n, p in m.named_parameters() if "lora_" in n}


exact, rounded = gradients(False), gradients(True)
moved = {f"moved.{n}": rel(rounded[n], exact[n]).float() for n in exact}
moved["moved"] = rel(torch.cat([g.flatten() for g in rounded.values()]), torch.cat([g.flatten() for g in exact.values()])).float()
print(sorted(round(v.item(), 3) for v in moved.values()), moved["moved"].item())
golden = Golden("llama_fp8")
golden.case("packed", moved, {}, {})
golden.save()
