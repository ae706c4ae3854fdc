"""A dense Llama folder and the same in 4 bits as transformers and bitsandbytes save it, with and without double quantisation.

Writes tests/golden/convert/{dense,double,plain}: `convert quantize` must give the tensors of the last two, byte for byte.
Sizes are such that the last block of 256 scales is not full. F16 and F32 are left to tools/check_quantized.py.
"""
import json
import os
import shutil

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM
import bnb
from common import OUT

bnb.use_its_pytorch_kernels()

FOLDER = os.path.join(OUT, "convert")
config = LlamaConfig(hidden_size=64, intermediate_size=272, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
                     head_dim=16, vocab_size=40, rms_norm_eps=1e-5, max_position_embeddings=64, tie_word_embeddings=False,
                     rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, bos_token_id=1, eos_token_id=2)
torch.manual_seed(11)
model = LlamaForCausalLM(config).to(torch.bfloat16)
with torch.no_grad():
    for i, (_, weight) in enumerate(sorted(model.named_parameters())):
        if weight.dim() == 2:  # another spread for each: offsets of every size
            weight.mul_(4.0 ** (i % 5 - 2))
    model.model.layers[0].mlp.up_proj.weight[3] = 0  # blocks without any value
shutil.rmtree(FOLDER, ignore_errors=True)
dense = os.path.join(FOLDER, "dense")
model.save_pretrained(dense)
for kind in ["double", "plain"]:
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
                                      bnb_4bit_use_double_quant=kind == "double")
    loaded = AutoModelForCausalLM.from_pretrained(dense, quantization_config=quantisation, device_map={"": "cpu"})
    loaded.save_pretrained(os.path.join(FOLDER, kind))
for folder, _, files in os.walk(FOLDER):
    for name in files:
        path = os.path.join(folder, name)
        if name == "generation_config.json":
            os.unlink(path)
        elif name == "config.json":  # no version of the library that wrote it
            text = {k: v for k, v in json.load(open(path)).items() if k != "transformers_version"}
            json.dump(text, open(path, "w"), indent=2, sort_keys=True)
        os.path.exists(path) and print(path, os.path.getsize(path), "bytes")
