"""Golden values of the head's pointwise functions, fp32: around zero, at zero itself, and far out."""
import torch
from common import Golden

F = torch.nn.functional
KINDS = {
    "identity": lambda x: x * 1,
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.01),
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "silu": F.silu,
}


def run(x, dy, above, dtype):
    out = {}
    for kind, f in KINDS.items():
        v = x.to(dtype, copy=True).requires_grad_()
        y = f(v)
        y.backward(dy.to(dtype))
        out |= {f"{kind}.y": y.detach(), f"{kind}.dx": v.grad, f"{kind}.dx_added": v.grad + above}
    return out


g = Golden("activation")
for B, n in [(1, 3), (5, 67), (8, 129)]:
    x, dy, above = (torch.randn(B, n, generator=g.g) for _ in range(3))
    x[B // 2] *= 10
    x[0, :3] = torch.tensor([0.0, -30.0, 30.0])
    inputs = {"x": x, "dy": dy, "above": above}
    g.case(f"{B}x{n}", inputs, run(*inputs.values(), torch.float64), run(*inputs.values(), torch.float32))
g.save()
