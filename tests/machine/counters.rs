//! The checked machine counts memory transactions (kernels/host/count.h): planted kernels (tests/kernels/counted.cu) whose
//! counts follow from their source, compared exactly.

use llamacare::ffi::{LC_OK, lc_status};
use std::ffi::{c_char, c_void};

unsafe extern "C" {
    fn lc_counted_cpu_bf16(input: *const f32, output: *mut f32, tile: *const c_void) -> lc_status;
    fn lc_counted_cpu_fp32(input: *const f32, output: *mut f32, tile: *const c_void) -> lc_status;
    fn lc_check_register(p: *const c_void, n_bytes: usize, name: *const c_char);
    fn lc_check_unregister(p: *const c_void);
    fn lc_count_begin();
    fn lc_count_take(text: *mut u8, n_bytes: usize) -> usize;
}

/// A row of the machine's table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub kernel: String,
    /// Global or shared, load or store.
    pub access: String,
    /// "file:line", or "total".
    pub line: String,
    pub requests: u64,
    pub transactions: u64,
    pub least: u64,
}

/// What the launches of `work` asked of memory.
pub fn count(work: impl FnOnce()) -> Vec<Row> {
    // SAFETY: it changes a table of this thread only.
    unsafe { lc_count_begin() };
    work();
    let mut text = vec![0; 1 << 20];
    // SAFETY: it writes at most the length given.
    let n = unsafe { lc_count_take(text.as_mut_ptr(), text.len()) };
    assert!(n < text.len(), "the table is longer than this");
    let text = String::from_utf8_lossy(&text[..n]).into_owned();
    text.lines().skip(1).map(row).collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<&str> = line.split('\t').collect();
    let number = |i: usize| cells[i].parse().expect("a number");
    Row {
        kernel: cells[0].into(),
        access: cells[1].into(),
        line: cells[2].into(),
        requests: number(4),
        transactions: number(5),
        least: number(6),
    }
}

const SOURCE: &str = include_str!("../kernels/counted.cu");

type Counts = (u64, u64, u64);
/// Four warps, and what a plain access of 4 bytes a lane costs them: a request each; four sectors, or one wavefront.
const PLAIN: Counts = (4, 16, 16);
const ONE: Counts = (4, 4, 4);
const WIDE: Counts = (4, 64, 64);

/// Kernel; global loads and stores; shared loads and stores: requests, transactions, and the least possible.
#[rustfmt::skip]
const KNOWN: [(&str, [Option<Counts>; 4]); 24] = [
    ("copy", [Some(PLAIN), Some(PLAIN), None, None]),
    ("stride_2", [Some((4, 32, 16)), Some(PLAIN), None, None]),
    ("stride_32", [Some((4, 128, 16)), Some(PLAIN), None, None]),
    ("shifted", [Some((4, 20, 16)), Some(PLAIN), None, None]),
    ("same_word", [Some(ONE), Some(PLAIN), None, None]),
    ("reversed", [Some(PLAIN), Some(PLAIN), None, None]),
    ("one_lane", [None, Some(ONE), None, None]),
    ("sixteen_bytes", [Some(WIDE), Some(WIDE), None, None]),
    ("four_floats", [Some(WIDE), Some(WIDE), None, None]),
    ("uneven_loop", [Some((12, 48, 40)), Some(PLAIN), None, None]),
    ("between_collectives", [Some((8, 32, 24)), Some(PLAIN), None, None]),
    // Twenty sectors a warp, each word of five in all of them.
    ("five_words", [Some((20, 400, 80)), Some(PLAIN), None, None]),
    // 32 lanes in one column of 32 words: one bank.
    ("transpose<32>", [Some((128, 512, 512)), Some((128, 512, 512)), Some((128, 4096, 128)), Some((128, 128, 128))]),
    ("transpose<33>", [Some((128, 512, 512)), Some((128, 512, 512)), Some((128, 128, 128)), Some((128, 128, 128))]),
    // Eight lanes a phase: rows of 128 bytes begin in one bank.
    ("rows_of_16_bytes<64>", [Some(WIDE), Some(PLAIN), Some(ONE), Some((4, 128, 16))]),
    ("rows_of_16_bytes<72>", [Some(WIDE), Some(PLAIN), Some(ONE), Some((4, 16, 16))]),
    // Sixteen lanes a phase, and every second pair of banks.
    ("every_second_pair", [None, Some(PLAIN), Some(ONE), Some((4, 16, 8))]),
    ("halves", [None, Some(PLAIN), Some(ONE), Some(ONE)]),
    // Four k-steps of one ldmatrix for A and two for B, four matrices each. Stores: 2 bytes a lane, down a column.
    ("product<64, Major::kRows, Major::kRows>", [None, Some(PLAIN), Some((48, 1536, 192)), Some((256, 8192, 256))]),
    ("product<72, Major::kRows, Major::kRows>", [None, Some(PLAIN), Some((48, 192, 192)), Some((256, 1024, 256))]),
    ("product<72, Major::kCols, Major::kCols>", [None, Some(PLAIN), Some((48, 192, 192)), Some((256, 1024, 256))]),
    ("matrices<64>", [None, Some(PLAIN), Some((4, 128, 16)), Some((32, 1024, 32))]),
    ("matrices<72>", [None, Some(PLAIN), Some((4, 16, 16)), Some((32, 128, 32))]),
    ("async_copy", [Some((2, 32, 32)), Some(PLAIN), Some(ONE), Some((4, 16, 16))]),
];
const ACCESSES: [&str; 4] = ["global load", "global store", "shared load", "shared store"];

