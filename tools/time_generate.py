#!/usr/bin/env python3
"""Tokens per second of `chat --once` on the CPU device beside transformers' greedy generate: one model, the same prompts, one run.

    $LLAMACARE_PYTHON tools/time_generate.py [--chat target/release/chat] [--threads 2]

The model is random (hidden 512, 8 layers, 8 heads of which 4 for keys and values, vocabulary 8192: 27 million weights) and never ends an
answer; 16 prompts from the demo (about 50 tokens), 64 new tokens each. Both sides are timed from the first prompt to the last token, loading aside: ours
as its own last line on stderr says. One prompt alone, and all 16: ours as it comes, transformers' as a left-padded batch. The best of three
rounds in turn. Says too how many answers are the same, id for id.
"""
import argparse, json, os, re, subprocess, tempfile, time

import torch
import transformers
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
VOCAB, NEW_TOKENS, PROMPTS, ROUNDS = 8192, 64, 16, 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make(folder):
    """A Hugging Face folder; the tokenizer is the tiny base's with made-up pieces up to the size of the vocabulary."""
    torch.manual_seed(1)
    config = LlamaConfig(hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
                         vocab_size=VOCAB, max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
                         pad_token_id=0, initializer_range=0.06)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[:3] = 0  # neither an end nor padding is ever the likeliest
    model.to(torch.bfloat16).save_pretrained(folder)
    with open(os.path.join(ROOT, "assets", "tiny_base", "tokenizer.json")) as file:
        tokenizer = json.load(file)
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"made{i}": i for i in range(len(vocab), VOCAB)}
    with open(os.path.join(folder, "tokenizer.json"), "w") as file:
        json.dump(tokenizer, file)
    return Tokenizer.from_str(json.dumps(tokenizer))


def ours(folder, questions, args, dtype):
    command = [args.chat, "--once", "--model", folder, "--in", questions, "--quant", "none", "--device", "cpu", "--compute", dtype,
               "--threads", str(args.threads), "--new-tokens", str(NEW_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    speed = float(re.search(r"\(([0-9.]+) tokens/s\)", done.stderr).group(1))
    return speed, [json.loads(line)["tokens"] for line in done.stdout.splitlines()]


def theirs(model, prompts):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    start = time.perf_counter()
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)
    seconds = time.perf_counter() - start
    new = out[:, longest:].tolist()
    return sum(map(len, new)) / seconds, new


def main():
    parser = argparse.ArgumentParser(description="Tokens per second beside transformers.")
    parser.add_argument("--chat", default=os.path.join(ROOT, "target", "release", "chat"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make(folder)
        rows = json.load(open(os.path.join(ROOT, "assets", "demo", "test.json")))
        texts = [row["QUESTION"] + " " + " ".join(row["CONTEXTS"]) for row in list(rows.values())[:PROMPTS]]
        prompts = [[1] + tokenizer.encode(text + "\n", add_special_tokens=False).ids for text in texts]
        files = {}
        for n in (1, PROMPTS):
            files[n] = os.path.join(folder, f"{n}.jsonl")
            with open(files[n], "w") as file:
                file.writelines(json.dumps({"id": i, "question": text}) + "\n" for i, text in enumerate(texts[:n]))
        models = {d: LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval() for d, dtype in DTYPES.items()}
        print(f"{PROMPTS} prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens, {NEW_TOKENS} new tokens each; "
              f"{args.threads} threads; torch {torch.__version__}, transformers {transformers.__version__}\n")
        print("| numbers | prompts at once | ours, tokens/s | transformers, tokens/s | ours / transformers | same answers |")
        print("|---|---|---|---|---|---|", flush=True)
        for dtype, model in models.items():
            for n in (1, PROMPTS):
                best = {"ours": 0.0, "theirs": 0.0}
                for _ in range(ROUNDS):
                    speed, got = ours(folder, files[n], args, dtype)
                    best["ours"] = max(best["ours"], speed)
                    speed, want = theirs(model, prompts[:n])
                    best["theirs"] = max(best["theirs"], speed)
                same = sum(a == b for a, b in zip(got, want))
                print(f"| {dtype} | {n} | {best['ours']:.0f} | {best['theirs']:.0f} | {best['ours'] / best['theirs']:.2f} | {same} of {n} |",
                      flush=True)


if __name__ == "__main__":
    main()
