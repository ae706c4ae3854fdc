//! What a run leaves behind: the adapter, the head, the template, and the state to go on from.

use crate::checkpoint::{
    AdapterConfig, NamedTensor, RunState, load_run_state, save_adapter, save_head, save_run_state,
};
use crate::cli::RunConfig;
use crate::model::{adapter_tensors, head_tensors};
use crate::train::Trainer;
use crate::{Error, Result, bail_input};
use sha2::{Digest, Sha256};
use std::path::Path;

/// The template's name in a run's folder.
pub const TEMPLATE_FILE: &str = "template.jinja";

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

/// Saves everything the next step depends on.
pub fn save_state(config: &RunConfig, trainer: &Trainer, dir: &Path) -> Result<()> {
    let state = &trainer.params.state;
    let flat = |name: &str, values: Vec<f32>| NamedTensor { name: name.into(), shape: vec![values.len()], values };
    let run = RunState {
        step: trainer.step as u64,
        seed: config.train.seed,
        config_sha: fingerprint(config)?,
        tensors: vec![
            flat("adam_m", state.m.read_f32()?),
            flat("adam_v", state.v.read_f32()?),
            flat("masters", state.master.read_f32()?),
        ],
        ..RunState::default()
    };
    save_run_state(dir, &run).map(drop)
}

/// Puts a saved state into a trainer made from the same configuration.
pub fn restore_state(config: &RunConfig, trainer: &mut Trainer, dir: &Path) -> Result<()> {
    let run = load_run_state(dir)?;
    if run.config_sha != fingerprint(config)? {
        bail_input!("{}: this run was made with other settings; only its own can continue it", dir.display());
    }
    let n = trainer.params.state.master.n_elems();
    let tensor = |name: &str| -> Result<&Vec<f32>> {
        match run.tensors.iter().find(|t| t.name == name) {
            Some(t) if t.values.len() == n => Ok(&t.values),
            Some(t) => bail_input!("{}: {name} has {} numbers, this model has {n}", dir.display(), t.values.len()),
            None => bail_input!("{}: the saved state has no {name}", dir.display()),
        }
    };
    trainer.params.state.m.write_f32(tensor("adam_m")?)?;
    trainer.params.state.v.write_f32(tensor("adam_v")?)?;
    trainer.params.write_masters(tensor("masters")?)?;
    trainer.step = run.step as usize;
    Ok(())
}

/// Of the settings that decide the numbers: a run may go on on another device or with another number of threads.
fn fingerprint(config: &RunConfig) -> Result<String> {
    let parts = (&config.model, &config.data, &config.prompt, &config.lora, &config.eci, &config.train);
    let text = serde_json::to_string(&parts).map_err(|e| Error::Input(format!("settings: {e}")))?;
    Ok(Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect())
}
