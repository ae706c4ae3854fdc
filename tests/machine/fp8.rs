//! The machine keeps its promises about e4m3 (tests/kernels/fp8.cu).

use super::{Promise, every_promise_holds};
use std::ffi::c_char;

unsafe extern "C" {
    fn lc_fp8_promise_cpu_bf16(i: i32, text: *mut *const c_char) -> i32;
    fn lc_fp8_promise_cpu_fp32(i: i32, text: *mut *const c_char) -> i32;
}

#[test]
fn e4m3_is_what_the_manual_says_with_bf16_storage() {
    every_promise_holds(lc_fp8_promise_cpu_bf16 as Promise, 4);
}

#[test]
fn e4m3_is_what_the_manual_says_with_fp32_storage() {
    every_promise_holds(lc_fp8_promise_cpu_fp32 as Promise, 1);
}
