//! The frozen tensors of a model, from the files of a folder, or from nothing but sizes for a device on paper.
//!
//! Both roads make the same buffers in the same order: what a plan counts is what loading does.

use crate::checkpoint::{HostTensor, HostWeight, LlamaConfig, ModelFolder};
use crate::device::{Device, Tensor};
use crate::model::Quantise;
use crate::model::frozen::{fill_nf4, write_dense};
use crate::ops::linear::Weight;
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

    fn host(self, name: &str, shape: &[usize]) -> Result<Option<HostTensor<'a>>> {
        match self {
            Source::Folder(folder) => {
                let host = folder.tensor(name, shape)?;
                refuse_non_finite(name, &host)?;
                Ok(Some(host))
            }
            Source::Sizes(_) => Ok(None),
        }
    }
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
        if let Some(host) = host {
            write_dense(&table.rows(0, c.vocab), &host)?;
        }
        Ok(table)
    }

    /// A linear's weight [out, in]: as a folder in NF4 holds it, otherwise stored as asked for.
    pub fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Weight> {
        let config = self.source.config();
        if let Some(stored) = config.nf4_of(name) {
            let weight = Nf4Weight::empty(self.device, shape, stored.double.then_some(&self.nested_map))?;
            if let Source::Folder(folder) = self.source
                && let HostWeight::Nf4(host) = folder.linear(name, shape)?
            {
                fill_nf4(&weight, &host)?;
            }
            return Ok(Weight::Nf4(weight));
        }
        if config.nf4.is_some() {
            // One of the few that whoever quantised the model left out.
            return Ok(Weight::Dense(self.dense("frozen weights", name, &shape)?));
        }
        let buffer = if self.quantise == Quantise::None { "frozen weights" } else { "a weight before it is quantised" };
        let dense = self.dense(buffer, name, &shape)?;
        Ok(match self.quantise {
            Quantise::None => Weight::Dense(dense),
            Quantise::Nf4 => Weight::Nf4(Nf4Weight::quantize(&dense, None)?),
            Quantise::Nf4Double => Weight::Nf4(Nf4Weight::quantize(&dense, Some(&self.nested_map))?),
        })
    }

    /// A tensor in the device's storage type. A value that is no number stops the load with its place.
    fn dense(&self, buffer: &str, name: &str, shape: &[usize]) -> Result<Tensor> {
        let host = self.source.host(name, shape)?;
        let t = self.device.empty(buffer, self.device.act(), shape)?;
        if let Some(host) = host {
            write_dense(&t, &host)?;
        }
        Ok(t)
    }
}

fn refuse_non_finite(name: &str, host: &HostTensor) -> Result<()> {
    if let Some(index) = host.first_non_finite() {
        bail_input!("{name}: element {index} is not a finite number; the checkpoint is damaged, download it again");
    }
    Ok(())
}
