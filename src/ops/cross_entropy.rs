//! Softmax cross entropy over the vocabulary, loss and gradient at once (kernels/cross_entropy.h). No tape node: lm_loss
//! calls it once a chunk of logits.

use crate::Result;
use crate::device::{DType, Tensor};
use crate::ffi::{self, lc_cross_entropy_args};
use std::ptr::null_mut;

/// `logits` [n,Vp] fp32, of which the first `vocab` columns count; `targets` [n], negative where a row has none. Fills
/// `loss` [n] fp32 and, if given, `dlogits` [n,Vp] with the gradient times `scale`.
pub fn cross_entropy(
    logits: &Tensor,
    vocab: usize,
    targets: &Tensor,
    scale: f32,
    loss: &Tensor,
    dlogits: Option<&Tensor>,
) -> Result<()> {
    let device = logits.device();
    let [n, vp] = logits.dims("cross_entropy logits")?;
    logits.expect("cross_entropy logits", DType::F32, &[n, vp])?;
    targets.expect("cross_entropy targets", DType::I32, &[n])?;
    loss.expect("cross_entropy loss", DType::F32, &[n])?;
    if let Some(dlogits) = dlogits {
        dlogits.expect("cross_entropy dlogits", device.act(), &[n, vp])?;
    }
    let args = lc_cross_entropy_args {
        logits: logits.ptr(),
        targets: targets.ptr(),
        loss: loss.ptr(),
        dlogits: dlogits.map_or(null_mut(), Tensor::ptr),
        n: n as i32,
        V: vocab as i32,
        Vp: vp as i32,
        scale,
    };
    ffi::launch(device, &ffi::CROSS_ENTROPY, &args, &[logits, targets])
}
