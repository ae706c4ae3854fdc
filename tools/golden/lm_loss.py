"""Golden values of the LM loss from hidden states: a padded vocabulary, rows without a target, and more rows than a chunk."""
import torch
from common import Golden

SCALE = 0.25


def run(h, head, targets, V, dtype):
    h = h.to(dtype, copy=True).requires_grad_()
    logits = h @ head[:V].to(dtype).T
    loss = torch.nn.functional.cross_entropy(
        logits.to(torch.promote_types(dtype, torch.float32)), targets.long(), ignore_index=-1, reduction="none"
    )
    (loss.sum() * SCALE).backward()
    return {"loss": loss.detach(), "dh": h.grad}


g = Golden("lm_loss")
for n, C, V in [(1, 8, 3), (7, 72, 50), (33, 64, 500), (1030, 8, 19)]:
    head = g.randn((V + 7) // 8 * 8, C)
    head[V:] = 3.0  # rows that must not count
    h, targets = g.randn(n, C, scale=0.5), torch.randint(0, V, (n,), generator=g.g)
    targets[0] = V - 1
    if n > 1:
        targets[1], targets[n - 1] = 0, -1
        h[n // 2] *= 8
    inputs = {"h": h, "head": head, "targets": targets}
    g.case(f"{n}x{C}x{V}", inputs, run(*inputs.values(), V, torch.float64), run(*inputs.values(), V, torch.bfloat16))
g.save()
