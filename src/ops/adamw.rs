//! One AdamW update of a group of weights in flat arrays (kernels/adamw.h).

use crate::device::{DType, Tensor};
use crate::ffi::{self, lc_adamw_args};
use crate::{Error, Result};
use std::ops::Range;
use std::ptr::null_mut;

/// The flat arrays of the optimiser. All but `copy` are fp32 [n].
#[derive(Debug, Clone)]
pub struct AdamwState {
    /// Master weights.
    pub master: Tensor,
    /// Their gradients.
    pub grad: Tensor,
    /// First moments, zero at the start.
    pub m: Tensor,
    /// Second moments, zero at the start.
    pub v: Tensor,
    /// What kernels read, rounded to storage, where that is not the master itself. May be shorter than the others; groups
    /// that end within it are copied.
    pub copy: Option<Tensor>,
}

/// What a group of weights is updated with.
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

/// Updates the elements `group`. `clip`, [1] on the device, multiplies the gradients (0: nothing is changed); `step` is 1
/// for the first update.
pub fn adamw(
    state: &AdamwState,
    group: Range<usize>,
    config: &AdamwConfig,
    clip: Option<&Tensor>,
    step: usize,
) -> Result<()> {
    let device = state.master.device();
    let [n] = state.master.dims("adamw master")?;
    for (what, tensor) in [("master", &state.master), ("grad", &state.grad), ("m", &state.m), ("v", &state.v)] {
        tensor.expect(&format!("adamw {what}"), DType::F32, &[n])?;
    }
    if let Some(clip) = clip {
        clip.expect("adamw clip", DType::F32, &[1])?;
    }
    if group.is_empty() || group.end > n {
        return Err(Error::Shape(format!("adamw: group {group:?} of {n} weights")));
    }
    let copy = match &state.copy {
        None => null_mut(),
        Some(copy) => {
            let [n_copied] = copy.dims("adamw copy")?;
            copy.expect("adamw copy", device.act(), &[n_copied])?;
            if group.start < n_copied && group.end > n_copied {
                return Err(Error::Shape(format!("adamw: group {group:?} lies across the end {n_copied} of the copy")));
            }
            if group.end <= n_copied { copy.ptr() } else { null_mut() }
        }
    };
    let args = lc_adamw_args {
        master: state.master.ptr(),
        grad: state.grad.ptr(),
        m: state.m.ptr(),
        v: state.v.ptr(),
        copy,
        clip: clip.map_or(null_mut(), |t| t.ptr()),
        offset: group.start as i64,
        n: group.len() as i64,
        lr: config.lr,
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.eps,
        weight_decay: config.weight_decay,
        step: step as i32,
    };
    ffi::launch(device, &ffi::ADAMW, &args, &[&state.master, &state.grad])
}
