//! The classifier's last step: probabilities, cross entropy and its gradient, fp32 (kernels/softmax_ce.h).

use crate::device::{DType, Tensor};
use crate::ffi::{self, lc_softmax_ce_args};
use crate::tape::{Grads, Node, Tape, Var, VarId};
use crate::{Result, bail_input};
use std::ptr::null_mut;

/// What the classifier said of a micro-batch.
#[derive(Debug)]
pub struct ClassLoss {
    /// Sum of the cross entropies of the labelled examples.
    pub sum: f64,
    /// How many examples are labelled.
    pub n: usize,
    /// Probabilities [B,n_class], fp32, of labelled and unlabelled examples.
    pub probs: Tensor,
}

/// `logits` [B,n_class] fp32; `labels[b]` is a class, or negative for an example without one. The gradient is made here,
/// times `grad_scale` (weight of this loss over the labelled examples of the whole step), and waits on the tape: no seed
/// is needed. Without recording there is none.
pub fn softmax_ce(tape: &mut Tape, logits: &Var, labels: &[i32], grad_scale: f32) -> Result<ClassLoss> {
    let device = tape.device().clone();
    let [b, n_class] = logits.value().dims("softmax_ce logits")?;
    logits.value().expect("softmax_ce logits", DType::F32, &[b, n_class])?;
    let n = labels.iter().filter(|&&label| label >= 0).count();
    let labels = match labels.iter().position(|&label| label >= n_class as i32) {
        Some(row) => bail_input!("example {row} has label {}, and the head has {n_class} classes", labels[row]),
        None => device.upload_i32("labels", &[labels.len()], labels)?,
    };
    labels.expect("softmax_ce labels", DType::I32, &[b])?;
    let probs = device.empty("probabilities", DType::F32, &[b, n_class])?;
    let loss = device.empty("class losses", DType::F32, &[b])?;
    let dlogits = match tape.recording() && logits.needs_grad() {
        true => Some(device.empty("gradients", DType::F32, &[b, n_class])?),
        false => None,
    };
    let args = lc_softmax_ce_args {
        logits: logits.value().ptr(),
        labels: labels.ptr(),
        probs: probs.ptr(),
        loss: loss.ptr(),
        dlogits: dlogits.as_ref().map_or(null_mut(), Tensor::ptr),
        B: b as i32,
        n_class: n_class as i32,
        scale: grad_scale,
    };
    ffi::launch(&device, &ffi::SOFTMAX_CE, &args, &[logits.value(), &labels])?;
    if let Some(dlogits) = dlogits {
        tape.push(SoftmaxCe { logits: logits.id(), dlogits });
    }
    let sum = loss.read_f32()?.into_iter().map(f64::from).sum();
    Ok(ClassLoss { sum, n, probs })
}

struct SoftmaxCe {
    logits: VarId,
    dlogits: Tensor,
}

impl Node for SoftmaxCe {
    fn name(&self) -> &'static str {
        "softmax_ce"
    }

    fn backward(&self, grads: &mut Grads) -> Result<()> {
        grads.put(self.logits, self.dlogits.clone());
        Ok(())
    }
}
