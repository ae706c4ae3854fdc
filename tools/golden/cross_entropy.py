"""Golden values of cross entropy over a vocabulary that is padded to eights: the padding holds large values that must not
count, one row is an outlier, one row has no target, targets include the first and the last class."""
import torch
from common import Golden

SCALE = 0.25


def run(logits, targets, V, dtype):
    x = logits[:, :V].to(dtype, copy=True).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x, targets.long(), ignore_index=-1, reduction="none")
    (loss.sum() * SCALE).backward()
    dlogits = torch.nn.functional.pad(x.grad, (0, logits.shape[1] - V))
    return {"loss": loss.detach(), "dlogits": dlogits}


g = Golden("cross_entropy")
for n, V in [(1, 3), (7, 50), (33, 500), (3, 2200)]:
    Vp = (V + 7) // 8 * 8
    logits = g.randn(n, Vp, scale=3.0)
    logits[n // 2] *= 15
    logits[:, V:] = 100.0
    targets = torch.randint(0, V, (n,), generator=g.g)
    targets[0] = V - 1
    if n > 1:
        targets[1], targets[n - 1] = 0, -1
    # The engine's logits are fp32, so its losses are held to PyTorch in fp32; its gradient is stored in bf16.
    exact, fp32, low = (run(logits, targets, V, t) for t in (torch.float64, torch.float32, torch.bfloat16))
    g.case(f"{n}x{V}", {"logits": logits, "targets": targets}, exact, {"loss": fp32["loss"], "dlogits": low["dlogits"]})
g.save()
