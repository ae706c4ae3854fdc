"""Golden values of causal attention over packed sequences: every head size, one to three query heads a kv head, odd lengths."""
import torch
from common import Golden


def run(q, k, v, do, lengths, H, KV, D, dtype):
    q, k, v, do = (t.to(dtype) for t in (q, k, v, do))
    for t in (q, k, v):
        t.requires_grad_()
    outputs, lse, at = [], [], 0
    for n in lengths:
        heads = lambda t, n_heads: t[at:at + n].view(n, n_heads, D).transpose(0, 1)
        qs = heads(q, H)
        ks, vs = (heads(t, KV).repeat_interleave(H // KV, dim=0) for t in (k, v))
        scores = qs @ ks.transpose(1, 2) * D ** -0.5
        scores = scores + torch.full((n, n), float("-inf"), dtype=dtype).triu(1)
        # As Hugging Face's eager attention: softmax in at least fp32, then back to the storage type.
        wide = scores.to(torch.promote_types(dtype, torch.float32))
        outputs.append((wide.softmax(-1).to(dtype) @ vs).transpose(0, 1).reshape(n, H * D))
        lse.append(wide.logsumexp(-1))
        at += n
    o = torch.cat(outputs)
    o.backward(do)
    return {"o": o.detach(), "lse": torch.cat(lse, 1).detach(), "dq": q.grad, "dk": k.grad, "dv": v.grad}


g = Golden("attention")
for D, H, KV, lengths, outlier in [
    (16, 2, 2, [1, 7, 63, 64, 65, 130], 1),
    (16, 2, 1, [40, 3], 20),
    (32, 3, 1, [65, 1, 7, 63], 1),
    (64, 2, 1, [130, 3], 1),
    (64, 1, 1, [66], 20),
    (128, 2, 1, [7, 65], 1),
]:
    T = sum(lengths)
    q, do = g.randn(T, H * D), g.randn(T, H * D)
    k, v = g.randn(T, KV * D), g.randn(T, KV * D)
    q[T // 2] *= outlier
    inputs = {"q": q, "k": k, "v": v, "do": do, "lengths": torch.tensor(lengths), "heads": torch.tensor([H, KV, D])}
    args = (lengths, H, KV, D)
    name = f"d{D}_h{H}_kv{KV}" + ("_outlier" if outlier > 1 else "")
    g.case(name, inputs, run(q, k, v, do, *args, torch.float64), run(q, k, v, do, *args, torch.bfloat16))
g.save()
