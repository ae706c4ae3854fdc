//! One AdamW update of a stretch of flat weights whose moments are stored in 8 bits (kernels/adamw8.h).

use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::ffi::{self, LC_ADAMW8_BLOCK, lc_adamw8_args};
use crate::ops::adamw::{AdamwConfig, Weights};
use crate::ops::nf4::dynamic_map;
use std::ops::Range;
use std::ptr::null_mut;

/// Elements that share a scale.
pub const BLOCK: usize = LC_ADAMW8_BLOCK as usize;

/// One moment of AdamW in 8 bits: of m itself, of v the root.
#[derive(Debug, Clone)]
pub struct Moment8 {
    /// [n] U8
    pub codes: Tensor,
    /// [ceil(n / 256)] fp32
    pub scales: Tensor,
}

impl Moment8 {
    /// The moment of `n` weights at the start: zero.
    pub fn zeros(device: &Device, name: &str, n: usize) -> Result<Moment8> {
        let codes = device.zeros(name, DType::U8, &[n])?;
        Ok(Moment8 { codes, scales: device.zeros(name, DType::F32, &[n.div_ceil(BLOCK)])? })
    }

    /// That of a range of the weights, which begins with a block.
    pub fn part(&self, range: &Range<usize>) -> Moment8 {
        assert_eq!(range.start % BLOCK, 0, "a block of 8-bit moments belongs to one stretch of weights");
        let scales = self.scales.rows(range.start / BLOCK, range.end.div_ceil(BLOCK));
        Moment8 { codes: self.codes.rows(range.start, range.end), scales }
    }

    fn check(&self, what: &str, n: usize) -> Result<()> {
        self.codes.expect(what, DType::U8, &[n])?;
        self.scales.expect(what, DType::F32, &[n.div_ceil(BLOCK)])
    }
}

/// The values that codes stand for: [2,256], those of m, then those of the root of v. bitsandbytes' dynamic maps.
pub fn maps_on(device: &Device) -> Result<Tensor> {
    device.upload("8-bit maps", DType::F32, &[2, 256], &[dynamic_map(true), dynamic_map(false)].concat())
}

/// As [`super::adamw::adamw`], with moments in 8 bits; `maps` from [`maps_on`].
pub fn adamw8(
    w: &Weights,
    [m, v]: [&Moment8; 2],
    maps: &Tensor,
    config: &AdamwConfig,
    clip: Option<&Tensor>,
    step: usize,
) -> Result<()> {
    let n = w.check(clip)?;
    m.check("adamw8 m", n)?;
    v.check("adamw8 v", n)?;
    maps.expect("adamw8 maps", DType::F32, &[2, 256])?;
    let args = lc_adamw8_args {
        master: w.master.ptr(),
        grad: w.grad.args(),
        m_codes: m.codes.ptr(),
        v_codes: v.codes.ptr(),
        m_scales: m.scales.ptr(),
        v_scales: v.scales.ptr(),
        signed_map: maps.rows(0, 1).ptr(),
        unsigned_map: maps.rows(1, 2).ptr(),
        copy: w.copy_ptr(),
        clip: clip.map_or(null_mut(), |t| t.ptr()),
        n: n as i64,
        step: config.at(step),
    };
    ffi::launch(w.device(), &ffi::ADAMW8, &args, &[&w.master, &m.codes, &v.codes])
}
