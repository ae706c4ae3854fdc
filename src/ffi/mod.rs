//! The boundary: argument structs and launchers of `kernels/*.h`, and the one function that calls them.
//!
//! The structs come from bindgen (`src/ffi/bindings`, committed); build.rs makes one [`Launcher`] per function, with its
//! variants for each device. A launcher returns a status; [`launch`] writes the sentence, for it knows names and shapes.
#![allow(unsafe_code)]

use crate::device::{Compute, Device, Kind, Tensor};
use crate::{Error, Result};
use std::ffi::CStr;

pub mod cublas_lt;
mod host;
mod watch;
pub(crate) use host::cpu_is_new_enough;
pub use host::set_threads;
pub use watch::{Launched, watch};

/// What bindgen and build.rs wrote; the documentation of each item is its header in `kernels/`.
#[allow(missing_docs, dead_code, non_camel_case_types, non_snake_case, clippy::all)]
mod generated {
    use super::{Launcher, Pointers};
    include!(concat!(env!("OUT_DIR"), "/launchers.rs"));
}
pub use generated::*;

type Function<A> = unsafe extern "C" fn(*const A, lc_stream) -> lc_status;

/// The pointers of an argument struct, as build.rs reads them in the bindings: what a launch touches.
pub trait Pointers {
    /// Calls `visit` with every address, and whether the kernel may write there (`*mut`).
    fn each_pointer(&self, visit: &mut dyn FnMut(usize, bool));
}

/// One operation's entry point, compiled once per device and storage type from the same source.
pub struct Launcher<A> {
    /// Without the `lc_` prefix, e.g. `rms_norm_fwd`.
    pub name: &'static str,
    cpu_bf16: Function<A>,
    cpu_fp32: Function<A>,
    cuda: Option<Function<A>>,
}

/// Whether kernels for CUDA were compiled into this binary.
pub const HAS_CUDA: bool = cfg!(cuda);

/// Runs `launcher` on `device`. `tensors` are those of the call: the error names them with their shapes.
///
/// The arguments hold raw pointers of tensors; the caller has checked, as equations at its top, that every shape is what
/// the header says. Work of a lane runs in the order of the calls, and what lanes share is held to the order of their marks
/// and waits, so a tensor freed afterwards is not in use.
pub fn launch<A: Pointers>(device: &Device, launcher: &Launcher<A>, args: &A, tensors: &[&Tensor]) -> Result<()> {
    let describe = || {
        let shapes: Vec<String> = tensors.iter().map(|t| format!("{} {:?}", t.name(), t.shape())).collect();
        shapes.join(", ")
    };
    let function = match device.kind() {
        Kind::Cpu(Compute::Bf16) => launcher.cpu_bf16,
        Kind::Cpu(Compute::Fp32) => launcher.cpu_fp32,
        Kind::Cuda(_) => launcher.cuda.expect("a CUDA device exists only in a build with CUDA kernels"),
        Kind::Paper(_) => return Ok(()),
    };
    let mut touched = Vec::new();
    args.each_pointer(&mut |address, writes| touched.push((address, writes)));
    device.check_order(launcher.name, &touched)?;
    let stream = device.stream()?;
    let began = watch::began(device)?;
    // SAFETY: the launcher and its argument struct come from the same header, and bindgen's asserts hold their layouts
    // together; the pointers inside belong to `tensors`, which outlive this call, and shapes were checked by the caller.
    // The CPU device has finished when the call returns; on CUDA frees follow the main lane, which was just checked to be
    // ordered with every other lane that touches the same memory.
    let status = unsafe { function(args, stream) };
    if status.code as u32 == LC_OK {
        watch::ended(device, launcher.name, tensors, began)?;
        let failed = |e: Error| Error::Kernel { op: launcher.name, message: e.to_string(), tensors: describe() };
        return device.settle().map_err(failed);
    }
    let place = if status.where_.is_null() {
        String::new()
    } else {
        // SAFETY: launchers return static text or null (kernels/lc.h).
        unsafe { CStr::from_ptr(status.where_) }.to_string_lossy().replace("a->", "")
    };
    let message = match status.code as u32 {
        LC_BAD_SHAPE => format!("does not take these sizes: it needs {place}"),
        LC_MISALIGNED => format!("needs 16-byte aligned tensors: {place}"),
        LC_UNSUPPORTED => format!("there is no kernel for this case: it needs {place}"),
        LC_CUDA => format!(
            "CUDA error {} at {place}, of this launch or one before (LLAMACARE_SYNC=1 tells which)",
            status.detail
        ),
        LC_CHECK => format!("the checked CPU device found {} faults\n{}", status.detail, host::take_report()),
        other => format!("status {other} at {place}"),
    };
    Err(Error::Kernel { op: launcher.name, message, tensors: describe() })
}
