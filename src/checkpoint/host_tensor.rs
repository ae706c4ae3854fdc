//! Tensors in host memory: borrowed from a mapped file in the file's own type, or owned in fp32.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::{Error, Result};

/// The number types a weight may be stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostDType {
    /// 32-bit IEEE.
    F32,
    /// 16-bit IEEE.
    F16,
    /// The upper half of an F32.
    BF16,
}

impl HostDType {
    /// Bytes of one number.
    pub fn n_bytes(self) -> usize {
        match self {
            HostDType::F32 => 4,
            HostDType::F16 | HostDType::BF16 => 2,
        }
    }
}

/// A tensor of a mapped file, row-major, little-endian, at any alignment.
#[derive(Debug, Clone)]
pub struct HostTensor<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The type of its numbers.
    pub dtype: HostDType,
    /// The numbers.
    pub bytes: &'a [u8],
}

/// A tensor in fp32 that belongs to us: a LoRA matrix, a layer of the head, a moment of AdamW.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// Numbers one task converts: large enough that handing out tasks costs nothing beside them.
const GRAIN: usize = 1 << 15;

/// Numbers of a piece: 16 MiB in fp32.
const PIECE: usize = 1 << 22;

impl HostTensor<'_> {
    /// The values in fp32; exact for all three types.
    pub fn to_f32(&self) -> Vec<f32> {
        self.convert(|x| x)
    }

    /// The values in bf16, rounded to nearest even; exact where the file holds bf16.
    pub fn to_bf16_bits(&self) -> Vec<u16> {
        match self.dtype {
            HostDType::BF16 => self.bytes.par_chunks_exact(2).with_min_len(GRAIN).map(bits16).collect(),
            _ => self.convert(|x| bf16::from_f32(x).to_bits()),
        }
    }

    /// Hands the values in fp32 to `f`, piece by piece with the flat index of each piece: memory for one piece, not for the
    /// tensor.
    pub fn for_each_f32(&self, mut f: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        self.pieces().try_for_each(|(begin, piece)| f(begin, &piece.to_f32()))
    }

    /// As [`for_each_f32`](HostTensor::for_each_f32), in bf16.
    pub fn for_each_bf16(&self, mut f: impl FnMut(usize, &[u16]) -> Result<()>) -> Result<()> {
        self.pieces().try_for_each(|(begin, piece)| f(begin, &piece.to_bf16_bits()))
    }

    fn pieces(&self) -> impl Iterator<Item = (usize, HostTensor<'_>)> {
        let pieces = self.bytes.chunks(PIECE * self.dtype.n_bytes()).enumerate();
        pieces.map(|(i, bytes)| {
            let piece = HostTensor { name: String::new(), shape: Vec::new(), dtype: self.dtype, bytes };
            (i * PIECE, piece)
        })
    }

    /// The flat index of the first NaN or infinity.
    pub fn first_non_finite(&self) -> Option<usize> {
        let n = self.dtype.n_bytes();
        let find = |is_finite: fn(&[u8]) -> bool| {
            // Whole tasks are asked first, without stopping early, which the compiler turns into vector code: ten times faster.
            let all_finite = |task: &[u8]| task.chunks_exact(n).fold(true, |all, b| all & is_finite(b));
            let tasks = self.bytes.par_chunks(GRAIN * n);
            let task = tasks.position_first(|task| !all_finite(task))?;
            let within = self.bytes[task * GRAIN * n..].chunks_exact(n).position(|b| !is_finite(b))?;
            Some(task * GRAIN + within)
        };
        match self.dtype {
            HostDType::F32 => find(|b| f32_of(b).is_finite()),
            HostDType::F16 => find(|b| bits16(b) & 0x7C00 != 0x7C00),
            HostDType::BF16 => find(|b| bits16(b) & 0x7F80 != 0x7F80),
        }
    }

    /// Refuses a tensor that holds a NaN or an infinity, naming the place.
    pub fn check_finite(&self) -> Result<()> {
        match self.first_non_finite() {
            None => Ok(()),
            Some(index) => Err(Error::Input(format!(
                "tensor {} holds a value that is not finite at {} (flat index {index}); the weights are damaged, fetch them again",
                self.name,
                place(index, &self.shape)
            ))),
        }
    }

    fn convert<T: Send>(&self, f: impl Fn(f32) -> T + Sync + Send) -> Vec<T> {
        let chunks = self.bytes.par_chunks_exact(self.dtype.n_bytes()).with_min_len(GRAIN);
        match self.dtype {
            HostDType::F32 => chunks.map(|b| f(f32_of(b))).collect(),
            HostDType::F16 => chunks.map(|b| f(f16::from_bits(bits16(b)).to_f32())).collect(),
            HostDType::BF16 => chunks.map(|b| f(bf16::from_bits(bits16(b)).to_f32())).collect(),
        }
    }
}

