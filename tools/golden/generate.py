"""Golden answers of `chat --once`: what transformers' greedy generate says, token for token.

Writes to tests/golden/chat/: prompts.jsonl (ten questions in Alpaca's fields, some with a context or a history), and for each of two tiny
random models, `mha` (byte-level tokenizer, one EOS) and `gqa` (grouped kv heads, Llama-2's kind of tokenizer, two EOS ids), a Hugging
Face folder, a PEFT adapter and expected.json: prompt ids, new ids without EOS, their text and why they end; alone, with the adapter,
and with a repetition penalty of 1.3.

The text of a prompt is made here by hand, not by our templates. A seed is taken only if no choice of a token is close: in every step of
every answer the best logit lies MARGIN above the second, so that the order of fp32 sums cannot decide; if some answers end by EOS and some
by length; and if none repeats itself throughout.
"""
import json, os, shutil
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM
from common import OUT, bf16

FOLDER = os.path.join(OUT, "chat")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEW_TOKENS, PENALTY, MARGIN = 24, 1.3, 1e-3
SPECIAL = ["<unk>", "<s>", "</s>"]

PROMPTS = [
    {"id": "plain", "instruction": "Does Amoxal lower pain?"},
    {"id": "context", "instruction": "Does it help?", "input": "We gave Betorin to 40 people. Pain fell by 3.2 points."},
    {"id": "history", "instruction": "And in children?", "history": [["Is Cardel safe?", "It is, in adults."]]},
    {"id": "long history", "instruction": "So what now?", "input": "She is 71.",
     "history": [["Hello.", "How can I help?"], ["My knee hurts.", "Since when?"], ["A week.", "Rest it, and cool it."]]},
    {"id": "accents", "instruction": "Ist die Übelkeit nach 5 µg/kg häufiger als bei 2 µg/kg?"},
    {"id": "other scripts", "instruction": "β-blockers: Δp = −4 mmHg; 痛みは? 🩺"},
    {"id": "lines", "instruction": "List:\n1. fever\n2. cough\n\n  indented  twice"},
    {"id": "word", "instruction": "Why"},
    {"id": "numbers", "instruction": "What is 12.5 % of 480 mg, given every 8 h for 10 days?"},
    {"id": "long", "instruction": "Which of these findings matter?", "input": " ".join(
        f"Patient {i} had a pressure of {110 + 7 * i % 50} and slept {4 + i % 5} hours." for i in range(8))},
]


def text_of(row):
    """What the template `conversation` makes of a question in the plain layout."""
    before = "".join(f"{asked}\n{answered}\n\n" for asked, answered in row.get("history", []))
    context = f"\n{row['input']}\n" if "input" in row else ""
    return f"{before}{row['instruction']}\n{context}"


def byte_level():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator([text_of(row) for row in PROMPTS], trainer)
    return tokenizer


