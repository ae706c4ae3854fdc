"""Golden values of one new token a sequence against its keys: every head size, one to eight query heads a kv head, lengths around a page.

PyTorch's own bf16 error is that of its flash kernel, as in attention.py.
"""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from common import Golden


def explicit(q, k, v):
    return (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v


def flash(q, k, v):
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]


def run(attend, dtype, q, k, v, lengths, H, KV, D):
    outputs, at = [], 0
    for s, n in enumerate(lengths):
        heads = lambda t, n_heads: t.to(dtype).view(-1, n_heads, D).transpose(0, 1)
        ks, vs = (heads(t[at:at + n], KV).repeat_interleave(H // KV, dim=0) for t in (k, v))
        outputs.append(attend(heads(q[s:s + 1], H), ks, vs).transpose(0, 1).reshape(1, H * D))
        at += n
    return {"o": torch.cat(outputs)}


g = Golden("attention_decode")
for D, H, KV, lengths, outlier in [
    (16, 2, 2, [1, 63, 64, 65, 200], 1),
    (16, 6, 2, [5, 130], 20),
    (32, 4, 1, [65, 1, 128], 1),
    (64, 2, 1, [129, 3], 20),
    (128, 2, 2, [7, 65], 1),
    (128, 8, 1, [70], 1),
]:
    q = g.randn(len(lengths), H * D) * outlier
    k, v = (g.randn(sum(lengths), KV * D) for _ in range(2))
    inputs = {"q": q, "k": k, "v": v, "lengths": torch.tensor(lengths), "heads": torch.tensor([H, KV, D])}
    args = (q, k, v, lengths, H, KV, D)
    name = f"d{D}_h{H}_kv{KV}" + ("_outlier" if outlier > 1 else "")
    g.case(name, inputs, run(explicit, torch.float64, *args), run(flash, torch.bfloat16, *args))
g.save()
