"""Golden values of mean, last and maximum over the first tokens of each sequence. Coarse values make maxima tie: the
gradient goes to the first token that holds it, as torch.max(dim=0) does on the CPU."""
import torch
from common import Golden, bf16


def pool(x, kind):
    return {"mean": lambda: x.mean(0), "last": lambda: x[-1], "max": lambda: x.max(0).values}[kind]()


def run(h, lens, n_keep, dy, above, dtype):
    out = {}
    for kind in ["mean", "last", "max"]:
        x = h.to(dtype, copy=True).requires_grad_()
        begins = torch.tensor([0] + lens).cumsum(0).tolist()
        y = torch.stack([pool(x[b:b + n], kind) for b, n in zip(begins, n_keep)])
        y.backward(dy.to(dtype))
        out |= {f"{kind}.y": y.detach(), f"{kind}.dh": x.grad, f"{kind}.dh_added": x.grad + above.to(dtype)}
    return out


g = Golden("token_pool")
for C, lens, n_keep in [(8, [1], [1]), (72, [2, 5], [2, 3]), (520, [3, 1, 7], [3, 1, 5])]:
    T, S = sum(lens), len(lens)
    h = bf16(torch.round(torch.randn(T, C, generator=g.g) * 2) / 2)
    h[T // 2] *= 64
    dy, above = torch.randn(S, C, generator=g.g), g.randn(T, C)
    exact, fp32, low = (run(h, lens, n_keep, dy, above, t) for t in (torch.float64, torch.float32, torch.bfloat16))
    cu = torch.tensor([0] + lens).cumsum(0)
    inputs = {"h": h, "cu_seqlens": cu, "n_keep": torch.tensor(n_keep), "dy": dy, "above": above}
    rounded = {k: fp32[k] if k.endswith(".y") else v for k, v in low.items()}
    g.case(f"{S}x{C}", inputs, exact, rounded)
g.save()
