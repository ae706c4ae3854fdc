#!/usr/bin/env python3
"""A Llama folder of full size with made-up weights, already in bitsandbytes' NF4 with double quantisation, and rows to train on.

    python3 tools/gpu/make_synthetic_base.py --out DIR [--size 13b|7b|70b|tiny] [--seed 1] [--rows 600] [--workers N]

For runs whose subject is memory and speed, on a machine that has no network and nothing but Python's standard library.
6.7 GB in less than a minute on 16 cores: codes and scales are drawn directly, no weight is ever quantised. NF4's codes are
quantiles of the normal distribution, so codes that are about equally likely are what a normal weight becomes; scales vary
by a quarter about the value that gives weights of standard deviation 0.02, those of o_proj and down_proj divided by
sqrt(2 layers), so that activations neither vanish nor explode. The output layer is small: the loss of an untrained run is
ln(vocabulary) to within a few hundredths, and anything else is a fault. The same seed gives the same bytes, whatever the
number of workers. The index and config.json are written last: a folder without them is not finished.
"""
import argparse
import json
import math
import os
import random
import struct
import sys
import time
from array import array
from multiprocessing import Pool
from pathlib import Path
from statistics import NormalDist

from synthetic_text import ROWS_FILE, TEMPLATE, TEMPLATE_FILE, rows, tokenizer

#        hidden, intermediate, layers, heads, kv heads, vocabulary
SIZES = {"7b": (4096, 11008, 32, 32, 32, 32000), "13b": (5120, 13824, 40, 40, 40, 32000),
         "70b": (8192, 28672, 80, 64, 8, 32000), "tiny": (256, 704, 2, 2, 2, 512)}
BLOCK, NESTED_BLOCK = 64, 256
STD = 0.02
# The largest difference of a block's scale from the tensor's mean, as a share of that mean.
SPREAD = 0.25
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
# Codes that are all equally likely have a mean of 0.02, a matrix of one direction that grows with the width until all hidden
# states point there. Two codes to a byte: six of the 32 places of +1 go to -1, and the mean is 0.
ZERO_MEAN = bytes(b - 0xF0 if b in (0xF1, 0xF2, 0xF3) else b - 0x0F if b in (0x1F, 0x2F, 0x3F) else b for b in range(256))


