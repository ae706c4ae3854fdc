//! Frozen weights from a mapped folder to the device: dense, quantised on the way, or in NF4 as they lie in the file.
//!
//! Host memory holds one piece of a tensor (16 MiB in fp32) at a time; bytes that the device takes as they are go straight
//! from the mapped file.

use crate::Result;
use crate::checkpoint::{HostDType, HostNf4, HostScales, HostTensor};
use crate::device::{DType, Device, Tensor};
use crate::ops::nf4::{BLOCK, NESTED_BLOCK, Nf4Weight, Scales};

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
    let as_stored = host.dtype == HostDType::BF16 && device.act() == DType::Bf16;
    let t = device.empty(name, if as_stored { DType::Bf16 } else { DType::F32 }, &host.shape)?;
    write_dense(&t, host)?;
    Ok(t)
}

/// A weight in NF4 on the device, byte for byte as the file holds it; `map` is
/// [`nested_map_on`](crate::ops::nf4::nested_map_on), shared by all.
pub fn upload_nf4(device: &Device, host: &HostNf4, map: &Tensor) -> Result<Nf4Weight> {
    let n_elems: usize = host.shape.iter().product();
    let n_blocks = n_elems.div_ceil(BLOCK);
    let bytes = |name: &str, dtype: DType, n: usize, bytes: &[u8]| -> Result<Tensor> {
        let t = device.empty(name, dtype, &[n])?;
        t.write_bytes(bytes)?;
        Ok(t)
    };
    let packed = bytes("NF4 codes", DType::U8, n_elems.div_ceil(2), host.packed)?;
    let scales = match host.scales {
        HostScales::Plain(absmax) => Scales::Plain(bytes("NF4 scales", DType::F32, n_blocks, absmax)?),
        HostScales::Double { codes, nested_absmax, offset } => Scales::Double {
            codes: bytes("NF4 scales", DType::U8, n_blocks, codes)?,
            nested_absmax: bytes("NF4 scales", DType::F32, n_blocks.div_ceil(NESTED_BLOCK), nested_absmax)?,
            map: map.clone(),
            offset: device.upload("NF4 scales", DType::F32, &[1], &[offset])?,
        },
    };
    Nf4Weight::new(packed, scales, host.shape)
}
