//! A dense model folder to one in NF4, as bitsandbytes and transformers write and read it.
//!
//! One tensor at a time: from the mapped source to the device, quantised there, back, and to its place in a shard. What is
//! not a linear layer goes from file to file as it is. So host memory holds the results of one tensor, whatever the model's size.

use super::{Progress, file_dtype, refuse_out_within};
use crate::checkpoint::{
    Expected, HostNf4, HostScales, HostTensor, HostWeight, ModelFolder, Shards, TensorSpec, TensorWriter, Unit,
    check_room, expected_tensors, new_folder, write_quantised_extras,
};
use crate::cli::convert::Quantize;
use crate::device::{Device, Tensor};
use crate::model::frozen::upload_exact;
use crate::ops::nf4::{Nf4Weight, Scales, nested_map_on};
use crate::{Result, bail_input, bytes};
use std::path::Path;

/// Bytes moved at a time where a file is only copied.
const PIECE: usize = 16 << 20;

/// What was made.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Weights that are in NF4 now.
    pub n_linears: usize,
    /// Files of weights.
    pub n_shards: usize,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of all files that were written.
    pub n_bytes: u64,
    /// Device memory at its peak.
    pub device_bytes: usize,
}

impl Summary {
    /// For the user: what, where, how large, how long.
    pub fn sentence(&self, out: &Path, device: &str, seconds: f64) -> String {
        format!(
            "{}: {} linear layers in NF4, {} of {} in {} {}, in {seconds:.1} s on {device}; next: finetune --model {}",
            out.display(),
            self.n_linears,
            bytes::readable(self.n_bytes as usize),
            bytes::readable(self.source_bytes as usize),
            self.n_shards,
            if self.n_shards == 1 { "file" } else { "files" },
            out.display()
        )
    }
}

/// Quantises the model in `job.model` into the new folder `job.out`. The folder appears when all of it was written, flushed,
/// read back and found equal to what was meant; before, and after any fault, there is nothing of that name.
/// An error from `progress`, which is asked before every tensor, stops it.
pub fn quantize(device: &Device, job: &Quantize, progress: impl FnMut(Progress) -> Result<()>) -> Result<Summary> {
    let folder = ModelFolder::open(&job.model)?;
    if folder.config().nf4.is_some() {
        bail_input!(
            "{}: this model is already quantised; give the folder with F32, F16 or BF16 weights",
            job.model.display()
        );
    }
    folder.check()?;
    refuse_out_within(&job.model, &job.out)?;
    let tensors = sources(&folder)?;
    let shards = Shards::plan(tensors.iter().map(|t| t.unit(job.double_quant)).collect(), job.shard_bytes);
    check_room(&job.out, shards.n_bytes())?;
    new_folder(&job.out, |staging| Job { device, job, tensors: &tensors, shards: &shards }.write(staging, progress))
}

/// A tensor of the model and whether it is to be quantised.
struct Source<'a> {
    tensor: HostTensor<'a>,
    linear: Option<[usize; 2]>,
}

impl Source<'_> {
    fn unit(&self, double: bool) -> Unit {
        let t = &self.tensor;
        match self.linear {
            None => Unit { specs: vec![TensorSpec::new(&t.name, file_dtype(t.dtype), &t.shape)], texts: Vec::new() },
            Some(shape) => {
                let (specs, text) = HostNf4::specs(&t.name, shape, double);
                Unit { specs, texts: vec![text] }
            }
        }
    }
}

fn sources(folder: &ModelFolder) -> Result<Vec<Source<'_>>> {
    let source = |expected: Expected| match expected {
        Expected::Dense(name, shape) => Ok(Source { tensor: folder.tensor(&name, &shape)?, linear: None }),
        Expected::Linear(name, shape) => match folder.linear(&name, shape)? {
            HostWeight::Dense(tensor) => Ok(Source { tensor, linear: Some(shape) }),
            HostWeight::Nf4(_) => bail_input!("tensor {name} is already quantised"),
        },
    };
    expected_tensors(folder.config()).into_iter().map(source).collect()
}

struct Job<'a> {
    device: &'a Device,
    job: &'a Quantize,
    tensors: &'a [Source<'a>],
    shards: &'a Shards,
}

impl Job<'_> {
    fn write(&self, staging: &Path, mut progress: impl FnMut(Progress) -> Result<()>) -> Result<Summary> {
        let map = if self.job.double_quant { Some(nested_map_on(self.device)?) } else { None };
        let total_bytes = self.tensors.iter().map(|t| t.tensor.bytes.len() as u64).sum();
        let mut done = 0;
        let mut tensors = self.tensors.iter();
        let n_weights = self.shards.write(staging, |_, file| {
            let source = tensors.next().expect("a unit was planned for each tensor");
            progress(Progress { bytes: done, total_bytes, tensor: &source.tensor.name })?;
            done += source.tensor.bytes.len() as u64;
            source.tensor.check_finite()?;
            match source.linear {
                None => source.tensor.bytes.chunks(PIECE).try_for_each(|piece| file.append(&source.tensor.name, piece)),
                Some(shape) => write_quantised(self.device, &source.tensor, shape, map.as_ref(), file),
            }
        })?;
        // Without its config.json nothing takes the folder for a model: last.
        let n_bytes = n_weights + write_quantised_extras(&self.job.model, staging, self.job.double_quant)?;
        Ok(Summary {
            n_linears: self.tensors.iter().filter(|t| t.linear.is_some()).count(),
            n_shards: self.shards.n_files(),
            source_bytes: total_bytes,
            n_bytes,
            device_bytes: self.device.memory_use().peak_bytes,
        })
    }
}

fn write_quantised(
    device: &Device,
    source: &HostTensor,
    shape: [usize; 2],
    map: Option<&Tensor>,
    file: &mut TensorWriter,
) -> Result<()> {
    let dense = upload_exact(device, &source.name, source)?;
    let weight = Nf4Weight::quantize(&dense, map)?;
    drop(dense);
    let packed = weight.packed().read_bytes()?;
    let (scales, nested, offset) = match weight.scales() {
        Scales::Plain(absmax) => (absmax.read_bytes()?, Vec::new(), None),
        Scales::Double { codes, nested_absmax, offset, .. } => {
            (codes.read_bytes()?, nested_absmax.read_bytes()?, offset.read_f32()?.first().copied())
        }
    };
    let scales = match offset {
        None => HostScales::Plain(&scales),
        Some(offset) => HostScales::Double { codes: &scales, nested_absmax: &nested, offset },
    };
    HostNf4 { name: source.name.clone(), shape, dtype: source.dtype, packed: &packed, scales }.write(file)
}
