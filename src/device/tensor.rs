//! A tensor: a shape over device memory. Contents are written by kernels and copies, as on a GPU, through shared handles.

use super::{Device, Kind, cuda, memory::Buffer};
use crate::{Error, Result};
use std::sync::Arc;

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DType {
    /// bfloat16.
    Bf16,
    /// IEEE single.
    F32,
    /// Signed 32-bit.
    I32,
    /// Bytes: NF4 codes (two to a byte), 8-bit scales.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            DType::Bf16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::U8 => 1,
        }
    }
}

/// A dense row-major tensor, or a contiguous part of one. Clones share the memory.
#[derive(Debug, Clone)]
pub struct Tensor {
    buffer: Arc<Buffer>,
    offset_bytes: usize,
    dtype: DType,
    shape: Vec<usize>,
}

impl Tensor {
    pub(super) fn whole(buffer: Arc<Buffer>, dtype: DType, shape: &[usize]) -> Tensor {
        Tensor { buffer, offset_bytes: 0, dtype, shape: shape.to_vec() }
    }

    /// The buffer's name.
    pub fn name(&self) -> &str {
        &self.buffer.name
    }
    /// The device that holds it.
    pub fn device(&self) -> &Device {
        &self.buffer.device
    }
    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }
    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Number of elements.
    pub fn n_elems(&self) -> usize {
        self.shape.iter().product()
    }
    /// Number of bytes.
    pub fn n_bytes(&self) -> usize {
        self.n_elems() * self.dtype.bytes()
    }
    /// Whether no other handle shares the memory: it may be overwritten in place.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.buffer) == 1
    }

    /// The address for a kernel's argument struct. Kernels may write through it, as through any device pointer.
    pub fn ptr<T>(&self) -> *mut T {
        (self.buffer.address + self.offset_bytes) as *mut T
    }

    /// The sizes of a tensor with `N` axes, or a sentence naming it.
    pub fn dims<const N: usize>(&self, what: &str) -> Result<[usize; N]> {
        self.shape.as_slice().try_into().map_err(|_| {
            Error::Shape(format!("{what}: expected {N} axes, `{}` has shape {:?}", self.name(), self.shape))
        })
    }

    /// Holds the tensor to a shape and type, or a sentence naming both.
    pub fn expect(&self, what: &str, dtype: DType, shape: &[usize]) -> Result<()> {
        if self.dtype == dtype && self.shape == shape {
            return Ok(());
        }
        let (found, have) = (&self.shape, self.dtype);
        Err(Error::Shape(format!("{what}: expected {dtype:?} {shape:?}, `{}` is {have:?} {found:?}", self.name())))
    }

    /// The same memory under another shape with as many elements.
    pub fn view(&self, shape: &[usize]) -> Tensor {
        assert_eq!(shape.iter().product::<usize>(), self.n_elems(), "a view of `{}` keeps its elements", self.name());
        Tensor { shape: shape.to_vec(), ..self.clone() }
    }

    /// Rows `begin..end` of the outermost axis.
    pub fn rows(&self, begin: usize, end: usize) -> Tensor {
        assert!(begin <= end && end <= self.shape[0], "rows {begin}..{end} of `{}` {:?}", self.name(), self.shape);
        let row_bytes = self.n_bytes() / self.shape[0].max(1);
        let mut shape = self.shape.clone();
        shape[0] = end - begin;
        Tensor { offset_bytes: self.offset_bytes + begin * row_bytes, shape, ..self.clone() }
    }

    /// Sets every byte to zero.
    pub fn fill_zero(&self) -> Result<()> {
        self.check_main("fill with zeros", true)?;
        match self.device().kind() {
            Kind::Cpu(_) => {
                // SAFETY: the range lies inside the buffer (offset and shape only ever shrink it), and the CPU device
                // has no work under way between calls.
                unsafe { std::ptr::write_bytes(self.ptr::<u8>(), 0, self.n_bytes()) };
                Ok(())
            }
            Kind::Paper(_) => Ok(()),
            Kind::Cuda(gpu) => cuda::zero(gpu, self.ptr::<u8>() as usize, self.n_bytes()),
        }
    }

    /// Overwrites the contents with another tensor's of the same size, on the same device.
    pub fn copy_from(&self, from: &Tensor) -> Result<()> {
        assert_eq!(self.n_bytes(), from.n_bytes(), "copy of `{}` to `{}`", from.name(), self.name());
        from.check_main("copy", false)?;
        self.check_main("copy", true)?;
        match self.device().kind() {
            Kind::Cpu(_) => {
                // SAFETY: both ranges lie inside their buffers; `copy` allows them to overlap.
                unsafe { std::ptr::copy(from.ptr::<u8>(), self.ptr::<u8>(), self.n_bytes()) };
                Ok(())
            }
            Kind::Paper(_) => Ok(()),
            Kind::Cuda(gpu) => cuda::copy(gpu, self.ptr::<u8>() as usize, from.ptr::<u8>() as usize, self.n_bytes()),
        }
    }

    /// A new tensor with the same contents.
    pub fn duplicate(&self) -> Result<Tensor> {
        let copy = self.device().empty(self.name(), self.dtype, &self.shape)?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// Overwrites the contents; `bytes` must be as many as the tensor has.
    pub fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), self.n_bytes(), "upload of `{}` {:?}", self.name(), self.shape);
        self.check_main("upload", true)?;
        match self.device().kind() {
            Kind::Cpu(_) => {
                // SAFETY: the length was just checked; `bytes` is host memory of ours and cannot overlap a borrowed slice.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.ptr::<u8>(), bytes.len()) };
                Ok(())
            }
            Kind::Paper(_) => Ok(()),
            Kind::Cuda(gpu) => cuda::to_device(gpu, self.ptr::<u8>() as usize, bytes),
        }
    }

    /// The contents as bytes.
    pub fn read_bytes(&self) -> Result<Vec<u8>> {
        self.check_main("download", false)?;
        let mut bytes = vec![0; self.n_bytes()];
        match self.device().kind() {
            Kind::Cpu(_) => {
                // SAFETY: the range lies inside the buffer, and `bytes` is as long.
                unsafe { std::ptr::copy_nonoverlapping(self.ptr::<u8>(), bytes.as_mut_ptr(), bytes.len()) };
            }
            Kind::Paper(_) => {}
            Kind::Cuda(gpu) => cuda::to_host(gpu, &mut bytes, self.ptr::<u8>() as usize)?,
        }
        Ok(bytes)
    }

    /// Overwrites the contents with floats, rounded to nearest even where the tensor is bf16.
    pub fn write_f32(&self, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.n_elems(), "upload of `{}` {:?}", self.name(), self.shape);
        match self.dtype {
            DType::F32 => self.write_bytes(bytemuck::cast_slice(values)),
            DType::Bf16 => {
                let bits: Vec<u16> = values.iter().map(|&v| half::bf16::from_f32(v).to_bits()).collect();
                self.write_bytes(bytemuck::cast_slice(&bits))
            }
            DType::I32 | DType::U8 => panic!("`{}` holds {:?}, not floats", self.name(), self.dtype),
        }
    }

    /// The contents as floats (bf16 is widened).
    pub fn read_f32(&self) -> Result<Vec<f32>> {
        let bytes = self.read_bytes()?;
        Ok(match self.dtype {
            DType::F32 => bytemuck::allocation::pod_collect_to_vec(&bytes),
            DType::Bf16 => {
                let bits: Vec<u16> = bytemuck::allocation::pod_collect_to_vec(&bytes);
                bits.into_iter().map(|b| half::bf16::from_bits(b).to_f32()).collect()
            }
            DType::I32 | DType::U8 => panic!("`{}` holds {:?}, not floats", self.name(), self.dtype),
        })
    }

    /// The contents as integers.
    pub fn read_i32(&self) -> Result<Vec<i32>> {
        assert_eq!(self.dtype, DType::I32, "`{}`", self.name());
        Ok(bytemuck::allocation::pod_collect_to_vec(&self.read_bytes()?))
    }
}
