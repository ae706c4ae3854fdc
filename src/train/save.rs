//! What a run leaves behind: the adapter, the head, the template, and the state to go on from.

use crate::checkpoint::{
    AdapterConfig, Heads, HostDType, HostTensor, RunState, TensorSpec, load_run_state, save_adapter, save_heads,
    save_run_state,
};
use crate::cli::RunConfig;
use crate::device::{DType, Tensor};
use crate::model::{EciHead, HostMasters, adapter_tensors, head_tensors};
use crate::train::Trainer;
use crate::{Error, Result, bail_input};
use safetensors::tensor::Dtype;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The masters at the best validation, in a saved state.
const BEST: &str = "best_masters";

/// Saves adapter and heads, each read back and compared. Returns the adapter's SHA-256.
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
    if !trainer.heads.is_empty() {
        let head = |head: &EciHead| Ok((head.config.clone(), head_tensors(&trainer.params, &head.config.name)?));
        let heads = trainer.heads.iter().map(head).collect::<Result<_>>()?;
        save_heads(dir, &Heads { adapter_sha256: Some(saved.sha256.clone()), heads })?;
    }
    Ok(saved.sha256)
}

/// Saves everything the rest of the run depends on, a tensor at a time; `best`: the masters at the best validation so far,
/// which early stopping may go back to; `millijoules`: the energy of the run so far, where it was measured.
pub fn save_state(
    config: &RunConfig,
    trainer: &Trainer,
    best: Option<&HostMasters>,
    millijoules: Option<u64>,
    dir: &Path,
) -> Result<()> {
    let run = RunState {
        step: trainer.step as u64,
        seed: config.train.seed,
        config_sha: fingerprint(config)?,
        millijoules,
        ..RunState::default()
    };
    let state = trainer.params.state();
    let spec = |(name, tensor): &(String, Tensor)| TensorSpec::new(name, dtype(tensor), tensor.shape());
    let mut specs: Vec<TensorSpec> = state.iter().map(spec).collect();
    let best = best.into_iter().flatten().enumerate();
    specs.extend(best.clone().map(|(i, values)| TensorSpec::new(best_name(i), Dtype::F32, &[values.len()])));
    save_run_state(dir, &run, &specs, |file| {
        for (name, tensor) in &state {
            let bytes = tensor.read_bytes()?;
            if tensor.dtype() == DType::F32 {
                finite(name, &bytes)?;
            }
            file.append(name, &bytes)?;
        }
        best.into_iter().try_for_each(|(i, values)| file.append(&best_name(i), bytemuck::cast_slice(values)))
    })
}

/// Puts a saved state into a trainer made from the same configuration. Gives back what [`save_state`] got as `best` and as
/// `millijoules`.
pub fn restore_state(
    config: &RunConfig,
    trainer: &mut Trainer,
    dir: &Path,
) -> Result<(Option<HostMasters>, Option<u64>)> {
    let (run, saved) = load_run_state(dir)?;
    if run.config_sha != fingerprint(config)? {
        bail_input!("{}: this run was made with other settings; only its own can continue it", dir.display());
    }
    for (name, tensor) in trainer.params.state() {
        let Some((found, shape, bytes)) = saved.get(&name) else {
            bail_input!(
                "{}: the saved state has no {name}; another version of this program wrote it, or the optimiser's states were \
                 stored otherwise; continue it as it was begun, or start anew",
                dir.display()
            );
        };
        if (found, shape) != (dtype(&tensor), tensor.shape()) {
            let wanted = tensor.shape();
            bail_input!("{}: {name} is {found} {shape:?}, this model needs {wanted:?}", dir.display());
        }
        if found == Dtype::F32 {
            finite(&name, bytes).map_err(|e| Error::Input(format!("{}: {e}", dir.display())))?;
        }
        tensor.write_bytes(bytes)?;
    }
    trainer.params.refresh_copies()?;
    trainer.step = run.step as usize;
    let best = (0..).map_while(|i| saved.get(&best_name(i)));
    let best: HostMasters = best.map(|(.., bytes)| bytemuck::allocation::pod_collect_to_vec(bytes)).collect();
    Ok(((!best.is_empty()).then_some(best), run.millijoules))
}

fn best_name(group: usize) -> String {
    format!("{BEST}.{group}")
}

fn dtype(tensor: &Tensor) -> Dtype {
    match tensor.dtype() {
        DType::U8 => Dtype::U8,
        DType::F32 => Dtype::F32,
        other => unreachable!("masters and moments are F32 or U8, not {other:?}"),
    }
}

/// Little-endian fp32 without NaN and infinity: nothing else is saved or restored.
fn finite(name: &str, bytes: &[u8]) -> Result<()> {
    let tensor = HostTensor { name: name.into(), shape: vec![bytes.len() / 4], dtype: HostDType::F32, bytes };
    match tensor.first_non_finite() {
        None => Ok(()),
        Some(i) => {
            let value = f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().expect("four bytes"));
            Err(Error::NotFinite(format!("{name} holds {value} at {i}")))
        }
    }
}

/// Of the settings that decide the numbers: a run may go on on another device or with another number of threads.
fn fingerprint(config: &RunConfig) -> Result<String> {
    let parts = (&config.model, &config.data, &config.prompt, &config.lora, &config.eci, &config.train);
    let text = serde_json::to_string(&parts).map_err(|e| Error::Input(format!("settings: {e}")))?;
    Ok(Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect())
}
