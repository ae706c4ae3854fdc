//! From a Hugging Face folder to a model on the device: checked whole, then uploaded and quantised tensor by tensor.

use crate::checkpoint::{LINEARS, LlamaConfig};
use crate::device::Device;
use crate::model::llama::{Layer, Llama};
use crate::model::weights::{FrozenWeight, Source, Weights};
use crate::model::{Group, Init, ParamIndex, Params, ParamsBuilder};
use crate::ops::decoder::Decoder;
use crate::ops::linear::{Linear, Lora, SharedDecoder, Weight, padded_rank};
use crate::ops::rotary::RotaryTable;
use crate::ops::stow::HostWay;
use crate::{Result, bail_input};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// How the frozen linears are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantise {
    /// As they are, in storage type.
    None,
    /// NF4 with fp32 scales.
    Nf4,
    /// NF4 with 8-bit scales (double quantisation).
    Nf4Double,
}

/// LoRA on every linear named in `targets`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraSpec {
    /// Rank.
    pub rank: usize,
    /// The adapter's output counts this much: alpha / rank.
    pub scale: f32,
    /// Short names, e.g. `q_proj`.
    pub targets: Vec<String>,
}

struct Planned {
    layer: usize,
    linear: &'static str,
    a: ParamIndex,
    b: ParamIndex,
}

/// Reads, checks, uploads and quantises a model; `more` may register further parameters (the head's) before the flat
/// buffers are allocated. `progress` is told about each tensor.
pub fn load<T>(
    device: &Device,
    source: Source,
    quantise: Quantise,
    lora: Option<&LoraSpec>,
    seed: u64,
    more: impl FnOnce(&mut ParamsBuilder) -> Result<T>,
) -> Result<(Llama, Params, T)> {
    let config = source.config().clone();
    config.supported()?;
    source.check()?;
    let mut builder = ParamsBuilder::default();
    let planned = lora.map_or(Ok(Vec::new()), |spec| plan_lora(&mut builder, &config, spec))?;
    let extra = more(&mut builder)?;
    let params = builder.build(device, seed)?;

    let weights = Weights::new(device, source, quantise)?;
    let embedding = weights.vocabulary("embedding", "model.embed_tokens.weight")?;
    let head = match config.tied {
        true => embedding.clone(),
        false => weights.vocabulary("output layer", "lm_head.weight")?,
    };
    let decoder = decoder(device, &config, quantise)?;
    let mut layers = Vec::new();
    for index in 0..config.n_layers {
        let prefix = format!("model.layers.{index}");
        let linear = |name: &'static str| -> Result<Linear> {
            let (n_out, n_in) = linear_shape(&config, name);
            let name_on_disk = format!("{prefix}.{name}");
            let weight = match (weights.linear(&format!("{name_on_disk}.weight"), [n_out, n_in])?, &decoder) {
                (FrozenWeight::Dense(w), _) => Weight::Dense(w),
                (FrozenWeight::Nf4(w), Some(decoder)) => Weight::Nf4(w, decoder.clone()),
                (FrozenWeight::Nf4(_), None) => {
                    bail_input!("{name_on_disk} is in NF4, but config.json has no quantization_config")
                }
            };
            let lora = planned.iter().find(|p| p.layer == index && p.linear == name).map(|p| {
                let spec = lora.expect("planned from it");
                Lora { a: params.get(p.a), b: params.get(p.b), rank: spec.rank, scale: spec.scale }
            });
            Linear::new(name_on_disk, weight, lora)
        };
        let [q, k, v, o, gate, up, down] = LINEARS;
        layers.push(Rc::new(Layer {
            attention_norm: weights.norm(&format!("{prefix}.input_layernorm.weight"))?,
            mlp_norm: weights.norm(&format!("{prefix}.post_attention_layernorm.weight"))?,
            q: linear(q)?,
            k: linear(k)?,
            v: linear(v)?,
            o: linear(o)?,
            gate: linear(gate)?,
            up: linear(up)?,
            down: linear(down)?,
        }));
    }
    let norm = weights.norm("model.norm.weight")?;
    let rotary = Arc::new(RotaryTable::new(device, config.max_positions, config.head_dim, config.rope_theta)?);
    let host_way = Rc::new(HostWay::new(device));
    Ok((Llama { config, embedding, head, norm, layers, rotary, decoder, host_way }, params, extra))
}

/// The decoder of a base in NF4. A request is one weight in the forward; in the backward those that share an input.
fn decoder(device: &Device, config: &LlamaConfig, quantise: Quantise) -> Result<Option<SharedDecoder>> {
    if quantise == Quantise::None && config.nf4.is_none() {
        return Ok(None);
    }
    let [q, k, v, o, gate, up, down] = config.linears().map(|(_, shape)| shape);
    let groups: [&[[usize; 2]]; 4] = [&[q, k, v], &[o], &[gate, up], &[down]];
    let largest = groups.iter().map(|shapes| Decoder::request_elems(device.act(), shapes)).max().unwrap_or(0);
    Ok(Some(Rc::new(RefCell::new(Decoder::new(device, largest)?))))
}

/// (out, in) of a linear.
pub fn linear_shape(c: &LlamaConfig, name: &str) -> (usize, usize) {
    let (q, kv) = (c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
    match name.rsplit('.').next().unwrap_or(name) {
        "q_proj" => (q, c.hidden),
        "k_proj" | "v_proj" => (kv, c.hidden),
        "o_proj" => (c.hidden, q),
        "gate_proj" | "up_proj" => (c.intermediate, c.hidden),
        "down_proj" => (c.hidden, c.intermediate),
        other => unreachable!("{other} is not one of LINEARS"),
    }
}

fn plan_lora(builder: &mut ParamsBuilder, config: &LlamaConfig, spec: &LoraSpec) -> Result<Vec<Planned>> {
    for target in &spec.targets {
        if !LINEARS.iter().any(|l| l.ends_with(target.as_str())) {
            bail_input!("LoRA target `{target}`: expected some of {}", LINEARS.join(", "));
        }
    }
    let mut planned = Vec::new();
    let rank = padded_rank(spec.rank);
    for layer in 0..config.n_layers {
        for linear in LINEARS.into_iter().filter(|l| spec.targets.iter().any(|t| l.ends_with(t.as_str()))) {
            let (n_out, n_in) = linear_shape(config, linear);
            let name = |m: &str| format!("model.layers.{layer}.{linear}.{m}");
            // PEFT's default: kaiming_uniform(a = sqrt 5) for A, which is uniform in ±1/sqrt(in), and zeros for B.
            let a_init = Init::Uniform { bound: 1.0 / (n_in as f32).sqrt(), rows: spec.rank, cols: n_in };
            let a = builder.add(Group::Lora, name("lora_A"), &[rank, n_in], a_init);
            let b = builder.add(Group::Lora, name("lora_B"), &[n_out, rank], Init::Zero);
            planned.push(Planned { layer, linear, a, b });
        }
    }
    Ok(planned)
}
