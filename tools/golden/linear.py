"""Three linear layers over one input, NF4 base with doubly quantised scales, LoRA with B not zero and a scale that is not 1."""
import torch
import bnb
from common import Golden

K, OUTS = 72, (64, 40, 24)  # 72 is no multiple of 64: blocks of scales run across rows


def run(x, ws, aa, bb, dys, scale, dtype):
    x, ws, dys = x.to(dtype), [w.to(dtype) for w in ws], [d.to(dtype) for d in dys]
    x.requires_grad_()
    aa, bb = [[p.to(dtype).requires_grad_() for p in ps] for ps in (aa, bb)]
    out = {}
    for i, (w, a, b, dy) in enumerate(zip(ws, aa, bb, dys)):
        y = x @ w.T + (x @ a.T) @ b.T * scale
        y.backward(dy)
        out |= {f"y{i}": y.detach()}
    out |= {"dx": x.grad} | {f"da{i}": a.grad for i, a in enumerate(aa)} | {f"db{i}": b.grad for i, b in enumerate(bb)}
    return out


g = Golden("linear")
for T, r, scale in [(1, 8, 2.0), (3, 5, 0.75), (7, 1, 1.5), (33, 5, 0.5), (7, 16, 4.0), (33, 8, 2.0)]:
    x, dys = g.randn(T, K), [g.randn(T, n) for n in OUTS]
    ws = [g.randn(n, K, scale=0.1) for n in OUTS]
    aa, bb = [g.randn(r, K, scale=0.2) for _ in OUTS], [g.randn(n, r, scale=0.2) for n in OUTS]
    decoded = [bnb.dequantize(bnb.quantize(w), w.shape) for w in ws]
    inputs = {"x": x, "scale": torch.tensor([scale])}
    for i in range(len(OUTS)):
        inputs |= {f"w{i}": ws[i], f"a{i}": aa[i], f"b{i}": bb[i], f"dy{i}": dys[i]}
    g.case(f"T{T}_r{r}", inputs, run(x, decoded, aa, bb, dys, scale, torch.float64),
           run(x, decoded, aa, bb, dys, scale, torch.bfloat16))
g.save()
