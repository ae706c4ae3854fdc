"""8-bit blocks of activations (kernels/blocks8.h), every operation rounded to float32 by itself: the kernels' bytes must be these.

Not in the form of the other golden files: nothing here has an error. Per case: x (float32 of bf16 values), codes (int8 as uint8),
scales (float32), and decoded (float32; in bf16 it is this, rounded once). It also prints the relative errors that kernels/blocks8.h
quotes: of a uniform code, of this one, and of fp8 e4m3 with a scale a block.
"""
import os
import numpy as np
import torch
from safetensors.torch import save_file
from common import OUT, bf16

BLOCK, F = 128, np.float32


def quantize(x):
    """x: flat float32. Plain numpy: every operation on float32 arrays rounds to float32; the fma goes through float64, where it
    is exact but for the last bits of |x| / m far below one."""
    n = x.size
    padded = np.zeros(-(-n // BLOCK) * BLOCK, F)
    padded[:n] = x
    b = padded.reshape(-1, BLOCK)
    finite = np.isfinite(b)
    size = np.where(finite, np.abs(b), F(0))
    m = size.max(1, keepdims=True)
    zeros = m < F(1e-33)
    safe = np.where(zeros, F(1), m)
    inverse = np.where(zeros, F(0), F(1) / safe)
    c = (np.float64(774192) * (size * inverse).astype(np.float64) + 16129).astype(F)
    q = np.rint((np.sqrt(c) - F(127)) * F(1 / 6)).astype(np.int32)
    q = np.where(finite, np.where(b > 0, q, -q), -128)
    scale = np.where(zeros, F(0), m / F(64516)).astype(F)
    value = (q * (127 + 3 * np.abs(q))).astype(F) * scale
    decoded = np.where(q == -128, F("nan"), value).astype(F)
    return q.reshape(-1)[:n].astype(np.int8), scale.reshape(-1), decoded.reshape(-1)[:n]


g = torch.Generator().manual_seed(8)
randn = lambda n: bf16(torch.randn(n, generator=g))
heavy = randn(1000)
heavy[::97] *= 60
heavy = bf16(heavy)
extremes = randn(640)
extremes[:128] = 0                                             # a block of zeros, and one that is stored as zeros
extremes[128:256] *= 1e-36
extremes[256:384] *= 1e-30
extremes[384:392] = torch.tensor([3.3895314e38, -3.3895314e38, 1e38, 1e-38, -0.0, 1.0, -1e37, 2e38])
extremes[512:640] = extremes[512]                              # all the same
broken = randn(384)
broken[[3, 130, 131, 200]] = torch.tensor([float("nan"), float("inf"), -float("inf"), float("nan")])
broken[256:384] = float("nan")                                 # nothing finite in the block
# Both sides of every boundary between two codes, as near as bf16 comes.
q = torch.arange(127).double() + 0.5
edges = torch.cat([q * (127 + 3 * q) / 64516] * 2).float()
edges = bf16(torch.stack([edges * 0.998, edges * 1.002, -edges], 1)).reshape(-1)
edges = torch.cat([torch.cat([block, torch.ones(1)]) for block in edges.split(127)])
edges = edges[:edges.numel() // 8 * 8]
cases = {"one": randn(8), "odd_tail": randn(1288), "even_tail": randn(4096 + 16), "two_blocks": randn(8192 + 128), "heavy": heavy,
         "extremes": bf16(extremes), "broken": broken, "edges": edges}
t = {}
for name, x in cases.items():
    assert x.numel() % 8 == 0, name
    with np.errstate(invalid="ignore"):
        codes, scales, decoded = quantize(x.numpy())
    t |= {f"{name}.x": x, f"{name}.codes": torch.from_numpy(codes.view(np.uint8)), f"{name}.scales": torch.from_numpy(scales),
          f"{name}.decoded": torch.from_numpy(decoded)}
path = os.path.join(OUT, "blocks8.safetensors")
save_file({k: v.contiguous().clone() for k, v in t.items()}, path)
print(len(t), os.path.getsize(path))

n = 1 << 20
spiky = torch.randn(n, generator=g)
spiky[torch.randperm(n, generator=g)[: n // 1000]] *= 20
student = torch.randn(n, generator=g) / (sum(torch.randn(n, generator=g) ** 2 for _ in range(4)) / 4).sqrt()
for name, x in {"Gaussian": torch.randn(n, generator=g), "Student's t, 4 degrees": student, "one in a thousand x 20": spiky}.items():
    x = bf16(x)
    b = x.view(-1, BLOCK)
    m = b.abs().amax(1, keepdim=True)
    forms = {"uniform": (b * (127 / m)).round() * (m / 127), "this": torch.from_numpy(quantize(x.numpy())[2]).view_as(b),
             "e4m3": (b * (448 / m)).to(torch.float8_e4m3fn).float() * (m / 448)}
    print(name, {k: f"{((bf16(v) - b).norm() / b.norm()).item():.4f}" for k, v in forms.items()})
