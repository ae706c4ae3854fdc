//! The norm of all gradients and the factor that clips them (kernels/grad_norm.h). Both stay on the device.

use crate::Result;
use crate::device::{DType, Tensor};
use crate::ffi::{self, LC_GRAD_NORM_SPAN, lc_grad_norm_part_args, lc_grad_norm_total_args};
use crate::tape::Gradient;

const SPAN: usize = LC_GRAD_NORM_SPAN as usize;

/// The norm over several flat gradients, and what was wrong with them.
#[derive(Debug)]
pub struct GradNorm {
    norm: Tensor,
    bad: Tensor,
    /// Where each part's spans begin.
    first_spans: Vec<usize>,
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
    /// The part and the element of the first of them.
    pub first_bad: Option<(usize, usize)>,
}

impl GradNorm {
    /// The factor, [1] on the device, for [`super::adamw::adamw`].
    pub fn clip(&self) -> Tensor {
        self.norm.rows(1, 2)
    }

    /// Everything, on the host: waits for the device.
    pub fn read(&self) -> Result<GradReport> {
        let (norm, bad) = (self.norm.read_f32()?, self.bad.read_i32()?);
        // A device that only counts reads zeros: it is the count that says whether there is a place.
        let first_bad = (bad[0] > 0).then(|| {
            let at = bad[1] as usize;
            let part = self.first_spans.partition_point(|first| first * SPAN <= at) - 1;
            (part, at - self.first_spans[part] * SPAN)
        });
        Ok(GradReport { norm: norm[0], clip: norm[1], n_bad: bad[0] as usize, first_bad })
    }
}

/// One norm over all `parts`, fp32. `max_norm`: what it is held to; infinity for no clipping.
pub fn grad_norm(parts: &[&Gradient], max_norm: f32) -> Result<GradNorm> {
    let device = parts.first().expect("something is trained").device();
    let spans: Vec<usize> = parts.iter().map(|part| part.n_elems().div_ceil(SPAN)).collect();
    let first_spans: Vec<usize> = (0..parts.len()).map(|i| spans[..i].iter().sum()).collect();
    let n_spans = spans.iter().sum();
    let sums = device.empty("gradient norm", DType::F32, &[n_spans])?;
    let bads = device.empty("gradient norm", DType::I32, &[n_spans, 2])?;
    let norm = device.empty("gradient norm", DType::F32, &[2])?;
    let bad = device.empty("gradient norm", DType::I32, &[2])?;
    for ((part, &first), n) in parts.iter().zip(&first_spans).zip(&spans) {
        if let Gradient::Stored(grad) = part {
            grad.expect("grad_norm grad", DType::F32, grad.shape())?;
        }
        let (sums, bads) = (sums.rows(first, first + n), bads.rows(first, first + n));
        let args =
            lc_grad_norm_part_args { grad: part.args(), sums: sums.ptr(), bads: bads.ptr(), n: part.n_elems() as i64 };
        ffi::launch(device, &ffi::GRAD_NORM_PART, &args, &[&sums, &bads])?;
    }
    let args = lc_grad_norm_total_args {
        sums: sums.ptr(),
        bads: bads.ptr(),
        norm: norm.ptr(),
        bad: bad.ptr(),
        n_spans: n_spans as i64,
        max_norm,
    };
    ffi::launch(device, &ffi::GRAD_NORM_TOTAL, &args, &[&sums, &bads])?;
    Ok(GradNorm { norm, bad, first_spans })
}
