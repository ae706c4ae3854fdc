"""Golden values of the classifier's cross entropy, fp32: an outlier row, a row without a label, the first and last class."""
import torch
from common import Golden

SCALE = 0.125


def run(logits, labels, dtype):
    x = logits.to(dtype, copy=True).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x, labels, ignore_index=-1, reduction="none")
    (loss.sum() * SCALE).backward()
    return {"probs": x.detach().softmax(-1), "sum": loss.detach().sum().reshape(1), "dlogits": x.grad}


g = Golden("softmax_ce")
for B, n_class in [(1, 2), (7, 3), (33, 5), (64, 40)]:
    logits = torch.randn(B, n_class, generator=g.g) * 3
    logits[B // 2] *= 30
    labels = torch.randint(0, n_class, (B,), generator=g.g)
    labels[0] = n_class - 1
    if B > 1:
        labels[1], labels[2] = 0, -1
    inputs = {"logits": logits, "labels": labels}
    g.case(f"{B}x{n_class}", inputs, run(logits, labels, torch.float64), run(logits, labels, torch.float32))
g.save()
