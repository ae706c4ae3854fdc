//! Frozen weights in NF4, as bitsandbytes lays them out: quantise, decode, and multiply without decoding (kernels/nf4.h).

use crate::device::{DType, Device, Tensor};
use crate::ffi::{self, lc_nf4, lc_nf4_dequantize_args, lc_nf4_matmul_args, lc_nf4_quantize_args};
use crate::tape::Write;
use crate::{Error, Result};
use std::ptr::{null, null_mut};

pub use crate::nf4::{BLOCK, NESTED_BLOCK, NF4_MAP, dynamic_map, nested_map};

/// Buffers of packed weights, in the memory plan.
pub const CODES: &str = "NF4 codes";
/// Buffers of scales, in the memory plan.
pub const SCALES: &str = "NF4 scales";

/// [`nested_map`] on a device, to be shared by all weights quantised there.
pub fn nested_map_on(device: &Device) -> Result<Tensor> {
    device.upload(SCALES, DType::F32, &[256], &nested_map())
}

/// The scale of every block of 64 weights.
#[derive(Debug, Clone)]
pub enum Scales {
    /// fp32, one per block.
    Plain(Tensor),
    /// Double quantisation: an 8-bit code per block, fp32 per 256 blocks.
    Double {
        /// [n_blocks] U8.
        codes: Tensor,
        /// [ceil(n_blocks / 256)] F32.
        nested_absmax: Tensor,
        /// [256] F32 ascending; shared by all weights.
        map: Tensor,
        /// [1] F32, added to every scale.
        offset: Tensor,
    },
}

/// A frozen weight [N,K] in NF4.
#[derive(Debug, Clone)]
pub struct Nf4Weight {
    packed: Tensor,
    scales: Scales,
    shape: [usize; 2],
}

/// Which way a decoded weight lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// [N,K], as stored.
    Rows,
    /// [K,N].
    Transposed,
}

impl Nf4Weight {
    /// A weight from its parts, each held to its size.
    pub fn new(packed: Tensor, scales: Scales, [n, k]: [usize; 2]) -> Result<Nf4Weight> {
        let n_blocks = (n * k).div_ceil(BLOCK);
        packed.expect("NF4 codes", DType::U8, &[(n * k).div_ceil(2)])?;
        match &scales {
            Scales::Plain(absmax) => absmax.expect("NF4 scales", DType::F32, &[n_blocks])?,
            Scales::Double { codes, nested_absmax, map, offset } => {
                codes.expect("NF4 codes of the scales", DType::U8, &[n_blocks])?;
                nested_absmax.expect("NF4 scales of the scales", DType::F32, &[n_blocks.div_ceil(NESTED_BLOCK)])?;
                map.expect("NF4 nested map", DType::F32, &[256])?;
                offset.expect("NF4 offset", DType::F32, &[1])?;
            }
        }
        Ok(Nf4Weight { packed, scales, shape: [n, k] })
    }

    /// Quantises a dense weight [N,K] (storage type or fp32) by bitsandbytes' rules; with a map the scales as well.
    pub fn quantize(w: &Tensor, nested_map: Option<&Tensor>) -> Result<Nf4Weight> {
        let device = w.device();
        let [n, k] = w.dims("nf4_quantize w")?;
        if w.dtype() != DType::F32 {
            w.expect("nf4_quantize w", device.act(), &[n, k])?;
        }
        let n_blocks = (n * k).div_ceil(BLOCK);
        let packed = device.empty(CODES, DType::U8, &[(n * k).div_ceil(2)])?;
        let absmax = device.empty(SCALES, DType::F32, &[n_blocks])?;
        let as_act = w.dtype() == device.act();
        let mut args = lc_nf4_quantize_args {
            w: if as_act { w.ptr() } else { null() },
            w32: if as_act { null() } else { w.ptr() },
            packed: packed.ptr(),
            absmax: absmax.ptr(),
            absmax_q: null_mut(),
            nested_absmax: null_mut(),
            offset: null_mut(),
            nested_map: null(),
            n: (n * k) as i64,
        };
        let Some(map) = nested_map else {
            ffi::launch(device, &ffi::NF4_QUANTIZE, &args, &[w, &packed])?;
            return Nf4Weight::new(packed, Scales::Plain(absmax), [n, k]);
        };
        map.expect("NF4 nested map", DType::F32, &[256])?;
        let codes = device.empty(SCALES, DType::U8, &[n_blocks])?;
        let nested_absmax = device.empty(SCALES, DType::F32, &[n_blocks.div_ceil(NESTED_BLOCK)])?;
        let offset = device.empty(SCALES, DType::F32, &[1])?;
        args.absmax_q = codes.ptr();
        args.nested_absmax = nested_absmax.ptr();
        args.offset = offset.ptr();
        args.nested_map = map.ptr();
        ffi::launch(device, &ffi::NF4_QUANTIZE, &args, &[w, &packed, &codes])?;
        Nf4Weight::new(packed, Scales::Double { codes, nested_absmax, map: map.clone(), offset }, [n, k])
    }

