//! The frozen tensors of a model, from the files of a folder, or from nothing but sizes for a device on paper.
//!
//! Both roads make the same buffers in the same order: what a plan counts is what loading does.

use crate::checkpoint::{HostTensor, HostWeight, LlamaConfig, ModelFolder};
use crate::device::{Device, Tensor};
use crate::model::Quantise;
use crate::model::frozen::{exact_dtype, fill_nf4, write_dense};
use crate::ops::nf4::{Nf4Weight, nested_map_on};
use crate::{Result, bail_input};

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

    /// A tensor of the files; none where only sizes are known.
    fn host(self, name: &str, shape: &[usize]) -> Result<Option<HostTensor<'a>>> {
        match self {
            Source::Folder(folder) => folder.tensor(name, shape).map(Some),
            Source::Sizes(_) => Ok(None),
        }
    }
}

/// A linear's weight on the device.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
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
        if source.config().nf4.is_some() && quantise == Quantise::None {
            bail_input!(
                "--quant none: the model's weights are stored in NF4; leave it out, or give the folder with the dense weights"
            );
        }
        Ok(Weights { device, source, quantise, nested_map: nested_map_on(device)? })
    }

    /// A norm's weight [C].
    pub fn norm(&self, name: &str) -> Result<Tensor> {
        self.dense("norm weights", name, &[self.source.config().hidden])
    }

    /// [Vp,C]: the rows of the vocabulary, then zeros up to a multiple of 8.
    pub fn vocabulary(&self, buffer: &str, name: &str) -> Result<Tensor> {
        let c = self.source.config();
        let host = self.source.host(name, &[c.vocab, c.hidden])?;
        let table = self.device.zeros(buffer, self.device.act(), &[c.vocab.div_ceil(8) * 8, c.hidden])?;
        self.fill(&table.rows(0, c.vocab), host.as_ref())?;
        Ok(table)
    }

    /// A linear's weight [out, in]: as a folder in NF4 holds it, otherwise stored as asked for.
    pub fn linear(&self, name: &str, shape: [usize; 2]) -> Result<FrozenWeight> {
        let config = self.source.config();
        if let Some(stored) = config.nf4_of(name) {
            let weight = Nf4Weight::empty(self.device, shape, stored.double.then_some(&self.nested_map))?;
            if let Source::Folder(folder) = self.source
                && !self.device.is_paper()
                && let HostWeight::Nf4(host) = folder.linear(name, shape)?
            {
                fill_nf4(&weight, &host)?;
            }
            return Ok(FrozenWeight::Nf4(weight));
        }
        // Of a folder in NF4: one of the few that whoever quantised the model left out.
        if self.quantise == Quantise::None || config.nf4.is_some() {
            return Ok(FrozenWeight::Dense(self.dense("frozen weights", name, &shape)?));
        }
        // Quantised from the file's own values, as `convert quantize` does: rounded to bf16 first, an fp32 weight would
        // have other codes.
        let host = self.source.host(name, &shape)?;
        let dtype = host.as_ref().map_or(self.device.act(), |host| exact_dtype(self.device, host));
        let exact = self.device.empty("a weight before it is quantised", dtype, &shape)?;
        self.fill(&exact, host.as_ref())?;
        let map = (self.quantise == Quantise::Nf4Double).then_some(&self.nested_map);
        Nf4Weight::quantize(&exact, map).map(FrozenWeight::Nf4)
    }

    /// A tensor in the device's storage type.
    fn dense(&self, buffer: &str, name: &str, shape: &[usize]) -> Result<Tensor> {
        let host = self.source.host(name, shape)?;
        let t = self.device.empty(buffer, self.device.act(), shape)?;
        self.fill(&t, host.as_ref())?;
        Ok(t)
    }

    /// Writes a tensor's values, if there are any. One that is no number stops the load with its place.
    fn fill(&self, t: &Tensor, host: Option<&HostTensor>) -> Result<()> {
        match host {
            Some(host) if !self.device.is_paper() => {
                host.check_finite()?;
                write_dense(t, host)
            }
            _ => Ok(()),
        }
    }
}
