"""Golden values of silu(gate) * up: sizes that end inside a block, gates so large that exp overflows, and both gradients."""
import torch
from common import Golden


def run(gate, up, dy, above, dtype):
    gate, up = (t.to(dtype, copy=True).requires_grad_() for t in (gate, up))
    y = torch.nn.functional.silu(gate) * up
    y.backward(dy.to(dtype))
    added = {"dgate_added": gate.grad + above.to(dtype), "dup_added": up.grad + above.to(dtype)}
    return {"y": y.detach(), "dgate": gate.grad, "dup": up.grad} | added


g = Golden("swiglu")
for T, F in [(1, 8), (7, 72), (33, 176)]:
    gate, up, dy, above = (g.randn(T, F) for _ in range(4))
    gate[T // 2] *= 40
    gate[0, :4] = torch.tensor([0.0, -120.0, 120.0, -90.0])
    inputs = {"gate": gate, "up": up, "dy": dy, "above": above}
    g.case(f"{T}x{F}", inputs, run(*inputs.values(), torch.float64), run(*inputs.values(), torch.bfloat16))
g.save()