    /// A weight whose bytes are yet to be written; with a map its scales are in 8 bits.
    pub fn empty(device: &Device, [n, k]: [usize; 2], nested_map: Option<&Tensor>) -> Result<Nf4Weight> {
        let n_blocks = (n * k).div_ceil(BLOCK);
        let packed = device.empty(CODES, DType::U8, &[(n * k).div_ceil(2)])?;
        let scales = match nested_map {
            None => Scales::Plain(device.empty(SCALES, DType::F32, &[n_blocks])?),
            Some(map) => Scales::Double {
                codes: device.empty(SCALES, DType::U8, &[n_blocks])?,
                nested_absmax: device.empty(SCALES, DType::F32, &[n_blocks.div_ceil(NESTED_BLOCK)])?,
                map: map.clone(),
                offset: device.empty(SCALES, DType::F32, &[1])?,
            },
        };
        Nf4Weight::new(packed, scales, [n, k])
    }

    /// [N,K]: output and input features.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The codes, two to a byte.
    pub fn packed(&self) -> &Tensor {
        &self.packed
    }

    /// The scales.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The device it lies on.
    pub fn device(&self) -> &Device {
        self.packed.device()
    }

    /// Bytes of codes and scales, without the shared map.
    pub fn n_bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(absmax) => absmax.n_bytes(),
            Scales::Double { codes, nested_absmax, offset, .. } => {
                codes.n_bytes() + nested_absmax.n_bytes() + offset.n_bytes()
            }
        };
        self.packed.n_bytes() + scales
    }

    /// Decodes into a new tensor [N,K] called `name`.
    pub fn dequantize(&self, name: &str) -> Result<Tensor> {
        let y = self.device().empty(name, self.device().act(), &self.shape)?;
        self.dequantize_into(&y, Orientation::Rows)?;
        Ok(y)
    }

    /// Decodes into `y`, bit for bit as bitsandbytes does.
    pub fn dequantize_into(&self, y: &Tensor, orientation: Orientation) -> Result<()> {
        let [n, k] = self.shape;
        let transposed = orientation == Orientation::Transposed;
        y.expect("nf4_dequantize y", self.device().act(), &if transposed { [k, n] } else { [n, k] })?;
        let args = lc_nf4_dequantize_args { w: self.args(), y: y.ptr(), transposed: i32::from(transposed) };
        ffi::launch(self.device(), &ffi::NF4_DEQUANTIZE, &args, &[&self.packed, y])
    }

    /// `y [M,N] (=|+=) x [M,K] wᵀ`, decoding in registers: for a few tokens.
    pub fn matmul(&self, x: &Tensor, y: &Tensor, write: Write) -> Result<()> {
        let [n, k] = self.shape;
        let [m, _] = x.dims("nf4_matmul x")?;
        x.expect("nf4_matmul x", self.device().act(), &[m, k])?;
        y.expect("nf4_matmul y", self.device().act(), &[m, n])?;
        let args = lc_nf4_matmul_args {
            w: self.args(),
            x: x.ptr(),
            y: y.ptr(),
            M: m as i32,
            ldx: k as i32,
            ldy: n as i32,
            write: write.code(),
        };
        ffi::launch(self.device(), &ffi::NF4_MATMUL, &args, &[x, &self.packed, y])
    }

    /// As kernels take it.
    pub(super) fn args(&self) -> lc_nf4 {
        let [n, k] = self.shape;
        let mut args = lc_nf4 {
            packed: self.packed.ptr(),
            absmax: null(),
            absmax_q: null(),
            nested_absmax: null(),
            nested_map: null(),
            offset: null(),
            N: n as i32,
            K: k as i32,
        };
        match &self.scales {
            Scales::Plain(absmax) => args.absmax = absmax.ptr(),
            Scales::Double { codes, nested_absmax, map, offset } => {
                args.absmax_q = codes.ptr();
                args.nested_absmax = nested_absmax.ptr();
                args.nested_map = map.ptr();
                args.offset = offset.ptr();
            }
        }
        args
    }
}

impl Scales {
    /// The scale of every block as the kernels compute it, on the host: for reports and exports.
    pub fn values(&self) -> Result<Vec<f32>> {
        match self {
            Scales::Plain(absmax) => absmax.read_f32(),
            Scales::Double { codes, nested_absmax, map, offset } => {
                let (nested, map, offset) = (nested_absmax.read_f32()?, map.read_f32()?, offset.read_f32()?);
                let offset = *offset.first().ok_or_else(|| Error::Shape("NF4 offset: empty".into()))?;
                let codes = codes.read_bytes()?;
                let scale = |(b, &code): (usize, &u8)| map[usize::from(code)] * nested[b / NESTED_BLOCK] + offset;
                Ok(codes.iter().enumerate().map(scale).collect())
            }
        }
    }
}
