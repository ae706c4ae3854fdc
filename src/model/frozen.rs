//! Frozen weights from a mapped folder to the device: dense, quantised on the way, or in NF4 as they lie in the file.
//!
//! Host memory holds one piece of a tensor (16 MiB in fp32) at a time; bytes that the device takes as they are go straight
//! from the mapped file.

use crate::checkpoint::{HostDType, HostNf4, HostScales, HostTensor};
use crate::device::{DType, Device, Tensor};
use crate::ops::nf4::{Nf4Weight, Scales};
use crate::{Error, Result};

/// Overwrites `t`, of bf16 or fp32, with the values of `host`, rounded to nearest even where `t` is narrower.
pub fn write_dense(t: &Tensor, host: &HostTensor) -> Result<()> {
    let flat = t.view(&[t.n_elems()]);
    match (t.dtype(), host.dtype) {
        (DType::Bf16, HostDType::BF16) | (DType::F32, HostDType::F32) => flat.write_bytes(host.bytes),
        (DType::Bf16, _) => host.for_each_bf16(|begin, piece| {
            flat.rows(begin, begin + piece.len()).write_bytes(bytemuck::cast_slice(piece))
        }),
        _ => host.for_each_f32(|begin, piece| flat.rows(begin, begin + piece.len()).write_f32(piece)),
    }
}

/// The values on the device exactly, for quantising: in bf16 where they are bf16 and the device stores that, else in fp32,
/// since rounding first would give other codes.
pub fn upload_exact(device: &Device, name: &str, host: &HostTensor) -> Result<Tensor> {
    let t = device.empty(name, exact_dtype(device, host), &host.shape)?;
    write_dense(&t, host)?;
    Ok(t)
}

/// The type in which [`upload_exact`] holds the values.
pub fn exact_dtype(device: &Device, host: &HostTensor) -> DType {
    let as_stored = host.dtype == HostDType::BF16 && device.act() == DType::Bf16;
    if as_stored { DType::Bf16 } else { DType::F32 }
}

/// Fills a weight with the bytes of the file; a weight of another size or kind is a fault of the caller.
pub fn fill_nf4(weight: &Nf4Weight, host: &HostNf4) -> Result<()> {
    host.check_finite()?;
    let write = |t: &Tensor, bytes: &[u8]| match t.n_bytes() == bytes.len() {
        true => t.write_bytes(bytes),
        false => Err(Error::Shape(format!("{}: {} bytes for `{}` {:?}", host.name, bytes.len(), t.name(), t.shape()))),
    };
    write(weight.packed(), host.packed)?;
    match (weight.scales(), host.scales) {
        (Scales::Plain(t), HostScales::Plain(absmax)) => write(t, absmax),
        (
            Scales::Double { codes, nested_absmax, offset, .. },
            HostScales::Double { codes: codes_bytes, nested_absmax: nested_bytes, offset: value },
        ) => {
            write(codes, codes_bytes)?;
            write(nested_absmax, nested_bytes)?;
            offset.write_f32(&[value])
        }
        _ => Err(Error::Shape(format!("{}: scales of another kind than the weight's", host.name))),
    }
}
