//! The CUDA machine on a CPU keeps its promises (tests/kernels/machine.cu), and its checked build finds planted bugs and counts
//! memory transactions; lanes of work are held to their marks and waits.
#![allow(unsafe_code)]

#[cfg(feature = "checked")]
mod access_counts;
#[cfg(feature = "checked")]
mod checked;
#[cfg(feature = "checked")]
mod checked_hopper;
#[cfg(feature = "checked")]
mod counters;
mod fp8;
mod lanes;
mod watch;

use std::ffi::{CStr, c_char};

// The archive with these functions is the crate's.
use llamacare as _;

type Promise = unsafe extern "C" fn(i32, *mut *const c_char) -> i32;

unsafe extern "C" {
    fn lc_machine_promise_cpu_bf16(i: i32, text: *mut *const c_char) -> i32;
    fn lc_machine_promise_cpu_fp32(i: i32, text: *mut *const c_char) -> i32;
    fn lc_hopper_promise_cpu_bf16(i: i32, text: *mut *const c_char) -> i32;
}

fn every_promise_holds(promise: Promise, at_least: i32) {
    let mut broken = Vec::new();
    for i in 0.. {
        let mut text = c"".as_ptr();
        // SAFETY: it writes a pointer to static text.
        let held = unsafe { promise(i, &mut text) };
        if held < 0 {
            assert!(i >= at_least, "the list of promises is as long as it was");
            break;
        }
        // SAFETY: static text, as above.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        println!("{} {text}", if held == 1 { "holds " } else { "BROKEN" });
        if held == 0 {
            broken.push(text);
        }
    }
    assert!(broken.is_empty(), "broken: {broken:?}; the details are on stderr");
}

#[test]
fn the_machine_keeps_its_promises_with_bf16_storage() {
    every_promise_holds(lc_machine_promise_cpu_bf16, 10);
}

#[test]
fn the_machine_keeps_its_promises_of_hopper() {
    every_promise_holds(lc_hopper_promise_cpu_bf16, 4);
}

#[test]
fn the_machine_keeps_its_promises_with_fp32_storage() {
    every_promise_holds(lc_machine_promise_cpu_fp32, 10);
}

#[cfg(not(feature = "checked"))]
#[test]
fn counts_and_planted_bugs_need_the_checked_build() {
    println!("skipped here: `just checked` watches and counts every access of every kernel");
}
