//! The state of a run, from which it continues as if it had not stopped: counters, and tensors (masters and moments).
//!
//! Tensors are streamed: written one by one, and read from the mapped file, so that no second copy of them lies in memory.
//!
//! It is one file. Counters of one step beside tensors of another would resume without complaint and be wrong, and two
//! files cannot be replaced in one instant; so the counters travel as a note in the header of run_state.safetensors.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::safe_write::save_files;
use super::tensor_file::{TensorFile, differs};
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
    /// Energy of the run so far; none where a part of it was not measured. A whole number, which JSON gives back as it was.
    #[serde(default)]
    pub millijoules: Option<u64>,
}

/// The tensors of a saved state, mapped.
pub struct StateTensors(TensorFile);

impl StateTensors {
    /// Type, shape and bytes of the tensor called `name`.
    pub fn get(&self, name: &str) -> Option<(Dtype, &[usize], &[u8])> {
        self.0.raw(name).map(|t| (t.dtype, t.shape, t.bytes))
    }
}

const FILE: &str = "run_state.safetensors";
const NOTE: &str = "run_state";

/// Writes the state to `dir` (made if needed), with `specs` said first and then appended by `tensors`; reads it back and
/// compares, and only then does it take the place of an older one.
pub fn save_run_state(
    dir: &Path,
    state: &RunState,
    specs: &[TensorSpec],
    tensors: impl FnOnce(&mut TensorWriter) -> Result<()>,
) -> Result<()> {
    if let Some(loss) = state.best_loss.filter(|loss| !loss.is_finite()) {
        return Err(Error::NotFinite(format!("the best validation loss is {loss}; the state of the run is not saved")));
    }
    let counters = serde_json::to_string(state).map_err(|e| Error::io(dir)(e.into()))?;
    save_files(dir, &[FILE], |staging| {
        let path = staging.join(FILE);
        let mut writer = TensorWriter::create(&path, specs, &[], (NOTE, &counters))?;
        tensors(&mut writer)?;
        writer.finish()?;
        // The tensors have just been compared; what is left is that the counters survive their way through JSON.
        let back = serde_json::to_string(&read_counters(&path, &TensorFile::open(&path)?)?);
        match back.is_ok_and(|back| back == counters) {
            true => Ok(()),
            false => Err(differs(&path, "the counters of the run")),
        }
    })
}

/// Reads what [`save_run_state`] wrote.
pub fn load_run_state(dir: &Path) -> Result<(RunState, StateTensors)> {
    let path = dir.join(FILE);
    if !path.is_file() {
        bail_input!("{}: there is no {FILE}; no run can be continued from here", dir.display());
    }
    let file = TensorFile::open(&path)?;
    Ok((read_counters(&path, &file)?, StateTensors(file)))
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
    use crate::checkpoint::fixtures::{sentence, write_raw};

    fn state() -> RunState {
        RunState {
            step: 12,
            epoch: 1,
            micro: 96,
            seed: u64::MAX - 1,
            config_sha: "c0ffee".into(),
            best_loss: Some(1.234_567_9),
            best_step: 10,
            n_worse: 1,
            millijoules: Some(123_456_789),
        }
    }

    fn save(dir: &Path, state: &RunState) -> Result<()> {
        let specs = [TensorSpec::new("codes", Dtype::U8, &[3]), TensorSpec::new("masters", Dtype::F32, &[2])];
        save_run_state(dir, state, &specs, |file| {
            file.append("codes", &[7, 8])?;
            file.append("masters", &[1; 8])?;
            file.append("codes", &[state.step as u8])
        })
    }

    #[test]
    fn the_state_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state()).unwrap();
        assert_eq!(load_run_state(dir.path()).unwrap().0, state());
        let later = RunState { step: 13, best_loss: None, ..state() };
        save(dir.path(), &later).unwrap();
        let (found, tensors) = load_run_state(dir.path()).unwrap();
        assert_eq!(found, later);
        assert_eq!(tensors.get("codes"), Some((Dtype::U8, &[3][..], &[7, 8, 13][..])));
        assert_eq!(tensors.get("masters"), Some((Dtype::F32, &[2][..], &[1; 8][..])));
        assert!(tensors.get("moments").is_none());
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
    fn a_save_that_fails_leaves_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state()).unwrap();
        let specs = [TensorSpec::new("masters", Dtype::F32, &[2])];
        let broken = || save_run_state(dir.path(), &state(), &specs, |_| Err(Error::NotFinite("m holds inf".into())));
        assert!(matches!(broken(), Err(Error::NotFinite(text)) if text.contains("m holds inf")));
        assert!(save_run_state(dir.path(), &state(), &specs, |_| Ok(())).is_err(), "a tensor that was never written");
        let nan = RunState { best_loss: Some(f32::NAN), ..state() };
        assert!(matches!(save(dir.path(), &nan), Err(Error::NotFinite(_))));
        assert_eq!(load_run_state(dir.path()).unwrap().0, state());
        assert_eq!(load_run_state(dir.path()).unwrap().1.get("codes").unwrap().2, [7, 8, 12]);
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            sentence(load_run_state(dir.path()).map(|(state, _)| state)).contains("no run can be continued from here")
        );
        write_raw(&dir.path().join(FILE), &Default::default());
        assert!(sentence(load_run_state(dir.path()).map(|(state, _)| state)).contains("holds no state of a run"));
    }
}
