//! Matrix products on tensor cores, K laid together from segments (kernels/matmul.h). A building block: no tape node.

use crate::device::{DType, Tensor};
use crate::ffi::{self, LC_MAX_SEGMENTS, LC_NN, LC_NT, LC_TN, lc_matmul_args, lc_matmul_segment};
use crate::tape::Write;
use crate::{Error, Result};
use std::ptr::{null, null_mut};

/// How the two matrices of every segment lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// a [M,K], b [N,K]: y = a bᵀ, a layer's forward.
    NT,
    /// a [M,K], b [K,N]: y = a b, the gradient of a layer's input.
    NN,
    /// a [K,M], b [K,N]: y = aᵀ b, the gradient of a layer's weight.
    TN,
}

/// `y (=|+=) alpha · Σ_s a_s b_s` over `segments` of (a, b), each with its own K. `y` [M,N] is of the storage type or fp32.
pub fn matmul(layout: Layout, segments: &[(&Tensor, &Tensor)], y: &Tensor, alpha: f32, write: Write) -> Result<()> {
    let device = y.device();
    let [m, n] = y.dims("matmul y")?;
    if y.dtype() != DType::F32 {
        y.expect("matmul y", device.act(), &[m, n])?;
    }
    let most = LC_MAX_SEGMENTS as usize;
    if segments.is_empty() || segments.len() > most {
        return Err(Error::Shape(format!("matmul: {} segments; it takes 1 to {most}", segments.len())));
    }
    let none = lc_matmul_segment { a: null(), b: null(), lda: 0, ldb: 0, K: 0 };
    let mut segment = [none; LC_MAX_SEGMENTS as usize];
    for (slot, (a, b)) in segment.iter_mut().zip(segments) {
        let [rows, columns] = a.dims("matmul a")?;
        let k = if layout == Layout::TN { rows } else { columns };
        let (a_shape, b_shape) = match layout {
            Layout::NT => ([m, k], [n, k]),
            Layout::NN => ([m, k], [k, n]),
            Layout::TN => ([k, m], [k, n]),
        };
        a.expect("matmul a", device.act(), &a_shape)?;
        b.expect("matmul b", device.act(), &b_shape)?;
        *slot =
            lc_matmul_segment { a: a.ptr(), b: b.ptr(), lda: a_shape[1] as i32, ldb: b_shape[1] as i32, K: k as i32 };
    }
    let in_fp32 = y.dtype() != device.act();
    let args = lc_matmul_args {
        segment,
        y: if in_fp32 { null_mut() } else { y.ptr() },
        y32: if in_fp32 { y.ptr() } else { null_mut() },
        n_segments: segments.len() as i32,
        M: m as i32,
        N: n as i32,
        ldy: n as i32,
        layout: match layout {
            Layout::NT => LC_NT,
            Layout::NN => LC_NN,
            Layout::TN => LC_TN,
        } as i32,
        write: write.code(),
        alpha,
    };
    let tensors: Vec<&Tensor> = segments.iter().flat_map(|&(a, b)| [a, b]).chain([y]).collect();
    ffi::launch(device, &ffi::MATMUL, &args, &tensors)
}
