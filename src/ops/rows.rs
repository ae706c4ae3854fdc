//! Some rows of a matrix, and the gradient back to them (kernels/rows.h): logits are computed only where a target is.

use crate::device::Tensor;
use crate::ffi::{self, lc_rows_gather_args, lc_rows_scatter_args};
use crate::tape::{Grads, Node, Slot, Tape, Var, VarId};
use crate::{Error, Result};

/// `x` [T,C] to [n,C]: row `i` of the result is row `rows[i]` of `x`. `rows` is strictly ascending, as targets are.
pub fn gather_rows(tape: &mut Tape, x: &Var, rows: &[i32]) -> Result<Var> {
    let device = tape.device().clone();
    let [t, c] = x.value().dims("gather_rows x")?;
    x.value().expect("gather_rows x", device.act(), &[t, c])?;
    check_ascending("gather_rows", rows, t)?;
    let n = rows.len();
    let rows = device.upload_i32("target rows", &[n], rows)?;
    let y = device.empty("target states", device.act(), &[n, c])?;
    let args =
        lc_rows_gather_args { x: x.value().ptr(), rows: rows.ptr(), y: y.ptr(), n: n as i32, T: t as i32, C: c as i32 };
    ffi::launch(&device, &ffi::ROWS_GATHER, &args, &[x.value(), &rows])?;
    let y = tape.var(y, x.needs_grad());
    tape.push(GatherRows { x: x.slot(), y: y.id(), rows });
    Ok(y)
}

struct GatherRows {
    x: Slot,
    y: VarId,
    rows: Tensor,
}

impl Node for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        if !self.x.needs_grad() {
            return Ok(());
        }
        let device = grads.device().clone();
        let dy = grads.expect("gather_rows", self.y)?;
        grads.write(&self.x, |dx, write| {
            let args = lc_rows_scatter_args {
                dy: dy.ptr(),
                rows: self.rows.ptr(),
                dx: dx.ptr(),
                n: dy.shape()[0] as i32,
                T: dx.shape()[0] as i32,
                C: dx.shape()[1] as i32,
                write: write.code(),
            };
            ffi::launch(&device, &ffi::ROWS_SCATTER, &args, &[&dy, &self.rows, dx])
        })
    }
}

fn check_ascending(op: &str, rows: &[i32], t: usize) -> Result<()> {
    let inside = rows.first().is_some_and(|&r| r >= 0) && rows.last().is_some_and(|&r| (r as usize) < t);
    if inside && rows.windows(2).all(|pair| pair[0] < pair[1]) {
        return Ok(());
    }
    Err(Error::Shape(format!("{op}: expected some rows below {t}, strictly ascending; found {rows:?}")))
}
