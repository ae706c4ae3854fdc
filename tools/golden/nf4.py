"""NF4 as bitsandbytes writes and reads it, byte for byte. Not in the form of the other golden files: nothing here has an error.

Per case: weight (float32; of bf16 values where the name says so), packed, absmax, absmax_q, nested_absmax, offset, and the decoded
weight from plain scales (`plain`) and from doubly quantised ones (`double`), in float32.
"""
import os
import torch
from safetensors.torch import save_file
import bnb
from common import OUT

CASES = [("f32", 136, 128),                     # more than 256 blocks
         ("f32", 33, 77), ("bf16", 33, 77),     # an odd count, the last block partial
         ("f32", 24, 176), ("bf16", 64, 72),    # blocks run across rows
         ("f32", 2, 16), ("f32", 5, 7), ("bf16", 1, 65)]        # less than one block, just over one
g = torch.Generator().manual_seed(4)
t = {"nf4_map": bnb.NF4_MAP, "nested_map": bnb.NESTED_MAP}
for kind, N, K in CASES:
    w = torch.randn(N, K, generator=g) * (0.02 + 0.1 * torch.rand(N, 1, generator=g))
    if (N, K) == (2, 16):                       # exactly between two codes: a tie goes down
        w = torch.cat([torch.ones(1), (bnb.NF4_MAP[1:] + bnb.NF4_MAP[:-1]) / 2, bnb.NF4_MAP]).reshape(N, K)
    if N > 20:
        w[3] = 0                                # with K >= 64 a whole block of zeros
        w[5, 7] = 4.0                           # an outlier
    w = w.bfloat16().float() if kind == "bf16" else w
    state = bnb.quantize(w)
    plain = {k: state[k] for k in ("packed", "absmax")}
    name = f"{kind}_{N}x{K}"
    t |= {f"{name}.{k}": v for k, v in state.items()}
    t |= {f"{name}.weight": w, f"{name}.plain": bnb.dequantize(plain, w.shape), f"{name}.double": bnb.dequantize(state, w.shape)}
    # What bitsandbytes decodes to bf16 is this, rounded once: tests round it themselves.
    assert torch.equal(t[f"{name}.double"].bfloat16(), bnb.dequantize(state, w.shape, torch.bfloat16))
save_file({k: v.contiguous().clone() for k, v in t.items()}, os.path.join(OUT, "nf4.safetensors"), metadata={"torch": torch.__version__})
print(len(t), os.path.getsize(os.path.join(OUT, "nf4.safetensors")))
