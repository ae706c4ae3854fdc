#!/usr/bin/env python3
"""The token ids that the peers' scripts train on, for our own run beside them: the same numbers, without PyTorch.

    python3 tools/gpu/peer_tokens.py --out FILE [--length 2048 --rows 8 | --ragged --rows 56 --group 8] [--vocab 32000]

The peers draw their rows with torch.randint from a CPU generator seeded with 7: a Mersenne twister, one word a number, taken
modulo the range. Python's own generator is the same twister under another seeding, so its state is set here as PyTorch sets
it. Rows of one length come one after another, however many a micro-batch takes; ragged ones (48 to 512 ids) draw the
lengths of a group before its ids. tests/cli/side_by_side.rs holds the first numbers to PyTorch's.
"""
import argparse
import json
import random
from pathlib import Path

FIRST_ID = 3  # behind <unk>, <s> and </s>
SHORTEST, LONGEST = 48, 512


class Torch:
    """torch.Generator().manual_seed(seed), as far as torch.randint reads it."""

    def __init__(self, seed: int):
        state = [seed & 0xFFFFFFFF]
        for i in range(1, 624):
            state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) & 0xFFFFFFFF)
        self.words = random.Random()
        self.words.setstate((3, (*state, 624), None))

    def randint(self, low: int, high: int, n: int) -> list[int]:
        return [low + self.words.getrandbits(32) % (high - low) for _ in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--ragged", action="store_true")
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--seed", type=int, default=7)
    a = parser.parse_args()
    draw = Torch(a.seed).randint
    if a.ragged:
        rows = []
        for begin in range(0, a.rows, a.group):
            lengths = draw(SHORTEST, LONGEST + 1, min(a.group, a.rows - begin))
            rows += [draw(FIRST_ID, a.vocab, n) for n in lengths]
    else:
        rows = [draw(FIRST_ID, a.vocab, a.length) for _ in range(a.rows)]
    a.out.write_text(json.dumps({"kind": "ragged" if a.ragged else "fixed", "seed": a.seed, "vocab": a.vocab, "rows": rows}))
    print(f"{len(rows)} rows, {sum(map(len, rows))} tokens in {a.out}")


if __name__ == "__main__":
    main()
