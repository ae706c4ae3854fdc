//! A model folder and rows made on the spot: a Llama of one layer, small enough that a whole fine-tune takes a second.
//!
//! Everything is computed from names and indices, so that every test and every machine has the same bytes, and the parts
//! are given out one by one, so that a test of bad input can spoil exactly one of them.

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Rows of the embedding: 3 special tokens, 256 bytes, and two that no text uses. Not a multiple of 8, on purpose.
pub const VOCAB: usize = 261;
const HIDDEN: usize = 64;
const KV: usize = 32;

/// Name to type, shape and bytes: one safetensors file.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Writes a whole model folder: config.json, model.safetensors, tokenizer.json.
pub fn tiny_llama(dir: &Path) {
    std::fs::create_dir_all(dir).expect("a folder for the model");
    write_json(&dir.join("config.json"), &tiny_config());
    write_tensors(dir, &tiny_tensors());
    write_json(&dir.join("tokenizer.json"), &tiny_tokenizer());
}

/// Writes a dozen records in PubMedQA's form, four of each answer, and gives the file's path. A record is about 200 tokens
/// long, prompt and answer.
pub fn tiny_rows(dir: &Path) -> PathBuf {
    let path = dir.join("rows.json");
    write_json(&path, &Value::Object(tiny_records()));
    path
}

/// The records of [`tiny_rows`], by id.
pub fn tiny_records() -> Map<String, Value> {
    let drugs = ["Amoxal", "Betorin", "Cardel", "Dorvan"];
    let answers =
        [("yes", "fell", "lowers"), ("no", "did not fall", "does not lower"), ("maybe", "varied", "may lower")];
    let record = |(i, drug): (usize, &str)| {
        let (label, finding, summary) = answers[i % 3];
        let record = json!({
            "QUESTION": format!("Does {drug} lower pain?"),
            "CONTEXTS": [format!("We gave {drug} to {} people.", 20 + i), format!("Pain {finding}.")],
            "LONG_ANSWER": format!("{drug} {summary} pain."),
            "final_decision": label,
        });
        (format!("{}", 1001 + i), record)
    };
    (0..12).map(|i| (i, drugs[i / 3])).map(record).collect()
}

/// The model's config.json.
pub fn tiny_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": VOCAB,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16"
    })
}

/// Its weights in bf16: uniform with the variance of a usual start, norms near 1.
pub fn tiny_tensors() -> Tensors {
    let layer = "model.layers.0";
    let shapes = [
        ("model.embed_tokens".to_string(), vec![VOCAB, HIDDEN]),
        ("lm_head".into(), vec![VOCAB, HIDDEN]),
        ("model.norm".into(), vec![HIDDEN]),
        (format!("{layer}.input_layernorm"), vec![HIDDEN]),
        (format!("{layer}.post_attention_layernorm"), vec![HIDDEN]),
        (format!("{layer}.self_attn.q_proj"), vec![HIDDEN, HIDDEN]),
        (format!("{layer}.self_attn.k_proj"), vec![KV, HIDDEN]),
        (format!("{layer}.self_attn.v_proj"), vec![KV, HIDDEN]),
        (format!("{layer}.self_attn.o_proj"), vec![HIDDEN, HIDDEN]),
        (format!("{layer}.mlp.gate_proj"), vec![HIDDEN, HIDDEN]),
        (format!("{layer}.mlp.up_proj"), vec![HIDDEN, HIDDEN]),
        (format!("{layer}.mlp.down_proj"), vec![HIDDEN, HIDDEN]),
    ];
    shapes
        .map(|(name, shape)| (format!("{name}.weight"), shape))
        .map(|(name, shape)| (name.clone(), weight(&name, shape)))
        .into()
}

/// A tensor of this name and shape as [`tiny_tensors`] would hold it.
pub fn weight(name: &str, shape: Vec<usize>) -> (Dtype, Vec<usize>, Vec<u8>) {
    let stream = name.bytes().fold(0u64, |h, b| h.wrapping_mul(257).wrapping_add(u64::from(b)));
    let (centre, width) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, (3.0 / HIDDEN as f32).sqrt()) };
    let values =
        (0..shape.iter().product::<usize>() as u64).map(|i| bf16::from_f32(centre + width * uniform(stream, i)));
    (Dtype::BF16, shape, values.flat_map(bf16::to_le_bytes).collect())
}

/// Number `index` of a stream, from -1 to 1: a hash of both (splitmix64's finisher), with no state to carry along.
fn uniform(stream: u64, index: u64) -> f32 {
    let mut z = stream.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// A byte-level tokenizer without merges: one token a byte, any text encodes, and lengths can be counted by eye.
pub fn tiny_tokenizer() -> Value {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let special = ["<unk>", "<s>", "</s>"];
    let pieces = special.map(String::from).into_iter().chain(alphabet.into_iter().map(String::from));
    let vocab: Map<String, Value> = pieces.enumerate().map(|(id, piece)| (piece, id.into())).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": true})
    });
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

/// Writes `tensors` as the folder's model.safetensors.
pub fn write_tensors(dir: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).expect("bytes that fit the shape"))
    });
    let file = safetensors::serialize(views, None).expect("a safetensors file");
    std::fs::write(dir.join("model.safetensors"), file).expect("room on the disk");
}

/// Writes a JSON file.
pub fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("room on the disk");
}
