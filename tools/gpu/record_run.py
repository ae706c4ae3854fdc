#!/usr/bin/env python3
"""What a run of finetune measured, as one JSON object on stdout: prove.sh puts it into record.json.

    python3 tools/gpu/record_run.py --run DIR --name NAME --exit-code N --seconds N [--plan FILE] [--free FILE] [--like FILE]

Reads log.jsonl and report.json of the run's folder. --plan: a file with what finetune printed; the lines of its memory table,
and the one that says what layers keep, are copied as they are. --free: a file with the device's free memory in MiB, one sample a line, the first before the run and
the last after it. --like: the object of another run, to compare losses with. A run that failed gets its exit code and
whatever it left; what was not measured is null. Rates are medians over the steps behind the first, which also warms up.
"""
import argparse
import json
from pathlib import Path
from statistics import median

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--run", type=Path, required=True)
a.add_argument("--name", required=True)
a.add_argument("--exit-code", type=int, required=True)
a.add_argument("--seconds", type=float, required=True)
a.add_argument("--plan", type=Path)
a.add_argument("--free", type=Path)
a.add_argument("--like", type=Path)
a = a.parse_args()


def lines(path):
    return path.read_text(errors="replace").splitlines() if path and path.is_file() else []


def report():
    path = a.run / "report.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def plan():
    """From the table's head to its sum."""
    text = lines(a.plan)
    begin = next((i for i, line in enumerate(text) if line.startswith("device memory")), None)
    if begin is None:
        return None
    end = next((i for i in range(begin, len(text)) if not text[i].strip()), len(text))
    last = next((i for i in range(begin, end) if text[i].split()[:1] == ["all"]), end - 1)
    keep = [line for line in text if line.startswith("layers keep")]
    return [line for line in text[begin:last + 1] if line.strip("\u2500 ")] + keep[:1]


def free_memory():
    samples = [int(line) for line in lines(a.free) if line.strip().isdigit()]
    if not samples:
        return None
    names = ("before", "lowest", "after")
    free = dict(zip(names, (samples[0], min(samples), samples[-1])))
    return free | {"used_by_the_run": samples[0] - min(samples), "samples": len(samples)}


def difference(losses):
    """How far these losses are from the other run's, over the steps that both have."""
    other = json.loads(a.like.read_text())["losses_of_the_first_20_steps"] if a.like and a.like.is_file() else None
    pairs = list(zip(losses["joint"], other["joint"])) if other else []
    if not pairs:
        return None
    return {"steps": len(pairs), "largest": max(abs(x - y) for x, y in pairs), "equal": all(x == y for x, y in pairs)}


steps = [json.loads(line) for line in lines(a.run / "log.jsonl")]
behind = steps[1:] or steps
losses = {name: [s[f"{name}_loss"] for s in steps[:20]] for name in ("lm", "ce", "joint")}
shares = [s["ceiling_fraction"] for s in behind if s.get("ceiling_fraction") is not None]
of_report = report()
result = {
    "name": a.name,
    "exit_code": a.exit_code,
    "seconds": a.seconds,
    "error": next((line for line in lines(a.plan) if line.startswith("error: ")), None),
    "finished": bool(of_report),
    "plan": plan(),
    "layers_keep": of_report.get("layers_keep"),
    "planned_device_bytes": of_report.get("planned_device_bytes"),
    "peak_device_bytes": max((s["peak_device_bytes"] for s in steps), default=None),
    "free_device_mib": free_memory(),
    "steps": len(steps),
    "tokens_a_step": median(s["tokens"] for s in behind) if steps else None,
    "seconds_a_step": median(s["seconds"] for s in behind) if steps else None,
    "tokens_per_second": median(s["tokens_per_second"] for s in behind) if steps else None,
    "percent_of_bf16_ceiling": 100 * median(shares) if shares else None,
    "losses_of_the_first_20_steps": losses,
    "losses_against_train": difference(losses),
    "adapter_sha256": of_report.get("adapter_sha256"),
}
# A line for every field: twenty losses are read across, not down.
fields = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in result.items())
print(f"{{\n{fields}\n}}")
