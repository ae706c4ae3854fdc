//! What a run leaves behind: the adapter, the head, the template, and the state to go on from.

use crate::checkpoint::{
    AdapterConfig, NamedTensor, RunState, load_run_state, save_adapter, save_head, save_run_state,
};
use crate::cli::RunConfig;
use crate::device::{DType, Tensor};
use crate::model::{HostMasters, adapter_tensors, head_tensors};
use crate::train::Trainer;
use crate::{Error, Result, bail_input};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The template's name in a run's folder.
pub const TEMPLATE_FILE: &str = "template.jinja";

/// The masters at the best validation, in a saved state.
const BEST: &str = "best_masters";

/// Saves adapter and head, each read back and compared. Returns the adapter's SHA-256.
pub fn save_result(config: &RunConfig, trainer: &Trainer, dir: &Path) -> Result<String> {
    let c = &config.lora;
    let adapter = AdapterConfig {
        r: c.rank,
        alpha: c.alpha as f32,
        dropout: c.dropout as f32,
        targets: c.targets.clone(),
        rslora: false,
        base: Some(config.model.path.display().to_string()),
    };
    let saved = save_adapter(dir, &adapter, &adapter_tensors(&trainer.params, c.rank)?)?;
    if let Some(head) = &trainer.head {
        let mut head_config = head.config.clone();
        head_config.adapter_sha256 = Some(saved.sha256.clone());
        save_head(dir, &head_config, &head_tensors(&trainer.params)?)?;
    }
    Ok(saved.sha256)
}

/// Saves everything the rest of the run depends on; `best`: the masters at the best validation so far, which early
/// stopping may go back to.
pub fn save_state(config: &RunConfig, trainer: &Trainer, best: Option<&HostMasters>, dir: &Path) -> Result<()> {
    let flat = |name: String, values: Vec<f32>| NamedTensor { name, shape: vec![values.len()], values };
    let state = trainer.params.state().into_iter().map(|(name, tensor)| Ok(flat(name, to_host(&tensor)?)));
    let mut tensors = state.collect::<Result<Vec<_>>>()?;
    tensors.extend(best.into_iter().flatten().enumerate().map(|(i, values)| flat(best_name(i), values.clone())));
    let run = RunState {
        step: trainer.step as u64,
        seed: config.train.seed,
        config_sha: fingerprint(config)?,
        tensors,
        ..RunState::default()
    };
    save_run_state(dir, &run).map(drop)
}

/// Puts a saved state into a trainer made from the same configuration. Gives back what [`save_state`] got as `best`.
pub fn restore_state(config: &RunConfig, trainer: &mut Trainer, dir: &Path) -> Result<Option<HostMasters>> {
    let run = load_run_state(dir)?;
    if run.config_sha != fingerprint(config)? {
        bail_input!("{}: this run was made with other settings; only its own can continue it", dir.display());
    }
    for (name, tensor) in trainer.params.state() {
        let n = tensor.n_elems();
        match run.tensors.iter().find(|t| t.name == name) {
            Some(t) if t.values.len() == n => from_host(&tensor, &t.values)?,
            Some(t) => bail_input!("{}: {name} has {} numbers, this model has {n}", dir.display(), t.values.len()),
            None => bail_input!("{}: the saved state has no {name}; another version of this program wrote it", dir.display()),
        }
    }
    trainer.params.refresh_copies()?;
    trainer.step = run.step as usize;
    let best = (0..).map_while(|i| run.tensors.iter().find(|t| t.name == best_name(i)));
    let best: HostMasters = best.map(|t| t.values.clone()).collect();
    Ok((!best.is_empty()).then_some(best))
}

fn best_name(i: usize) -> String {
    format!("{BEST}.{i}")
}

fn to_host(tensor: &Tensor) -> Result<Vec<f32>> {
    match tensor.dtype() {
        DType::U8 => Ok(tensor.read_bytes()?.into_iter().map(f32::from).collect()),
        _ => tensor.read_f32(),
    }
}

fn from_host(tensor: &Tensor, values: &[f32]) -> Result<()> {
    match tensor.dtype() {
        DType::U8 => tensor.write_bytes(&values.iter().map(|v| *v as u8).collect::<Vec<_>>()),
        _ => tensor.write_f32(values),
    }
}

/// Of the settings that decide the numbers: a run may go on on another device or with another number of threads.
fn fingerprint(config: &RunConfig) -> Result<String> {
    let parts = (&config.model, &config.data, &config.prompt, &config.lora, &config.eci, &config.train);
    let text = serde_json::to_string(&parts).map_err(|e| Error::Input(format!("settings: {e}")))?;
    Ok(Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect())
}
