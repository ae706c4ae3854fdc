#!/usr/bin/env python3
"""A Llama folder with random weights and a real tokeniser: to try real data where no real base fits.

    python tools/make_random_base.py --tokenizer TOKENIZER.json --out DIR [--hidden 128] [--layers 2]

What it learns in a short run is the form of the answers, not medicine; everything else (tokens, packing, memory, losses,
files) is as with a real base of these sizes.
"""
import argparse
import json
import os
import shutil

import torch
from transformers import LlamaConfig, LlamaForCausalLM

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--tokenizer", required=True, help="tokenizer.json of the tokeniser to use")
a.add_argument("--out", required=True)
a.add_argument("--hidden", type=int, default=128)
a.add_argument("--layers", type=int, default=2)
a.add_argument("--seed", type=int, default=1)
a = a.parse_args()
vocab = max(json.load(open(a.tokenizer))["model"]["vocab"].values()) + 1
torch.manual_seed(a.seed)
config = LlamaConfig(hidden_size=a.hidden, intermediate_size=a.hidden * 11 // 4 // 16 * 16, num_hidden_layers=a.layers,
                     num_attention_heads=a.hidden // 32, num_key_value_heads=a.hidden // 64, head_dim=32, vocab_size=vocab,
                     max_position_embeddings=4096, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2,
                     rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False)
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(a.out)
shutil.copy(a.tokenizer, os.path.join(a.out, "tokenizer.json"))
print(f"{a.out}: {vocab} tokens, hidden {a.hidden}, {a.layers} layers")
