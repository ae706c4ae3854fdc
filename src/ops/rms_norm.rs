//! RMSNorm with the residual sum: `h = x + residual`, `y = h / rms(h) * w` (kernels/rms_norm.h).

use crate::Result;
use crate::device::{DType, Tensor};
use crate::ffi::{self, lc_rms_norm_bwd_args, lc_rms_norm_fwd_args};
use crate::tape::{Grads, Node, Tape, Var, VarId};
use std::ptr::null_mut;

/// `x`, `residual` [T,C], `w` [C] (frozen). Returns `(h, y)`: the sum, which is the next residual, and its normalised form.
/// Without a residual `h` is `x` itself.
pub fn rms_norm(tape: &mut Tape, x: &Var, residual: Option<&Var>, w: &Tensor, eps: f32) -> Result<(Var, Var)> {
    let device = tape.device().clone();
    let act = device.act();
    let [t, c] = x.value().dims("rms_norm x")?;
    x.value().expect("rms_norm x", act, &[t, c])?;
    w.expect("rms_norm w", act, &[c])?;
    if let Some(residual) = residual {
        residual.value().expect("rms_norm residual", act, &[t, c])?;
    }
    let h = match residual {
        Some(_) => device.empty("residual", act, &[t, c])?,
        None => x.value().clone(),
    };
    let y = device.empty("norm", act, &[t, c])?;
    let rstd = device.empty("rstd", DType::F32, &[t])?;
    let args = lc_rms_norm_fwd_args {
        x: x.value().ptr(),
        residual: residual.map_or(null_mut(), |r| r.value().ptr()),
        w: w.ptr(),
        h: if residual.is_some() { h.ptr() } else { null_mut() },
        y: y.ptr(),
        rstd: rstd.ptr(),
        T: t as i32,
        C: c as i32,
        eps,
    };
    ffi::launch(&device, &ffi::RMS_NORM_FWD, &args, &[x.value(), w, &y])?;
    let needs_grad = x.needs_grad() || residual.is_some_and(Var::needs_grad);
    let h = if residual.is_some() { tape.var(h, needs_grad) } else { x.clone() };
    let y = tape.var(y, needs_grad);
    tape.push(RmsNorm { x: x.clone(), residual: residual.cloned(), h: h.clone(), y: y.id(), w: w.clone(), rstd });
    Ok((h, y))
}

struct RmsNorm {
    x: Var,
    residual: Option<Var>,
    h: Var,
    y: VarId,
    w: Tensor,
    rstd: Tensor,
}

impl Node for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn saved(&self) -> Vec<&Tensor> {
        vec![self.h.value(), &self.rstd]
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        // A gradient of h, from the residual stream further down, is what ours is added to.
        if let Some(dy) = grads.take(self.y) {
            let device = grads.device().clone();
            grads.write(&self.h, |dh, write| {
                let h = self.h.value();
                let args = lc_rms_norm_bwd_args {
                    dy: dy.ptr(),
                    h: h.ptr(),
                    w: self.w.ptr(),
                    rstd: self.rstd.ptr(),
                    dh: dh.ptr(),
                    T: h.shape()[0] as i32,
                    C: h.shape()[1] as i32,
                    write: write.code(),
                };
                ffi::launch(&device, &ffi::RMS_NORM_BWD, &args, &[&dy, h, &self.w])
            })?;
        }
        // d(x + residual): both sides receive dh as it is; Grads::write copies it before it adds to either. This node is
        // the last reader of both in the forward, hence the first to write in the backward: `put` holds us to that.
        let Some(residual) = &self.residual else { return Ok(()) };
        let Some(dh) = grads.take(self.h.id()) else { return Ok(()) };
        for side in [&self.x, residual].into_iter().filter(|v| v.needs_grad()) {
            grads.put(side.id(), dh.clone());
        }
        Ok(())
    }
}