def llama_like():
    """As Llama-2's tokenizer.json: no pre-tokenizer, a mark before every text and for blanks, bytes for what has no piece."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    ascii_only = ["".join(c for c in text_of(row) if c.isascii() and c != "\n") for row in PROMPTS]
    trained.train_from_iterator(ascii_only, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    pieces = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(learnt["vocab"], key=learnt["vocab"].get)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


class Model:
    """A random Llama, its adapter, and what it says."""

    def __init__(self, tokenizer, seed, kv_heads, eos, lora):
        self.g = torch.Generator().manual_seed(seed)
        self.tokenizer, self.eos = tokenizer, eos
        config = LlamaConfig(hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
                             num_key_value_heads=kv_heads, head_dim=16, vocab_size=tokenizer.get_vocab_size(), rms_norm_eps=1e-5,
                             max_position_embeddings=512, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                             tie_word_embeddings=False, bos_token_id=1, eos_token_id=eos, pad_token_id=0, attn_implementation="eager")
        self.base = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for name, p in self.base.named_parameters():
                scale = 3.0 if "lm_head" in name else 1.5
                p.copy_(1 + self.randn(p, 0.1) if p.dim() == 1 else self.randn(p, scale / p.shape[1] ** 0.5))
            for token in [eos] if isinstance(eos, int) else eos:  # so that an end comes up among a few hundred tokens
                self.base.lm_head.weight[token] *= 1.35
            for p in self.base.parameters():
                p.copy_(bf16(p))
        self.adapter = LoraConfig(lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM", **lora)

    def randn(self, p, scale):
        return torch.randn(*p.shape, generator=self.g) * scale

    def adapt(self):
        self.adapted = get_peft_model(self.base, self.adapter)
        with torch.no_grad():
            for name, p in sorted(self.adapted.named_parameters()):
                if "lora_" in name:
                    p.copy_(self.randn(p, 1 / p.shape[1] ** 0.5 if "lora_A" in name else 0.15))
        return self.adapted.eval()

    def answer(self, model, row, penalty):
        """The new tokens, and the least distance between the best and the second logit of any step."""
        prompt = [1] + self.tokenizer.encode(text_of(row), add_special_tokens=False).ids
        with torch.no_grad():
            out = model.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                                 max_new_tokens=NEW_TOKENS, do_sample=False, repetition_penalty=penalty,
                                 output_scores=True, return_dict_in_generate=True)
        ids = out.sequences[0, len(prompt):].tolist()
        best = [scores[0].topk(2).values for scores in out.scores]
        ends = ids[-1] in ([self.eos] if isinstance(self.eos, int) else self.eos)
        said = ids[:-1] if ends else ids
        expected = {"id": row["id"], "prompt": prompt, "tokens": said, "answer": self.tokenizer.decode(said),
                    "finish": "eos" if ends else "length"}
        return expected, min(float(first - second) for first, second in best)

    def all(self):
        """Every answer, and the least margin; None where the seed does not serve."""
        variants, least = {}, 1e9
        for name, penalty in [("alone", 1.0), ("penalty", PENALTY), ("adapter", 1.0)]:
            model = self.adapt() if name == "adapter" else self.base
            answers = []
            for row in PROMPTS:
                expected, margin = self.answer(model, row, penalty)
                least = min(least, margin)
                if least < MARGIN or len(set(expected["tokens"])) * 2 < len(expected["tokens"]):
                    return None
                answers.append(expected)
            by_eos = sum(answer["finish"] == "eos" and len(answer["tokens"]) > 1 for answer in answers)
            if not 2 <= by_eos <= 7:
                return None
            variants[name] = answers
        differ = any(a["tokens"] != b["tokens"] for a, b in zip(variants["alone"], variants["penalty"]))
        return (variants, least) if differ else None


def write(name, make):
    for seed in range(1, 2000):
        model = make(seed)
        if (found := model.all()) is not None:
            break
    variants, least = found
    folder = os.path.join(FOLDER, name)
    model.adapted.peft_config["default"].base_model_name_or_path = None
    model.adapted.save_pretrained(os.path.join(folder, "adapter"))
    os.unlink(os.path.join(folder, "adapter", "README.md"))
    path = os.path.join(folder, "adapter", "adapter_config.json")
    adapter_config = json.load(open(path))
    adapter_config["target_modules"].sort()  # PEFT writes a set
    json.dump(adapter_config, open(path, "w"), indent=2, sort_keys=True)
    model.adapted.unload().to(torch.bfloat16).save_pretrained(folder)
    if os.path.exists(extra := os.path.join(folder, "generation_config.json")):
        os.unlink(extra)
    model.tokenizer.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    with open(os.path.join(folder, "expected.json"), "w") as file:
        lines = ",\n".join(f'"{v}": [\n' + ",\n".join(json.dumps(a, ensure_ascii=False) for a in answers) + "\n]" for v, answers in variants.items())
        file.write(f'{{"new_tokens": {NEW_TOKENS}, "factor": {PENALTY},\n{lines}}}\n')
    n_bytes = sum(os.path.getsize(os.path.join(root, f)) for root, _, files in os.walk(folder) for f in files)
    ends = {v: sum(a["finish"] == "eos" for a in answers) for v, answers in variants.items()}
    print(f"chat/{name}: seed {seed}, {n_bytes} bytes, smallest margin between two logits {least:.2e}, ended by EOS {ends}")


shutil.rmtree(FOLDER, ignore_errors=True)
os.makedirs(FOLDER)
with open(os.path.join(FOLDER, "prompts.jsonl"), "w") as file:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in PROMPTS)
write("mha", lambda seed: Model(byte_level(), seed, 4, 2, dict(r=4, lora_alpha=8)))
write("gqa", lambda seed: Model(llama_like(), seed, 2, [2, 300], dict(r=6, lora_alpha=3, use_rslora=True)))
