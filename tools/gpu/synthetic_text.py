"""The language of made-up rows: words of two syllables, a tokenizer that knows them, and rows of known length.

A word is consonant, vowel, consonant, vowel: 10,000 of them. The tokenizer is byte-level BPE whose merges build syllables,
then words, then words behind a blank, as far as the vocabulary reaches; so with 32,000 entries a word is one token, ids are
spread over a third of the table, and every other text still encodes, byte by byte. Rows have 100 to 1,200 tokens in all,
as medical abstracts do, and a label that the question's first word decides.
"""
import random

ROWS_FILE, TEMPLATE_FILE = "rows.jsonl", "rows.jinja"
TEMPLATE = "{{ context }}\n{{ question }}\n--- completion ---\n{{ long_answer }}\nDecision: {{ decision }}\n"
LABELS = ("yes", "no", "maybe")
SYLLABLES = [c + v for c in "bcdfghjklmnpqrstvwxz" for v in "aeiou"]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES]
SHORTEST, LONGEST = 100, 1200
# What a row has besides its words at most: BOS, EOS, line breaks, "Decision: maybe" byte by byte.
FRAME = 24


def byte_alphabet() -> list[str]:
    """The 256 signs that byte-level BPE writes bytes with, by byte: printable ones as themselves, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def pieces(vocab: int) -> tuple[list[str], list[list[str]]]:
    """The vocabulary in order of ids, filled up with entries that no text uses, and the merges."""
    alphabet = byte_alphabet()
    blank = alphabet[ord(" ")]
    entries = ["<unk>", "<s>", "</s>", *alphabet]
    merges = [[s[0], s[1]] for s in SYLLABLES] + [[w[:2], w[2:]] for w in WORDS] + [[blank, w] for w in WORDS]
    merges = merges[:vocab - len(entries)]
    entries += ["".join(merge) for merge in merges]
    return entries + [f"<unused {i}>" for i in range(vocab - len(entries))], merges


def tokenizer(vocab: int) -> dict:
    """tokenizer.json of this many entries."""
    entries, merges = pieces(vocab)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [{"id": i, "content": entries[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in range(3)]
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "vocab": {entry: i for i, entry in enumerate(entries)}, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}


def rows(vocab: int, n: int, seed: int) -> list[dict]:
    """Rows of our JSON lines."""
    known = set(pieces(vocab)[0])
    blank = byte_alphabet()[ord(" ")]
    # A word behind a blank: one token, or the blank and the word, or the blank and its syllables.
    cost = [1 if blank + w in known else 2 if w in known else 3 for w in WORDS]
    draw = random.Random(f"rows {seed}")

    def words(n_tokens: int) -> list[int]:
        out = []
        while n_tokens >= 3:
            out.append(draw.randrange(len(WORDS)))
            n_tokens -= cost[out[-1]]
        return out

    def text(chosen: list[int]) -> str:
        return " ".join(WORDS[w] for w in chosen)

    out = []
    for i in range(n):
        n_tokens = draw.randint(SHORTEST, LONGEST) - FRAME
        question, answer = words(12), words(n_tokens // 5)
        context = words(n_tokens - 12 - n_tokens // 5)
        out.append({"id": f"row-{i:04}", "question": text(question), "contexts": [text(context)], "answer": text(answer),
                    "label": LABELS[question[0] % len(LABELS)]})
    return out
