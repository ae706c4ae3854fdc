"""Golden values of RMSNorm with the residual sum: odd row counts, a width that is no multiple of a warp's stride, outliers."""
import torch
from common import Golden

EPS = 1e-5


def run(x, residual, w, dy, dh_above, dtype):
    x, residual, w, dy = (t.to(dtype) for t in (x, residual, w, dy))
    h = (x + residual).detach().requires_grad_()
    f = h.to(torch.promote_types(dtype, torch.float32))
    y = (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + EPS)).to(dtype) * w
    y.backward(dy)
    return {"h": h.detach(), "y": y.detach(), "dh": h.grad, "dh_added": h.grad + dh_above.to(dtype)}


g = Golden("rms_norm")
for T, C in [(1, 8), (7, 72), (33, 264), (3, 1032)]:
    x, residual, dy, dh = (g.randn(T, C) for _ in range(4))
    w = g.randn(C, scale=0.1) + 1
    w = w.bfloat16().float()
    x[T // 2] *= 40  # an outlier row
    inputs = {"x": x, "residual": residual, "w": w, "dy": dy, "dh_above": dh}
    g.case(f"{T}x{C}", inputs, run(*inputs.values(), torch.float64), run(*inputs.values(), torch.bfloat16))
g.save()
