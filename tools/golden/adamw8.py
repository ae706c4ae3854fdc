"""Golden values of AdamW with 8-bit moments: the update in PyTorch fp32, between steps m and sqrt(v) rounded to the nearest
value of bitsandbytes' dynamic maps by blocks (kernels/adamw8.h). Its quantiser for the CPU (0.50.2) is not used: it gives 0
the code 131, four values away. Beside them the fp64 truth without any quantiser, from which the reference's own error
follows. Gradients spread over decades within a block, many absent, one block without any."""
import math
import torch
import bitsandbytes.functional as bnb
from common import Golden

STEPS, BLOCK = 12, 256
LR, BETA1, BETA2, EPS, DECAY = 1e-2, 0.9, 0.999, 1e-8, 0.1
MAPS = {"signed_map": bnb.create_dynamic_map(signed=True), "unsigned_map": bnb.create_dynamic_map(signed=False)}


def quantise(x, code):
    """Codes, scales and the values they stand for."""
    blocks = torch.nn.functional.pad(x, (0, -len(x) % BLOCK)).reshape(-1, BLOCK)
    scales = blocks.abs().amax(1)
    unit = blocks * (1 / scales.clamp_min(1e-38))[:, None]
    codes = torch.searchsorted((code[1:] + code[:-1]) * 0.5, unit).reshape(-1)[: len(x)]
    return codes, scales, code[codes] * scales.repeat_interleave(BLOCK)[: len(x)]


def update(w, m, root_v, grad, step):
    m += (1 - BETA1) * (grad - m)
    v = root_v * root_v * BETA2 + (1 - BETA2) * grad * grad
    w *= 1 - LR * DECAY
    w -= LR / (1 - BETA1**step) * (m / (v.sqrt() / math.sqrt(1 - BETA2**step) + EPS))
    return v.sqrt()


def run(w, grads, eight):
    """All steps; in 8 bits also the codes and scales after the first and the last."""
    w, m, root_v, states = w.clone(), torch.zeros_like(w), torch.zeros_like(w), {}
    for step, grad in enumerate(grads.to(w.dtype), 1):
        root_v = update(w, m, root_v, grad, step)
        if not eight:
            continue
        m_codes, m_scales, m = quantise(m, MAPS["signed_map"])
        v_codes, v_scales, _ = quantise(root_v, MAPS["unsigned_map"])
        v_codes[(root_v > 0) & (v_codes == 0)] = 1
        root_v = MAPS["unsigned_map"][v_codes] * v_scales.repeat_interleave(BLOCK)[: len(w)]
        if step in (1, STEPS):
            named = {"m_codes": m_codes, "m_scales": m_scales, "v_codes": v_codes, "v_scales": v_scales}
            states |= {f"{k}_{step}": t for k, t in named.items()} | {f"w_{step}": w.clone()}
    return w, states


g = Golden("adamw8")
for n in (7, 300, 1100):
    w = torch.randn(n, generator=g.g)
    scale = torch.exp(2 * torch.randn(n, generator=g.g))
    grads = torch.randn(STEPS, n, generator=g.g) * scale * (torch.rand(STEPS, n, generator=g.g) < 0.5)
    grads[:, 256:512] = 0
    grads[3] *= 100
    if n > 600:
        grads[:, 600:603] *= 1e-9  # below the map's decades
    exact, _ = run(w.double(), grads, False)
    rounded, states = run(w, grads, True)
    g.case(f"{n}", {"w": w, "grads": grads} | MAPS | states, {"w": exact}, {"w": rounded})
g.save()
