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


def use_its_pytorch_kernels():
    """From here on bitsandbytes quantises scales by its PyTorch kernel, also inside transformers."""
    def quantize_blockwise(a, code=None, absmax=None, out=None, blocksize=256, nested=False):
        assert code is None and not nested, "as quantize_4bit calls it"
        codes, nested_absmax = _KERNELS["quantize_blockwise"](a, NESTED_MAP, blocksize)
        nested_absmax = torch.where(nested_absmax > 1e-37, nested_absmax, torch.zeros(()))
        return codes, F.QuantState(absmax=nested_absmax, code=NESTED_MAP.clone(), blocksize=blocksize, dtype=a.dtype)

    F.quantize_blockwise = quantize_blockwise


def stored(packed, state):
    """The tensors of :func:`quantize` of a weight that bitsandbytes quantised or loaded."""
    tensors = {"packed": packed.reshape(-1), "absmax": state.absmax}
    if state.nested:
        tensors |= {"absmax_q": state.absmax, "nested_absmax": state.state2.absmax, "offset": state.offset.reshape(1)}
    return tensors


def scales(state):
    if "absmax_q" not in state:
        return state["absmax"]
    decode = _KERNELS["dequantize_blockwise"]
    return decode(state["absmax_q"], state["nested_absmax"], NESTED_MAP, 256, torch.float32) + state["offset"]


def dequantize(state, shape, dtype=torch.float32):
    return _KERNELS["dequantize_4bit"](state["packed"].view(-1, 1), scales(state), 64, "nf4", tuple(shape), dtype)
