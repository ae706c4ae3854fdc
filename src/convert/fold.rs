//! An adapter without rsLoRA that computes the same.
//!
//! rsLoRA scales by `alpha / sqrt(r)`. Many programs read `lora_alpha` and `r`, not `use_rslora`, and serve such an adapter too weak.
//! With `alpha' = alpha sqrt(r)` the plain `alpha' / r` is the same number, right everywhere. The matrices are not touched.

use super::refuse_out_within;
use crate::checkpoint::{
    Heads, PROVENANCE_FILE, has_heads, load_adapter, load_heads, new_folder, save_adapter, save_heads,
};
use crate::cli::convert::Fold;
use crate::cli::finetune::CONFIG_FILE;
use crate::data::prompt::{PROMPT_FILE, TEMPLATE_FILE};
use crate::{Error, Result};
use std::path::Path;

/// What belongs to an adapter beside its tensors and heads: its prompt, what it was made from, the run's settings.
const BESIDE: [&str; 4] = [PROMPT_FILE, TEMPLATE_FILE, PROVENANCE_FILE, CONFIG_FILE];

/// Writes the folded adapter into the new folder `job.out`, its heads with it; says what was done.
pub fn fold(job: &Fold) -> Result<String> {
    let (mut config, tensors) = load_adapter(&job.adapter)?;
    refuse_out_within(&job.adapter, &job.out)?;
    let (before, alpha) = (config.rslora, config.alpha);
    config.alpha = folded_alpha(config.alpha, config.r, config.rslora);
    config.rslora = false;
    new_folder(&job.out, |staging| {
        let saved = save_adapter(staging, &config, &tensors)?;
        if has_heads(&job.adapter) {
            let heads = load_heads(&job.adapter)?;
            // A head names the file it was trained with; the same matrices lie in a file of ours now.
            let adapter_sha256 = heads.adapter_sha256.map(|_| saved.sha256);
            save_heads(staging, &Heads { adapter_sha256, heads: heads.heads })?;
        }
        BESIDE.iter().try_for_each(|name| copy(&job.adapter.join(name), &staging.join(name)))
    })?;
    Ok(match before {
        true => format!(
            "{}: lora_alpha {alpha} with rsLoRA is lora_alpha {} without: scale {} as before",
            job.out.display(),
            config.alpha,
            config.scale()
        ),
        false => format!(
            "{}: this adapter does not use rsLoRA; it was copied as it is, scale {}",
            job.out.display(),
            config.scale()
        ),
    })
}

/// The alpha that `alpha / r` needs for the same scale.
pub(super) fn folded_alpha(alpha: f32, r: usize, rslora: bool) -> f32 {
    if rslora { (f64::from(alpha) * (r as f64).sqrt()) as f32 } else { alpha }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_file() { std::fs::copy(from, to).map(drop).map_err(Error::io(to)) } else { Ok(()) }
}