/// Sectors are counted from address zero: where a buffer begins matters.
#[repr(align(256))]
#[derive(Clone, Copy)]
struct Page {
    _words: [f32; 64],
}

fn run(counted: unsafe extern "C" fn(*const f32, *mut f32, *const c_void) -> lc_status) {
    let (input, mut output, tile) = (
        vec![Page { _words: [1.0; 64] }; 128],
        vec![Page { _words: [0.0; 64] }; 128],
        vec![Page { _words: [1.0; 64] }; 72],
    );
    let bytes = |pages: &[Page]| (pages.as_ptr().cast::<c_void>(), size_of_val(pages));
    let buffers = [(bytes(&input), c"in"), (bytes(&output), c"out"), (bytes(&tile), c"tile")];
    // SAFETY: the buffers outlive the call and are at least as long as counted.cu says.
    let status = unsafe {
        buffers.iter().for_each(|((p, n), name)| lc_check_register(*p, *n, name.as_ptr()));
        let status = counted(input.as_ptr().cast(), output.as_mut_ptr().cast(), tile.as_ptr().cast());
        buffers.iter().for_each(|((p, _), _)| lc_check_unregister(*p));
        status
    };
    assert_eq!(status.code, LC_OK as i32);
}

#[test]
fn transactions_of_planted_kernels_are_counted_exactly() {
    let rows = count(|| run(lc_counted_cpu_bf16));
    let kernels: std::collections::BTreeSet<&str> = rows.iter().map(|r| r.kernel.as_str()).collect();
    assert_eq!(kernels, KNOWN.iter().map(|(name, _)| *name).collect(), "every kernel once");
    for (kernel, known) in KNOWN {
        for (access, known) in ACCESSES.iter().zip(known) {
            let of = |total: bool| {
                rows.iter().filter(move |r| r.kernel == kernel && r.access == *access && (r.line == "total") == total)
            };
            let found: Vec<Counts> = of(true).map(|r| (r.requests, r.transactions, r.least)).collect();
            assert_eq!(found, Vec::from_iter(known), "{kernel}, {access}: requests, transactions, least");
            let lines = of(false).fold((0, 0, 0), |(a, b, c), r| (a + r.requests, b + r.transactions, c + r.least));
            assert_eq!(lines, known.unwrap_or_default(), "{kernel}, {access}: the lines make up the total");
        }
    }
}

#[test]
fn the_worst_line_stands_first() {
    let rows = count(|| run(lc_counted_cpu_bf16));
    let marked: Vec<(usize, &str)> =
        SOURCE.lines().enumerate().filter_map(|(i, l)| Some((i + 1, l.split_once("// WORST ")?.1))).collect();
    assert_eq!(marked.len(), 7);
    for (line, kernel) in marked {
        let kernel = if kernel == "product<64>" { "product<64, Major::kRows, Major::kRows>" } else { kernel };
        let of_kernel: Vec<&Row> = rows.iter().filter(|r| r.kernel == kernel).collect();
        let faults = |r: &&Row| r.line != "total" && r.transactions > r.least;
        assert!(
            of_kernel.iter().any(|r| faults(r) && r.line.ends_with(&format!(":{line}"))),
            "{kernel}: {of_kernel:?}"
        );
        for pair in of_kernel.windows(2).filter(|pair| pair[0].access == pair[1].access && pair[0].line != "total") {
            assert!(pair[0].transactions - pair[0].least >= pair[1].transactions - pair[1].least, "{pair:?}");
        }
    }
}

#[test]
fn counting_ends_and_fp32_storage_is_not_counted() {
    assert!(count(|| run(lc_counted_cpu_fp32)).is_empty());
    run(lc_counted_cpu_bf16);
    assert!(count(|| ()).is_empty());
}

#[test]
fn a_process_writes_its_table_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts.tsv");
    let promises = "machine::the_machine_keeps_its_promises_with_bf16_storage";
    let mut process = std::process::Command::new(std::env::current_exe().unwrap());
    let done = process.args([promises, "--exact"]).env("LC_COUNT", &path).output().unwrap();
    assert!(done.status.success());
    let text = std::fs::read_to_string(&path).unwrap();
    let rows: Vec<Row> = text.lines().skip(1).map(row).collect();
    let total = rows.iter().find(|r| r.kernel == "load_matrices" && r.access == "shared load" && r.line == "total");
    assert!(total.is_some_and(|r| r.requests > 0 && r.transactions == r.least), "{text}");
}
