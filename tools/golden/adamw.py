"""Golden values of five AdamW steps over two groups with their own learning rate and decay, gradients clipped by norm.
PyTorch in fp32 is the measure; the gradients of each step are inputs."""
import torch
from common import Golden

STEPS, MAX_NORM = 5, 1.0


def run(w, grads, split, dtype):
    a, b = (t.to(dtype).clone().requires_grad_() for t in (w[:split], w[split:]))
    groups = [{"params": [a], "lr": 1e-2, "weight_decay": 0.1}, {"params": [b], "lr": 3e-3, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, foreach=False, fused=False)
    for grad in grads:
        a.grad, b.grad = grad[:split].to(dtype).clone(), grad[split:].to(dtype).clone()
        torch.nn.utils.clip_grad_norm_([a, b], MAX_NORM)
        optimizer.step()
    state = lambda k: torch.cat([optimizer.state[p][k] for p in (a, b)])
    return {"w": torch.cat([a, b]).detach(), "m": state("exp_avg"), "v": state("exp_avg_sq")}


g = Golden("adamw")
for n, split in [(7, 3), (300, 257), (1000, 8)]:
    w = torch.randn(n, generator=g.g)
    grads = torch.randn(STEPS, n, generator=g.g) * torch.tensor([0.01, 10.0, 0.0, 1.0, 0.001])[:, None]
    grads[1, n // 2] *= 1000
    inputs = {"w": w, "grads": grads, "split": torch.tensor([split])}
    g.case(f"{n}", inputs, run(w, grads, split, torch.float64), run(w, grads, split, torch.float32))
g.save()
