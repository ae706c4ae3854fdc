//! A trainable tensor: the copy kernels read, and where its gradient goes.

use super::{Gradient, Write};
use crate::device::Tensor;
use std::cell::Cell;
use std::rc::Rc;

/// A trainable tensor. `value` is what the forward reads (storage type for LoRA, fp32 for the head); `grad` is fp32, a
/// part of one flat buffer that the optimiser walks, or factors. Clones share both.
#[derive(Debug, Clone)]
pub struct Param {
    /// As in the saved file, e.g. `model.layers.0.self_attn.q_proj.lora_A`.
    pub name: String,
    /// The working copy.
    pub value: Tensor,
    /// Its gradient, same shape.
    pub grad: Gradient,
    written: Rc<Cell<bool>>,
}

impl Param {
    /// A parameter over these tensors; its gradient counts as not written.
    pub fn new(name: impl Into<String>, value: Tensor, grad: Tensor) -> Param {
        Param::with(name, value, Gradient::Stored(grad))
    }

    /// The same with a gradient of either form.
    pub fn with(name: impl Into<String>, value: Tensor, grad: Gradient) -> Param {
        assert_eq!(value.shape(), grad.shape(), "value and gradient of a parameter");
        Param { name: name.into(), value, grad, written: Rc::default() }
    }

    /// How the next gradient is to be written: the first one since [`Param::reset`] sets, later ones add.
    pub fn next_write(&self) -> Write {
        if self.written.replace(true) { Write::Add } else { Write::Set }
    }

    /// Forgets the gradient: the next one sets.
    pub fn reset(&self) {
        self.written.set(false);
        if let Gradient::Factors(factors) = &self.grad {
            factors.reset();
        }
    }
}
