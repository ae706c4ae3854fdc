//! 8-bit operands in e4m3 and their products on tensor cores (kernels/fp8_rows.h, nf4_fp8.h, matmul_fp8.h). Building blocks: no
//! tape node; `linear` takes them for frozen weights where the model was loaded so.

use crate::device::{DType, Tensor};
use crate::ffi::{self, LC_FP8_OUTPUTS, LC_FP8_SEGMENTS, LC_NN, LC_NT};
use crate::ffi::{lc_fp8_rows_args, lc_matmul_fp8_args, lc_matmul_fp8_output, lc_matmul_fp8_segment};
use crate::ffi::{lc_nf4_fp8_args, lc_nf4_fp8_scales_args};
use crate::ops::matmul::Layout;
use crate::ops::nf4::{Nf4Weight, Orientation};
use crate::tape::Write;
use crate::{Error, Result};
use std::ptr::{null, null_mut};

/// Buffers of the scales of weights, in the memory plan.
pub const WEIGHT_SCALES: &str = "e4m3 scales";

/// Widths of 8-bit operands are multiples of this: rows start on 16 bytes.
pub const WIDTH_STEP: usize = 16;

/// A matrix [rows, K] in e4m3, one fp32 scale a row.
#[derive(Debug, Clone)]
pub struct Fp8 {
    /// [rows, K] U8.
    pub codes: Tensor,
    /// [rows] F32.
    pub scales: Tensor,
}

impl Fp8 {
    /// Rounds a matrix of the storage type; its buffers are called `name`.
    pub fn of(x: &Tensor, name: &str) -> Result<Fp8> {
        let device = x.device();
        let [t, k] = x.dims("fp8_rows x")?;
        x.expect("fp8_rows x", device.act(), &[t, k])?;
        let (codes, scales) = (device.empty(name, DType::U8, &[t, k])?, device.empty(name, DType::F32, &[t])?);
        let args = lc_fp8_rows_args { x: x.ptr(), codes: codes.ptr(), scales: scales.ptr(), T: t as i32, K: k as i32 };
        ffi::launch(device, &ffi::FP8_ROWS, &args, &[x, &codes])?;
        Ok(Fp8 { codes, scales })
    }

    fn expect(&self, what: &str, rows: usize, k: usize) -> Result<()> {
        self.codes.expect(what, DType::U8, &[rows, k])?;
        self.scales.expect(what, DType::F32, &[rows])
    }
}

/// The scales of a frozen weight [N,K] in both orientations: a property of the weight, found once.
#[derive(Debug, Clone)]
pub struct Fp8Scales {
    /// [N], of rows as stored.
    pub rows: Tensor,
    /// [K], of rows of the weight turned.
    pub columns: Tensor,
}

impl Fp8Scales {
    /// Scales of `w`.
    pub fn of(w: &Nf4Weight) -> Result<Fp8Scales> {
        let (device, [n, k]) = (w.device(), w.shape());
        let of = |n: usize| device.empty(WEIGHT_SCALES, DType::F32, &[n]);
        let (rows, columns) = (of(n)?, of(k)?);
        let args = lc_nf4_fp8_scales_args { w: w.args(), row_scales: rows.ptr(), column_scales: columns.ptr() };
        ffi::launch(device, &ffi::NF4_FP8_SCALES, &args, &[w.packed(), &rows, &columns])?;
        Ok(Fp8Scales { rows, columns })
    }

    /// The scales that go with codes of this orientation.
    pub fn along(&self, orientation: Orientation) -> &Tensor {
        match orientation {
            Orientation::Rows => &self.rows,
            Orientation::Transposed => &self.columns,
        }
    }

    /// Decodes `w`, whose scales these are, into `codes`: [N,K], or [K,N] turned.
    pub fn decode_into(&self, w: &Nf4Weight, codes: &Tensor, orientation: Orientation) -> Result<()> {
        let [n, k] = w.shape();
        let transposed = orientation == Orientation::Transposed;
        codes.expect("nf4_fp8 y", DType::U8, &if transposed { [k, n] } else { [n, k] })?;
        let scales = self.along(orientation);
        scales.expect("nf4_fp8 scales", DType::F32, &[if transposed { k } else { n }])?;
        let transposed = i32::from(transposed);
        let args = lc_nf4_fp8_args { w: w.args(), scales: scales.ptr(), y: codes.ptr(), transposed };
        ffi::launch(w.device(), &ffi::NF4_FP8, &args, &[w.packed(), scales, codes])
    }
}

