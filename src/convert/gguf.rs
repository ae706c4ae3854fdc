//! A model, or an adapter alone, as one GGUF file: what llama.cpp's own converters write for Llama, from a folder without Python.
//!
//! Matrices are stored as asked for, norms in F32. Queries and keys have their rows in llama.cpp's order. What is not written:
//! `general.basename`, `general.size_label` and their like, which its converters guess from the folder's name.

use super::fold::folded_alpha;
use super::gguf_names::{is_rotated, name, rotated};
use super::vocabulary::vocabulary;
use super::weights::{Lora, Weight, Weights, expect_in_range};
use super::{Progress, refuse_out_within};
use crate::checkpoint::{
    GgufLayout, GgufMetadata, GgufTensor, GgufType, GgufValue, LlamaConfig, ModelFolder, NamedTensor, Q8_BLOCK,
    check_room, new_file,
};
use crate::cli::convert::{Gguf, GgufKind};
use crate::device::Device;
use crate::subject::Adapter;
use crate::{Result, bytes};
use half::{bf16, f16};
use std::path::Path;

/// What was written.
#[derive(Debug, Clone)]
pub struct GgufSummary {
    /// Its tensors.
    pub n_tensors: usize,
    /// Its bytes.
    pub n_bytes: u64,
    /// What a user should know.
    pub notes: Vec<String>,
}

impl GgufSummary {
    /// For the terminal.
    pub fn text(&self, out: &Path, seconds: f64) -> String {
        let size = bytes::readable(self.n_bytes as usize);
        let head = format!("{}: {} tensors, {size}, in {seconds:.1} s", out.display(), self.n_tensors);
        [vec![head], self.notes.clone()].concat().join("\n")
    }
}

/// Writes the new file `job.out`. An error from `progress`, which is asked before every tensor, stops it.
pub fn gguf(device: &Device, job: &Gguf, progress: impl FnMut(Progress) -> Result<()>) -> Result<GgufSummary> {
    let folder = ModelFolder::open(&job.model)?;
    let adapter = job.adapter.as_deref().map(Adapter::open).transpose()?;
    refuse_out_within(&job.model, &job.out)?;
    if let Some(adapter) = &job.adapter {
        refuse_out_within(adapter, &job.out)?;
    }
    let weights = Weights::new(device, &folder, adapter.as_ref(), job.base)?;
    let named = job.out.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match adapter.as_ref().filter(|_| job.adapter_only) {
        Some(adapter) => adapter_file(job, &weights, adapter, named, progress),
        None => model_file(job, &weights, named, progress),
    }
}

fn model_file(
    job: &Gguf,
    weights: &Weights,
    named: String,
    mut progress: impl FnMut(Progress) -> Result<()>,
) -> Result<GgufSummary> {
    let kind = job.kind.unwrap_or(GgufKind::F16);
    let c = weights.folder.config();
    let vocabulary = vocabulary(weights.folder)?;
    let mut metadata = head("model", named);
    metadata.extend(sizes(c));
    metadata.push(("general.file_type".into(), file_type(kind)));
    metadata.push(("general.quantization_version".into(), GgufValue::U32(2)));
    metadata.extend(vocabulary.metadata);
    let all = weights.all()?;
    let tensors = all.iter().map(|weight| tensor(name(&weight.name), &weight.shape, kind)).collect();
    let layout = GgufLayout::new(&metadata, tensors);
    check_room(&job.out, layout.n_bytes())?;
    let total_bytes = all.iter().map(Weight::n_bytes).sum();
    let mut done = 0;
    new_file(&job.out, |path| {
        layout.write(path, |i, sink| {
            let (weight, dtype) = (&all[i], layout.tensors()[i].dtype);
            progress(Progress { bytes: done, total_bytes, tensor: &weight.name })?;
            done += weight.n_bytes();
            weights.for_each_rows(weight, |rows| {
                expect_fits(&weight.name, dtype, rows.sum)?;
                match is_rotated(&weight.name) {
                    true => sink.append(&dtype.encode(&rotated(rows.sum, rows.width, c))),
                    false => sink.append(&dtype.encode(rows.sum)),
                }
            })
        })
    })?;
    let mut notes = vocabulary.notes;
    notes.extend(fallback_note(kind, layout.tensors()));
    if let Some(adapter) = weights.adapter {
        notes.push(format!(
            "{} is summed into {}; its head and its prompt are not part of the file",
            adapter.dir.display(),
            weights.base_in_words()
        ));
    }
    Ok(GgufSummary { n_tensors: all.len(), n_bytes: layout.n_bytes(), notes })
}

