//! What the CPU device's machine asks of Rust: cores to run blocks on.

use rayon::prelude::*;

type RunRange = unsafe extern "C" fn(*mut std::ffi::c_void, usize, usize);

#[derive(Clone, Copy)]
struct Context(*mut std::ffi::c_void);
// SAFETY: the pointer is to a launch description that is only read while the blocks run, and outlives them: the function
// below returns after the last block.
unsafe impl Send for Context {}
// SAFETY: as above; it is never written through.
unsafe impl Sync for Context {}

impl Context {
    fn get(self) -> *mut std::ffi::c_void {
        self.0
    }
}

/// Runs `run(context, begin, end)` over chunks of `0..n_blocks` on the current rayon pool and returns when all are done.
#[unsafe(no_mangle)]
extern "C" fn lc_host_parallel_for(n_blocks: usize, run: RunRange, context: *mut std::ffi::c_void) {
    let context = Context(context);
    let threads = rayon::current_num_threads();
    if threads == 1 {
        // SAFETY: the machine gave us its own function and context, and any range inside 0..n_blocks may run.
        unsafe { run(context.get(), 0, n_blocks) };
        return;
    }
    // Four chunks a core: enough to even out blocks of different length, few enough that handing them out costs nothing.
    let chunk = n_blocks.div_ceil(threads * 4).max(1);
    (0..n_blocks.div_ceil(chunk)).into_par_iter().for_each(|i| {
        let begin = i * chunk;
        // SAFETY: as above; the ranges of different `i` do not overlap.
        unsafe { run(context.get(), begin, (begin + chunk).min(n_blocks)) };
    });
}

/// Runs `work` with `n` threads for the CPU device (0: all cores). The work itself runs on one of them, so that a launch
/// finds its pool without waking anyone.
pub fn set_threads<T: Send>(n: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n).stack_size(16 << 20).build();
    pool.expect("the system gives out threads").install(work)
}

/// Whether this processor has the instructions that the host's kernels were compiled for.
pub(crate) fn cpu_is_new_enough() -> bool {
    unsafe extern "C" {
        safe fn lc_host_cpu_ok() -> i32;
    }
    lc_host_cpu_ok() != 0
}

#[cfg(feature = "checked")]
pub(super) use checked::take_report;

/// What the checked machine said about the launches of this thread since the last call: nothing, in an ordinary build.
#[cfg(not(feature = "checked"))]
pub(super) fn take_report() -> String {
    String::new()
}

#[cfg(feature = "checked")]
mod checked {
    use std::ffi::{c_char, c_void};
    use std::path::Path;

    /// What the checked machine said about the launches of this thread since the last call.
    pub(in crate::ffi) fn take_report() -> String {
        unsafe extern "C" {
            fn lc_check_take_report(text: *mut u8, n_bytes: usize) -> usize;
        }
        let mut text = vec![0; 1 << 16];
        // SAFETY: it writes at most the length given, which is the vector's own, and returns how much of it.
        let n = unsafe { lc_check_take_report(text.as_mut_ptr(), text.len()) };
        String::from_utf8_lossy(&text[..n]).trim_end().to_string()
    }

    /// Writes "file:line" of the instruction before `pc` as a C string: the innermost line of a kernel file among those
    /// it was inlined through.
    #[unsafe(no_mangle)]
    extern "C" fn lc_host_locate(pc: *mut c_void, text: *mut c_char, n_bytes: usize) -> usize {
        let mut lines: Vec<String> = Vec::new();
        backtrace::resolve(pc.wrapping_byte_sub(1), |symbol| {
            if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno()) {
                let file = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_or(file);
                lines.push(format!("{}:{line}", file.display()));
            }
        });
        let in_kernel = lines.iter().find(|line| line.contains(".cu:"));
        let place = in_kernel.or(lines.first()).map_or("an unknown line", String::as_str);
        let n = place.len().min(n_bytes - 1);
        // SAFETY: the machine passes a buffer of n_bytes, at least one.
        unsafe {
            std::ptr::copy_nonoverlapping(place.as_ptr(), text.cast(), n);
            *text.add(n) = 0;
        }
        n
    }
}