/// One output of a launch: 8-bit pairs (a [M,K], b [N,K]), then pairs of the storage type as in [`Layout`].
#[derive(Debug, Clone)]
pub struct Fp8Product<'a> {
    /// k is contiguous in both, whatever the layout.
    pub eight: Vec<(&'a Fp8, &'a Fp8)>,
    /// Behind them in the same sum.
    pub wide: Vec<(&'a Tensor, &'a Tensor)>,
    /// [M,N], storage type.
    pub y: &'a Tensor,
}

/// `y (=|+=) Σ eight + Σ wide` for up to three outputs of the same M, in one launch.
pub fn matmul_fp8(layout: Layout, products: &[Fp8Product], write: Write) -> Result<()> {
    let Some(first) = products.first() else { return Ok(()) };
    let device = first.y.device();
    let [m, _] = first.y.dims("matmul_fp8 y")?;
    let none = lc_matmul_fp8_segment {
        a8: null(),
        b8: null(),
        a_scales: null(),
        b_scales: null(),
        a: null(),
        b: null(),
        K: 0,
    };
    let mut segment = [none; LC_FP8_SEGMENTS as usize];
    let none = lc_matmul_fp8_output { y: null_mut(), N: 0, first_segment: 0, n_segments: 0 };
    let mut output = [none; LC_FP8_OUTPUTS as usize];
    let n_all: usize = products.iter().map(|p| p.eight.len() + p.wide.len()).sum();
    if products.len() > output.len() || n_all > segment.len() {
        let (most, outputs) = (segment.len(), output.len());
        return Err(Error::Shape(format!(
            "matmul_fp8: {n_all} segments for {} outputs; it takes {most} for {outputs}",
            products.len()
        )));
    }
    let (mut free, mut tensors) = (0, Vec::new());
    for (product, slot) in products.iter().zip(&mut output) {
        let [_, n] = product.y.dims("matmul_fp8 y")?;
        product.y.expect("matmul_fp8 y", device.act(), &[m, n])?;
        let first_segment = free as i32;
        for (a, b) in &product.eight {
            let [_, k] = a.codes.dims("matmul_fp8 a")?;
            a.expect("matmul_fp8 a", m, k)?;
            b.expect("matmul_fp8 b", n, k)?;
            let (a8, b8) = (a.codes.ptr::<u8>().cast_const(), b.codes.ptr::<u8>().cast_const());
            let (a_scales, b_scales) = (a.scales.ptr::<f32>().cast_const(), b.scales.ptr::<f32>().cast_const());
            segment[free] = lc_matmul_fp8_segment { a8, b8, a_scales, b_scales, K: k as i32, ..segment[free] };
            tensors.extend([&a.codes, &b.codes]);
            free += 1;
        }
        for &(a, b) in &product.wide {
            let [_, k] = a.dims("matmul_fp8 a")?;
            a.expect("matmul_fp8 a", device.act(), &[m, k])?;
            b.expect("matmul_fp8 b", device.act(), &if layout == Layout::NT { [n, k] } else { [k, n] })?;
            segment[free] = lc_matmul_fp8_segment { a: a.ptr(), b: b.ptr(), K: k as i32, ..segment[free] };
            tensors.extend([a, b]);
            free += 1;
        }
        let n_segments = free as i32 - first_segment;
        *slot = lc_matmul_fp8_output { y: product.y.ptr(), N: n as i32, first_segment, n_segments };
        tensors.push(product.y);
    }
    let layout = match layout {
        Layout::NT => LC_NT,
        Layout::NN => LC_NN,
        Layout::TN => {
            return Err(Error::Shape("matmul_fp8: there is no layout TN; gradients of LoRA stay in bf16".into()));
        }
    };
    let n_outputs = products.len() as i32;
    let args =
        lc_matmul_fp8_args { segment, output, n_outputs, M: m as i32, layout: layout as i32, write: write.code() };
    ffi::launch(device, &ffi::MATMUL_FP8, &args, &tensors)
}
