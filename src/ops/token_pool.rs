//! One vector a sequence from its first tokens: mean, last or maximum (kernels/token_pool.h).

use crate::device::{DType, Device, Tensor};
use crate::ffi::{self, LC_POOL_LAST, LC_POOL_MAX, LC_POOL_MEAN, lc_token_pool_bwd_args, lc_token_pool_fwd_args};
use crate::tape::{Grads, Node, Slot, Tape, Var, VarId};
use crate::{Error, Result};
use std::ptr::null_mut;

/// What becomes of a sequence's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPool {
    /// Their mean.
    Mean,
    /// The last of them.
    Last,
    /// The greatest value of each column.
    Max,
}

impl TokenPool {
    fn code(self) -> i32 {
        let code = match self {
            TokenPool::Mean => LC_POOL_MEAN,
            TokenPool::Last => LC_POOL_LAST,
            TokenPool::Max => LC_POOL_MAX,
        };
        code as i32
    }
}

/// Where the sequences of a micro-batch begin, and how many first tokens of each a head looks at; on the device.
pub(super) struct Kept {
    pub(super) cu_seqlens: Tensor,
    pub(super) n_keep: Tensor,
}

impl Kept {
    /// Holds both to the `t` rows of the hidden states.
    pub(super) fn new(op: &str, device: &Device, cu_seqlens: &[i32], n_keep: &[i32], t: usize) -> Result<Kept> {
        let whole = cu_seqlens.first() == Some(&0) && cu_seqlens.last() == Some(&(t as i32));
        if !whole || cu_seqlens.len() != n_keep.len() + 1 || cu_seqlens.windows(2).any(|w| w[0] > w[1]) {
            return Err(Error::Shape(format!(
                "{op}: expected beginnings of {} sequences from 0 up to {t}, found {cu_seqlens:?}",
                n_keep.len()
            )));
        }
        for (q, (&n, ends)) in n_keep.iter().zip(cu_seqlens.windows(2)).enumerate() {
            let length = ends[1] - ends[0];
            if n < 1 || n > length {
                return Err(Error::Shape(format!(
                    "{op}: sequence {q} has {length} tokens, of which {n} were to be kept"
                )));
            }
        }
        Ok(Kept {
            cu_seqlens: device.upload_i32("cu_seqlens", &[cu_seqlens.len()], cu_seqlens)?,
            n_keep: device.upload_i32("n_keep", &[n_keep.len()], n_keep)?,
        })
    }

    pub(super) fn sequences(&self) -> usize {
        self.n_keep.n_elems()
    }
}

/// `h` [T,C] to [S,C] in fp32: sequence `q` begins at row `cu_seqlens[q]`, and its first `n_keep[q]` tokens are used.
pub fn token_pool(tape: &mut Tape, h: &Var, cu_seqlens: &[i32], n_keep: &[i32], pool: TokenPool) -> Result<Var> {
    let device = tape.device().clone();
    let [t, c] = h.value().dims("token_pool h")?;
    h.value().expect("token_pool h", device.act(), &[t, c])?;
    let kept = Kept::new("token_pool", &device, cu_seqlens, n_keep, t)?;
    let s = kept.sequences();
    let y = device.empty("pooled", DType::F32, &[s, c])?;
    let best = match pool {
        TokenPool::Max => Some(device.empty("pooled from", DType::I32, &[s, c])?),
        _ => None,
    };
    let args = lc_token_pool_fwd_args {
        h: h.value().ptr(),
        cu_seqlens: kept.cu_seqlens.ptr(),
        n_keep: kept.n_keep.ptr(),
        y: y.ptr(),
        best: best.as_ref().map_or(null_mut(), Tensor::ptr),
        T: t as i32,
        C: c as i32,
        S: s as i32,
        kind: pool.code(),
    };
    ffi::launch(&device, &ffi::TOKEN_POOL_FWD, &args, &[h.value(), &kept.cu_seqlens])?;
    let y = tape.var(y, h.needs_grad());
    tape.push(Pooled { h: h.slot(), y: y.id(), kept, best, pool });
    Ok(y)
}

struct Pooled {
    h: Slot,
    y: VarId,
    kept: Kept,
    best: Option<Tensor>,
    pool: TokenPool,
}

impl Node for Pooled {
    fn name(&self) -> &'static str {
        "token_pool"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        if !self.h.needs_grad() {
            return Ok(());
        }
        let device = grads.device().clone();
        let dy = grads.expect("token_pool", self.y)?;
        grads.write(&self.h, |dh, write| {
            let args = lc_token_pool_bwd_args {
                dy: dy.ptr(),
                cu_seqlens: self.kept.cu_seqlens.ptr(),
                n_keep: self.kept.n_keep.ptr(),
                best: self.best.as_ref().map_or(null_mut(), |t| t.ptr()),
                dh: dh.ptr(),
                T: dh.shape()[0] as i32,
                C: dh.shape()[1] as i32,
                S: dy.shape()[0] as i32,
                kind: self.pool.code(),
                write: write.code(),
            };
            ffi::launch(&device, &ffi::TOKEN_POOL_BWD, &args, &[&dy, dh])
        })
    }
}
