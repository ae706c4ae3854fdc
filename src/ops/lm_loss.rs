//! The language model's loss over chunks of rows: the logits of all tokens never exist at once.
//!
//! The output layer is frozen, so the gradient to the hidden states can be computed while a chunk's logits are there (as
//! Liger's fused linear cross-entropy does): two products and no recomputation.

use crate::Result;
use crate::device::{DType, Tensor};
use crate::ops::cross_entropy::cross_entropy;
use crate::ops::matmul::{Layout, matmul};
use crate::tape::{Grads, Node, Tape, Var, Write};

/// Rows of one chunk: at V = 32,000 their fp32 logits take 128 MiB.
const CHUNK: usize = 1024;

/// The loss of some rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LmLoss {
    /// Sum over the rows, in fp64, in their order.
    pub sum: f64,
    /// Rows.
    pub n: usize,
}

/// `h` [n,C], `head` [Vp,C] frozen, of which `vocab` rows count, one target a row. The gradient is that of
/// `grad_scale · sum`.
pub fn lm_loss(tape: &mut Tape, h: &Var, head: &Tensor, vocab: usize, targets: &[i32], grad_scale: f32) -> Result<LmLoss> {
    let device = tape.device().clone();
    let [n, c] = h.value().dims("lm_loss h")?;
    let [vp, _] = head.dims("lm_loss head")?;
    h.value().expect("lm_loss h", device.act(), &[targets.len(), c])?;
    head.expect("lm_loss head", device.act(), &[vp, c])?;
    let wants_grad = tape.recording() && h.needs_grad();
    let dh = if wants_grad { Some(device.empty("gradients", device.act(), &[n, c])?) } else { None };
    let mut sum = 0.0;
    for begin in (0..n).step_by(CHUNK) {
        let end = (begin + CHUNK).min(n);
        let rows = end - begin;
        let logits = device.empty("logits", DType::F32, &[rows, vp])?;
        let loss = device.empty("row losses", DType::F32, &[rows])?;
        let chunk_targets = device.upload_i32("targets", &[rows], &targets[begin..end])?;
        matmul(Layout::NT, &[(&h.value().rows(begin, end), head)], &logits, 1.0, Write::Set)?;
        match &dh {
            Some(dh) => {
                let dlogits = device.empty("logit gradients", device.act(), &[rows, vp])?;
                cross_entropy(&logits, vocab, &chunk_targets, grad_scale, &loss, Some(&dlogits))?;
                matmul(Layout::NN, &[(&dlogits, head)], &dh.rows(begin, end), 1.0, Write::Set)?;
            }
            None => cross_entropy(&logits, vocab, &chunk_targets, grad_scale, &loss, None)?,
        }
        sum += loss.read_f32()?.into_iter().map(f64::from).sum::<f64>();
    }
    if let Some(dh) = dh {
        tape.push(LmLossNode { h: h.clone(), dh });
    }
    Ok(LmLoss { sum, n })
}

struct LmLossNode {
    h: Var,
    dh: Tensor,
}

impl Node for LmLossNode {
    fn name(&self) -> &'static str {
        "lm_loss"
    }

    fn saved(&self) -> Vec<&Tensor> {
        vec![&self.dh]
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        grads.put(self.h.id(), self.dh.clone());
        Ok(())
    }
}