impl NamedTensor {
    /// A tensor whose values fill its shape; anything else is a fault of the caller.
    pub fn new(name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Result<Self> {
        let tensor = NamedTensor { name: name.into(), shape: shape.to_vec(), values };
        tensor.check().map(|()| tensor)
    }

    /// That the values fill the shape and are finite: only such a tensor is saved.
    pub(super) fn check(&self) -> Result<()> {
        if self.shape.iter().product::<usize>() != self.values.len() {
            return Err(Error::Shape(format!(
                "tensor {} has shape {:?} but {} values",
                self.name,
                self.shape,
                self.values.len()
            )));
        }
        match self.values.iter().position(|x| !x.is_finite()) {
            None => Ok(()),
            Some(index) => Err(Error::NotFinite(format!(
                "tensor {} holds {} at {}; it is not saved, and the last good checkpoint stands",
                self.name,
                self.values[index],
                place(index, &self.shape)
            ))),
        }
    }
}

/// Where a flat index lies, e.g. `[3, 17]`.
fn place(mut index: usize, shape: &[usize]) -> String {
    let mut at = vec![0; shape.len()];
    for (i, &size) in shape.iter().enumerate().rev() {
        at[i] = index % size;
        index /= size;
    }
    format!("{at:?}")
}

fn bits16(b: &[u8]) -> u16 {
    u16::from_le_bytes([b[0], b[1]])
}

fn f32_of(b: &[u8]) -> f32 {
    f32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: HostDType, bytes: &[u8]) -> HostTensor<'_> {
        HostTensor { name: "w".into(), shape: vec![2, bytes.len() / dtype.n_bytes() / 2], dtype, bytes }
    }

    fn bytes16(bits: &[u16]) -> Vec<u8> {
        bits.iter().flat_map(|b| b.to_le_bytes()).collect()
    }

    #[test]
    fn every_16_bit_pattern_converts_exactly() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let bytes = bytes16(&bits);
        assert_eq!(tensor(HostDType::BF16, &bytes).to_bf16_bits(), bits);
        for (&b, x) in bits.iter().zip(tensor(HostDType::BF16, &bytes).to_f32()) {
            assert!(x.to_bits() == u32::from(b) << 16 || x.is_nan());
        }
        for (&b, x) in bits.iter().zip(tensor(HostDType::F16, &bytes).to_f32()) {
            let (sign, exponent, fraction) = (if b >> 15 == 0 { 1.0 } else { -1.0 }, b >> 10 & 31, f64::from(b & 1023));
            let value = match exponent {
                0 => fraction / 1024.0 * 2f64.powi(-14),
                31 => continue,
                e => (1.0 + fraction / 1024.0) * 2f64.powi(i32::from(e) - 15),
            };
            assert_eq!(f64::from(x), sign * value, "{b:#06x}");
        }
    }

    #[test]
    fn rounding_to_bf16_is_to_nearest_even() {
        // One ulp of bf16 at 1.0 is 2^-7: a tie goes to the even neighbour, anything beyond the tie goes up.
        let cases = [
            (0x3F80_8000, 0x3F80),
            (0x3F80_8001, 0x3F81),
            (0x3F81_8000, 0x3F82),
            (0x3F81_7FFF, 0x3F81),
            (0xBF81_8000, 0xBF82),
            (0x0000_8000, 0x0000),
            (0x0001_8000, 0x0002),
        ];
        let bytes: Vec<u8> = cases.iter().flat_map(|&(x, _): &(u32, u16)| x.to_le_bytes()).collect();
        let expected: Vec<u16> = cases.iter().map(|&(_, y)| y).collect();
        assert_eq!(tensor(HostDType::F32, &bytes).to_bf16_bits(), expected);
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_in_every_type() {
        let f32s: Vec<u8> =
            [1.0, f32::MAX, -f32::INFINITY, f32::NAN].iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
        assert_eq!(tensor(HostDType::F32, &f32s).first_non_finite(), Some(2));
        assert_eq!(tensor(HostDType::F32, &f32s[..8]).first_non_finite(), None);
        let f16s = bytes16(&[0x7BFF, 0xFBFF, 0x0001, 0x7C01]);
        assert_eq!(tensor(HostDType::F16, &f16s).first_non_finite(), Some(3));
        assert_eq!(tensor(HostDType::F16, &f16s[..4]).first_non_finite(), None);
        let bf16s = bytes16(&[0x7F7F, 0xFF80, 0x7C00, 0x7FC0]);
        assert_eq!(tensor(HostDType::BF16, &bf16s).first_non_finite(), Some(1));
        for at in [0, GRAIN - 1, GRAIN, 3 * GRAIN + 7, 4 * GRAIN - 2] {
            let mut many = vec![0x3F80; 4 * GRAIN];
            (many[at], many[4 * GRAIN - 1]) = (0x7F80, 0x7F80);
            assert_eq!(tensor(HostDType::BF16, &bytes16(&many)).first_non_finite(), Some(at));
        }
        let text = tensor(HostDType::BF16, &bf16s).check_finite().unwrap_err().to_string();
        assert!(text.contains("tensor w") && text.contains("[0, 1]") && text.contains("flat index 1"), "{text}");
    }

    #[test]
    fn pieces_are_the_tensor() {
        let bits: Vec<u16> = (0..PIECE as u32 + 3).map(|i| (i % 0x7C00) as u16).collect();
        let bytes = bytes16(&bits);
        let whole = tensor(HostDType::F16, &bytes);
        let (mut f32s, mut bf16s) = (Vec::new(), Vec::new());
        let begins = |from: usize, have: usize| assert_eq!(from, have, "pieces follow each other");
        whole
            .for_each_f32(|from, piece| {
                begins(from, f32s.len());
                f32s.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        whole
            .for_each_bf16(|from, piece| {
                begins(from, bf16s.len());
                bf16s.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        assert!(f32s == whole.to_f32() && bf16s == whole.to_bf16_bits());
        assert!(whole.for_each_f32(|_, _| Err(Error::Shape("stop".into()))).is_err());
    }

    #[test]
    fn values_that_do_not_fill_the_shape_are_refused() {
        assert!(matches!(NamedTensor::new("w", &[2, 3], vec![0.0; 5]), Err(Error::Shape(_))));
        let nan = NamedTensor::new("w", &[2, 2], vec![0.0, 0.0, 0.0, f32::NAN]).unwrap_err();
        assert!(matches!(&nan, Error::NotFinite(text) if text.contains("tensor w holds NaN at [1, 1]")), "{nan}");
    }
}
