//! The pointwise functions between the layers of the head, fp32 (kernels/activation.h).

use crate::Result;
use crate::device::DType;
use crate::ffi::{
    self, LC_GELU, LC_IDENTITY, LC_LEAKY_RELU, LC_RELU, LC_SILU, LC_TANH, lc_activation_bwd_args,
    lc_activation_fwd_args,
};
use crate::tape::{Grads, Node, Saved, Tape, Var, VarId};

/// A pointwise function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x`
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `x`, times this slope where negative.
    LeakyRelu(f32),
    /// `x` times the normal distribution at `x`, by erf.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// `x / (1 + exp(-x))`
    Silu,
}

impl Activation {
    fn code(self) -> i32 {
        let code = match self {
            Activation::Identity => LC_IDENTITY,
            Activation::Relu => LC_RELU,
            Activation::LeakyRelu(_) => LC_LEAKY_RELU,
            Activation::Gelu => LC_GELU,
            Activation::Tanh => LC_TANH,
            Activation::Silu => LC_SILU,
        };
        code as i32
    }

    fn slope(self) -> f32 {
        match self {
            Activation::LeakyRelu(slope) => slope,
            _ => 0.0,
        }
    }
}

/// `f(x)` for `x` of any shape, fp32. The backward reads `x` again.
pub fn activation(tape: &mut Tape, x: &Var, f: Activation) -> Result<Var> {
    let device = tape.device().clone();
    let shape = x.value().shape().to_vec();
    x.value().expect("activation x", DType::F32, &shape)?;
    let y = device.empty("head activations", DType::F32, &shape)?;
    let args = lc_activation_fwd_args {
        x: x.value().ptr(),
        y: y.ptr(),
        n: y.n_elems() as i64,
        kind: f.code(),
        slope: f.slope(),
    };
    ffi::launch(&device, &ffi::ACTIVATION_FWD, &args, &[x.value()])?;
    let y = tape.var(y, x.needs_grad());
    tape.push(Applied { x: x.save(), y: y.id(), f });
    Ok(y)
}

struct Applied {
    x: Saved,
    y: VarId,
    f: Activation,
}

impl Node for Applied {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        if !self.x.slot().needs_grad() {
            return Ok(());
        }
        let device = grads.device().clone();
        let dy = grads.expect("activation", self.y)?;
        let x = self.x.value()?;
        grads.write(self.x.slot(), |dx, write| {
            let args = lc_activation_bwd_args {
                dy: dy.ptr(),
                x: x.ptr(),
                dx: dx.ptr(),
                n: dx.n_elems() as i64,
                kind: self.f.code(),
                slope: self.f.slope(),
                write: write.code(),
            };
            ffi::launch(&device, &ffi::ACTIVATION_BWD, &args, &[&dy, &x])
        })
    }
}
