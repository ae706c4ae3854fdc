//! The GPU through cudarc's driver API, loaded when it is asked for: the binary starts on a machine without CUDA.

use super::device_error;
use super::lanes::Lane;
use crate::{Error, Result, bail_input, ffi};
use cudarc::driver::{CudaContext, DriverError, result, sys};
use result::stream::StreamKind;
use std::sync::Arc;

/// A GPU's context and what was read of it at the start.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    name: String,
    capability: (i32, i32),
    /// Streams of the side and the copy lane, as addresses: the driver's pointers may be used from any thread.
    streams: [usize; 2],
}

/// Where the host waits for the GPU, it learns of a fault of any launch before.
const FAILED: &str = "a launch before this failed (run again with LLAMACARE_SYNC=1 to learn which)";

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
        // Created non-blocking: the main lane is the default stream, with which ordinary streams would take turns.
        let stream = || result::stream::create(StreamKind::NonBlocking).map(|s| s as usize);
        let streams = [stream(), stream()].map(|s| s.map_err(|e| device_error("a second stream", e)));
        let [side, copy] = streams;
        Ok(Gpu { context, name, capability, streams: [side?, copy?] })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its place on the PCI bus, as NVML spells it: `00000000:01:00.0`.
    pub(super) fn pci_bus_id(&self) -> Option<String> {
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
        };
        let domain = self.context.attribute(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID).ok()?;
        let bus = self.context.attribute(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID).ok()?;
        let device = self.context.attribute(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID).ok()?;
        Some(format!("{domain:08x}:{bus:02x}:{device:02x}.0"))
    }

    pub(super) fn is_hopper(&self) -> bool {
        self.capability == (9, 0)
    }

    /// That kernels for 8-bit tensor cores were compiled for this GPU.
    pub(super) fn expect_fp8(&self) -> Result<()> {
        match self.capability {
            (8, 9) | (9, 0) | (12, _) => Ok(()),
            (major, minor) => bail_input!(
                "{} has compute capability {major}.{minor}; --compute fp8 needs 8.9 (RTX 40, L4), 9.0 (H100, H200) or 12.x (RTX \
                 50): leave it out, which computes in bf16",
                self.name
            ),
        }
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.bind()?;
        self.context.synchronize().map_err(|e| device_error(FAILED, e))
    }

    /// The default stream for the main lane.
    pub(super) fn stream(&self, lane: Lane) -> sys::CUstream {
        match lane {
            Lane::Main => result::stream::null(),
            Lane::Side => self.streams[0] as sys::CUstream,
            Lane::Copy => self.streams[1] as sys::CUstream,
        }
    }

    /// Launchers and copies act on the calling thread's current context.
    pub(super) fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| device_error("CUDA context", e))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            for lane in [Lane::Side, Lane::Copy] {
                // SAFETY: `open` created these streams and nobody else destroys them; the driver finishes their work first.
                let _ = unsafe { result::stream::destroy(self.stream(lane)) };
            }
        }
    }
}

/// A place in a stream.
#[derive(Debug)]
pub(super) struct Event {
    context: Arc<CudaContext>,
    address: usize,
}

impl Event {
    /// Everything launched in this lane until now.
    pub(super) fn record(gpu: &Gpu, lane: Lane) -> Result<Event> {
        Event::with(gpu, lane, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// The same, with the time at which the lane came by.
    pub(super) fn record_timed(gpu: &Gpu, lane: Lane) -> Result<Event> {
        Event::with(gpu, lane, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(gpu: &Gpu, lane: Lane, flags: sys::CUevent_flags) -> Result<Event> {
        gpu.bind()?;
        let failed = |e: DriverError| device_error("a mark in a stream", e);
        let event = result::event::create(flags).map_err(failed)?;
        let made = Event { context: gpu.context.clone(), address: event as usize };
        // SAFETY: the event was just created and the stream lives as long as `gpu`, both in the context bound above.
        unsafe { result::event::record(event, gpu.stream(lane)) }.map_err(failed)?;
        Ok(made)
    }

    /// Waits until this place was reached, and tells how long after `earlier` that was. Both with time.
    pub(super) fn seconds_since(&self, gpu: &Gpu, earlier: &Event) -> Result<f64> {
        gpu.bind()?;
        let (from, to) = (earlier.address as sys::CUevent, self.address as sys::CUevent);
        // SAFETY: both events live until `drop` and belong to the context bound above; without time in one of them, or before
        // the first was recorded, the driver returns an error instead.
        let milliseconds = unsafe { result::event::synchronize(to).and_then(|()| result::event::elapsed(from, to)) };
        milliseconds.map(|ms| f64::from(ms) / 1e3).map_err(|e| device_error(FAILED, e))
    }

    /// Holds what is launched in `lane` from now on until this place was reached.
    pub(super) fn hold(&self, gpu: &Gpu, lane: Lane) -> Result<()> {
        gpu.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the event lives until `drop`, the stream as long as `gpu`, and both belong to one context: a mark is only
        // ever used with the device that made it, or the driver refuses.
        unsafe { result::stream::wait_event(gpu.stream(lane), self.address as sys::CUevent, flags) }
            .map_err(|e| device_error("waiting for a mark", e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: `record` created it and nobody else destroys it; the driver keeps what streams still wait for.
            let _ = unsafe { result::event::destroy(self.address as sys::CUevent) };
        }
    }
}

/// What the driver says is free on the whole card.
pub(super) fn free_bytes(gpu: &Gpu) -> Option<usize> {
    gpu.bind().ok()?;
    result::mem_get_info().ok().map(|(free, _)| free)
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
    unsafe { result::memcpy_dtoh_sync(bytes, address as u64) }.map_err(|e| device_error(FAILED, e))
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

/// Pinned host memory.
pub(super) fn allocate_host(gpu: &Gpu, n_bytes: usize) -> Option<usize> {
    gpu.bind().ok()?;
    // SAFETY: the context is current on this thread; the result is freed by `free_host`.
    unsafe { result::malloc_host(n_bytes, 0) }.ok().map(|p| p as usize)
}

pub(super) fn free_host(gpu: &Gpu, address: usize) {
    if gpu.bind().is_ok() {
        // SAFETY: `allocate_host` returned this address, the caller waited for all copies and hands it out no more.
        let _ = unsafe { result::free_host(address as *mut _) };
    }
}

/// Starts a copy between device memory `at` and pinned memory `host`.
pub(super) fn copy_async(gpu: &Gpu, lane: Lane, at: usize, host: usize, n_bytes: usize, to_device: bool) -> Result<()> {
    gpu.bind()?;
    let (stream, device) = (gpu.stream(lane), at as sys::CUdeviceptr);
    // SAFETY: the caller checked both ranges against their buffers, keeps both until a mark behind this copy was waited for,
    // and the order of lanes (order.rs) keeps others from touching them meanwhile; the host side is pinned by `allocate_host`.
    let done = unsafe {
        match to_device {
            true => sys::cuMemcpyHtoDAsync_v2(device, host as *const _, n_bytes, stream),
            false => sys::cuMemcpyDtoHAsync_v2(host as *mut _, device, n_bytes, stream),
        }
    };
    done.result().map_err(|e| device_error("copy between the GPU and host memory", e))
}
