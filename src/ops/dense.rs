//! A linear layer of the head, fp32: `y = x W^T + bias` (kernels/dense.h).

use crate::Result;
use crate::device::DType;
use crate::ffi::{self, lc_dense_bwd_args, lc_dense_fwd_args};
use crate::tape::{Gradient, Grads, Node, Param, Saved, Tape, Var, VarId};
use std::ptr::null_mut;

/// `x` [B,in], `weight` [out,in] and `bias` [out], all fp32, to [B,out].
pub fn dense(tape: &mut Tape, x: &Var, weight: &Param, bias: &Param) -> Result<Var> {
    let device = tape.device().clone();
    let [b, n_in] = x.value().dims("dense x")?;
    let [n_out, _] = weight.value.dims("dense weight")?;
    x.value().expect("dense x", DType::F32, &[b, n_in])?;
    weight.value.expect("dense weight", DType::F32, &[n_out, n_in])?;
    bias.value.expect("dense bias", DType::F32, &[n_out])?;
    let y = device.empty("head activations", DType::F32, &[b, n_out])?;
    let args = lc_dense_fwd_args {
        x: x.value().ptr(),
        W: weight.value.ptr(),
        bias: bias.value.ptr(),
        y: y.ptr(),
        B: b as i32,
        n_in: n_in as i32,
        n_out: n_out as i32,
    };
    ffi::launch(&device, &ffi::DENSE_FWD, &args, &[x.value(), &weight.value])?;
    let y = tape.var(y, true);
    tape.push(Dense { x: x.save(), y: y.id(), weight: weight.clone(), bias: bias.clone() });
    Ok(y)
}

struct Dense {
    x: Saved,
    y: VarId,
    weight: Param,
    bias: Param,
}

impl Node for Dense {
    fn name(&self) -> &'static str {
        "dense"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        let device = grads.device().clone();
        let dy = grads.expect("dense", self.y)?;
        let (x, weight) = (&self.x.value()?, &self.weight.value);
        let dw = match &self.weight.grad {
            Gradient::Factors(factors) => {
                factors.push(&dy, x)?;
                null_mut()
            }
            stored => stored.stored()?.ptr(),
        };
        let slot = self.x.slot();
        let dx = if slot.needs_grad() { Some(grads.open(slot)?) } else { None };
        let args = lc_dense_bwd_args {
            dy: dy.ptr(),
            x: x.ptr(),
            W: weight.ptr(),
            dx: dx.as_ref().map_or(null_mut(), |(dx, _)| dx.ptr()),
            dW: dw,
            dbias: self.bias.grad.stored()?.ptr(),
            B: x.shape()[0] as i32,
            n_in: x.shape()[1] as i32,
            n_out: weight.shape()[0] as i32,
            write_dx: dx.as_ref().map_or(0, |(_, write)| write.code()),
            write_dw: self.weight.next_write().code(),
            write_dbias: self.bias.next_write().code(),
        };
        ffi::launch(&device, &ffi::DENSE_BWD, &args, &[&dy, x, weight])?;
        if let Some((dx, _)) = dx {
            grads.put(slot.id(), dx);
        }
        Ok(())
    }
}
