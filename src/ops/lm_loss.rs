//! The language model's loss over chunks of rows: the logits of all tokens never exist at once.
//!
//! The output layer is frozen, so the gradient to the hidden states can be computed while a chunk's logits are there (as
//! Liger's fused linear cross-entropy does): two products and no recomputation.

use crate::device::{DType, Tensor};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::matmul::{Layout, matmul};
use crate::tape::{Grads, Node, Tape, Var, VarId, Write};
use crate::{Result, bail_input};

/// Rows of one chunk: at V = 32,000 their fp32 logits take 128 MiB, and their gradient half of that.
pub const CHUNK: usize = 1024;

/// The loss of some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct LmLoss {
    /// Sum over the rows with a target, in fp64, in their order.
    pub sum: f64,
    /// Rows with a target.
    pub n: usize,
    /// The loss of every row; 0 without a target.
    pub rows: Vec<f32>,
}

/// `h` [n,C], `head` [Vp,C] frozen, of which `vocab` rows count, one target a row (negative: none). The gradient is that
/// of `grad_scale · sum`; it is made here and waits on the tape: no seed is needed. Without recording there is none. `chunk`
/// rows have their logits at once ([`CHUNK`]); how many changes no bit of any row.
pub fn lm_loss(
    tape: &mut Tape,
    h: &Var,
    head: &Tensor,
    vocab: usize,
    targets: &[i32],
    grad_scale: f32,
    chunk: usize,
) -> Result<LmLoss> {
    let device = tape.device().clone();
    let [n, c] = h.value().dims("lm_loss h")?;
    let [vp, _] = head.dims("lm_loss head")?;
    h.value().expect("lm_loss h", device.act(), &[targets.len(), c])?;
    head.expect("lm_loss head", device.act(), &[vp, c])?;
    if let Some(row) = targets.iter().position(|&t| t >= vocab as i32) {
        let id = targets[row];
        bail_input!(
            "target {row} is token {id}, but the vocabulary has {vocab}: tokenizer and base do not belong together"
        );
    }
    let wants_grad = tape.recording() && h.needs_grad();
    let dh = if wants_grad { Some(device.empty("gradients", device.act(), &[n, c])?) } else { None };
    let losses = device.empty("row losses", DType::F32, &[n])?;
    let on_device = device.upload_i32("targets", &[n], targets)?;
    for begin in (0..n).step_by(chunk) {
        let end = (begin + chunk).min(n);
        let (loss, targets) = (losses.rows(begin, end), on_device.rows(begin, end));
        let logits = device.empty("logits", DType::F32, &[end - begin, vp])?;
        matmul(Layout::NT, &[(&h.value().rows(begin, end), head)], &logits, 1.0, Write::Set)?;
        match &dh {
            Some(dh) => {
                let dlogits = device.empty("logit gradients", device.act(), &[end - begin, vp])?;
                cross_entropy(&logits, vocab, &targets, grad_scale, &loss, Some(&dlogits))?;
                matmul(Layout::NN, &[(&dlogits, head)], &dh.rows(begin, end), 1.0, Write::Set)?;
            }
            None => cross_entropy(&logits, vocab, &targets, grad_scale, &loss, None)?,
        }
    }
    if let Some(dh) = dh {
        tape.push(Waiting { h: h.id(), dh });
    }
    let rows = losses.read_f32()?;
    let sum = rows.iter().map(|&loss| f64::from(loss)).sum();
    Ok(LmLoss { sum, n: targets.iter().filter(|&&t| t >= 0).count(), rows })
}

/// The gradient made in the forward, until the backward asks for it.
struct Waiting {
    h: VarId,
    dh: Tensor,
}

impl Node for Waiting {
    fn name(&self) -> &'static str {
        "lm_loss"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        grads.put(self.h, self.dh.clone());
        Ok(())
    }
}
