//! Dropout whose mask is a function of (seed, step, tensor, element): nothing is stored for it (kernels/dropout.h).

use crate::Result;
use crate::device::Tensor;
use crate::ffi::{self, lc_dropout_args};
use crate::tape::{Grads, Node, Slot, Tape, Var, VarId, Write};

/// One mask: everything that decides it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The probability of zero, 0 ≤ p < 1.
    pub p: f32,
    /// Of the run.
    pub seed: u64,
    /// Counts micro-batches over the whole run.
    pub step: u32,
    /// Which dropout of the model.
    pub tensor: u32,
}

impl Dropout {
    /// The mask of the dropout `i` places further on.
    pub fn nth(self, i: usize) -> Dropout {
        Dropout { tensor: self.tensor + i as u32, ..self }
    }

    /// `y (=|+=) x · keep / (1 - p)`; `y` may be `x`. Also its own backward.
    pub fn apply(&self, x: &Tensor, y: &Tensor, write: Write) -> Result<()> {
        let act = x.device().act();
        x.expect("dropout x", act, x.shape())?;
        y.expect("dropout y", act, x.shape())?;
        let args = lc_dropout_args {
            x: x.ptr(),
            y: y.ptr(),
            n: x.n_elems() as i64,
            seed: self.seed,
            step: self.step,
            tensor: self.tensor,
            p: self.p,
            write: write.code(),
        };
        ffi::launch(x.device(), &ffi::DROPOUT, &args, &[x, y])
    }

    /// The dropped form of `x` in a new tensor.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.device().empty("dropout", x.dtype(), x.shape())?;
        self.apply(x, &y, Write::Set)?;
        Ok(y)
    }
}

/// Dropout as an operation of its own.
pub fn dropout(tape: &mut Tape, x: &Var, mask: Dropout) -> Result<Var> {
    let y = tape.var(mask.of(x.value())?, x.needs_grad());
    tape.push(DropoutNode { x: x.slot(), y: y.id(), mask });
    Ok(y)
}

struct DropoutNode {
    x: Slot,
    y: VarId,
    mask: Dropout,
}

impl Node for DropoutNode {
    fn name(&self) -> &'static str {
        "dropout"
    }
    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let Some(dy) = grads.take(self.y) else { return Ok(()) };
        grads.write(&self.x, |dx, write| self.mask.apply(&dy, dx, write))
    }
}
