"""What `convert merge` and `convert gguf` must give: PEFT's merged weights, and the tensors and metadata of the `gguf` package.

Writes tests/golden/export/: `spm/`, a tied Llama with SentencePiece's kind of tokenizer and an rsLoRA adapter; `merged.safetensors`,
merge_and_unload in fp32 of it and of tests/golden/llama; `gguf.json`, every key with its value, and every tensor with type, shape
and the SHA-256 of its bytes, as the package's own writer, quantiser and reader have them. Scores of tokens are proven here: llama.cpp's
way of joining neighbours, written out below, must cut texts as the `tokenizers` package does.
"""
import hashlib, json, os, pathlib, shutil, tempfile
import gguf, numpy as np, torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from common import OUT, Golden, bf16

FOLDER = pathlib.Path(OUT, "export")
SPM, TINY = FOLDER / "spm", pathlib.Path(OUT, "..", "..", "assets", "tiny_base")
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEXT = "the trial of the drug in the ward: does the drug lower the pain? the trial found that the pain was lower in the drug group."
SPECIAL = ["<unk>", "<s>", "</s>"]


def spm_tokenizer():
    """Pieces by counting pairs, then, as transformers makes it of SentencePiece's file, every way to cut a piece in two as a merge."""
    words = [list("▁" + word) for word in TEXT.split(" ")]
    products = []
    while len(products) < 40:
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        products.append("".join(best))
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    pieces = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)] + list(dict.fromkeys(products)) + sorted(set("▁" + TEXT) - {" "})
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [[p[:i], p[i:]] for p in dict.fromkeys(products) for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
    added = [dict(id=i, content=t, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True) for i, t in enumerate(SPECIAL)]
    added.append({**added[0], "id": len(pieces) + 1, "content": "[note]", "special": False})  # one row of the embedding before it stays empty
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return dict(version="1.0", truncation=None, padding=None, added_tokens=added, pre_tokenizer=None, post_processor=None,
                normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
                decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                                                          {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
                model=dict(type="BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None,
                           fuse_unk=True, byte_fallback=True, vocab=vocab, merges=merges))


def spm_vocabulary(file, n):
    vocab, products = file["model"]["vocab"], list(dict.fromkeys("".join(pair) for pair in file["model"]["merges"]))
    tokens, types, scores = [f"[PAD{i}]" for i in range(n)], [5] * n, [-1000.0] * n
    others = [t for t in sorted(vocab, key=vocab.get) if t not in products and t not in SPECIAL and not t.startswith("<0x")]
    for token, i in vocab.items():
        tokens[i], types[i] = token, 1
        if token in SPECIAL or token.startswith("<0x"):
            types[i], scores[i] = (2 if token == "<unk>" else 3) if token in SPECIAL else 6, 0.0
        else:
            scores[i] = -float(products.index(token) if token in products else len(products) + others.index(token))
    for added in file["added_tokens"]:
        if not added["special"]:
            tokens[added["id"]], types[added["id"]] = added["content"], 4
    return tokens, types, scores


def cut_as_llama_cpp(text, tokens, types, scores):
    """Of all neighbours whose joint text is a token the one with the highest score, the leftmost of equals, until none is left."""
    ids, parts = {t: i for i, t in enumerate(tokens)}, list("▁" + text.replace(" ", "▁"))
    while True:
        joins = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in ids]
        if not joins:
            break
        _, i = min(joins)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [i for p in parts for i in ([ids[p]] if p in ids else [ids[f"<0x{b:02X}>"] for b in p.encode()])]


def make_spm():
    golden = Golden("export", seed=17)
    file = spm_tokenizer()
    n = len(file["model"]["vocab"]) + 2
    config = LlamaConfig(hidden_size=64, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                         vocab_size=n, rms_norm_eps=1e-6, max_position_embeddings=96, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
                         rope_parameters={"rope_type": "default", "rope_theta": 50000.0}, attn_implementation="eager")
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(bf16(1 + golden.randn(*p.shape, scale=0.1) if p.dim() == 1 else golden.randn(*p.shape, scale=1.5 / p.shape[1] ** 0.5)))
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.save_pretrained(SPM)
    json.dump(file, open(SPM / "tokenizer.json", "w"), ensure_ascii=False)
    json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
               "chat_template": "{{ messages[0].content }}"}, open(SPM / "tokenizer_config.json", "w"), indent=1)
    peft = get_peft_model(model.float(), LoraConfig(r=5, lora_alpha=3, use_rslora=True, target_modules=LINEARS, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in sorted(peft.named_parameters()):
            if "lora_" in name:
                p.copy_(golden.randn(*p.shape, scale=0.5 / p.shape[1] ** 0.5 if "lora_A" in name else 0.2))
    peft.peft_config["default"].base_model_name_or_path = None
    peft.save_pretrained(SPM / "adapter")
    for unwanted in [SPM / "generation_config.json", SPM / "adapter" / "README.md"]:
        unwanted.unlink(missing_ok=True)
    for path in [SPM / "config.json", SPM / "adapter" / "adapter_config.json"]:  # no versions, no order of a set
        text = {k: sorted(v) if k == "target_modules" else v for k, v in json.load(open(path)).items() if "version" not in k}
        json.dump(text, open(path, "w"), indent=1, sort_keys=True)


def merged():
    found = {}
    for name, base, adapter in [("llama", pathlib.Path(OUT, "llama"), "adapter"), ("spm", SPM, "adapter")]:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        whole = PeftModel.from_pretrained(model, base / adapter).merge_and_unload().state_dict()
        found |= {f"{name}.{key}": t.contiguous() for key, t in whole.items() if "layers.1." in key and key.endswith("_proj.weight")}
    save_file(found, FOLDER / "merged.safetensors")


def rows_in_pairs(x, n_heads):
    return x.reshape(n_heads, 2, x.shape[0] // n_heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def describe(path):
    """A file as the package's reader sees it."""
    reader = gguf.GGUFReader(path)
    keys = {k: [[t.name for t in f.types], f.contents()] for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    tensors = {t.name: [t.tensor_type.name, t.shape.tolist(), hashlib.sha256(t.data.tobytes()).hexdigest()] for t in reader.tensors}
    return {"metadata": keys, "tensors": tensors}


def add(writer, name, x, kind):
    x = x.float().numpy()
    qtype = gguf.GGMLQuantizationType[kind] if x.ndim > 1 else gguf.GGMLQuantizationType.F32
    if qtype == gguf.GGMLQuantizationType.Q8_0 and x.shape[-1] % 32:
        qtype = gguf.GGMLQuantizationType.F16
    writer.add_tensor(name, gguf.quants.quantize(x, qtype), raw_dtype=qtype)


def finish(writer, kind):
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()


def model_file(folder, kind, path):
    c, file = json.load(open(folder / "config.json")), json.load(open(folder / "tokenizer.json"))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("model"), writer.add_name(path.stem)
    writer.add_block_count(c["num_hidden_layers"]), writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"]), writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"]), writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_rope_freq_base(c["rope_parameters"]["rope_theta"]), writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_key_length(c["head_dim"]), writer.add_value_length(c["head_dim"])
    writer.add_vocab_size(c["vocab_size"]), writer.add_rope_dimension_count(c["head_dim"])
    if file["model"]["byte_fallback"]:
        tokens, types, scores = spm_vocabulary(file, c["vocab_size"])
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for text in [TEXT, "lower the pain in Zürich  wards", "ththe drugdrug", "grouploweraint?:"]:
            assert cut_as_llama_cpp(text, tokens, types, scores) == tokenizer.encode(text).ids, text
        writer.add_tokenizer_model("llama"), writer.add_tokenizer_pre("default"), writer.add_token_scores(scores)
        writer.add_add_space_prefix(True)
    else:
        tokens = [t for t, _, _ in gguf.BpeVocab(folder).bpe_tokens()]
        types = [3 if t in SPECIAL else 1 for t in tokens]
        writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens), writer.add_token_types(types)
    special = gguf.SpecialVocab(folder, load_merges=not file["model"]["byte_fallback"], special_token_types=("bos", "eos", "unk"))
    special.add_special_token = {"bos": True, "eos": False}
    special.add_to_gguf(writer, quiet=True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c["num_hidden_layers"])
    for name, x in load_file(folder / "model.safetensors").items():
        if name.endswith("q_proj.weight"):
            x = rows_in_pairs(x, c["num_attention_heads"])
        if name.endswith("k_proj.weight"):
            x = rows_in_pairs(x, c["num_key_value_heads"])
        add(writer, names.get_name(name, try_suffixes=(".weight",)), x, kind)
    finish(writer, kind)


def adapter_file(folder, path):
    c, a = json.load(open(folder / "config.json")), json.load(open(folder / "adapter" / "adapter_config.json"))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter"), writer.add_name(path.stem), writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", a["lora_alpha"] * a["r"] ** 0.5 if a["use_rslora"] else a["lora_alpha"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c["num_hidden_layers"])
    for key, x in load_file(folder / "adapter" / "adapter_model.safetensors").items():
        module, half, _ = key.removeprefix("base_model.model.").rsplit(".", 2)
        if half == "lora_B" and module.endswith(("q_proj", "k_proj")):
            x = rows_in_pairs(x, c["num_attention_heads" if module.endswith("q_proj") else "num_key_value_heads"])
        add(writer, names.get_name(module) + ".weight." + half.lower(), x, "F32")
    finish(writer, "F32")


if __name__ == "__main__":
    make_spm()
    merged()
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for folder, kinds in [(SPM, ["F16", "Q8_0", "BF16", "F32"]), (TINY, ["F16", "Q8_0"])]:
            for kind in kinds:
                path = pathlib.Path(scratch, f"{folder.name}-{kind.lower()}.gguf")
                model_file(folder, kind, path)
                found[path.stem] = describe(path)
        adapter_file(SPM, pathlib.Path(scratch, "adapter.gguf"))
        found["adapter"] = describe(pathlib.Path(scratch, "adapter.gguf"))
    json.dump(found, open(FOLDER / "gguf.json", "w"), ensure_ascii=False, sort_keys=True)
    for folder, _, files in os.walk(FOLDER):
        for name in sorted(files):
            print(os.path.join(folder, name), os.path.getsize(os.path.join(folder, name)), "bytes")
