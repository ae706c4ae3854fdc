//! Activations in 8 bits, in blocks of 128 with one scale each, and back (kernels/blocks8.h): half the memory of bf16 for
//! what only waits for the backward.

use crate::device::{DType, Device, Tensor};
use crate::ffi::{self, lc_blocks8_dequantize_args, lc_blocks8_quantize_args};
use crate::{Error, Result};

/// Elements that share one scale.
pub const BLOCK: usize = ffi::LC_BLOCKS8 as usize;

/// A tensor in 8 bits: it remembers the shape it had.
#[derive(Debug, Clone)]
pub struct Blocks8 {
    codes: Tensor,
    scales: Tensor,
    shape: Vec<usize>,
}

/// Stores `x` (storage type; a multiple of eight elements, seen flat) in 8 bits, under this buffer name.
pub fn quantize(name: &str, x: &Tensor) -> Result<Blocks8> {
    let (device, n) = (x.device(), x.n_elems());
    x.expect("blocks8 x", device.act(), x.shape())?;
    if n == 0 || !n.is_multiple_of(8) {
        let (name, shape) = (x.name(), x.shape());
        return Err(Error::Shape(format!("blocks8: expected a multiple of 8 elements, `{name}` has shape {shape:?}")));
    }
    let codes = device.empty(name, DType::U8, &[n])?;
    let scales = device.empty(name, DType::F32, &[n.div_ceil(BLOCK)])?;
    let args = lc_blocks8_quantize_args { x: x.ptr(), codes: codes.ptr(), scales: scales.ptr(), n: n as i64 };
    ffi::launch(device, &ffi::BLOCKS8_QUANTIZE, &args, &[x, &codes, &scales])?;
    Ok(Blocks8 { codes, scales, shape: x.shape().to_vec() })
}

impl Blocks8 {
    /// What comes back: within half a step of what was stored, and NaN where that was not finite.
    pub fn dequantize(&self, name: &str) -> Result<Tensor> {
        let device = self.device();
        let x = device.empty(name, device.act(), &self.shape)?;
        let n = x.n_elems() as i64;
        let args = lc_blocks8_dequantize_args { codes: self.codes.ptr(), scales: self.scales.ptr(), x: x.ptr(), n };
        ffi::launch(device, &ffi::BLOCKS8_DEQUANTIZE, &args, &[&self.codes, &self.scales, &x])?;
        Ok(x)
    }

    /// [n] U8: signed bytes, in the order of the elements.
    pub fn codes(&self) -> &Tensor {
        &self.codes
    }

    /// [ceil(n / 128)] F32.
    pub fn scales(&self) -> &Tensor {
        &self.scales
    }

    /// The shape of what was stored.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        self.codes.device()
    }

    /// Bytes of codes and scales.
    pub fn n_bytes(&self) -> usize {
        self.codes.n_bytes() + self.scales.n_bytes()
    }
}
