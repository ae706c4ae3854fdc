"""Golden values of the gradient norm and the clip factor: less than a span, exactly one, several and a bit, with an outlier."""
import torch
from common import Golden


def run(grad, max_norm, dtype):
    p = torch.zeros(grad.shape, dtype=dtype, requires_grad=True)
    p.grad = grad.to(dtype).clone()
    norm = torch.nn.utils.clip_grad_norm_([p], max_norm)
    clip = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    assert torch.allclose(p.grad, grad.to(dtype) * clip)
    return {"norm": norm.reshape(1), "clip": clip.reshape(1)}


g = Golden("grad_norm")
for n, scale, max_norm in [(1, 1.0, 1.0), (33, 0.01, 1.0), (8192, 1.0, 0.3), (20007, 1.0, 1.0)]:
    grad = torch.randn(n, generator=g.g) * scale
    grad[n // 2] *= 1000 * scale
    inputs = {"grad": grad, "max_norm": torch.tensor([max_norm])}
    g.case(f"{n}", inputs, run(grad, max_norm, torch.float64), run(grad, max_norm, torch.float32))
g.save()
