"""Golden values of an fp32 linear layer: batches on both sides of a tile of eight, odd widths, and gradients on top of others.
Everything is fp32, so PyTorch in fp32 is the measure."""
import torch
from common import Golden


def run(x, W, bias, dy, dx0, dW0, dbias0, dtype):
    x, W, bias = (t.to(dtype, copy=True).requires_grad_() for t in (x, W, bias))
    y = torch.nn.functional.linear(x, W, bias)
    y.backward(dy.to(dtype))
    out = {"y": y.detach(), "dx": x.grad, "dW": W.grad, "dbias": bias.grad}
    return out | {"dx_added": x.grad + dx0, "dW_added": W.grad + dW0, "dbias_added": bias.grad + dbias0}


g = Golden("dense")
for B, n_in, n_out in [(1, 4, 3), (3, 16, 4), (5, 1201, 13), (8, 300, 33), (19, 257, 10)]:
    x, W, bias, dy, dx0, dW0, dbias0 = (
        torch.randn(*s, generator=g.g)
        for s in [(B, n_in), (n_out, n_in), (n_out,), (B, n_out), (B, n_in), (n_out, n_in), (n_out,)]
    )
    x[B // 2] *= 40
    inputs = {"x": x, "W": W, "bias": bias, "dy": dy, "dx0": dx0, "dW0": dW0, "dbias0": dbias0}
    g.case(f"{B}x{n_in}x{n_out}", inputs, run(*inputs.values(), torch.float64), run(*inputs.values(), torch.float32))
g.save()