/// The adapter alone: A [r, in] and B [out, r] of each pair, B's rows in llama.cpp's order where the weight's are.
fn adapter_file(
    job: &Gguf,
    weights: &Weights,
    adapter: &Adapter,
    named: String,
    mut progress: impl FnMut(Progress) -> Result<()>,
) -> Result<GgufSummary> {
    // An adapter is small and stored in F32: nothing is rounded unless it is asked for.
    let kind = job.kind.unwrap_or(GgufKind::F32);
    let c = &adapter.config;
    let alpha = folded_alpha(c.alpha, c.r, c.rslora);
    let mut metadata = head("adapter", named);
    metadata.push(("adapter.type".into(), GgufValue::Text("lora".into())));
    metadata.push(("adapter.lora.alpha".into(), GgufValue::F32(alpha)));
    metadata.push(("general.file_type".into(), file_type(kind)));
    metadata.push(("general.quantization_version".into(), GgufValue::U32(2)));
    let all = weights.all()?;
    let halves: Vec<(&Weight, &NamedTensor, &str)> = all
        .iter()
        .filter_map(|weight| weight.lora().map(|lora: &Lora| (weight, lora)))
        .flat_map(|(weight, lora)| [(weight, lora.a, "lora_a"), (weight, lora.b, "lora_b")])
        .collect();
    let tensors = halves
        .iter()
        .map(|(weight, half, end)| tensor(name(&weight.name).map(|name| format!("{name}.{end}")), &half.shape, kind));
    let layout = GgufLayout::new(&metadata, tensors.collect());
    check_room(&job.out, layout.n_bytes())?;
    let bytes_of = |half: &NamedTensor| 4 * half.values.len() as u64;
    let total_bytes = halves.iter().map(|(_, half, _)| bytes_of(half)).sum();
    let mut done = 0;
    new_file(&job.out, |path| {
        layout.write(path, |i, sink| {
            let ((weight, half, end), dtype) = (&halves[i], layout.tensors()[i].dtype);
            progress(Progress { bytes: done, total_bytes, tensor: &half.name })?;
            done += bytes_of(half);
            expect_fits(&half.name, dtype, &half.values)?;
            match *end == "lora_b" && is_rotated(&weight.name) {
                true => sink.append(&dtype.encode(&rotated(&half.values, half.shape[1], weights.folder.config()))),
                false => sink.append(&dtype.encode(&half.values)),
            }
        })
    })?;
    let mut notes: Vec<String> = fallback_note(kind, layout.tensors()).into_iter().collect();
    if c.rslora {
        notes.push(format!("rsLoRA is folded: llama.cpp scales by alpha / r, and alpha {} became {alpha}", c.alpha));
    }
    Ok(GgufSummary { n_tensors: halves.len(), n_bytes: layout.n_bytes(), notes })
}

fn text(key: &str, value: &str) -> (String, GgufValue) {
    (key.into(), GgufValue::Text(value.into()))
}

fn head(what: &str, named: String) -> GgufMetadata {
    vec![text("general.architecture", "llama"), text("general.type", what), text("general.name", &named)]
}

/// The sizes of a Llama under llama.cpp's names.
fn sizes(c: &LlamaConfig) -> GgufMetadata {
    let count = |key: &str, n: usize| (format!("llama.{key}"), GgufValue::U32(n as u32));
    let number = |key: &str, x: f32| (format!("llama.{key}"), GgufValue::F32(x));
    vec![
        count("block_count", c.n_layers),
        count("context_length", c.max_positions),
        count("embedding_length", c.hidden),
        count("feed_forward_length", c.intermediate),
        count("attention.head_count", c.n_heads),
        count("attention.head_count_kv", c.n_kv_heads),
        number("rope.freq_base", c.rope_theta),
        number("attention.layer_norm_rms_epsilon", c.rms_eps),
        count("attention.key_length", c.head_dim),
        count("attention.value_length", c.head_dim),
        count("vocab_size", c.vocab),
        count("rope.dimension_count", c.head_dim),
    ]
}

fn file_type(kind: GgufKind) -> GgufValue {
    GgufValue::U32(match kind {
        GgufKind::F32 => 0,
        GgufKind::F16 => 1,
        GgufKind::Q8 => 7,
        GgufKind::Bf16 => 32,
    })
}

/// A tensor of the file: norms in F32, and rows that 8-bit blocks do not fit in F16, as llama.cpp's converter does.
fn tensor(name: Option<String>, shape: &[usize], kind: GgufKind) -> GgufTensor {
    let dtype = match kind {
        _ if shape.len() == 1 => GgufType::F32,
        GgufKind::F32 => GgufType::F32,
        GgufKind::F16 => GgufType::F16,
        GgufKind::Bf16 => GgufType::Bf16,
        GgufKind::Q8 if !shape[1].is_multiple_of(Q8_BLOCK) => GgufType::F16,
        GgufKind::Q8 => GgufType::Q8,
    };
    GgufTensor { name: name.expect("every tensor of a Llama has a name in llama.cpp"), shape: shape.to_vec(), dtype }
}

fn fallback_note(kind: GgufKind, tensors: &[GgufTensor]) -> Option<String> {
    let n = tensors.iter().filter(|t| kind == GgufKind::Q8 && t.dtype == GgufType::F16).count();
    (n > 0)
        .then(|| format!("{n} tensors are in F16: their rows are no multiple of {Q8_BLOCK}, the size of a Q8_0 block"))
}

/// That nothing becomes infinite. A scale of Q8_0 is an F16 too, of the largest number / 127.
fn expect_fits(name: &str, dtype: GgufType, values: &[f32]) -> Result<()> {
    match dtype {
        GgufType::F32 => expect_in_range(name, values.iter().copied(), values, "f32"),
        GgufType::F16 => expect_in_range(name, values.iter().map(|&x| f16::from_f32(x).to_f32()), values, "f16"),
        GgufType::Bf16 => expect_in_range(name, values.iter().map(|&x| bf16::from_f32(x).to_f32()), values, "bf16"),
        GgufType::Q8 => {
            expect_in_range(name, values.iter().map(|&x| f16::from_f32(x / 127.0).to_f32()), values, "a scale of Q8_0")
        }
    }
}
