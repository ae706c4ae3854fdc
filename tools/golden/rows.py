"""Golden values of gathering rows and of the gradient's way back: first and last row, all rows, one row."""
import torch
from common import Golden


def run(x, rows, dy, above, dtype):
    x = x.to(dtype, copy=True).requires_grad_()
    y = x[rows.long()]
    y.backward(dy.to(dtype))
    return {"y": y.detach(), "dx": x.grad, "dx_added": x.grad + above.to(dtype)}


g = Golden("rows")
for T, C, rows in [(1, 8, [0]), (7, 72, [0, 2, 3, 6]), (33, 136, [5]), (17, 72, list(range(17))), (9, 520, [1, 8])]:
    inputs = {"x": g.randn(T, C), "rows": torch.tensor(rows), "dy": g.randn(len(rows), C), "above": g.randn(T, C)}
    g.case(f"{len(rows)}of{T}x{C}", inputs, run(*inputs.values(), torch.float64), run(*inputs.values(), torch.bfloat16))
g.save()
