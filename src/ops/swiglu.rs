//! The gate of Llama's MLP: `y = silu(gate) up` (kernels/swiglu.h).

use crate::Result;
use crate::device::Tensor;
use crate::ffi::{self, lc_swiglu_bwd_args, lc_swiglu_fwd_args};
use crate::tape::{Again, Grads, Node, Saved, Tape, Var, VarId};

/// `gate`, `up` of one shape, e.g. [T,F]. A backward keeps both (as they ask to be kept) and makes `y` from them again.
pub fn swiglu(tape: &mut Tape, gate: &Var, up: &Var) -> Result<Var> {
    let device = tape.device().clone();
    let shape = gate.value().shape().to_vec();
    gate.value().expect("swiglu gate", device.act(), &shape)?;
    up.value().expect("swiglu up", device.act(), &shape)?;
    let y = tape.var(forward(gate.value(), up.value())?, gate.needs_grad() || up.needs_grad());
    if !tape.recording() {
        return Ok(y);
    }
    let (gate, up) = (gate.save(), up.save());
    let from = (gate.clone(), up.clone());
    let y = y.made_by(Again::new(move || forward(&from.0.value()?, &from.1.value()?)));
    tape.push(Swiglu { gate, up, y: y.id() });
    Ok(y)
}

fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let device = gate.device();
    let y = device.empty("gated", gate.dtype(), gate.shape())?;
    let args = lc_swiglu_fwd_args { gate: gate.ptr(), up: up.ptr(), y: y.ptr(), n: y.n_elems() as i64 };
    ffi::launch(device, &ffi::SWIGLU_FWD, &args, &[gate, up, &y])?;
    Ok(y)
}

struct Swiglu {
    gate: Saved,
    up: Saved,
    y: VarId,
}

impl Node for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let sides = [self.gate.slot(), self.up.slot()];
        if !sides.iter().any(|side| side.needs_grad()) {
            return Ok(());
        }
        let device = grads.device().clone();
        let dy = grads.expect("swiglu", self.y)?;
        let (gate, up) = (self.gate.value()?, self.up.value()?);
        let ((dgate, write_dgate), (dup, write_dup)) = (grads.open(sides[0])?, grads.open(sides[1])?);
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
        ffi::launch(&device, &ffi::SWIGLU_BWD, &args, &[&dy, &gate, &up])?;
        for (side, gradient) in sides.into_iter().zip([dgate, dup]) {
            if side.needs_grad() {
                grads.put(side.id(), gradient);
            }
        }
        Ok(())
    }
}
