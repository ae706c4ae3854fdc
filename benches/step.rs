//! The whole training step, LoRA on an NF4 base, clip and AdamW included, and where it spends its time (parts.rs).
//!
//! Small models of random weights anywhere, at the sizes that PyTorch's side of the comparison is timed at
//! (tools/time_peft.py): 4 sequences of 128 tokens, rank 8. On a GPU, with `--base`, Llama-2-13B: 8 rows of 2,048 tokens, rank
//! 16, a micro-batch each.

use crate::engine::{Engine, Settings};
use crate::harness::{Bench, median};
use crate::parts;
use llamacare::checkpoint::LlamaConfig;
use llamacare::data::SplitMix64;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// hidden, intermediate, layers, heads, kv heads, vocabulary.
pub struct Sizes(pub usize, pub usize, pub usize, pub usize, pub usize, pub usize);

/// A line per model, and the parts of its step.
pub fn run(bench: &mut Bench, base: Option<&Path>) {
    let models = [
        ("step 0.15M", Sizes(64, 192, 2, 4, 4, 320)),
        ("step 0.9M", Sizes(128, 352, 4, 4, 2, 768)),
        ("step 10.5M", Sizes(256, 704, 8, 8, 8, 8000)),
    ];
    let device = if bench.device.is_cuda() { "cuda" } else { "cpu" };
    for (name, sizes) in models {
        if bench.wants(name) && !(bench.smoke() && sizes.0 > 64) {
            let dir = tempfile::tempdir().expect("a folder");
            write_model(dir.path(), &sizes);
            let settings = Settings {
                device,
                base: dir.path(),
                lora: (8, 16),
                tokens: 512,
                positions: (bench.smoke()).then_some(128),
                budget: "4GiB",
            };
            one(bench, name, &settings, &rows(4, 128, sizes.5));
        }
    }
    let name = "step 13B";
    match base {
        Some(base) if bench.wants(name) => {
            let model = LlamaConfig::load(base).expect("a model folder");
            // Another model than 13B is a rehearsal, and not called so.
            let name = if model.hidden == 5120 { name } else { "step of the base" };
            let (n, length) = if bench.device.is_cuda() { (8, 2048) } else { (2, 64) };
            let lora = (16, 16);
            let settings = Settings { device, base, lora, tokens: length, positions: None, budget: "23.5GiB" };
            one(bench, name, &settings, &rows(n, length, model.vocab));
        }
        None if bench.wants(name) && bench.device.is_cuda() => {
            println!("{name}: not run; --base DIR names a model folder, tools/gpu/make_synthetic_base.py makes one");
        }
        _ => {}
    }
}

fn rows(n: usize, length: usize, vocab: usize) -> Vec<Vec<u32>> {
    let mut random = SplitMix64::new(1, 0);
    (0..n).map(|_| (0..length).map(|_| 3 + random.below(vocab - 3) as u32).collect()).collect()
}

fn one(bench: &mut Bench, name: &str, settings: &Settings, rows: &[Vec<u32>]) {
    let mut engine = Engine::open(settings, rows).expect("an engine");
    let shape = format!("{}x{} tokens, r={}", rows.len(), rows[0].len(), settings.lora.0);
    let (tokens, flops) = (engine.n_tokens() as f64, engine.flops);
    let mut seconds = || engine.timed_step().expect("a step").1;
    let n = if bench.smoke() { 1 } else { 5 };
    seconds();
    let times: Vec<f64> = (0..n).map(|_| seconds()).collect();
    let (text, table) = parts::table(&mut engine).expect("a step");
    engine.hold_to_plan().expect("memory as planned");
    let other: Vec<&String> = table["parts"].as_object().into_iter().flatten().map(|(part, _)| part).collect();
    let unknown = other.iter().find(|part| part.starts_with("other"));
    assert!(unknown.is_none(), "benches/parts.rs does not know what this launch is for: {unknown:?}");
    if bench.smoke() {
        return;
    }
    let (middle, least) = (median(times.clone()), times.iter().copied().fold(f64::INFINITY, f64::min));
    println!(
        "{name:<26} {shape:<36} {:>10.1} us (least {:.1})  {:.0} tokens/s  {:.3} TFLOP/s",
        middle * 1e6,
        least * 1e6,
        tokens / middle,
        flops / middle / 1e12
    );
    println!("  {}\n{text}", parts::describe(&engine));
    bench.record(json!({
        "name": name, "shape": shape, "us": middle * 1e6, "least_us": least * 1e6, "flops": flops,
        "tokens_per_second": tokens / middle, "watched": table,
    }));
}

/// A Hugging Face folder with random weights.
pub fn write_model(dir: &Path, s: &Sizes) {
    let Sizes(c, f, layers, heads, kv, v) = *s;
    let config = format!(
        r#"{{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":{c},"intermediate_size":{f},
        "num_hidden_layers":{layers},"num_attention_heads":{heads},"num_key_value_heads":{kv},"vocab_size":{v},
        "rms_norm_eps":1e-5,"rope_theta":10000.0,"max_position_embeddings":256,"hidden_act":"silu",
        "tie_word_embeddings":false,"bos_token_id":1,"eos_token_id":2}}"#
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
    let d = c / heads;
    let mut shapes = vec![("model.embed_tokens.weight".to_string(), vec![v, c]), ("lm_head.weight".into(), vec![v, c])];
    shapes.push(("model.norm.weight".into(), vec![c]));
    for l in 0..layers {
        let linears: [(&str, Vec<usize>); 9] = [
            ("self_attn.q_proj", vec![heads * d, c]),
            ("self_attn.k_proj", vec![kv * d, c]),
            ("self_attn.v_proj", vec![kv * d, c]),
            ("self_attn.o_proj", vec![c, heads * d]),
            ("mlp.gate_proj", vec![f, c]),
            ("mlp.up_proj", vec![f, c]),
            ("mlp.down_proj", vec![c, f]),
            ("input_layernorm", vec![c]),
            ("post_attention_layernorm", vec![c]),
        ];
        shapes.extend(linears.map(|(name, shape)| (format!("model.layers.{l}.{name}.weight"), shape)));
    }
    let mut random = SplitMix64::new(7, 0);
    let mut bytes: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, shape) in shapes {
        let mut draw = || ((random.next_u64() >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.2;
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| if shape.len() == 1 { 1.0 } else { draw() }).collect();
        bytes.insert(name, (shape, bytemuck::cast_slice(&values).to_vec()));
    }
    let views = bytes.iter().map(|(name, (shape, b))| (name, TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}