def f32(x: float) -> float:
    """Rounded once, as one operation in float32 does: sums and products of two float32 are exact, or nearly, in float64."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def floats(values) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def nested_map() -> list[float]:
    """bitsandbytes' signed dynamic map of 8-bit scales, bit for bit; the engine's nested_map says why in this order."""
    values = [0.0, 1.0]
    for decade in range(7):
        n = 1 << decade
        begin = f32(0.1)
        step = f32(f32(1.0 - begin) / n)
        grid = [f32(step * i + begin) if i < (n + 1) // 2 else f32(1.0 - step * (n - i)) for i in range(n + 1)]
        scale = f32(10.0 ** (decade - 6))
        for low, high in zip(grid, grid[1:]):
            value = f32(scale * f32(f32(low + high) / 2))
            values += [value, -value]
    return sorted(values)


def bf16(x: float) -> int:
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def linear(name: str, shape: tuple[int, int], std: float) -> list[tuple]:
    """A quantised weight: name, type, shape and how to draw it, of each of its parts."""
    n_blocks = math.ceil(shape[0] * shape[1] / BLOCK)
    n_nested = math.ceil(n_blocks / NESTED_BLOCK)
    offset = f32(std / math.sqrt(sum(v * v for v in NF4) / len(NF4)))
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "bfloat16", "shape": list(shape),
             "nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": offset}
    state = json.dumps(state).encode()
    return [(name, "U8", [shape[0] * shape[1] // 2, 1], "codes"),
            (f"{name}.absmax", "U8", [n_blocks], "random"),
            (f"{name}.nested_absmax", "F32", [n_nested], floats([SPREAD * offset] * n_nested)),
            (f"{name}.nested_quant_map", "F32", [256], floats(nested_map())),
            (f"{name}.quant_map", "F32", [16], floats(NF4)),
            (f"{name}.quant_state.bitsandbytes__nf4", "U8", [len(state)], state)]


def shards(size: str) -> list[list[tuple]]:
    """The tensors of every file: one per layer, and one for each table."""
    hidden, mlp, layers, heads, kv_heads, vocab = SIZES[size]
    kv = hidden // heads * kv_heads
    ones = struct.pack("<H", bf16(1.0)) * hidden
    out = []
    for layer in range(layers):
        at = f"model.layers.{layer}."
        last = STD / math.sqrt(2 * layers)
        shapes = {"self_attn.q_proj": (hidden, hidden, STD), "self_attn.k_proj": (kv, hidden, STD),
                  "self_attn.v_proj": (kv, hidden, STD), "self_attn.o_proj": (hidden, hidden, last),
                  "mlp.gate_proj": (mlp, hidden, STD), "mlp.up_proj": (mlp, hidden, STD), "mlp.down_proj": (hidden, mlp, last)}
        tensors = [(f"{at}{norm}.weight", "BF16", [hidden], ones) for norm in ("input_layernorm", "post_attention_layernorm")]
        for name, (n, k, std) in shapes.items():
            tensors += linear(f"{at}{name}.weight", (n, k), std)
        out.append(tensors)
    out.append([("model.norm.weight", "BF16", [hidden], ones),
                ("lm_head.weight", "BF16", [vocab, hidden], 0.25 / math.sqrt(hidden))])
    return out + [[("model.embed_tokens.weight", "BF16", [vocab, hidden], STD)]]


def n_bytes(kind: str, shape: list[int]) -> int:
    return math.prod(shape) * {"U8": 1, "BF16": 2, "F32": 4}[kind]


def normals(source: random.Random, std: float):
    """A function that gives the next n normal numbers as bf16, by quantiles: 16 random bits a number."""
    normal = NormalDist(0.0, std)
    table = [bf16(normal.inv_cdf((i + 0.5) / 65536)) for i in range(65536)]
    return lambda n: array("H", map(table.__getitem__, array("H", source.randbytes(2 * n)))).tobytes()


def write_shard(job: tuple) -> int:
    """One safetensors file; gives the bytes of its tensors. The generator is seeded by each tensor's name."""
    path, tensors, seed = job
    # The library's order, which keeps floats aligned: wide types first.
    tensors = sorted(tensors, key=lambda t: (("F32", "BF16", "U8").index(t[1]), t[0]))
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, kind, shape, _ in tensors:
        begin, end = end, end + n_bytes(kind, shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, kind, shape, content in tensors:
            source = random.Random(f"{seed} {name}")
            left = math.prod(shape)
            if isinstance(content, float):
                draw = normals(source, content)
            elif content == "codes":
                draw = lambda n: source.randbytes(n).translate(ZERO_MEAN)
            else:
                draw = source.randbytes
            while left and not isinstance(content, bytes):
                n = min(left, 1 << 20)
                file.write(draw(n))
                left -= n
            if isinstance(content, bytes):
                file.write(content)
    assert path.stat().st_size == 8 + len(text) + end, path
    return end


def config(size: str) -> dict:
    hidden, mlp, layers, heads, kv_heads, vocab = SIZES[size]
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
                    "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16",
                    "bnb_4bit_quant_storage": "uint8", "llm_int8_skip_modules": ["lm_head"], "llm_int8_threshold": 6.0,
                    "llm_int8_has_fp16_weight": False, "llm_int8_enable_fp32_cpu_offload": False}
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": mlp,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
            "head_dim": hidden // heads, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
            "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16", "quantization_config": quantization}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=sorted(SIZES), default="13b")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    a = parser.parse_args()
    begin = time.monotonic()
    if a.out.exists() and any(a.out.iterdir()):
        sys.exit(f"{a.out}: the folder is not empty; name another one, or remove it")
    a.out.mkdir(parents=True, exist_ok=True)
    files = shards(a.size)
    names = [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    jobs = [(a.out / name, tensors, a.seed) for name, tensors in zip(names, files)]
    # The tables take longest: they start first.
    with Pool(a.workers) as pool:
        total = sum(pool.imap_unordered(write_shard, jobs[::-1]))
    vocab = SIZES[a.size][-1]
    texts = {"tokenizer.json": json.dumps(tokenizer(vocab)), TEMPLATE_FILE: TEMPLATE,
             ROWS_FILE: "".join(json.dumps(row) + "\n" for row in rows(vocab, a.rows, a.seed))}
    weight_map = {tensor[0]: name for name, tensors in zip(names, files) for tensor in tensors}
    texts["model.safetensors.index.json"] = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1)
    texts["config.json"] = json.dumps(config(a.size), indent=1)
    for name, text in texts.items():
        (a.out / name).write_text(text)
    print(f"{a.out}: {a.size}, {total / 2**30:.2f} GiB in {len(names)} files, {a.rows} rows, {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
