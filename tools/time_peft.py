#!/usr/bin/env python3
"""The other side of `cargo bench -- step`: the same LoRA step by transformers, PEFT and bitsandbytes on this CPU.

    python tools/time_peft.py [threads]

4 sequences of 128 tokens, fp32 storage, NF4 with double quantisation, rank 8 on seven linears, clip and AdamW included.
Prints the minimum and the median of the step in milliseconds.
"""
import os, statistics, sys, tempfile, time

os.environ["TORCHDYNAMO_DISABLE"] = "1"
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count())
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZES = {"0.15M": (64, 192, 2, 4, 4, 320), "0.9M": (128, 352, 4, 4, 2, 768), "10.5M": (256, 704, 8, 8, 8, 8000)}

for name, (hidden, inter, layers, heads, kv, vocab) in SIZES.items():
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=hidden, intermediate_size=inter, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv, vocab_size=vocab, use_cache=False, max_position_embeddings=256)
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(config).save_pretrained(folder)
        quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                       bnb_4bit_compute_dtype=torch.float32)
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map={"": "cpu"},
                                                 quantization_config=quantised)
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=LINEARS, task_type="CAUSAL_LM")).train()
    params = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-4)
    ids = torch.randint(3, vocab, (4, 128))
    times = []
    for _ in range(25):
        start = time.perf_counter()
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        times.append(1e3 * (time.perf_counter() - start))
    print(f"step {name:6} min {min(times[3:]):7.1f} ms   median {statistics.median(times[3:]):7.1f} ms", flush=True)
