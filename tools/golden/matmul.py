"""Golden values of the matrix products: three layouts, several segments, sizes that are no multiple of any tile; deep ones are cut
along K."""
import torch
from common import Golden

CASES = {  # name: layout, M, N, K of the segments, alpha, added to y0
    "nt_1x8": ("nt", 1, 8, (8,), 1.0, False),
    "nt_7x72": ("nt", 7, 72, (136, 16), 1.0, False),
    "nt_33x24": ("nt", 33, 24, (72, 8, 40), 0.5, True),
    "nt_70x16": ("nt", 70, 16, (264,), 2.0, False),
    "nn_7x136": ("nn", 7, 136, (40, 16, 24, 16), 1.0, True),
    "nn_65x72": ("nn", 65, 72, (72, 16), 1.0, False),
    "nn_33x16": ("nn", 33, 16, (200,), 0.25, False),
    "tn_16x72": ("tn", 16, 72, (7,), 1.0, False),
    "tn_72x16": ("tn", 72, 16, (33,), 1.0, True),
    "nt_9x16_deep": ("nt", 9, 16, (1096, 16), 0.5, True),
    "nn_9x24_deep": ("nn", 9, 24, (1032,), 1.0, False),
    "tn_24x16_deep": ("tn", 24, 16, (1037,), 1.0, True),
    "tn_72x136": ("tn", 72, 136, (65, 1), 1.0, False),
}


def run(layout, a, b, y0, alpha, add, dtype):
    y = 0
    for p, q in zip(a, b):
        p, q = p.to(dtype), q.to(dtype)
        y = y + (p @ q.T if layout == "nt" else p @ q if layout == "nn" else p.T @ q)
    y = alpha * y
    return {"y": y + y0.to(dtype) if add else y}


g = Golden("matmul")
for name, (layout, M, N, Ks, alpha, add) in CASES.items():
    a = [g.randn(*((K, M) if layout == "tn" else (M, K))) for K in Ks]
    b = [g.randn(*((N, K) if layout == "nt" else (K, N))) for K in Ks]
    y0 = g.randn(M, N, scale=3.0)
    inputs = {f"a{i}": t for i, t in enumerate(a)} | {f"b{i}": t for i, t in enumerate(b)}
    inputs |= {"y0": y0, "alpha": torch.tensor([alpha]), "segments": torch.tensor([len(Ks)])}
    inputs |= {"add": torch.tensor([int(add)])}
    args = (layout, a, b, y0, alpha, add)
    g.case(name, inputs, run(*args, torch.float64), run(*args, torch.bfloat16))
g.save()
