//! The whole training step, LoRA on an NF4 base, at the sizes that PyTorch's side of the comparison is timed at
//! (tools/time_peft.py): 4 sequences of 128 tokens, rank 8 on seven linears, clip and AdamW included.

use crate::harness::{Bench, Work};
use llamacare::checkpoint::ModelFolder;
use llamacare::data::{MicroBatch, SplitMix64, Tokenized};
use llamacare::model::{Batch, LoraSpec, Quantise, RunOptions, Source, load};
use llamacare::train::{AdamW, LossWeights, Trainer};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::Path;

/// hidden, intermediate, layers, heads, kv heads, vocabulary.
struct Sizes(usize, usize, usize, usize, usize, usize);

/// One line per model.
pub fn run(bench: &mut Bench) {
    let models = [
        ("step 0.15M", Sizes(64, 192, 2, 4, 4, 320)),
        ("step 0.9M", Sizes(128, 352, 4, 4, 2, 768)),
        ("step 10.5M", Sizes(256, 704, 8, 8, 8, 8000)),
    ];
    for (name, sizes) in models {
        if !bench.wants(name) {
            continue;
        }
        let mut trainer = trainer(bench, &sizes);
        let mut random = SplitMix64::new(1, 0);
        let row = |i: usize, random: &mut SplitMix64| Tokenized {
            id: i.to_string(),
            ids: (0..128).map(|_| 3 + random.below(sizes.5 - 3) as u32).collect(),
            n_prompt: 1,
            label: None,
        };
        let rows: Vec<Tokenized> = (0..4).map(|i| row(i, &mut random)).collect();
        let micro = MicroBatch::from_rows(&[0, 1, 2, 3], &rows);
        let work = Work { flops: 512.0 * flops_per_token(&sizes), ..Work::default() };
        bench.line(name, "4x128 tokens, r=8, NF4 double", work, || {
            let batch = Batch::new(&micro);
            trainer.gradients(&[batch], &RunOptions::default()).unwrap();
            trainer.update(1e-4, 0.0).unwrap();
        });
    }
}

/// Forward and the gradient of the input: four operations a weight; the output layer is frozen as well.
fn flops_per_token(s: &Sizes) -> f64 {
    let head = s.0 / s.3;
    let layer = s.0 * s.3 * head * 2 + s.0 * s.4 * head * 2 + 3 * s.0 * s.1;
    4.0 * (layer * s.2 + s.0 * s.5) as f64
}

fn trainer(bench: &Bench, s: &Sizes) -> Trainer {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), s);
    let folder = ModelFolder::open(dir.path()).unwrap();
    let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"].map(String::from);
    let lora = LoraSpec { rank: 8, scale: 2.0, targets: targets.to_vec() };
    let (model, params, ()) =
        load(&bench.device, Source::Folder(&folder), Quantise::Nf4Double, Some(&lora), 1, |_| Ok(())).unwrap();
    Trainer::new(model, params, None, LossWeights::joint(0.0), AdamW::default())
}

/// A Hugging Face folder with random weights.
fn write_model(dir: &Path, s: &Sizes) {
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
