//! The ECI head's reduction: MaxPool 8 then AvgPool 8 over the hidden axis, positions side by side (kernels/eci_pool.h).

use super::token_pool::Kept;
use crate::device::DType;
use crate::ffi::{self, lc_eci_pool_bwd_args, lc_eci_pool_fwd_args};
use crate::tape::{Grads, Node, Saved, Tape, Var, VarId};
use crate::{Result, bail_input};

/// `h` [T,C] (C a multiple of 64) to features [S, n_positions C/64] in fp32. Sequence `q` begins at row `cu_seqlens[q]`;
/// its first `n_keep[q]` tokens fill as many positions, the others are zero.
pub fn eci_pool(tape: &mut Tape, h: &Var, cu_seqlens: &[i32], n_keep: &[i32], n_positions: usize) -> Result<Var> {
    let device = tape.device().clone();
    let [t, c] = h.value().dims("eci_pool h")?;
    h.value().expect("eci_pool h", device.act(), &[t, c])?;
    if let Some(q) = n_keep.iter().position(|&n| n > n_positions as i32) {
        bail_input!(
            "sequence {q} of the micro-batch has {} tokens for the ECI head, which takes {n_positions}: shorten the \
             record, or train a head with more positions",
            n_keep[q]
        );
    }
    let kept = Kept::new("eci_pool", &device, cu_seqlens, n_keep, t)?;
    let s = kept.sequences();
    let features = device.empty("eci features", DType::F32, &[s, n_positions * (c / 64)])?;
    let args = lc_eci_pool_fwd_args {
        h: h.value().ptr(),
        cu_seqlens: kept.cu_seqlens.ptr(),
        n_keep: kept.n_keep.ptr(),
        features: features.ptr(),
        T: t as i32,
        C: c as i32,
        S: s as i32,
        s: n_positions as i32,
    };
    ffi::launch(&device, &ffi::ECI_POOL_FWD, &args, &[h.value(), &kept.cu_seqlens])?;
    let features = tape.var(features, h.needs_grad());
    tape.push(EciPool { h: h.save(), features: features.id(), kept, n_positions });
    Ok(features)
}

struct EciPool {
    h: Saved,
    features: VarId,
    kept: Kept,
    n_positions: usize,
}

impl Node for EciPool {
    fn name(&self) -> &'static str {
        "eci_pool"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        if !self.h.slot().needs_grad() {
            return Ok(());
        }
        let device = grads.device().clone();
        let dfeatures = grads.expect("eci_pool", self.features)?;
        let h = &self.h.value()?;
        grads.write(self.h.slot(), |dh, write| {
            let args = lc_eci_pool_bwd_args {
                dfeatures: dfeatures.ptr(),
                h: h.ptr(),
                cu_seqlens: self.kept.cu_seqlens.ptr(),
                n_keep: self.kept.n_keep.ptr(),
                dh: dh.ptr(),
                T: h.shape()[0] as i32,
                C: h.shape()[1] as i32,
                S: self.kept.sequences() as i32,
                s: self.n_positions as i32,
                write: write.code(),
            };
            ffi::launch(&device, &ffi::ECI_POOL_BWD, &args, &[&dfeatures, h])
        })
    }
}
