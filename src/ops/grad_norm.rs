//! The norm of all gradients and the factor that clips them (kernels/grad_norm.h). Both stay on the device.

use crate::Result;
use crate::device::{DType, Tensor};
use crate::ffi::{self, LC_GRAD_NORM_SPAN, lc_grad_norm_args};

/// The norm of one flat gradient, and what was wrong with it.
#[derive(Debug)]
pub struct GradNorm {
    norm: Tensor,
    bad: Tensor,
}

/// What [`GradNorm::read`] brings to the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradReport {
    /// The norm of the finite values.
    pub norm: f32,
    /// What gradients are multiplied with; 0 where something is not finite, and then `adamw` changes nothing.
    pub clip: f32,
    /// How many values are NaN or infinite.
    pub n_bad: usize,
    /// Where the first of them lies.
    pub first_bad: Option<usize>,
}

impl GradNorm {
    /// The factor, [1] on the device, for [`super::adamw::adamw`].
    pub fn clip(&self) -> Tensor {
        self.norm.rows(1, 2)
    }

    /// Everything, on the host: waits for the device.
    pub fn read(&self) -> Result<GradReport> {
        let (norm, bad) = (self.norm.read_f32()?, self.bad.read_i32()?);
        let first_bad = usize::try_from(bad[1]).ok().filter(|_| bad[0] > 0);
        Ok(GradReport { norm: norm[0], clip: norm[1], n_bad: bad[0] as usize, first_bad })
    }
}

/// `grad` [n], flat, fp32. `max_norm`: what the norm is held to; infinity for no clipping.
pub fn grad_norm(grad: &Tensor, max_norm: f32) -> Result<GradNorm> {
    let device = grad.device();
    let [n] = grad.dims("grad_norm grad")?;
    grad.expect("grad_norm grad", DType::F32, &[n])?;
    let n_spans = n.div_ceil(LC_GRAD_NORM_SPAN as usize);
    let sums = device.empty("gradient norm", DType::F32, &[n_spans])?;
    let bads = device.empty("gradient norm", DType::I32, &[n_spans, 2])?;
    let norm = device.empty("gradient norm", DType::F32, &[2])?;
    let bad = device.empty("gradient norm", DType::I32, &[2])?;
    let args = lc_grad_norm_args {
        grad: grad.ptr(),
        sums: sums.ptr(),
        bads: bads.ptr(),
        norm: norm.ptr(),
        bad: bad.ptr(),
        n: n as i64,
        max_norm,
    };
    ffi::launch(device, &ffi::GRAD_NORM, &args, &[grad])?;
    Ok(GradNorm { norm, bad })
}
