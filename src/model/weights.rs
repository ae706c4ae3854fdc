//! The frozen tensors of a model, from the files of a folder, or from nothing but sizes for a device on paper.
//!
//! Both roads make the same buffers in the same order: what a plan counts is what loading does.

use crate::Result;
use crate::checkpoint::{HostNf4, HostScales, HostTensor, HostWeight, LlamaConfig, ModelFolder};
use crate::device::{Device, Tensor};
use crate::model::Quantise;
use crate::model::frozen::{exact_dtype, upload_exact, upload_nf4, write_dense};
use crate::ops::nf4::{Nf4Weight, nested_map_on};

/// Where the frozen weights come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A folder of files.
    Folder(&'a ModelFolder),
    /// Sizes alone: the tensors are made and never filled. For a device on paper.
    Sizes(&'a LlamaConfig),
}

impl<'a> Source<'a> {
    /// The sizes of the model.
    pub fn config(self) -> &'a LlamaConfig {
        match self {
            Source::Folder(folder) => folder.config(),
            Source::Sizes(config) => config,
        }
    }

    /// That every tensor is there with the right shape and type.
    pub fn check(self) -> Result<()> {
        match self {
            Source::Folder(folder) => folder.check(),
            Source::Sizes(_) => Ok(()),
        }
    }

    /// A tensor's values, checked; none on paper, where nobody reads them.
    fn tensor(self, device: &Device, name: &str, shape: &[usize]) -> Result<Option<HostTensor<'a>>> {
        match self {
            Source::Folder(folder) if !device.is_paper() => {
                let host = folder.tensor(name, shape)?;
                host.check_finite()?;
                Ok(Some(host))
            }
            _ => Ok(None),
        }
    }

    /// A linear's weight: as the folder holds it, or as the configuration says that one would.
    fn weight(self, name: &str, shape: [usize; 2]) -> Result<Stored<'a>> {
        match (self, self.config().stored) {
            (Source::Folder(folder), _) => Ok(match folder.linear(name, shape)? {
                HostWeight::Dense(tensor) => Stored::Dense(Some(tensor)),
                HostWeight::Nf4(weight) => Stored::Nf4(Some(weight)),
            }),
            (Source::Sizes(_), None) => Ok(Stored::Dense(None)),
            (Source::Sizes(_), Some(_)) => Ok(Stored::Nf4(None)),
        }
    }
}

/// A linear's weight on the host; the values are absent where only sizes are known.
enum Stored<'a> {
    Dense(Option<HostTensor<'a>>),
    Nf4(Option<HostNf4<'a>>),
}

/// A linear's weight on the device.
pub(super) enum FrozenWeight {
    Dense(Tensor),
    Nf4(Nf4Weight),
}

/// Puts the tensors of a source on a device.
pub(super) struct Weights<'a> {
    pub device: &'a Device,
    pub source: Source<'a>,
    pub quantise: Quantise,
    nested_map: Tensor,
}

impl<'a> Weights<'a> {
    pub fn new(device: &'a Device, source: Source<'a>, quantise: Quantise) -> Result<Weights<'a>> {
        Ok(Weights { device, source, quantise, nested_map: nested_map_on(device)? })
    }

    /// A norm's weight [C].
    pub fn norm(&self, name: &str) -> Result<Tensor> {
        let shape = [self.source.config().hidden];
        let host = self.source.tensor(self.device, name, &shape)?;
        let t = self.device.empty("norm weights", self.device.act(), &shape)?;
        host.map_or(Ok(()), |host| write_dense(&t, &host))?;
        Ok(t)
    }

    /// [Vp,C]: the rows of the vocabulary, then zeros up to a multiple of 8.
    pub fn vocabulary(&self, buffer: &str, name: &str) -> Result<Tensor> {
        let c = self.source.config();
        let host = self.source.tensor(self.device, name, &[c.vocab, c.hidden])?;
        let table = self.device.zeros(buffer, self.device.act(), &[c.vocab.div_ceil(8) * 8, c.hidden])?;
        host.map_or(Ok(()), |host| write_dense(&table.rows(0, c.vocab), &host))?;
        Ok(table)
    }

    /// A linear's weight [out, in]: in NF4 as it lies in the file, or stored as asked for. A dense layer of a folder in NF4
    /// (one that its maker left out) stays dense.
    pub fn linear(&self, name: &str, shape: [usize; 2]) -> Result<FrozenWeight> {
        let quantise = if self.source.config().stored.is_some() { Quantise::None } else { self.quantise };
        match (self.source.weight(name, shape)?, quantise) {
            (Stored::Nf4(host), _) => self.stored(shape, host).map(FrozenWeight::Nf4),
            (Stored::Dense(host), Quantise::None) => {
                let t = self.device.empty("frozen weights", self.device.act(), &shape)?;
                if let Some(host) = host.filter(|_| !self.device.is_paper()) {
                    host.check_finite()?;
                    write_dense(&t, &host)?;
                }
                Ok(FrozenWeight::Dense(t))
            }
            (Stored::Dense(host), _) => {
                let map = (quantise == Quantise::Nf4Double).then_some(&self.nested_map);
                Ok(FrozenWeight::Nf4(Nf4Weight::quantize(&self.exact(shape, host)?, map)?))
            }
        }
    }

    /// The values to be quantised, for a moment.
    fn exact(&self, shape: [usize; 2], host: Option<HostTensor>) -> Result<Tensor> {
        let name = "a weight before it is quantised";
        match host {
            Some(host) if !self.device.is_paper() => {
                host.check_finite()?;
                upload_exact(self.device, name, &host)
            }
            Some(host) => self.device.empty(name, exact_dtype(self.device, &host), &shape),
            None => self.device.empty(name, self.device.act(), &shape),
        }
    }

    fn stored(&self, shape: [usize; 2], host: Option<HostNf4>) -> Result<Nf4Weight> {
        match host {
            Some(host) if !self.device.is_paper() => {
                host.check_finite()?;
                upload_nf4(self.device, &host, &self.nested_map)
            }
            Some(host) => {
                let double = matches!(host.scales, HostScales::Double { .. });
                Nf4Weight::empty(self.device, shape, double.then_some(&self.nested_map))
            }
            None => {
                let double = self.source.config().stored.is_some_and(|s| s.double);
                Nf4Weight::empty(self.device, shape, double.then_some(&self.nested_map))
            }
        }
    }
}
