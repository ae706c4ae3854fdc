//! Eleven planted bugs (tests/kernels/planted_bugs.cu): each is caught and named, and its correct twin is silent.

use llamacare::ffi::{LC_CHECK, LC_OK, lc_status};
use std::ffi::{CStr, c_char, c_void};
use std::sync::Mutex;

type PlantedBug = unsafe extern "C" fn(i32, bool, *const f32, *mut f32, *const c_void, i32) -> lc_status;

unsafe extern "C" {
    fn lc_planted_bug_cpu_bf16(
        which: i32,
        correct: bool,
        x: *const f32,
        y: *mut f32,
        tile: *const c_void,
        n: i32,
    ) -> lc_status;
    fn lc_planted_bug_cpu_fp32(
        which: i32,
        correct: bool,
        x: *const f32,
        y: *mut f32,
        tile: *const c_void,
        n: i32,
    ) -> lc_status;
    fn lc_check_register(p: *const c_void, n_bytes: usize, name: *const c_char);
    fn lc_check_unregister(p: *const c_void);
    fn lc_check_seed(seed: u64);
    fn lc_check_take_report(text: *mut u8, n_bytes: usize) -> usize;
}

const SOURCE: &str = include_str!("../kernels/planted_bugs.cu");
const BLOCKS: usize = 3;

/// Name of the kernel, and the words its report must hold, in the order of planted_bugs.cu.
const BUGS: [(&str, &[&str]); 11] = [
    ("barrier_after_write", &["race: reads 4 bytes of shared memory", "no barrier after thread"]),
    ("barrier_at_loop_end", &["race: writes 4 bytes of shared memory", "thread 63 read them"]),
    ("shared_write_out_of_bounds", &["thread 63: writes 4 bytes outside every shared array (offset 256)"]),
    ("uninitialised_shared_read", &["that nobody has written yet"]),
    (
        "global_read_past_the_tail",
        &["block 2,0,0, thread 61: reads 4 bytes of global memory 0 bytes behind the end of `in`"],
    ),
    ("syncwarp_between_lanes", &["race: reads 4 bytes of shared memory", "no barrier after thread"]),
    ("divergent_barrier", &["divergent barriers"]),
    ("wrong_tile_stride", &["of shared memory", "that nobody has written yet"]),
    ("two_blocks_write_one_address", &["race: writes 4 bytes at", "of `out` that thread", "wrote in the same launch"]),
    ("async_copy_not_waited_for", &["that an asynchronous copy may still be writing"]),
    ("async_copy_too_early", &["race: writes"]),
];

fn take_report() -> String {
    let mut text = vec![0; 1 << 16];
    // SAFETY: it writes at most the length given.
    let n = unsafe { lc_check_take_report(text.as_mut_ptr(), text.len()) };
    String::from_utf8_lossy(&text[..n]).into_owned()
}

/// The order of threads is one setting of the whole machine.
static ORDER: Mutex<()> = Mutex::new(());

/// Runs a kernel with threads in the order that `seed` draws. `one` is the number 1 in the storage type, as bytes.
fn run(bug: PlantedBug, one: &[u8], which: usize, correct: bool, seed: u64) -> (lc_status, String, Vec<f32>) {
    let _guard = ORDER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let x: Vec<f32> = (0..BLOCKS * 64).map(|i| i as f32).collect();
    let mut y = vec![-1.0f32; BLOCKS * 64];
    let sixteen_bytes: Vec<u8> = one.iter().copied().cycle().take(16).collect();
    let tile: Vec<u128> =
        vec![u128::from_ne_bytes(sixteen_bytes.try_into().expect("sixteen")); 64 * 64 * one.len() / 16];
    let buffers = [
        (x.as_ptr().cast::<c_void>(), size_of_val(&x[..]), c"in"),
        (y.as_ptr().cast(), size_of_val(&y[..]), c"out"),
        (tile.as_ptr().cast(), size_of_val(&tile[..]), c"tile"),
    ];
    // SAFETY: the buffers outlive the call and have the sizes that planted_bugs.cu names; the faulty kernels read a few
    // bytes too far at most, and write only inside, or into the gap after a shared array.
    unsafe {
        buffers.iter().for_each(|&(p, n, name)| lc_check_register(p, n, name.as_ptr()));
        lc_check_seed(seed);
        let status = bug(which as i32, correct, x.as_ptr(), y.as_mut_ptr(), tile.as_ptr().cast(), BLOCKS as i32);
        lc_check_seed(0);
        buffers.iter().for_each(|&(p, ..)| lc_check_unregister(p));
        (status, take_report(), y)
    }
}

const VARIANTS: [(PlantedBug, &[u8]); 2] =
    [(lc_planted_bug_cpu_bf16, &[0x80, 0x3f]), (lc_planted_bug_cpu_fp32, &[0, 0, 0x80, 0x3f])];

#[test]
fn every_planted_bug_is_caught_and_named() {
    for (bug, one) in VARIANTS {
        for (which, (name, words)) in BUGS.iter().enumerate() {
            let (status, report, _) = run(bug, one, which, false, 0);
            assert_eq!(status.code, LC_CHECK as i32, "{name} went unnoticed");
            assert!(status.detail > 0, "{name}: no faults counted");
            let line = 1 + SOURCE.lines().position(|l| l.ends_with(&format!("// BUG {name}"))).expect("a marked line");
            let named = |sentence: &str| {
                sentence.starts_with(&format!(
                    "checked: tests/kernels/planted_bugs.cu:{line}: kernel {name}<false>, block "
                )) && sentence.contains("thread ")
                    && words.iter().all(|word| sentence.contains(word))
            };
            assert!(report.lines().any(named), "{name}, line {line}, is not named in:\n{report}");
        }
    }
}

#[test]
fn planted_bugs_are_caught_in_any_order_of_threads() {
    for (which, (name, _)) in BUGS.iter().enumerate() {
        for seed in 1..4 {
            let (bug, one) = VARIANTS[0];
            let (status, report, _) = run(bug, one, which, false, seed);
            assert_eq!(status.code, LC_CHECK as i32, "{name} went unnoticed with seed {seed}");
            assert!(report.contains(&format!("kernel {name}<false>")), "{report}");
        }
    }
}

#[test]
fn the_correct_twins_are_silent_and_agree_in_any_order_of_threads() {
    for (bug, one) in VARIANTS {
        for (which, (name, _)) in BUGS.iter().enumerate() {
            let (_, _, in_order) = run(bug, one, which, true, 0);
            for seed in 0..4 {
                let (status, report, result) = run(bug, one, which, true, seed);
                assert_eq!((status.code, report.as_str()), (LC_OK as i32, ""), "{name}, seed {seed}");
                assert_eq!(result, in_order, "{name}, seed {seed}");
            }
        }
    }
}

#[test]
fn the_status_names_the_kernel() {
    let (bug, one) = VARIANTS[0];
    let (status, ..) = run(bug, one, 0, false, 0);
    // SAFETY: a status points at static text.
    let place = unsafe { CStr::from_ptr(status.where_) }.to_string_lossy();
    assert!(place.contains("barrier_after_write<false>"), "{place}");
}
