"""Golden values of MaxPool 8 then AvgPool 8 into one slab a sequence. Hidden states are rounded coarsely, so that many
windows hold their maximum more than once: the gradient must go to the first, as PyTorch's does. Some sequences keep a part
of their tokens, one fills every position."""
import torch
from common import Golden, bf16


def run(h, lens, n_keep, s, d, above, dtype):
    h = h.to(dtype, copy=True).requires_grad_()
    slabs, begin = [], 0
    for length, n in zip(lens, n_keep):
        x = h[begin:begin + n]
        f = torch.nn.functional.avg_pool1d(torch.nn.functional.max_pool1d(x, 8, 8), 8, 8)
        slabs.append(torch.nn.functional.pad(f.reshape(-1), (0, (s - n) * h.shape[1] // 64)))
        begin += length
    features = torch.stack(slabs)
    features.backward(d.to(dtype))
    return {"features": features.detach(), "dh": h.grad, "dh_added": h.grad + above.to(dtype)}


g = Golden("eci_pool")
for C, s, lens, n_keep in [(64, 3, [2], [2]), (192, 9, [5, 1, 9], [3, 1, 9]), (64, 20, [7, 14, 12], [7, 1, 12]), (256, 33, [33], [32])]:
    T = sum(lens)
    h = bf16(torch.round(torch.randn(T, C, generator=g.g) * 2) / 2)
    h[T // 2] *= 64
    d = torch.randn(len(lens), s * C // 64, generator=g.g)
    above = g.randn(T, C)
    exact = run(h, lens, n_keep, s, d, above, torch.float64)
    # Features are fp32 in the engine: PyTorch in fp32 is the measure for them.
    fp32, low = (run(h, lens, n_keep, s, d, above, t) for t in (torch.float32, torch.bfloat16))
    cu = torch.tensor([0] + lens).cumsum(0)
    inputs = {"h": h, "cu_seqlens": cu, "n_keep": torch.tensor(n_keep), "dfeatures": d, "above": above}
    g.case(f"{len(lens)}of{s}x{C}", inputs, exact, low | {"features": fp32["features"]})
g.save()
