//! The weights of a model in fp32, piece by piece, the adapter added where there is one: what merging and GGUF have in common.
//!
//! A piece is some whole rows, so host memory holds a few megabytes of a tensor and, on the CPU device, one tensor that was in 4 bits.
//! `W + s B A` is summed in fp32, as PEFT does; whoever takes the piece rounds it, once.

use crate::checkpoint::{
    Expected, HostDType, HostTensor, HostWeight, LoraMatrix, ModelFolder, NamedTensor, expected_tensors, lora_key,
    parse_lora_key,
};
use crate::cli::convert::MergeBase;
use crate::device::{Device, Tensor};
use crate::model::frozen::{fill_nf4, upload_exact};
use crate::ops::nf4::{Nf4Weight, nested_map_on};
use crate::subject::Adapter;
use crate::{Error, Result, bail_input};
use rayon::prelude::*;

/// Numbers of a piece: 4 MiB in fp32.
const PIECE: usize = 1 << 20;

/// The weights of a base, and of an adapter on it.
pub struct Weights<'a> {
    /// The base.
    pub folder: &'a ModelFolder,
    /// What is added to it.
    pub adapter: Option<&'a Adapter>,
    device: &'a Device,
    /// Dense linears go through NF4 first; with this map of the scales.
    through_nf4: bool,
    nested_map: Tensor,
    double: bool,
}

/// A tensor of the model.
pub struct Weight<'a> {
    /// Its name in Hugging Face's folder.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The type of its numbers; of one in NF4, that from which it was quantised.
    pub dtype: HostDType,
    host: HostWeight<'a>,
    /// Whether training stores it in NF4.
    is_linear: bool,
    lora: Option<Lora<'a>>,
}

/// What the adapter adds to a weight [out, in].
pub struct Lora<'a> {
    /// The layer.
    pub layer: usize,
    /// As in [`LINEARS`](crate::checkpoint::LINEARS).
    pub linear: &'static str,
    /// [r, in]
    pub a: &'a NamedTensor,
    /// [out, r]
    pub b: &'a NamedTensor,
    /// alpha / r, or alpha / sqrt(r).
    pub scale: f32,
}

/// Some rows of a weight.
pub struct Rows<'a> {
    /// Numbers in a row.
    pub width: usize,
    /// The base's.
    pub base: &'a [f32],
    /// What the adapter adds; empty where it adds nothing.
    pub delta: &'a [f32],
    /// Their sum.
    pub sum: &'a [f32],
}

impl<'a> Weights<'a> {
    /// Checks base and adapter against each other.
    pub fn new(
        device: &'a Device,
        folder: &'a ModelFolder,
        adapter: Option<&'a Adapter>,
        base: MergeBase,
    ) -> Result<Weights<'a>> {
        folder.config().supported()?;
        folder.check()?;
        if let Some(adapter) = adapter {
            adapter.expect_base(folder)?;
        }
        let run = adapter.and_then(|adapter| adapter.run.as_ref());
        let double = run.is_none_or(|run| run.model.double_quant);
        let through_nf4 = base == MergeBase::Dequantized && folder.config().nf4.is_none();
        Ok(Weights { folder, adapter, device, through_nf4, nested_map: nested_map_on(device)?, double })
    }

    /// Every tensor of the model, in the order in which it uses them.
    pub fn all(&self) -> Result<Vec<Weight<'a>>> {
        let all = expected_tensors(self.folder.config()).into_iter().map(|expected| match expected {
            Expected::Dense(name, shape) => {
                let host = self.folder.tensor(&name, &shape)?;
                let (dtype, host) = (host.dtype, HostWeight::Dense(host));
                Ok(Weight { name, shape, dtype, host, is_linear: false, lora: None })
            }
            Expected::Linear(name, shape) => {
                let host = self.folder.linear(&name, shape)?;
                let dtype = match &host {
                    HostWeight::Dense(host) => host.dtype,
                    HostWeight::Nf4(host) => host.dtype,
                };
                let lora = self.lora(&name);
                Ok(Weight { name, shape: shape.to_vec(), dtype, host, is_linear: true, lora })
            }
        });
        all.collect()
    }

    /// The base's linear layers in words.
    pub fn base_in_words(&self) -> &'static str {
        match (self.folder.config().nf4.is_some(), self.through_nf4) {
            (true, _) => "the 4-bit base, dequantised",
            (false, true) => "the dense base, quantised to NF4 and dequantised as in training",
            (false, false) => "the dense base as it is",
        }
    }

    /// How this base is stored for the model that the adapter is used on: quantised or not, and with 8-bit scales or not.
    pub fn through_nf4(&self) -> Option<bool> {
        self.through_nf4.then_some(self.double)
    }

    fn lora(&self, weight: &str) -> Option<Lora<'a>> {
        let adapter = self.adapter?;
        let of = |t: &&NamedTensor| {
            parse_lora_key(&t.name).is_some_and(|(layer, linear, matrix)| {
                matrix == LoraMatrix::A && weight == format!("model.layers.{layer}.{linear}.weight")
            })
        };
        let a = adapter.tensors.iter().find(of)?;
        let (layer, linear, _) = parse_lora_key(&a.name)?;
        let key = lora_key(layer, linear, LoraMatrix::B);
        let b = adapter.tensors.iter().find(|t| t.name == key)?;
        Some(Lora { layer, linear, a, b, scale: adapter.config.scale() })
    }

    /// Hands a weight to `f`, some rows after the other: multiples of a head's, so that a head is never cut.
    pub fn for_each_rows(&self, weight: &Weight, mut f: impl FnMut(Rows) -> Result<()>) -> Result<()> {
        let width = *weight.shape.last().expect("a shape");
        let n_rows = weight.shape.iter().product::<usize>() / width;
        let step = (PIECE / width).max(1).next_multiple_of(self.folder.config().head_dim);
        weight.host.check_finite()?;
        let decoded = self.decoded(weight)?;
        for begin in (0..n_rows).step_by(step) {
            let end = (begin + step).min(n_rows);
            let base = match (&decoded, &weight.host) {
                (Some(decoded), _) => decoded.rows(begin, end).read_f32()?,
                (None, HostWeight::Dense(host)) => rows_of(host, begin * width, end * width).to_f32(),
                (None, HostWeight::Nf4(_)) => unreachable!("decoded before"),
            };
            let Some(lora) = &weight.lora else {
                f(Rows { width, base: &base, delta: &[], sum: &base })?;
                continue;
            };
            let delta = lora.rows(begin, end);
            let sum: Vec<f32> = base.par_iter().zip(&delta).with_min_len(1 << 12).map(|(w, d)| w + d).collect();
            f(Rows { width, base: &base, delta: &delta, sum: &sum })?;
        }
        Ok(())
    }

    /// A weight that is or goes through NF4, decoded on the device to the type that training multiplies.
    fn decoded(&self, weight: &Weight) -> Result<Option<Tensor>> {
        let quantised = match &weight.host {
            HostWeight::Nf4(host) => {
                let double = self.folder.config().nf4_of(&weight.name).is_some_and(|stored| stored.double);
                let quantised = Nf4Weight::empty(self.device, host.shape, double.then_some(&self.nested_map))?;
                fill_nf4(&quantised, host)?;
                quantised
            }
            HostWeight::Dense(host) if self.through_nf4 && weight.is_linear => {
                let exact = upload_exact(self.device, "a weight before it is quantised", host)?;
                Nf4Weight::quantize(&exact, self.double.then_some(&self.nested_map))?
            }
            HostWeight::Dense(_) => return Ok(None),
        };
        quantised.dequantize("a decoded weight").map(Some)
    }
}

