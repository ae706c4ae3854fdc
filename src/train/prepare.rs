//! From a configuration to rows, template and tokeniser; and to the model with its head on a device.

use crate::checkpoint::{EciConfig, LlamaConfig};
use crate::cli::RunConfig;
use crate::cli::options::{ComputeType, EciKind, OptimizerStates, OverLong as Typed, Quant};
use crate::data::{Dropped, OverLong, Record, Room, Share, Template, TextTokenizer, Tokenized};
use crate::data::{load as load_records, split, split_by_ids, tokenize};
use crate::device::Device;
use crate::model::{EciHead, Frozen, LoraSpec, OptimiserStates, Products, Quantise, Source, load};
use crate::ops::dropout::Dropout;
use crate::train::{AdamW, LossWeights, Trainer};
use crate::{Result, bail_input};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The rows of a run, tokenised.
pub struct Data {
    /// Trained on.
    pub train: Vec<Tokenized>,
    /// Looked at while training.
    pub validation: Vec<Tokenized>,
    /// Looked at before and after.
    pub test: Vec<Tokenized>,
    /// Classes, in the order of the head's outputs; empty where no row has a label.
    pub classes: Vec<String>,
    /// Text to ids and back.
    pub tokenizer: TextTokenizer,
    /// Rows to prompts.
    pub template: Template,
    /// What was left out of each split because it was allowed: one line each, nothing where every row went in whole.
    pub notes: Vec<String>,
}

impl Data {
    /// Reads, splits, renders and tokenises.
    pub fn prepare(config: &RunConfig, model: &LlamaConfig, quiet: bool) -> Result<Data> {
        let c = &config.data;
        let (train, validation, test) = records(config)?;
        let classes = if c.labels.is_empty() { labels_of(&train) } else { c.labels.clone() };
        if classes.is_empty() && config.eci.kind != EciKind::None {
            bail_input!("no row has a label, so there is nothing for the head to learn; add labels, or use --eci none");
        }
        let template = template(&config.prompt.template)?;
        let file = config.model.path.join("tokenizer.json");
        let Some(&eos) = model.eos.first() else { bail_input!("config.json names no end-of-sequence token") };
        let tokenizer = TextTokenizer::load(&file, model.bos, eos, model.vocab)?;
        let limit = if c.max_length == 0 { config.train.tokens } else { c.max_length };
        let over_long = match c.over_long {
            Typed::Error => OverLong::Error,
            Typed::Drop => OverLong::Drop,
            Typed::Shorten => OverLong::ShortenContext,
        };
        let mut notes = Vec::new();
        let mut ids = |name: &str, records: &[Record]| -> Result<Vec<Tokenized>> {
            if records.is_empty() {
                return Ok(Vec::new());
            }
            let examples = records.iter().map(|r| template.render(r)).collect::<Result<Vec<_>>>()?;
            let (rows, dropped): (_, Dropped) = tokenize(
                &examples,
                records,
                &template,
                &tokenizer,
                &classes,
                limit.min(model.max_positions),
                over_long,
                !quiet,
            )?;
            if !dropped.is_none() {
                notes.push(format!("{name}: {dropped}"));
            }
            Ok(rows)
        };
        let (train, validation) = (ids("train", &train)?, ids("validation", &validation)?);
        let test = ids("test", &test[..limited(test.len(), config.eval.rows)])?;
        if train.is_empty() {
            bail_input!("the training split is empty; give it at least one row");
        }
        if config.eci.kind == EciKind::Paper {
            prompts_fit(&[&train, &validation, &test], config.eci.positions)?;
        }
        Ok(Data { train, validation, test, classes, tokenizer, template, notes })
    }
}

fn limited(n: usize, most: usize) -> usize {
    if most == 0 { n } else { n.min(most) }
}

/// The paper's head has a place for each position: a prompt that does not fit cannot be cut in silence.
fn prompts_fit(splits: &[&Vec<Tokenized>], positions: usize) -> Result<()> {
    let longest = splits.iter().flat_map(|rows| rows.iter()).max_by_key(|row| row.n_prompt);
    if let Some(row) = longest.filter(|row| row.n_prompt > positions) {
        bail_input!(
            "row {}: its prompt has {} tokens, the paper's head has room for {positions}; raise --eci-positions to {} or more",
            row.id,
            row.n_prompt,
            row.n_prompt
        );
    }
    Ok(())
}

type Splits = (Vec<Record>, Vec<Record>, Vec<Record>);

