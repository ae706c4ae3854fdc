"""Golden values of rotary embedding: Hugging Face's angles (frequency and product in fp32), turned in float64."""
import torch
from common import Golden


def run(x, dy, positions, n_heads, D, theta, dtype):
    frequency = 1.0 / (theta ** (torch.arange(0, D, 2, dtype=torch.float) / D))
    angle = positions[:, None].float() * frequency
    angle = torch.cat((angle, angle), -1)[:, None, :]
    # bf16 as Hugging Face does it: cos and sin in fp32, rounded to the storage type before they multiply.
    cos, sin = (f(angle.double()).to(dtype) for f in (torch.cos, torch.sin))
    x = x.to(dtype).view(-1, n_heads, D).requires_grad_()
    turned = torch.cat((-x[..., D // 2:], x[..., :D // 2]), -1)
    y = x * cos + turned * sin
    y.backward(dy.to(dtype).view_as(y))
    return {"y": y.detach().flatten(1), "dx": x.grad.flatten(1)}


g = Golden("rotary")
for n_heads, D, theta, positions in [
    (3, 16, 1e4, [0, 1, 2, 3, 4, 5, 6]),
    (1, 32, 1e4, [0, 1, 1023, 4095, 7]),
    (5, 64, 5e5, [8191, 0, 4097, 12]),
    (2, 128, 1e4, [4095, 4094, 2048, 1, 0, 0, 1, 2, 777]),
]:
    positions = torch.tensor(positions)
    x, dy = (g.randn(len(positions), n_heads * D) for _ in range(2))
    inputs = {"x": x, "dy": dy, "positions": positions, "heads": torch.tensor([n_heads, D]), "theta": torch.tensor([theta])}
    args = (positions, n_heads, D, theta)
    g.case(f"d{D}", inputs, run(x, dy, *args, torch.float64), run(x, dy, *args, torch.bfloat16))
g.save()