fn rows_of<'a>(host: &HostTensor<'a>, begin: usize, end: usize) -> HostTensor<'a> {
    let n = host.dtype.n_bytes();
    HostTensor {
        name: host.name.clone(),
        shape: vec![end - begin],
        dtype: host.dtype,
        bytes: &host.bytes[begin * n..end * n],
    }
}

impl<'a> Weight<'a> {
    /// What the adapter adds; none where it leaves the weight as it is.
    pub fn lora(&self) -> Option<&Lora<'a>> {
        self.lora.as_ref()
    }

    /// Bytes in the folder, roughly: for progress.
    pub fn n_bytes(&self) -> u64 {
        let n = self.shape.iter().product::<usize>();
        match &self.host {
            HostWeight::Dense(host) => host.bytes.len() as u64,
            HostWeight::Nf4(_) => n as u64 / 2,
        }
    }
}

impl Lora<'_> {
    /// Rows `begin` to `end` of `s B A`: the products summed first and then scaled, as PEFT does.
    fn rows(&self, begin: usize, end: usize) -> Vec<f32> {
        let (rank, width) = (self.a.shape[0], self.a.shape[1]);
        let mut delta = vec![0.0; (end - begin) * width];
        delta.par_chunks_mut(width).enumerate().for_each(|(row, out)| {
            let b = &self.b.values[(begin + row) * rank..][..rank];
            for (&b, a) in b.iter().zip(self.a.values.chunks_exact(width)) {
                out.iter_mut().zip(a).for_each(|(y, a)| *y += b * a);
            }
            out.iter_mut().for_each(|y| *y *= self.scale);
        });
        delta
    }
}

/// Refuses the first number that was finite and is no longer, once it was rounded to `dtype`.
pub fn expect_in_range(name: &str, rounded: impl Iterator<Item = f32>, sum: &[f32], dtype: &str) -> Result<()> {
    match rounded.zip(sum).find(|(rounded, _)| !rounded.is_finite()) {
        None => Ok(()),
        Some((_, sum)) if sum.is_finite() => bail_input!(
            "tensor {name} holds {sum}, which {dtype} cannot hold (its largest is 65504); choose bf16, whose range is that of f32"
        ),
        Some((_, sum)) => Err(Error::NotFinite(format!("tensor {name} would hold {sum} with the adapter added to it"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_is_the_scaled_product_of_its_rows() {
        let a = NamedTensor::new("a", &[2, 3], vec![1.0, 2.0, 3.0, 10.0, 20.0, 30.0]).unwrap();
        let b = NamedTensor::new("b", &[3, 2], vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.5]).unwrap();
        let lora = Lora { layer: 0, linear: "self_attn.q_proj", a: &a, b: &b, scale: 2.0 };
        assert_eq!(lora.rows(0, 1), [2.0, 4.0, 6.0]);
        assert_eq!(lora.rows(1, 3), [20.0, 40.0, 60.0, 8.0, 16.0, 24.0]);
    }

    #[test]
    fn a_number_beyond_the_type_is_named() {
        let refused = |sum: f32| expect_in_range("w", [f32::INFINITY].into_iter(), &[sum], "f16").unwrap_err();
        assert!(refused(7e4).to_string().contains("tensor w holds 70000, which f16 cannot hold"));
        assert!(matches!(refused(f32::NAN), Error::NotFinite(_)));
        expect_in_range("w", [1.0].into_iter(), &[1.0], "f16").unwrap();
    }
}
