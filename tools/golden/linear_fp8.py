"""Three linear layers over one input as in linear.py, their frozen products in e4m3.

Two truths a case. y0.., dx: without e4m3, in fp64; the yardstick is what PyTorch's own float8_e4m3fn makes of it, computed in bf16
besides. y0_as8.., dx_as8: in fp64 from the same codes; the yardstick is bf16, a twentieth of the other, so that a wrong scale or
a lost LoRA cannot hide in e4m3's noise.
"""
import torch
import bnb
from common import Golden
from fp8 import meant, quantise

K, OUTS = 80, (64, 48, 32)  # 80 is no multiple of 64: blocks of NF4's scales run across rows


def run(x, ws, wts, aa, bb, dys, dy8s, x8, scale, dtype):
    """y = x8 W8' + U B'; dx = dy8 W8 + V A. What is in e4m3 comes ready, in fp64."""
    x, aa, bb, dys = x.to(dtype), [a.to(dtype) for a in aa], [b.to(dtype) for b in bb], [d.to(dtype) for d in dys]
    out, dx = {}, 0
    for i, (w, wt, a, b, dy, dy8) in enumerate(zip(ws, wts, aa, bb, dys, dy8s)):
        u, v = x @ a.T * scale, dy @ b * scale
        out[f"y{i}"] = x8.to(dtype) @ w.to(dtype).T + u @ b.T
        out |= {f"db{i}": dy.T @ u, f"da{i}": v.T @ x}
        dx = dx + dy8.to(dtype) @ wt.to(dtype) + v @ a
    return out | {"dx": dx}


g = Golden("linear_fp8")
for T, r, scale in [(33, 8, 2.0), (17, 16, 0.5), (70, 5, 1.5)]:
    x = g.randn(T, K)
    x[:, 11] *= 8.0                       # channels that stand out, as Llama's do
    x[2] = 0                              # and a token of zeros
    dys = [g.randn(T, n, scale=1e-3 * 4.0 ** i) for i, n in enumerate(OUTS)]
    ws = [g.randn(n, K, scale=0.1 * 3.0 ** -i) for i, n in enumerate(OUTS)]
    aa, bb = [g.randn(r, K, scale=0.2) for _ in OUTS], [g.randn(n, r, scale=0.02) for n in OUTS]
    decoded = [bnb.dequantize(bnb.quantize(w), w.shape) for w in ws]
    inputs = {"x": x, "scale": torch.tensor([scale])}
    for i in range(len(OUTS)):
        inputs |= {f"w{i}": ws[i], f"a{i}": aa[i], f"b{i}": bb[i], f"dy{i}": dys[i]}
    plain = (x, [w.double() for w in decoded], [w.double() for w in decoded], aa, bb, dys, [d.double() for d in dys], x.double(), scale)
    eight = (x, [meant(*quantise(w)) for w in decoded], [meant(*quantise(w.T.contiguous())).T for w in decoded], aa, bb, dys,
             [meant(*quantise(d)) for d in dys], meant(*quantise(x)), scale)
    exact, exact8, rounded8 = run(*plain, torch.float64), run(*eight, torch.float64), run(*eight, torch.bfloat16)
    twice = [k for k in exact if k[0] == "y" or k == "dx"]
    g.case(f"T{T}_r{r}", inputs, exact | {f"{k}_as8": exact8[k] for k in twice}, rounded8 | {f"{k}_as8": rounded8[k] for k in twice})
g.save()
