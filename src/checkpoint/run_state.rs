//! The state of a run, from which it continues as if it had not stopped: counters, and the fp32 masters with both
//! moments of AdamW.
//!
//! It is one file. Counters of one step beside tensors of another would resume without complaint and be wrong, and two
//! files cannot be replaced in one instant; so the counters travel as a note in the header of run_state.safetensors.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::host_tensor::NamedTensor;
use super::safe_write::{Saved, save_files};
use super::tensor_file::{TensorFile, differs, sha256_hex};
use super::tensor_writer::{TensorSpec, TensorWriter};
use crate::{Error, Result, bail_input};

/// Where a run stands. Random numbers need no state: Philox takes its counters from seed and step.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Optimiser steps done.
    pub step: u64,
    /// Passes over the data done.
    pub epoch: u64,
    /// Micro-batches of this epoch done.
    pub micro: u64,
    /// The seed of the run.
    pub seed: u64,
    /// Hash of the configuration: another one cannot continue this run.
    pub config_sha: String,
    /// Lowest validation loss so far.
    pub best_loss: Option<f32>,
    /// The step that reached it.
    pub best_step: u64,
    /// Evaluations since then without a better one, for early stopping.
    pub n_worse: u64,
    /// Masters and moments.
    #[serde(skip)]
    pub tensors: Vec<NamedTensor>,
}

const FILE: &str = "run_state.safetensors";
const NOTE: &str = "run_state";

/// Writes the state to `dir` (made if needed), reads it back and compares; only then does it take the place of an older
/// one.
pub fn save_run_state(dir: &Path, state: &RunState) -> Result<Saved> {
    state.tensors.iter().try_for_each(NamedTensor::check)?;
    let specs: Vec<TensorSpec> = state.tensors.iter().map(|t| TensorSpec::new(&t.name, Dtype::F32, &t.shape)).collect();
    save_run_state_from(dir, state, &specs, |file| {
        state.tensors.iter().try_for_each(|t| file.append(&t.name, bytemuck::cast_slice(&t.values)))
    })
}

/// As [`save_run_state`], with tensors that `fill` appends one after the other, so that they never are in host memory at once;
/// `state.tensors` is not looked at. That the values are finite is the caller's to see to.
pub fn save_run_state_from(
    dir: &Path,
    state: &RunState,
    specs: &[TensorSpec],
    fill: impl FnOnce(&mut TensorWriter) -> Result<()>,
) -> Result<Saved> {
    if let Some(loss) = state.best_loss.filter(|loss| !loss.is_finite()) {
        return Err(Error::NotFinite(format!("the best validation loss is {loss}; the state of the run is not saved")));
    }
    let counters = serde_json::to_string(state).map_err(|e| Error::io(dir)(e.into()))?;
    save_files(dir, &[FILE], |staging| {
        let path = staging.join(FILE);
        let mut file = TensorWriter::create(&path, specs, &[], (NOTE, &counters))?;
        fill(&mut file)?;
        file.finish()?;
        let sha256 = sha256_hex(&path)?;
        // The tensors have just been compared; what is left is that the counters survive their way through JSON.
        let back = serde_json::to_string(&read_counters(&path, &TensorFile::open(&path)?)?);
        match back.is_ok_and(|back| back == counters) {
            true => Ok(Saved { sha256 }),
            false => Err(differs(&path, "the counters of the run")),
        }
    })
}

/// Reads what [`save_run_state`] wrote; tensors in the order of their names.
pub fn load_run_state(dir: &Path) -> Result<RunState> {
    let path = dir.join(FILE);
    if !path.is_file() {
        bail_input!("{}: there is no {FILE}; no run can be continued from here", dir.display());
    }
    let file = TensorFile::open(&path)?;
    let mut state = read_counters(&path, &file)?;
    let names = file.names();
    state.tensors = names.iter().map(|name| file.owned(name)).collect::<Result<_>>()?;
    Ok(state)
}

fn read_counters(path: &Path, file: &TensorFile) -> Result<RunState> {
    let Some(note) = file.note(NOTE) else {
        bail_input!("{}: the header holds no state of a run; the file is from elsewhere", path.display());
    };
    serde_json::from_str(note).map_err(|e| Error::Input(format!("{}: not the state of a run: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::fixtures::{named, sentence, write_raw};

    fn state() -> RunState {
        let tensors = ["lora.m", "lora.master", "lora.v"].map(|name| named(name, &[1000], 9)).to_vec();
        RunState {
            step: 12,
            epoch: 1,
            micro: 96,
            seed: u64::MAX - 1,
            config_sha: "c0ffee".into(),
            best_loss: Some(1.234_567_9),
            best_step: 10,
            n_worse: 1,
            tensors,
        }
    }

    #[test]
    fn the_state_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        save_run_state(dir.path(), &state()).unwrap();
        assert_eq!(load_run_state(dir.path()).unwrap(), state());
        let later = RunState { step: 13, best_loss: None, ..state() };
        save_run_state(dir.path(), &later).unwrap();
        assert_eq!(load_run_state(dir.path()).unwrap(), later);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_f32_survives_json() {
        let mut bits = 1u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(bits);
            if x.is_finite() {
                let back: f32 = serde_json::from_str(&serde_json::to_string(&x).unwrap()).unwrap();
                assert_eq!(back.to_bits(), bits);
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_not_saved() {
        let dir = tempfile::tempdir().unwrap();
        save_run_state(dir.path(), &state()).unwrap();
        let mut broken = state();
        broken.tensors[2].values[7] = f32::INFINITY;
        let error = save_run_state(dir.path(), &broken).unwrap_err();
        assert!(matches!(&error, Error::NotFinite(text) if text.contains("lora.v holds inf at [7]")), "{error}");
        let nan = RunState { best_loss: Some(f32::NAN), ..state() };
        assert!(matches!(save_run_state(dir.path(), &nan), Err(Error::NotFinite(_))));
        assert_eq!(load_run_state(dir.path()).unwrap(), state());
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sentence(load_run_state(dir.path())).contains("no run can be continued from here"));
        write_raw(&dir.path().join(FILE), &Default::default());
        assert!(sentence(load_run_state(dir.path())).contains("holds no state of a run"));
    }
}
