//! One AdamW update of a stretch of flat weights (kernels/adamw.h).

use crate::device::{DType, Device, Tensor};
use crate::ffi::{self, lc_adamw_args, lc_adamw_step};
use crate::tape::Gradient;
use crate::{Error, Result};
use std::ptr::null_mut;

/// A stretch of flat weights and what moves them.
#[derive(Debug, Clone)]
pub struct Weights {
    /// [n] fp32, the masters.
    pub master: Tensor,
    /// Of as many elements.
    pub grad: Gradient,
    /// [n]: what kernels read, rounded to storage, where that is not the master itself.
    pub copy: Option<Tensor>,
}

/// What weights are updated with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwConfig {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// Updates `w` and the moments `m` and `v`, fp32 [n], zero at the start. `clip`, [1] on the device, multiplies the
/// gradients (0: nothing is changed); `step` is 1 for the first update.
pub fn adamw(
    w: &Weights,
    [m, v]: [&Tensor; 2],
    config: &AdamwConfig,
    clip: Option<&Tensor>,
    step: usize,
) -> Result<()> {
    let n = w.check(clip)?;
    m.expect("adamw m", DType::F32, &[n])?;
    v.expect("adamw v", DType::F32, &[n])?;
    let args = lc_adamw_args {
        master: w.master.ptr(),
        grad: w.grad.args(),
        m: m.ptr(),
        v: v.ptr(),
        copy: w.copy_ptr(),
        clip: clip.map_or(null_mut(), |t| t.ptr()),
        n: n as i64,
        step: config.at(step),
    };
    ffi::launch(w.device(), &ffi::ADAMW, &args, &[&w.master, m, v])
}

impl Weights {
    /// The device they lie on.
    pub fn device(&self) -> &Device {
        self.master.device()
    }

    /// Holds the parts to one size and gives it back.
    pub(super) fn check(&self, clip: Option<&Tensor>) -> Result<usize> {
        let [n] = self.master.dims("adamw master")?;
        self.master.expect("adamw master", DType::F32, &[n])?;
        if self.grad.n_elems() != n {
            return Err(Error::Shape(format!("adamw: {n} weights, a gradient {:?}", self.grad.shape())));
        }
        if let Gradient::Stored(grad) = &self.grad {
            grad.expect("adamw grad", DType::F32, grad.shape())?;
        }
        if let Some(copy) = &self.copy {
            copy.expect("adamw copy", self.device().act(), &[n])?;
        }
        clip.map_or(Ok(()), |clip| clip.expect("adamw clip", DType::F32, &[1]))?;
        Ok(n)
    }

    pub(super) fn copy_ptr<T>(&self) -> *mut T {
        self.copy.as_ref().map_or(null_mut(), Tensor::ptr)
    }
}

impl AdamwConfig {
    pub(super) fn at(&self, step: usize) -> lc_adamw_step {
        let AdamwConfig { lr, beta1, beta2, eps, weight_decay } = *self;
        lc_adamw_step { lr, beta1, beta2, eps, weight_decay, step: step as i32 }
    }
}
