"""bitsandbytes' own pure-PyTorch NF4 kernels.

Two of its compiled CPU kernels do not follow the format: one restarts the block count on every row, the other looks scales up in
a table too coarse near zero. Its PyTorch kernels (backends/default/ops.py) do, so they are loaded past the dispatcher.
"""
import importlib.util
import torch
import bitsandbytes._ops as ops
import bitsandbytes.functional as F

torch.compiler.set_stance("force_eager")  # compiled kernels may fuse a product with a sum and round once less


def _kernels():
    spec = importlib.util.find_spec("bitsandbytes.backends.default.ops")
    found, register = {}, ops.register_kernel
    ops.register_kernel = lambda name, _backend: lambda kernel: found.setdefault(name.split("::")[1], kernel)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    finally:
        ops.register_kernel = register
    return found


_KERNELS = _kernels()
NF4_MAP = F.get_4bit_type("nf4", device="cpu")
NESTED_MAP = F.create_dynamic_map()


def quantize(w, double=True):
    """The stored tensors of a weight: packed, absmax, and with double quantisation absmax_q, nested_absmax, offset."""
    packed, absmax = _KERNELS["quantize_4bit"](w, 64, "nf4", torch.uint8)
    state = {"packed": packed.reshape(-1), "absmax": absmax.clone()}
    if double:
        offset = absmax.mean()
        codes, nested = _KERNELS["quantize_blockwise"](absmax - offset, NESTED_MAP, 256)
        nested = torch.where(nested > 1e-37, nested, torch.zeros(()))  # a partial block of zeros is stored as 1e-38
        state |= {"absmax_q": codes, "nested_absmax": nested, "offset": offset.reshape(1)}
    return state


def scales(state):
    if "absmax_q" not in state:
        return state["absmax"]
    decode = _KERNELS["dequantize_blockwise"]
    return decode(state["absmax_q"], state["nested_absmax"], NESTED_MAP, 256, torch.float32) + state["offset"]


def dequantize(state, shape, dtype=torch.float32):
    return _KERNELS["dequantize_4bit"](state["packed"].view(-1, 1), scales(state), 64, "nf4", tuple(shape), dtype)
