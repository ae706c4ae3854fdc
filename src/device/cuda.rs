//! The GPU through cudarc's driver API, loaded when it is asked for: the binary starts on a machine without CUDA.

use super::device_error;
use crate::{Error, Result, bail_input, ffi};
use cudarc::driver::{CudaContext, result, sys};
use std::sync::Arc;

/// A GPU's context and what was read of it at the start.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    name: String,
}

/// Compute capabilities below this lack bf16 tensor cores and cp.async.
const OLDEST: (i32, i32) = (8, 0);

impl Gpu {
    pub(super) fn open(ordinal: usize) -> Result<Gpu> {
        if !ffi::HAS_CUDA {
            bail_input!(
                "this binary was built without nvcc and has no CUDA kernels; run tools/install_cuda.sh, build again, or use --device cpu"
            );
        }
        // SAFETY: it only tries to open the driver's library.
        if !unsafe { sys::is_culib_present() } {
            bail_input!("no CUDA driver (libcuda.so.1) on this machine; install NVIDIA's driver, or use --device cpu");
        }
        let context = CudaContext::new(ordinal).map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_NO_DEVICE | sys::CUresult::CUDA_ERROR_INVALID_DEVICE => Error::Input(format!(
                "the CUDA driver sees no GPU number {ordinal}; use --device cpu, or check nvidia-smi"
            )),
            sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => Error::Input(
                "the CUDA driver is too old for this binary: it needs one that supports CUDA 13.0 (580 or newer)"
                    .into(),
            ),
            _ => device_error("the CUDA driver refused to start", e),
        })?;
        let capability = context.compute_capability().map_err(|e| device_error("compute capability", e))?;
        let name = context.name().map_err(|e| device_error("device name", e))?;
        if capability < OLDEST {
            bail_input!(
                "{name} has compute capability {}.{}; the kernels need 8.0 or newer (bf16 tensor cores)",
                capability.0,
                capability.1
            );
        }
        let mut driver = 0;
        // SAFETY: the driver's library was just found; the call writes one int, through a live reference.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(|e| device_error("driver version", e))?;
        if driver < 13000 {
            bail_input!(
                "the CUDA driver supports CUDA {}.{} and this binary needs 13.0; update NVIDIA's driver to 580 or newer",
                driver / 1000,
                driver % 1000 / 10
            );
        }
        Ok(Gpu { context, name })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.bind()?;
        self.context.synchronize().map_err(|e| device_error("a kernel failed", e))
    }

    /// Launchers and copies act on the calling thread's current context.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| device_error("CUDA context", e))
    }
}

/// What the driver says is free on the whole card.
pub(super) fn free_bytes(gpu: &Gpu) -> Option<usize> {
    gpu.bind().ok()?;
    result::mem_get_info().ok().map(|(free, _)| free)
}

/// What the driver says is taken on the whole card.
pub(super) fn held_bytes(gpu: &Gpu) -> Option<usize> {
    gpu.bind().ok()?;
    result::mem_get_info().ok().map(|(free, total)| total - free)
}

pub(super) fn allocate(gpu: &Gpu, n_bytes: usize) -> Option<usize> {
    gpu.bind().ok()?;
    // SAFETY: the context is current on this thread; the result is freed by `free` or with the context.
    unsafe { result::malloc_sync(n_bytes) }.ok().map(|p| p as usize)
}

pub(super) fn free(gpu: &Gpu, address: usize) {
    if gpu.bind().is_ok() {
        // SAFETY: `allocate` returned this address and the free list hands it out once. An error here means that the
        // context is gone, and its memory with it.
        let _ = unsafe { result::free_sync(address as u64) };
    }
}

pub(super) fn to_device(gpu: &Gpu, address: usize, bytes: &[u8]) -> Result<()> {
    gpu.bind()?;
    // SAFETY: the caller checked that `bytes` fit the buffer at `address`; the copy is synchronous.
    unsafe { result::memcpy_htod_sync(address as u64, bytes) }.map_err(|e| device_error("copy to the GPU", e))
}

pub(super) fn to_host(gpu: &Gpu, bytes: &mut [u8], address: usize) -> Result<()> {
    gpu.bind()?;
    // SAFETY: as above, in the other direction.
    unsafe { result::memcpy_dtoh_sync(bytes, address as u64) }.map_err(|e| device_error("copy from the GPU", e))
}

pub(super) fn copy(gpu: &Gpu, to: usize, from: usize, n_bytes: usize) -> Result<()> {
    gpu.bind()?;
    // SAFETY: the caller checked both ranges; on the default stream the copy orders itself with kernels.
    unsafe { result::memcpy_dtod_sync(to as u64, from as u64, n_bytes) }.map_err(|e| device_error("copy on the GPU", e))
}

pub(super) fn zero(gpu: &Gpu, address: usize, n_bytes: usize) -> Result<()> {
    gpu.bind()?;
    // SAFETY: the caller checked that the range lies inside the buffer; the default stream orders it with kernels.
    unsafe { result::memset_d8_sync(address as u64, 0, n_bytes) }.map_err(|e| device_error("memset on the GPU", e))
}
