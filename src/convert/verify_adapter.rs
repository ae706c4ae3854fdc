//! Proves what an adapter's folder holds, line by line, and says plainly what was not proven.
//!
//! PEFT loads an adapter whose keys do not fit with no more than a warning, and answers as the base does. So every key and shape is
//! asked for, no tensor may be left over, none may be zero throughout, and the adapter must move the logits. With a Python that
//! has PEFT its own loader then computes the logits of the same ids in fp32 (assets/peft_logits.py), which must be ours.

use super::logits::{self, Asked};
use crate::checkpoint::{ModelFolder, check_adapter, load_adapter, parse_lora_key, unread_tensors};
use crate::cli::convert::VerifyAdapter;
use crate::device::{Compute, Device};
use crate::subject::Adapter;
use crate::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How far PEFT's logits may lie from ours, beside the largest: fp32 in another order of summing.
const TOLERANCE: f64 = 1e-4;

const SCRIPT: &str = include_str!("../../assets/peft_logits.py");

/// Checks the adapter and says each line as it is known. What does not hold is [`Error::Unmet`].
pub fn verify_adapter(job: &VerifyAdapter, mut say: impl FnMut(String)) -> Result<()> {
    let folder = ModelFolder::open(&job.model)?;
    folder.check()?;
    let (config, tensors) = load_adapter(&job.adapter)?;
    let unread = unread_tensors(&job.adapter, &config)?;
    if let Some(first) = unread.first() {
        return unmet(format!(
            "{}: {} tensors are read by nobody, {first} first: their keys are not PEFT's, and PEFT would only warn",
            job.adapter.display(),
            unread.len()
        ));
    }
    check_adapter(folder.config(), &config, &tensors).or_else(|e| unmet(format!("{}: {e}", job.adapter.display())))?;
    let n_pairs = tensors.len() / 2;
    say(format!(
        "keys and shapes: {n_pairs} pairs of rank {}, all that the base has place for; no value that is not finite",
        config.r
    ));
    if let Some(zero) = tensors.iter().find(|t| t.values.iter().all(|&x| x == 0.0)) {
        let of = parse_lora_key(&zero.name)
            .map_or(String::new(), |(layer, linear, _)| format!(" (layer {layer}, {linear})"));
        return unmet(format!(
            "{}: tensor {} is zero throughout{of}: it adds nothing, as before training",
            job.adapter.display(),
            zero.name
        ));
    }
    say(format!("no matrix is zero; scale {}{}", config.scale(), if config.rslora { " (rsLoRA)" } else { "" }));

    let adapter = Adapter::open(&job.adapter)?;
    adapter.expect_base(&folder)?;
    let device = Device::cpu(Compute::Fp32)?;
    logits::expect_room(&device, folder.config())?;
    let prompts = logits::prompts(&folder)?;
    let base = logits::of(&device, &folder, None, None, &prompts)?;
    let ours = logits::of(&device, &folder, None, Some(&adapter), &prompts)?;
    let effect = logits::difference(&base, &ours, folder.config().vocab);
    if effect.max_abs.is_nan() || effect.max_relative < 1e-6 {
        return unmet(format!("{}: the adapter does not move the logits", job.adapter.display()));
    }
    say(format!("effect on the base: {effect}"));
    ours.iter().zip(&prompts).for_each(|(logits, asked)| say(stated(logits, asked, folder.config().vocab)));

    let python = job.python.clone().or_else(|| std::env::var_os("LLAMACARE_PYTHON").map(PathBuf::from));
    match python {
        None => say("not proven: that PEFT computes the same (no --python, and LLAMACARE_PYTHON is not set)".into()),
        Some(_) if folder.config().nf4.is_some() => {
            say("not proven: that PEFT computes the same, since the base is in 4 bits; give the dense base".into());
        }
        Some(python) => {
            let theirs = peft_logits(&python, job, &prompts, folder.config().vocab)?;
            let difference = logits::difference(&ours, &theirs, folder.config().vocab);
            // Written so that a NaN fails.
            let same = difference.max_relative <= TOLERANCE;
            if !same {
                return unmet(format!("PEFT computes other logits than we do: {difference}"));
            }
            say(format!("PEFT's logits are ours: {difference}"));
        }
    }
    Ok(())
}

fn unmet<T>(why: String) -> Result<T> {
    Err(Error::Unmet(why))
}

/// A prompt and what comes next.
fn stated(logits: &[f32], asked: &Asked, vocab: usize) -> String {
    let last = &logits[logits.len() - vocab..];
    let mut order: Vec<usize> = (0..vocab).collect();
    order.sort_by(|&i, &j| last[j].total_cmp(&last[i]));
    let next: Vec<String> = order.iter().take(3).map(|&id| format!("{id}: {:.4}", last[id])).collect();
    let what = asked
        .text
        .as_ref()
        .map_or(format!("ids {:?}..", &asked.ids[..asked.ids.len().min(6)]), |text| format!("{text:?}"));
    format!("logits behind {what} ({} tokens): {}", asked.ids.len(), next.join(", "))
}

fn peft_logits(python: &Path, job: &VerifyAdapter, prompts: &[Asked], vocab: usize) -> Result<Vec<Vec<f32>>> {
    let folder = std::env::temp_dir().join(format!("llamacare-verify-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let found = run_script(python, job, prompts, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    let bytes = found?;
    let lengths: Vec<usize> = prompts.iter().map(|asked| asked.ids.len() * vocab).collect();
    if bytes.len() != 4 * lengths.iter().sum::<usize>() {
        return unmet(format!(
            "PEFT gave {} bytes of logits; {} were expected",
            bytes.len(),
            4 * lengths.iter().sum::<usize>()
        ));
    }
    let mut values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(lengths.into_iter().map(|n| values.by_ref().take(n).collect()).collect())
}

fn run_script(python: &Path, job: &VerifyAdapter, prompts: &[Asked], folder: &Path) -> Result<Vec<u8>> {
    let out = folder.join("logits");
    let ids: Vec<&[u32]> = prompts.iter().map(|asked| asked.ids.as_slice()).collect();
    let ids = serde_json::to_vec(&ids).map_err(|e| Error::io(folder)(e.into()))?;
    let mut child = Command::new(python)
        .args(["-c", SCRIPT])
        .args([&job.model, &job.adapter, &out])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::Input(format!("--python {}: {e}", python.display())))?;
    let fed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(&ids));
    let output = child.wait_with_output().map_err(Error::io(python))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        return unmet(format!("{} could not compute PEFT's logits: {last}", python.display()));
    }
    fed.map_err(Error::io(python))?;
    std::fs::read(&out).map_err(Error::io(&out))
}
