#!/usr/bin/env python3
"""The table of docs/memory.md: what fits on which card, from `finetune --plan`, which needs a config.json and no weights.

    tools/plan_table.py FINETUNE            writes the table into docs/memory.md
    tools/plan_table.py FINETUNE --check    exit code 1 where the table there is another

FINETUNE is the binary. Settings are the 13B recipe's (r = 16 on seven linears, the paper's head at 1200 positions, fp32 AdamW, 6
micro-batches a step), micro-batches of 2,048 tokens, and no pinned host memory, which the machine may not have to spare.
"""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs/memory.md"
BEGIN, END = "<!-- tools/plan_table.py writes from here -->", "<!-- to here -->"
BUDGETS = ["12GiB", "16GiB", "24GiB", "48GiB", "80GiB"]
TOKENS = 2048
# hidden, intermediate, layers, heads, kv heads
MODELS = {
    "Llama-2-7B": (4096, 11008, 32, 32, 32),
    "Llama-2-13B": (5120, 13824, 40, 40, 40),
    "Llama-2-70B": (8192, 28672, 80, 64, 8),
}


def config(hidden, intermediate, layers, heads, kv_heads):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": 32000,
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    }


def plan(finetune, folder, budget):
    run = subprocess.run(
        [finetune, "--config", "llama2-13b", "--model", folder, "--data", "rows", "--plan", "--budget", budget,
         "--tokens", str(TOKENS), "--host-budget", "1B"],
        capture_output=True, text=True)
    if run.returncode not in (0, 2):
        sys.exit(f"finetune --plan failed: {run.stderr}")
    return run.stdout, run.stderr


def number(text, words):
    found = re.search(rf"largest micro-batch in [^,]*, {words}: (.*)", text)
    value = found.group(1)
    return "-" if value.startswith("none") else f"{int(value.split()[0]):,}"


def row(finetune, folder, model, budget):
    said, refused = plan(finetune, folder, budget)
    once, again = number(said, "no product made twice"), number(said, "layers computed again")
    if refused:
        needs = re.search(r"needs ([0-9.]+ \w+)", refused).group(1)
        return [model, budget, once, again, f"refused: needs {needs}", ""]
    layers = re.search(r"layers keep (\S+); modelled time of a step (\S+) %", said)
    total = re.search(r"^all +([0-9.]+ \w+)$", said, re.M).group(1)
    return [model, budget, once, again, total, f"{layers.group(1)} ({layers.group(2)} %)"]


def table(finetune):
    head = ["model", "budget", "most tokens, nothing twice", "most tokens, layers again", f"at {TOKENS:,} tokens", "layers keep (time)"]
    rows = []
    for model, sizes in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(config(*sizes)))
            rows += [row(finetune, folder, model, budget) for budget in BUDGETS]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    new = f"{before}{BEGIN}\n{table(sys.argv[1])}\n{END}{after}"
    if "--check" not in sys.argv:
        PAGE.write_text(new)
    elif new != text:
        sys.exit(f"{PAGE}: the table is not what finetune --plan says today; run tools/plan_table.py FINETUNE")


if __name__ == "__main__":
    main()