fn records(config: &RunConfig) -> Result<Splits> {
    let c = &config.data;
    let read = |paths: &[PathBuf]| -> Result<Vec<Record>> {
        let parts = paths.iter().map(|p| load_records(p, None)).collect::<Result<Vec<_>>>()?;
        let all: Vec<Record> = parts.into_iter().flatten().collect();
        let mut seen = BTreeSet::new();
        if let Some(twice) = all.iter().find(|r| !seen.insert(r.id.as_str())) {
            bail_input!("row {}: its id stands in two of the files given; ids must be unique", twice.id);
        }
        Ok(all)
    };
    let mut train = read(&c.train)?;
    let (mut validation, mut test) = (read(&c.validation)?, read(&c.test)?);
    if !c.test_ids.as_os_str().is_empty() {
        (train, test) = split_by_ids(train, &c.test_ids)?;
    }
    // What no file gives is taken from the training rows by the seed.
    let share = |given: bool, share: f64| if given { Share::Fraction(0.0) } else { Share::Fraction(share) };
    let (v, t) = (share(!validation.is_empty(), c.validation_share), share(!test.is_empty(), c.test_share));
    let (rest, more_validation, more_test) = split(train, v, t, config.train.seed)?;
    validation.extend(more_validation);
    test.extend(more_test);
    Ok((rest, validation, test))
}

/// The labels that occur, sorted.
fn labels_of(records: &[Record]) -> Vec<String> {
    records.iter().filter_map(|r| r.label.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// A file, or the name of a shipped template; nothing given: the three steps.
fn template(name: &str) -> Result<Template> {
    match Path::new(name) {
        _ if name.is_empty() => Template::builtin("three_step"),
        path if path.is_file() || path.extension().is_some() => Template::load(path),
        _ => Template::builtin(name),
    }
}

/// How the base is stored and multiplied.
pub fn frozen(config: &RunConfig) -> Frozen {
    let quantise = match (config.model.quant, config.model.double_quant) {
        (Quant::None, _) => Quantise::None,
        (Quant::Nf4, false) => Quantise::Nf4,
        (Quant::Nf4, true) => Quantise::Nf4Double,
    };
    let products = match config.machine.compute {
        ComputeType::Bf16 | ComputeType::Fp32 => Products::Storage,
        ComputeType::Fp8 => Products::Fp8,
    };
    Frozen { quantise, products }
}

/// The adapter's sizes.
pub fn lora(config: &RunConfig) -> LoraSpec {
    let c = &config.lora;
    LoraSpec { rank: c.rank, scale: (c.alpha / c.rank as f64) as f32, targets: c.targets.clone() }
}

/// The head's sizes, if there is to be one.
pub fn head(config: &RunConfig, model: &LlamaConfig, classes: &[String]) -> Result<Option<EciConfig>> {
    let c = &config.eci;
    let (kind, activation) = match c.kind {
        EciKind::None => return Ok(None),
        EciKind::Paper => ("paper", "leaky_relu"),
        EciKind::Mean => ("mean", "gelu"),
        EciKind::Last => ("last", "gelu"),
        EciKind::Max => ("max", "gelu"),
    };
    if kind == "paper" && !model.hidden.is_multiple_of(64) {
        bail_input!(
            "the paper's head pools 64 features to one; the model's hidden size is {}: use --eci mean",
            model.hidden
        );
    }
    if classes.len() < 2 {
        bail_input!("the head needs at least two classes, the rows have {classes:?}; use --eci none, or other rows");
    }
    Ok(Some(EciConfig {
        kind: kind.into(),
        hidden: model.hidden,
        positions: if kind == "paper" { c.positions } else { 0 },
        dims: c.dims.clone(),
        activation: activation.into(),
        slope: 0.01,
        labels: classes.to_vec(),
        weight: c.weight as f32,
        adapter_sha256: None,
    }))
}

/// The dropout of a step's first micro-batch, if there is any.
pub fn dropout(config: &RunConfig, step: usize) -> Option<Dropout> {
    let (p, seed) = (config.lora.dropout as f32, config.train.seed);
    (p > 0.0).then(|| Dropout { p, seed, step: (step * config.train.accumulate) as u32, tensor: 0 })
}

/// What a micro-batch holds at most.
pub fn room(config: &RunConfig) -> Room {
    Room { tokens: config.train.tokens, rows: config.train.rows }
}

/// The model with adapter and head, at step 0.
pub fn trainer(config: &RunConfig, device: &Device, source: Source, classes: &[String]) -> Result<Trainer> {
    let spec = lora(config);
    let head_config = head(config, source.config(), classes)?;
    let weights = LossWeights::joint(if head_config.is_some() { config.eci.weight } else { 0.0 });
    let (model, params, plan) = load(device, source, frozen(config), Some(&spec), config.train.seed, |builder| {
        builder.optimiser_states(match config.train.optimizer_states {
            OptimizerStates::Fp32 => OptimiserStates::Fp32,
            OptimizerStates::Eight => OptimiserStates::Eight,
        });
        let plan = head_config.as_ref().map(|c| EciHead::plan(builder, c)).transpose()?;
        if let Some(plan) = &plan {
            plan.factor(builder, room(config).rows * config.train.accumulate);
        }
        Ok(plan)
    })?;
    let head = plan.map(|p| EciHead::new(p, &params)).transpose()?;
    let max_norm = if config.train.clip > 0.0 { config.train.clip as f32 } else { f32::INFINITY };
    let adamw = AdamW { weight_decay: config.train.weight_decay, max_norm, ..AdamW::default() };
    Ok(Trainer::new(model, params, head, weights, adamw))
}
