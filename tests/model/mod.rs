//! The whole model: against PyTorch, and against itself where only the order of work differs.

mod eci;
mod fp8;
mod frozen;
mod generate;
mod heads;
mod invariants;
mod llama;
mod optimiser;
mod oracle;
mod packing;
mod planned;

use crate::common::Golden;
use llamacare::checkpoint::{EciConfig, ModelFolder, load_adapter};
use llamacare::data::{Class, MicroBatch, Tokenized};
use llamacare::device::Device;
use llamacare::model::{Batch, EciHead, Frozen, LoraSpec, OptimiserStates, Source, load, put_adapter};
use llamacare::train::{AdamW, LossWeights, Trainer};
use std::path::Path;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama")
}

/// The golden model with its adapter; with a head of its own (paper's kind, s = 24) where `with_head`.
fn trainer(device: &Device, frozen: impl Into<Frozen>, with_head: bool) -> Trainer {
    trainer_with(device, frozen, with_head, OptimiserStates::Fp32, None)
}

/// The same with other states of the optimiser, and with the head's first gradient as factors of this many rows a step.
fn trainer_with(
    device: &Device,
    frozen: impl Into<Frozen>,
    with_head: bool,
    states: OptimiserStates,
    factor_rows: Option<usize>,
) -> Trainer {
    trainer_of(&folder(), device, frozen, with_head, states, factor_rows)
}

/// The same with another folder of the model.
fn trainer_of(
    model: &Path,
    device: &Device,
    frozen: impl Into<Frozen>,
    with_head: bool,
    states: OptimiserStates,
    factor_rows: Option<usize>,
) -> Trainer {
    let model_folder = ModelFolder::open(model).unwrap();
    let (config, tensors) = load_adapter(&folder().join("adapter")).unwrap();
    let spec = LoraSpec { rank: config.r, scale: config.scale(), targets: config.targets.clone() };
    let head = EciConfig {
        name: "eci".into(),
        kind: "paper".into(),
        hidden: 64,
        positions: 24,
        dims: vec![16, 8],
        activation: "leaky_relu".into(),
        slope: 0.01,
        labels: ["no", "yes", "maybe"].map(String::from).to_vec(),
        weight: 0.3,
    };
    let (model, params, plan) = load(device, Source::Folder(&model_folder), frozen, Some(&spec), 7, |builder| {
        builder.optimiser_states(states);
        let plan = if with_head { Some(EciHead::plan(builder, &head)?) } else { None };
        if let (Some(plan), Some(rows)) = (&plan, factor_rows) {
            assert!(plan.factor(builder, rows), "factors are smaller here");
        }
        Ok(plan)
    })
    .unwrap();
    put_adapter(&params, config.r, &tensors).unwrap();
    let heads = plan.into_iter().map(|p| EciHead::new(p, &params).unwrap()).collect();
    let weights = if with_head { LossWeights::joint(&[0.3]) } else { LossWeights::joint(&[]) };
    Trainer::new(model, params, heads, weights, AdamW::default())
}

/// All gradients of a step, one after another.
fn all_gradients(trainer: &Trainer) -> Vec<f32> {
    trainer.params.gradients().iter().flat_map(|part| part.read_f32().unwrap()).collect()
}

/// The golden file's sequences as tokenised rows; labels in turn.
fn rows(golden: &Golden) -> Vec<Tokenized> {
    let (ids, cu) = (golden.ints("packed", "ids"), golden.ints("packed", "cu_seqlens"));
    let sequence = |(i, range): (usize, &[i32])| {
        let (begin, end) = (range[0] as usize, range[1] as usize);
        Tokenized {
            id: i.to_string(),
            ids: ids[begin..end].iter().map(|&id| id as u32).collect(),
            // Targets begin at the token after position begin + n / 2.
            n_prompt: (end - begin) / 2 + 1,
            label: Some(Class::only(i % 3)),
        }
    };
    cu.windows(2).enumerate().map(sequence).collect()
}

fn batch(rows: &[Tokenized], which: &[usize]) -> Batch {
    Batch::new(&MicroBatch::from_rows(which, rows))
}
