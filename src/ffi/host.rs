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
