"""Writes assets/tiny_base: a Llama of about a million parameters that can read the demo's language, and its tokenizer.

Why a base of our own. The demo, the tests and CI need a real Hugging Face Llama folder that loads in a moment, trains on
two CPU cores and is free to ship; and the fine-tune must have something to build on, since LoRA on a frozen random
network learns nothing worth showing. So the base is taught to *read*, and the task is left to the fine-tune:

* taught: the language of tools/make_demo_data.py; telling a study's own finding from those of others, and repeating it
  whole or in the deciding words when asked; what a conclusion sounds like; that checklists hold yes, no and maybe.
* never shown: the prompt of the fine-tune, the three steps, and a yes/no/maybe that has anything to do with a finding.
  Nor any drug name of the demo's files.

A document is one study and three reading exercises on it, so that a million and a half tokens suffice. What they do not
suffice for: finding one drug among several by its name alone. Up to 3.8 million tokens left that at guessing, which is
why the own finding is also marked by its words ("We found", where other sentences have "Others wrote").

Trained in fp32 on one core; the same seed gives the same weights on the same machine. The layers' matrices are trained
by Muon and the rest by AdamW: on an earlier form of the text the loss was 0.56 after 450 steps, with AdamW alone 0.75.

    python tools/make_tiny_base.py              # about four minutes of one core; prints the loss, writes the folder
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import make_demo_data as demo

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
VOCAB_SIZE = 736
CONFIG = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
    tie_word_embeddings=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
ROW_TOKENS = 160
ROWS_PER_STEP = 10
WARMUP_STEPS = 50
MUON_LR, ADAMW_LR = 0.01, 3e-3


# ---- the text -------------------------------------------------------------------------------------------------------


def exercise(rng: random.Random, finding: demo.Finding) -> str:
    """One question about a finding. The instruction says what form the answer has."""
    question = finding.question(rng)
    forms = (
        f"Question: {question}\nAnswer in the words of the study.\n{finding.phrase}.\n",
        f"Question: {question}\nAnswer in one sentence.\n{finding.sentence}\n",
        f"Question: {question}\nAnswer: {finding.phrase}.\nFinding: {finding.sentence}\n",
        f"Finding on {finding.drug}: {finding.sentence}\nConclusion: {finding.conclusion}\n",
        f"Effect of {finding.drug} on {finding.outcome}: {finding.phrase}.\n",
    )
    return rng.choice(forms)


def checklist(rng: random.Random) -> str:
    """A record of yes, no and maybe about conditions: the three words, without any finding."""
    listed = ", ".join(f"{condition} {rng.choice(demo.LABELS)}" for condition in rng.sample(demo.CONDITIONS, 3))
    title = rng.choice(("Checklist", "Findings", "Summary", "Decision"))
    return f"{title} of patient {rng.randint(10, 99)}: {listed}.\n"


def document(rng: random.Random, names: list[str]) -> str:
    study = demo.make_study(rng, names)
    parts = [f"Context: {study.methods} {study.results}\n"]
    parts += [exercise(rng, study.own) for _ in range(3)]
    if rng.random() < 0.3:
        parts.insert(rng.randint(0, len(parts)), checklist(rng))
    return "".join(parts)


# ---- the tokenizer --------------------------------------------------------------------------------------------------


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE, so every text has tokens. Digits stand alone, as in Llama.

    For training only, drug names are cut between stem and ending, so that both become tokens and no whole name does:
    names of the demo's files then look exactly as familiar as those of pre-training.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut_names = pre_tokenizers.Split(Regex(f"(?<=({'|'.join(demo.STEMS)}))(?=({'|'.join(demo.ENDINGS)}))"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut_names, digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[UNK, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 1)]
    )
    return tokenizer


TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": BOS,
    "eos_token": EOS,
    "unk_token": UNK,
    "pad_token": UNK,
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": CONFIG["max_position_embeddings"],
}


# ---- the training ---------------------------------------------------------------------------------------------------


def batch(rng: random.Random, names: list[str], tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """One document a row, cut or padded to ROW_TOKENS; padding is no target."""
    ids = torch.zeros(ROWS_PER_STEP, ROW_TOKENS, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row in range(ROWS_PER_STEP):
        tokens = (tokenizer.encode(document(rng, names)).ids + [2])[:ROW_TOKENS]
        ids[row, : len(tokens)] = labels[row, : len(tokens)] = torch.tensor(tokens)
    return ids, labels


def schedule(step: int, n_steps: int) -> float:
    """Share of the peak learning rate: linear warm-up times a cosine down to 2 %."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / n_steps)))


def pretrain(model: LlamaForCausalLM, tokenizer: Tokenizer, rng: random.Random, n_steps: int) -> float:
    """Returns the mean loss of the last 50 steps."""
    names = demo.drug_names("pretrain")
    is_matrix = lambda name, weight: "layers" in name and weight.ndim == 2
    matrices = [w for name, w in model.named_parameters() if is_matrix(name, w)]
    others = [w for name, w in model.named_parameters() if not is_matrix(name, w)]
    optimizers = {
        torch.optim.Muon(matrices, weight_decay=0.05): MUON_LR,
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01): ADAMW_LR,
    }
    losses, start = [], time.time()
    for step in range(n_steps):
        for optimizer, peak in optimizers.items():
            optimizer.param_groups[0]["lr"] = peak * schedule(step, n_steps)
        ids, labels = batch(rng, names, tokenizer)
        loss = model(input_ids=ids, labels=labels).loss
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if step % 50 == 49:
            print(f"step {step + 1}  loss {sum(losses[-50:]) / 50:.4f}  {time.time() - start:.0f} s", flush=True)
    return sum(losses[-50:]) / len(losses[-50:])


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train and write the tiny Llama base.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "assets" / "tiny_base")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(f"tiny base {args.seed}")
    names = demo.drug_names("pretrain")
    tokenizer = train_tokenizer([document(rng, names) for _ in range(4000)] + ["three steps"] * 4000)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {tokenizer.get_vocab_size()} tokens")
    loss = pretrain(model, tokenizer, rng, args.steps)
    print(f"final loss {loss:.4f} (mean of the last 50 steps)")

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"))
    (args.out / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(args.out)
    save_file(
        {name: weight.contiguous() for name, weight in model.state_dict().items()},
        args.out / "model.safetensors",
        metadata={"format": "pt"},
    )


if __name__ == "__main__":
    main()
