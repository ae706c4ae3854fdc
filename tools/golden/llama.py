"""Golden values of the whole model: transformers' Llama with PEFT's LoRA, loss on some tokens, every LoRA gradient.

Writes a Hugging Face folder and a PEFT adapter to tests/golden/llama/ and the numbers to tests/golden/llama.safetensors.
Grouped kv heads, an untied head, a vocabulary that is no multiple of 8, B not zero, scale 2 / 5 of a rank that is padded.
"""
import copy, json, os, shutil
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from common import OUT, Golden, bf16

FOLDER = os.path.join(OUT, "llama")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LENGTHS = [11, 1, 23, 7]

golden = Golden("llama", seed=5)
config = LlamaConfig(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=16, vocab_size=91, rms_norm_eps=1e-5, max_position_embeddings=64,
                     rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, tie_word_embeddings=False,
                     bos_token_id=1, eos_token_id=2, use_cache=False, attn_implementation="eager")
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for name, p in model.named_parameters():
        p.copy_(1 + golden.randn(*p.shape, scale=0.1) if p.dim() == 1 else golden.randn(*p.shape, scale=1.5 / p.shape[1] ** 0.5))
        p.copy_(bf16(p))
shutil.rmtree(FOLDER, ignore_errors=True)
copy.deepcopy(model).to(torch.bfloat16).save_pretrained(FOLDER)
for extra in ("generation_config.json",):
    if os.path.exists(os.path.join(FOLDER, extra)):
        os.unlink(os.path.join(FOLDER, extra))
model = get_peft_model(model, LoraConfig(r=5, lora_alpha=2, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM"))
lora = {n.replace(".default.", "."): p for n, p in model.named_parameters() if "lora_" in n}
with torch.no_grad():
    for name, p in sorted(lora.items()):
        p.copy_(golden.randn(*p.shape, scale=1 / p.shape[1] ** 0.5 if "lora_A" in name else 0.3))
model.peft_config["default"].base_model_name_or_path = None
model.save_pretrained(os.path.join(FOLDER, "adapter"))
os.unlink(os.path.join(FOLDER, "adapter", "README.md"))
path = os.path.join(FOLDER, "adapter", "adapter_config.json")
adapter_config = json.load(open(path))
adapter_config["target_modules"].sort()  # PEFT writes a set
json.dump(adapter_config, open(path, "w"), indent=2, sort_keys=True)

ids = torch.cat([torch.randint(3, config.vocab_size, (n,), generator=golden.g) for n in LENGTHS])
cu = torch.tensor([0] + LENGTHS).cumsum(0)
# The first half of every sequence is its prompt; the target of a position is the next token of the same sequence.
targets = torch.full((int(cu[-1]),), -1)
for b, e in zip(cu[:-1].tolist(), cu[1:].tolist()):
    for t in range(b + (e - b) // 2, e - 1):
        targets[t] = ids[t + 1]


def run(dtype):
    m = copy.deepcopy(model).to(dtype)
    for n, b in m.named_buffers():  # .to() rounds the RoPE frequencies as well; they stay as they were
        b.data = dict(model.named_buffers())[n].data.clone()
    logits = torch.cat([m(input_ids=ids[b:e][None]).logits[0] for b, e in zip(cu[:-1].tolist(), cu[1:].tolist())])
    wide = torch.promote_types(dtype, torch.float32)
    loss = torch.nn.functional.cross_entropy(logits.to(wide)[targets >= 0], targets[targets >= 0])
    loss.backward()
    grads = {n.replace(".default.", "."): p.grad for n, p in m.named_parameters() if "lora_" in n}
    return {"logits": logits.detach(), "loss": loss.detach().reshape(1)} | {f"grad.{n}": g for n, g in grads.items()}


golden.case("packed", {"ids": ids.int(), "cu_seqlens": cu.int(), "targets": targets.int()}, run(torch.float64), run(torch.bfloat16))
golden.save()
