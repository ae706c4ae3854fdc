//! Four faults of a pipeline of bulk copies and products (tests/kernels/planted_hopper.cu): each is caught and its line named, and
//! the right one is silent and right.

use llamacare::ffi::{LC_CHECK, LC_OK, lc_status};
use std::ffi::{CStr, c_char, c_void};

unsafe extern "C" {
    fn lc_planted_hopper_cpu_bf16(which: i32, ab: *const u16, n: i32, out: *mut f32) -> lc_status;
    fn lc_check_register(p: *const c_void, n_bytes: usize, name: *const c_char);
    fn lc_check_unregister(p: *const c_void);
    fn lc_check_take_report(text: *mut u8, n_bytes: usize) -> usize;
}

const SOURCE: &str = include_str!("../kernels/planted_hopper.cu");

fn marked_line(bug: &str) -> usize {
    let of = |line: &str| line.split("// BUG ").nth(1).is_some_and(|bugs| bugs.split(", ").any(|b| b == bug));
    1 + SOURCE.lines().position(of).unwrap_or_else(|| panic!("no line is marked BUG {bug}"))
}

/// Status, report and result of pipeline `which` over `n` boxes of ones.
fn run(which: i32, n: usize) -> (lc_status, String, Vec<f32>) {
    let ab = vec![0x3f80u16; 2 * 64 * 64 * n];
    let mut out = vec![0f32; 64 * 64];
    let buffers: [(*const c_void, usize, &CStr); 2] =
        [(ab.as_ptr().cast(), ab.len() * 2, c"ab"), (out.as_ptr().cast(), out.len() * 4, c"out")];
    // SAFETY: the buffers outlive the launch, which is synchronous, and have the sizes that the kernel is told.
    let status = unsafe {
        buffers.iter().for_each(|&(p, n_bytes, name)| lc_check_register(p, n_bytes, name.as_ptr()));
        let status = lc_planted_hopper_cpu_bf16(which, ab.as_ptr(), n as i32, out.as_mut_ptr());
        buffers.iter().for_each(|&(p, ..)| lc_check_unregister(p));
        status
    };
    let mut text = vec![0; 1 << 16];
    // SAFETY: it writes at most the length given.
    let n = unsafe { lc_check_take_report(text.as_mut_ptr(), text.len()) };
    (status, String::from_utf8_lossy(&text[..n]).into_owned(), out)
}

#[test]
fn the_right_pipeline_is_silent_and_right() {
    for n in [1, 2, 3, 6] {
        let (status, report, out) = run(0, n);
        assert_eq!((status.code, report.as_str()), (LC_OK as i32, ""));
        assert!(out.iter().all(|&v| v == 64.0 * n as f32));
    }
}

#[test]
fn each_fault_of_a_pipeline_is_named_with_its_line() {
    let reads = "a product reads shared memory (offset 0) that a bulk copy may still be writing";
    let overwrites = "a bulk copy overwrites shared memory (offset 0, block 0 of the cluster) that warp";
    let bugs = [
        (1, 1, "no_wait_for_copy", reads),
        (2, 2, "no_wait_for_release", reads),
        (3, 2, "release_too_early", overwrites),
    ];
    for (which, n, name, words) in bugs {
        let (status, report, _) = run(which, n);
        assert_eq!(status.code, LC_CHECK as i32, "{name}");
        assert!(report.contains(words), "{name}: {report}");
        let place = format!("planted_hopper.cu:{}", marked_line(name));
        assert!(report.contains(&place), "{name}: not at {place}: {report}");
    }
}

#[test]
fn a_sum_read_too_early_is_no_number() {
    let (status, _, out) = run(4, 1);
    assert_eq!(status.code, LC_OK as i32);
    assert!(out.iter().all(|v| v.is_nan()));
}
