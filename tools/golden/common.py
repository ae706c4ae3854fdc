"""What every golden script shares: inputs a bf16 engine can hold, the fp64 truth, and PyTorch's own bf16 error.

A golden file holds, per case CASE and tensor NAME:
    CASE.in.NAME   inputs, float32 (bf16-representable where the engine stores bf16) or int32
    CASE.out.NAME  the result in float64, computed in float64 from exactly those inputs
    CASE.err.NAME  norm(bf16 - out) / norm(out) of PyTorch computing the same in bf16 (float64 scalar)
Our bf16 build must be at most twice as far off (three times for gradients), our fp32 build within 1e-5: tests/common.
"""
import os
import torch
from safetensors.torch import save_file

torch.set_num_threads(1)
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")


def bf16(x):
    """The nearest values that bf16 can hold, as float32."""
    return x.to(torch.bfloat16).float()


def rel(x, y):
    x, y = x.double(), y.double()
    return ((x - y).norm() / y.norm().clamp_min(1e-300)).reshape(1)


class Golden:
    def __init__(self, op, seed=1):
        self.op, self.tensors = op, {}
        self.g = torch.Generator().manual_seed(seed)

    def randn(self, *shape, scale=1.0):
        return bf16(torch.randn(*shape, generator=self.g) * scale)

    def case(self, name, inputs, exact, rounded):
        """inputs: name -> tensor. exact, rounded: name -> the outputs in fp64, and by PyTorch in bf16."""
        for k, v in inputs.items():
            self.tensors[f"{name}.in.{k}"] = v.to(torch.int32) if not v.is_floating_point() else v.float()
        for k, v in exact.items():
            assert torch.isfinite(v).all(), (name, k)
            self.tensors[f"{name}.out.{k}"] = v.double()
            self.tensors[f"{name}.err.{k}"] = rel(rounded[k], v)

    def save(self):
        os.makedirs(OUT, exist_ok=True)
        path = os.path.join(OUT, f"{self.op}.safetensors")
        save_file({k: v.detach().contiguous().clone() for k, v in self.tensors.items()}, path,
                  metadata={"torch": torch.__version__, "script": f"tools/golden/{self.op}.py"})
        print(f"{self.op}: {len(self.tensors)} tensors, {os.path.getsize(path)} bytes; PyTorch's bf16 errors",
              {k: float(f"{v.item():.2g}") for k, v in self.tensors.items() if ".err." in k})
