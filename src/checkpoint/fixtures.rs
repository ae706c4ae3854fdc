//! Small model folders and tensors for the tests of this module.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{LlamaConfig, NamedTensor};
use crate::{Error, Result};

/// The sentence of an error that is the user's to mend; anything else fails the test.
pub fn sentence<T>(result: Result<T>) -> String {
    let error = result.err().expect("must be refused");
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(matches!(error, Error::Input(_)), "{error}");
    error.to_string()
}

/// A tensor with values that depend on name, index and seed.
pub fn named(name: &str, shape: &[usize], seed: u32) -> NamedTensor {
    let mut state =
        name.bytes().fold(seed.wrapping_mul(747_796_405) | 1, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    NamedTensor {
        name: name.to_string(),
        shape: shape.to_vec(),
        values: (0..shape.iter().product()).map(|_| next()).collect(),
    }
}

/// A Llama of two layers with grouped kv heads.
pub fn tiny() -> LlamaConfig {
    LlamaConfig {
        hidden: 64,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        intermediate: 88,
        vocab: 40,
        rope_theta: 10_000.0,
        rms_eps: 1e-5,
        tied: false,
        bos: 1,
        eos: vec![2],
        max_positions: 128,
        nf4: None,
    }
}

/// Its config.json in the new field style.
pub fn config_json(c: &LlamaConfig) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": c.hidden,
        "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads, "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim, "intermediate_size": c.intermediate, "vocab_size": c.vocab, "dtype": "bfloat16",
        "rope_parameters": {"rope_theta": c.rope_theta, "rope_type": "default"}, "rms_norm_eps": c.rms_eps,
        "tie_word_embeddings": c.tied, "bos_token_id": c.bos, "eos_token_id": c.eos, "hidden_act": "silu",
        "max_position_embeddings": c.max_positions, "attention_bias": false, "mlp_bias": false, "pretraining_tp": 1
    })
}

/// Tensors of one file: name to dtype, shape and bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// An F32 tensor as [`Tensors`] holds it.
pub fn raw(name: &str, shape: &[usize], seed: u32) -> (Dtype, Vec<usize>, Vec<u8>) {
    let values = named(name, shape, seed).values;
    (Dtype::F32, shape.to_vec(), values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// Every tensor of the tiny model, written out by hand: the code under test derives the same list from the
/// configuration.
pub fn tiny_tensors() -> Tensors {
    let mut shapes = vec![
        ("model.embed_tokens.weight".to_string(), vec![40, 64]),
        ("model.norm.weight".to_string(), vec![64]),
        ("lm_head.weight".to_string(), vec![40, 64]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("input_layernorm", vec![64]),
            ("post_attention_layernorm", vec![64]),
            ("self_attn.q_proj", vec![64, 64]),
            ("self_attn.k_proj", vec![32, 64]),
            ("self_attn.v_proj", vec![32, 64]),
            ("self_attn.o_proj", vec![64, 64]),
            ("mlp.gate_proj", vec![88, 64]),
            ("mlp.up_proj", vec![88, 64]),
            ("mlp.down_proj", vec![64, 88]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    shapes.into_iter().map(|(name, shape)| (name.clone(), raw(&name, &shape, 7))).collect()
}

/// Writes `tensors` as a safetensors file, by the library.
pub fn write_raw(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with config.json and `tensors` in one file.
pub fn model_dir(config: &LlamaConfig, tensors: &Tensors) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config_json(config).to_string()).unwrap();
    write_raw(&dir.path().join("model.safetensors"), tensors);
    dir
}
