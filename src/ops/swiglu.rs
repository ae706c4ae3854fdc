//! The gate of Llama's MLP: `y = silu(gate) up` (kernels/swiglu.h).

use crate::Result;
use crate::device::Tensor;
use crate::ffi::{self, lc_swiglu_bwd_args, lc_swiglu_fwd_args};
use crate::tape::{Grads, Node, Tape, Var, VarId};

/// `gate`, `up` of one shape, e.g. [T,F]. The backward computes from both again; `y` is not kept for it.
pub fn swiglu(tape: &mut Tape, gate: &Var, up: &Var) -> Result<Var> {
    let device = tape.device().clone();
    let shape = gate.value().shape().to_vec();
    gate.value().expect("swiglu gate", device.act(), &shape)?;
    up.value().expect("swiglu up", device.act(), &shape)?;
    let y = device.empty("gated", device.act(), &shape)?;
    let args = lc_swiglu_fwd_args {
        gate: gate.value().ptr(),
        up: up.value().ptr(),
        y: y.ptr(),
        n: y.n_elems() as i64,
    };
    ffi::launch(&device, &ffi::SWIGLU_FWD, &args, &[gate.value(), up.value()])?;
    let y = tape.var(y, gate.needs_grad() || up.needs_grad());
    tape.push(Swiglu { gate: gate.clone(), up: up.clone(), y: y.id() });
    Ok(y)
}

struct Swiglu {
    gate: Var,
    up: Var,
    y: VarId,
}

impl Node for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn saved(&self) -> Vec<&Tensor> {
        vec![self.gate.value(), self.up.value()]
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        if !(self.gate.needs_grad() || self.up.needs_grad()) {
            return Ok(());
        }
        let device = grads.device().clone();
        let dy = grads.expect("swiglu", self.y)?;
        let (gate, up) = (self.gate.value(), self.up.value());
        let ((dgate, write_dgate), (dup, write_dup)) = (grads.open(&self.gate)?, grads.open(&self.up)?);
        let args = lc_swiglu_bwd_args {
            dy: dy.ptr(),
            gate: gate.ptr(),
            up: up.ptr(),
            dgate: dgate.ptr(),
            dup: dup.ptr(),
            n: dy.n_elems() as i64,
            write_dgate: write_dgate.code(),
            write_dup: write_dup.code(),
        };
        ffi::launch(&device, &ffi::SWIGLU_BWD, &args, &[&dy, gate, up])?;
        for (side, gradient) in [(&self.gate, dgate), (&self.up, dup)] {
            if side.needs_grad() {
                grads.put(side.id(), gradient);
            }
        }
        Ok(())
    }
}
