"""8-bit operands and their products. Per kind of case:

    rows_   codes and scales of a matrix, for comparison bit for bit (torch.float8_e4m3fn rounds as the kernels do)
    nf4_    the same of an NF4 weight, by row and turned by column
    mm_     products of such operands and bf16 ones behind them; y in fp64 from what the codes stand for, and PyTorch's own error
            in bf16
"""
import torch
import bnb
from common import Golden, bf16

E4M3 = torch.float8_e4m3fn


def quantise(x):
    """Codes and scales of the rows of a float32 matrix (kernels/fp8_rows.h)."""
    top = x.abs().nan_to_num(nan=0.0, posinf=float("inf")).amax(1)
    scale = torch.where(top < 1e-30, torch.ones(()), top / torch.tensor(448.0))
    codes = (x * (1.0 / scale)[:, None]).to(E4M3)
    return codes, scale


def meant(codes, scale):
    return codes.double() * scale.double()[:, None]


def as_bytes(codes):
    return codes.view(torch.uint8).int()


def rows_cases(g):
    for T, K in [(1, 16), (5, 48), (9, 528), (33, 272)]:
        x = g.randn(T, K)
        if T > 4:
            x[0] = 0
            x[1] *= 1e-3
            x[1, 7] = 60.0                  # an outlier: the rest goes below e4m3's normal numbers
            x[2] *= 2.0 ** -110             # zeros, for a scale's inverse must be finite
            x[3] *= 1e25
            x[4, :16] = bf16(torch.tensor([448, 464, -448, 1, 1.0625, 1.1875, 17, 18, 19, 2 ** -6, 2 ** -9, 2 ** -10, 2 ** -11, 0.0145, -17, -18.0]))
            x[4, 16:] = 0
            x[4, 1] = 440                   # its scale is 1: values come as they are, ties to even
        x = bf16(x)
        codes, scale = quantise(x)
        g.case(f"rows_{T}x{K}", {"x": x, "codes": as_bytes(codes), "scales": scale}, {}, {})
    x = g.randn(3, 32)
    x[0, 5] = float("nan")
    x[1, 9] = float("-inf")
    codes, scale = quantise(x)
    g.case("rows_not_finite", {"x": x, "codes": as_bytes(codes), "scales": scale}, {}, {})


def nf4_cases(g):
    for N, K in [(16, 16), (48, 80), (144, 96)]:   # 80: blocks of NF4 run across rows
        w = g.randn(N, K) * (0.02 + 0.1 * torch.rand(N, 1, generator=g.g))
        w[3] = 0
        w[5, 7] = 4.0
        if N > 16:
            w[:, 9] = 0
        state = bnb.quantize(w)
        for kind, stored in [("double", state), ("plain", {k: state[k] for k in ("packed", "absmax")})]:
            if kind == "plain" and N != 48:
                continue
            v = bnb.dequantize(stored, w.shape)
            (rows, of_rows), (columns, of_columns) = quantise(v), quantise(v.T.contiguous())
            inputs = {"w": w, "rows": as_bytes(rows), "row_scales": of_rows}
            g.case(f"nf4_{kind}_{N}x{K}", inputs | {"columns": as_bytes(columns), "column_scales": of_columns}, {}, {})


MM = {  # layout of the bf16 segments, M, N, K of the 8-bit segments, K of the bf16 ones, added to y
    "nt_1x16": ("nt", 1, 16, (16,), (), False),
    "nt_33x72": ("nt", 33, 72, (144,), (16,), False),
    "nt_7x40": ("nt", 7, 40, (80, 48), (8, 24), True),
    "nn_65x80": ("nn", 65, 80, (48, 16, 32), (16, 16, 16), False),
    "nn_9x136": ("nn", 9, 136, (272,), (), True),
    "nn_40x24": ("nn", 40, 24, (), (40,), True),
}


def mm_cases(g):
    for name, (layout, M, N, eight, wide, add) in MM.items():
        inputs = {"add": torch.tensor([int(add)]), "n_eight": torch.tensor([len(eight)]), "n_wide": torch.tensor([len(wide)])}
        y0, pairs = g.randn(M, N, scale=3.0), []
        for i, K in enumerate(eight):
            # Sizes apart by powers of ten: a scale that is mixed up with another segment's shows.
            a, b = quantise(g.randn(M, K, scale=10.0 ** i)), quantise(g.randn(N, K, scale=0.1 * 10.0 ** -i))
            inputs |= {f"a{i}": as_bytes(a[0]), f"as{i}": a[1], f"b{i}": as_bytes(b[0]), f"bs{i}": b[1]}
            pairs.append((meant(*a), meant(*b).T))
        for i, K in enumerate(wide):
            a, b = g.randn(M, K), g.randn(*((N, K) if layout == "nt" else (K, N)))
            inputs |= {f"wa{i}": a, f"wb{i}": b}
            pairs.append((a.double(), (b.T if layout == "nt" else b).double()))

        def run(dtype):
            y = sum(a.to(dtype) @ b.to(dtype) for a, b in pairs)
            return {"y": y + y0.to(dtype) if add else y}

        g.case(f"mm_{name}", inputs | {"y0": y0}, run(torch.float64), run(torch.bfloat16))


if __name__ == "__main__":
    golden = Golden("fp8")
    rows_cases(golden)
    nf4_cases(golden)
    mm_cases(golden)
    golden.save()
