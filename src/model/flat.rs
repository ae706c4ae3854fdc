//! The buffers of one group of parameters: masters, gradients, AdamW's moments and the copy in storage type, each flat,
//! so that a launch updates all of LoRA. A weight whose gradient is kept as factors is a section of its own: it has no place
//! in the flat gradient.

use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::model::Group;
use crate::ops::adamw::{AdamwConfig, Weights, adamw};
use crate::ops::adamw8::{BLOCK, Moment8, adamw8, maps_on};
use crate::tape::{Factors, Gradient};
use std::ops::Range;
use std::rc::Rc;

/// Every parameter starts on a multiple of this many elements: no block of 8-bit moments has weights of two parameters,
/// and the copy is read 16 bytes at a time. The gap stays zero.
pub(super) const ALIGN: usize = BLOCK;

/// How AdamW's moments are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OptimiserStates {
    /// fp32: eight bytes a weight.
    #[default]
    Fp32,
    /// 8 bits with a scale per block of 256: a good two bytes a weight.
    Eight,
    /// Nothing is trained: no moments and no gradients.
    Unused,
}

enum Moments {
    Fp32([Tensor; 2]),
    Eight { moments: [Moment8; 2], maps: Tensor },
    Unused,
}

/// One group of parameters.
pub(super) struct Flat {
    pub group: Group,
    pub masters: Tensor,
    pub copy: Option<Tensor>,
    moments: Moments,
    pub sections: Vec<Section>,
}

/// A stretch of a group with one gradient.
pub(super) struct Section {
    pub range: Range<usize>,
    pub weights: Weights,
}

/// What is asked of a section before it is made: its elements, and for factors the shape and how many rows they hold.
pub(super) struct Stretch {
    pub range: Range<usize>,
    pub factors: Option<(usize, [usize; 2])>,
}

impl Flat {
    /// `stretches` follow each other from element 0 on.
    pub fn new(device: &Device, group: Group, stretches: &[Stretch], states: OptimiserStates) -> Result<Flat> {
        let name = |what: &str| format!("{} {what}", group.title());
        let n = stretches.last().map_or(0, |s| s.range.end);
        let masters = device.zeros(&name("masters"), DType::F32, &[n])?;
        let copy = match group {
            Group::Lora => Some(device.zeros(&name("copy"), device.act(), &[n])?),
            Group::Head => None,
        };
        let (m, v) = (name("Adam m"), name("Adam v"));
        let moments = match states {
            OptimiserStates::Fp32 => {
                Moments::Fp32([device.zeros(&m, DType::F32, &[n])?, device.zeros(&v, DType::F32, &[n])?])
            }
            OptimiserStates::Eight => Moments::Eight {
                moments: [Moment8::zeros(device, &m, n)?, Moment8::zeros(device, &v, n)?],
                maps: maps_on(device)?,
            },
            OptimiserStates::Unused => Moments::Unused,
        };
        let unused = states == OptimiserStates::Unused;
        let stored = |s: &&Stretch| s.factors.is_none() && !unused;
        let room = |s: &Stretch| s.range.len().next_multiple_of(ALIGN);
        let n_stored: usize = stretches.iter().filter(stored).map(room).sum();
        let gradients = match n_stored {
            0 => None,
            n => Some(device.zeros(&name("gradients"), DType::F32, &[n])?),
        };
        let mut sections = Vec::new();
        let mut at = 0;
        for stretch in stretches {
            let Stretch { range, factors } = stretch;
            let grad = match factors {
                _ if unused => Gradient::Nowhere(device.clone(), [range.len()].into()),
                Some((rows, shape)) => {
                    Gradient::Factors(Rc::new(Factors::new(device, &name("gradient factors"), *rows, *shape)?))
                }
                None => {
                    let whole = gradients.as_ref().expect("allocated where one stretch is stored");
                    let part = whole.rows(at, at + range.len());
                    at += room(stretch);
                    Gradient::Stored(part)
                }
            };
            let part = |whole: &Tensor| whole.rows(range.start, range.end);
            let weights = Weights { master: part(&masters), grad, copy: copy.as_ref().map(part) };
            sections.push(Section { range: range.clone(), weights });
        }
        Ok(Flat { group, masters, copy, moments, sections })
    }

    /// One update of all sections.
    pub fn update(&self, config: &AdamwConfig, clip: &Tensor, step: usize) -> Result<()> {
        for Section { range, weights } in &self.sections {
            match &self.moments {
                Moments::Fp32(whole) => {
                    let [m, v] = whole.each_ref().map(|t| t.rows(range.start, range.end));
                    adamw(weights, [&m, &v], config, Some(clip), step)?;
                }
                Moments::Eight { moments, maps } => {
                    let [m, v] = moments.each_ref().map(|t| t.part(range));
                    adamw8(weights, [&m, &v], maps, config, Some(clip), step)?;
                }
                Moments::Unused => drop(weights.grad.stored()?),
            }
        }
        Ok(())
    }

    /// Overwrites the masters from `at` on, and what kernels read instead of them.
    pub fn write(&self, at: usize, values: &[f32]) -> Result<()> {
        self.masters.rows(at, at + values.len()).write_f32(values)?;
        self.copy.as_ref().map_or(Ok(()), |copy| copy.rows(at, at + values.len()).write_f32(values))
    }

    /// What the rest of a run depends on, by name; the copy follows from the masters.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let name = |what: &str| format!("{}.{what}", self.group.key());
        let mut state = vec![(name("masters"), self.masters.clone())];
        match &self.moments {
            Moments::Fp32(moments) => {
                let names = ["adam_m", "adam_v"].map(name);
                state.extend(names.into_iter().zip(moments.iter().cloned()));
            }
            Moments::Eight { moments, .. } => {
                for (moment, what) in moments.iter().zip(["adam_m", "adam_root_v"]) {
                    state.push((name(&format!("{what}.codes")), moment.codes.clone()));
                    state.push((name(&format!("{what}.scales")), moment.scales.clone()));
                }
            }
            Moments::Unused => {}
        }
        state
    }
}
