//! Model folders that cannot be used: each is refused with the file or tensor at fault.

use super::{Bench, assert_says, refusal};
use crate::common::fixture::{VOCAB, weight};
use safetensors::tensor::Dtype;
use serde_json::json;
use std::collections::BTreeMap;

const Q: &str = "model.layers.0.self_attn.q_proj.weight";

#[test]
fn missing_weights() {
    let bench = Bench::new();
    std::fs::remove_file(bench.path("model/model.safetensors")).unwrap();
    assert_says(&bench.refused(""), &["/model: ", "neither model.safetensors nor model.safetensors.index.json"]);
}

#[test]
fn a_folder_that_is_not_there() {
    assert_says(&Bench::new().refused("--model no/such/model"), &["no/such/model", "there is no config.json"]);
}

#[test]
fn truncated_weights() {
    let bench = Bench::new();
    let path = bench.path("model/model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    // In the last tensor, in the header, in the header's length, and nothing at all.
    for n_bytes in [whole.len() - 100, 200, 5, 0] {
        std::fs::write(&path, &whole[..n_bytes]).unwrap();
        assert_says(&bench.refused(""), &["model.safetensors: the file is truncated", "download it again"]);
    }
}

#[test]
fn a_file_that_is_not_safetensors() {
    let bench = Bench::new();
    bench.file("model/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    assert_says(&bench.refused(""), &["model.safetensors", "Git LFS pointer", "git lfs pull"]);
    bench.file("model/model.safetensors", &"{ not a header ".repeat(20));
    assert_says(&bench.refused(""), &["model.safetensors"]);
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    let bench = Bench::new();
    bench.edit_tensors(|t| drop(t.insert(Q.into(), weight(Q, vec![64, 32]))));
    assert_says(&bench.refused(""), &[&format!("tensor {Q} has shape [64, 32]; [64, 64] was expected")]);
}

#[test]
fn a_tensor_of_the_wrong_type() {
    let bench = Bench::new();
    bench.edit_tensors(|t| drop(t.insert(Q.into(), (Dtype::I8, vec![64, 64], vec![0; 4096]))));
    assert_says(&bench.refused(""), &[&format!("tensor {Q} has dtype I8; F32, F16 or BF16 was expected")]);
}

#[test]
fn a_missing_tensor() {
    let bench = Bench::new();
    bench.edit_tensors(|t| drop(t.remove(Q)));
    assert_says(&bench.refused(""), &[&format!("the tensor {Q} [64, 64] is missing")]);
}

/// The bench's weights as a single shard, under an index that says of each of these tensors where it is.
fn sharded(places: &[(&str, &str)]) -> Bench {
    let bench = Bench::new();
    std::fs::rename(bench.path("model/model.safetensors"), bench.path("model/one.safetensors")).unwrap();
    let map: BTreeMap<&str, &str> = places.iter().copied().collect();
    bench.file("model/model.safetensors.index.json", &json!({"weight_map": map}).to_string());
    bench
}

#[test]
fn a_missing_shard() {
    let bench = sharded(&[("lm_head.weight", "one.safetensors"), (Q, "two.safetensors")]);
    assert_says(&bench.refused(""), &["index.json: the shard two.safetensors with 1 tensors is not there"]);
}

#[test]
fn an_index_that_names_a_file_outside_its_folder() {
    for outside in ["../rows.json", "/etc/passwd"] {
        let said = sharded(&[("lm_head.weight", "one.safetensors"), (Q, outside)]).refused("");
        assert_says(&said, &[&format!("index.json: tensor {Q} is said to be in {outside:?}, outside the folder")]);
    }
}

#[test]
fn shards_that_disagree_with_their_index() {
    let said = sharded(&[(Q, "one.safetensors"), ("model.layers.7.x", "one.safetensors")]).refused("");
    let place = "tensor model.layers.7.x is said to be in one.safetensors, which does not hold it";
    assert_says(&said, &["index.json: ", place, "index and shards are not of one model"]);
    let bench = sharded(&[(Q, "one.safetensors"), ("lm_head.weight", "two.safetensors")]);
    std::fs::copy(bench.path("model/one.safetensors"), bench.path("model/two.safetensors")).unwrap();
    assert_says(&bench.refused(""), &["is both in ", "one.safetensors", "two.safetensors", "not of one model"]);
}

#[test]
fn a_nan_or_an_infinity_in_any_weight() {
    for (name, value) in [(Q, f32::NAN), ("model.embed_tokens.weight", f32::INFINITY), ("model.norm.weight", f32::NAN)]
    {
        let bench = Bench::new();
        let last = half::bf16::from_f32(value).to_le_bytes();
        bench.edit_tensors(|t| {
            let bytes = &mut t.get_mut(name).unwrap().2;
            let at = bytes.len() - 2;
            bytes[at..].copy_from_slice(&last);
        });
        assert_says(&bench.refused(""), &[name, "holds a value that is not finite", "fetch them again"]);
    }
}

#[test]
fn a_base_whose_loss_is_no_number_is_not_trained() {
    let bench = Bench::new();
    let huge = half::bf16::from_f32(3e38).to_le_bytes();
    bench.edit_tensors(|t| t.get_mut("lm_head.weight").unwrap().2.chunks_mut(2).for_each(|b| b.copy_from_slice(&huge)));
    let said = refusal(&bench.run("new", ""), 1);
    assert_says(&said, &["step 1: the loss is not a number", "(rows 10"]);
    assert!(!bench.path("new/adapter_model.safetensors").exists() && !bench.path("new/report.json").exists());
}

#[test]
fn a_tokenizer_larger_than_the_embedding() {
    let bench = Bench::new();
    bench.edit_json("model/tokenizer.json", |json| json["model"]["vocab"]["too much"] = json!(VOCAB));
    let said = bench.refused("");
    assert_says(&said, &["tokenizer.json has 262 tokens, but the embedding of the model only 261 rows"]);
}

#[test]
fn a_missing_or_broken_tokenizer() {
    let bench = Bench::new();
    bench.file("model/tokenizer.json", "{\"version\"");
    assert_says(&bench.refused(""), &["tokenizer.json is not a tokenizer"]);
    std::fs::remove_file(bench.path("model/tokenizer.json")).unwrap();
    assert_says(&bench.refused(""), &["tokenizer.json: no such file; copy the tokenizer.json of the model there"]);
}

#[test]
fn another_architecture() {
    let bench = Bench::new();
    bench.edit_json("model/config.json", |json| json["architectures"] = json!(["MistralForCausalLM"]));
    let said = bench.refused("");
    assert_says(&said, &["config.json: the architecture is MistralForCausalLM; only LlamaForCausalLM is supported"]);
}

#[test]
fn what_the_engine_does_not_compute() {
    for (field, value, says) in [
        ("hidden_act", json!("gelu"), "hidden_act is gelu; the MLP kernel computes silu only"),
        ("attention_bias", json!(true), "attention_bias is true; linear layers with a bias are not supported"),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
            "rope_scaling asks for rotary scaling of type linear",
        ),
        ("quantization_config", json!({"bits": 4}), "quantization_config names no quant_method"),
        ("quantization_config", json!({"quant_method": "awq"}), "quantization_config is of the method awq"),
        (
            "quantization_config",
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            "quantization_config says load_in_8bit, bitsandbytes' int8; of quantised folders only bitsandbytes' 4-bit nf4",
        ),
        (
            "quantization_config",
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "fp4"}),
            "quantization_config.bnb_4bit_quant_type is fp4; of quantised folders only bitsandbytes' 4-bit nf4",
        ),
    ] {
        let bench = Bench::new();
        bench.edit_json("model/config.json", |json| json[field] = value);
        assert_says(&bench.refused(""), &["config.json: ", says]);
    }
}

#[test]
fn widths_the_kernels_do_not_take() {
    for (field, value, says) in [
        ("hidden_size", 60, "hidden_size is 60; it must be a multiple of 8"),
        ("intermediate_size", 100, "intermediate_size is 100; it must be a multiple of 8"),
        ("head_dim", 24, "head_dim is 24; the attention kernel is built for 16, 32, 64 and 128"),
        ("num_key_value_heads", 3, "num_attention_heads is 2, not a multiple of num_key_value_heads 3"),
        ("vocab_size", 0, "vocab_size is 0; it must be from 1 to"),
        ("eos_token_id", 261, "eos_token_id is 261, outside the vocabulary of 261 tokens"),
    ] {
        let bench = Bench::new();
        bench.edit_json("model/config.json", |json| json[field] = json!(value));
        assert_says(&bench.refused(""), &["config.json: ", says]);
    }
}

#[test]
fn a_broken_configuration() {
    let bench = Bench::new();
    bench.file("model/config.json", "{\"architectures\": [\"LlamaForCausalLM\"],\n \"hidden_size\": }");
    assert_says(&bench.refused(""), &["config.json: not a model's configuration", "line 2"]);
}
