//! RMSNorm with the residual sum: `h = x + residual`, `y = h / rms(h) * w` (kernels/rms_norm.h).

use crate::Result;
use crate::device::{DType, Tensor};
use crate::ffi::{self, lc_rms_norm_bwd_args, lc_rms_norm_fwd_args};
use crate::tape::{Again, Grads, Node, Saved, Slot, Tape, Var, VarId};
use std::ptr::null_mut;

/// `x`, `residual` [T,C], `w` [C] (frozen). Returns `(h, y)`: the sum, which is the next residual, and its normalised form.
/// Without a residual `h` is `x` itself. A backward keeps `h` and makes `y` from it again.
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
    let norm = Norm { w: w.clone(), rstd: device.empty("rstd", DType::F32, &[t])?, eps };
    let sum = residual.map(|r| (r.value(), &h));
    let y = norm.forward(x.value(), sum)?;
    let needs_grad = x.needs_grad() || residual.is_some_and(Var::needs_grad);
    let h = if residual.is_some() { tape.var(h, needs_grad) } else { x.clone() };
    let y = tape.var(y, needs_grad);
    if !tape.recording() {
        return Ok((h, y));
    }
    let (again, from) = (norm.clone(), h.save());
    let y = y.made_by(Again::new(move || again.forward(&from.value()?, None)));
    tape.push(RmsNorm { x: x.slot(), residual: residual.map(Var::slot), h: h.save(), y: y.id(), norm });
    Ok((h, y))
}

#[derive(Clone)]
struct Norm {
    w: Tensor,
    /// [T] 1 / rms(h): written by every forward, with the same bytes.
    rstd: Tensor,
    eps: f32,
}

impl Norm {
    /// The norm of `x`, or of `x + residual`, which goes to the other tensor of `sum`.
    fn forward(&self, x: &Tensor, sum: Option<(&Tensor, &Tensor)>) -> Result<Tensor> {
        let device = x.device();
        let y = device.empty("norm", x.dtype(), x.shape())?;
        let args = lc_rms_norm_fwd_args {
            x: x.ptr(),
            residual: sum.map_or(null_mut(), |(residual, _)| residual.ptr()),
            w: self.w.ptr(),
            h: sum.map_or(null_mut(), |(_, h)| h.ptr()),
            y: y.ptr(),
            rstd: self.rstd.ptr(),
            T: x.shape()[0] as i32,
            C: x.shape()[1] as i32,
            eps: self.eps,
        };
        ffi::launch(device, &ffi::RMS_NORM_FWD, &args, &[x, &self.w, &y])?;
        Ok(y)
    }
}

struct RmsNorm {
    x: Slot,
    residual: Option<Slot>,
    h: Saved,
    y: VarId,
    norm: Norm,
}

impl Node for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        // A gradient of h, from the residual stream further down, is what ours is added to.
        if let Some(dy) = grads.take(self.y) {
            let device = grads.device().clone();
            let (h, Norm { w, rstd, .. }) = (self.h.value()?, &self.norm);
            grads.write(self.h.slot(), |dh, write| {
                let args = lc_rms_norm_bwd_args {
                    dy: dy.ptr(),
                    h: h.ptr(),
                    w: w.ptr(),
                    rstd: rstd.ptr(),
                    dh: dh.ptr(),
                    T: h.shape()[0] as i32,
                    C: h.shape()[1] as i32,
                    write: write.code(),
                };
                ffi::launch(&device, &ffi::RMS_NORM_BWD, &args, &[&dy, &h, w])
            })?;
        }
        // d(x + residual): both sides receive dh as it is; Grads::write copies it before it adds to either. This node is
        // the last reader of both in the forward, hence the first to write in the backward: `put` holds us to that.
        let Some(residual) = &self.residual else { return Ok(()) };
        let Some(dh) = grads.take(self.h.slot().id()) else { return Ok(()) };
        for side in [&self.x, residual].into_iter().filter(|v| v.needs_grad()) {
            grads.put(side.id(), dh.clone());
        }
        Ok(())
    }
}
