//! The timer of a line, and what it is held against.
//!
//! On a GPU: CUDA events around one call, the median of the samples, L2 flushed before each by setting 256 MiB to zero. A
//! training step reads its weights and activations from memory, so a kernel that is timed on what the last sample left in L2
//! (50 MB on an H200) would be timed on another problem. Flushing asks nothing of the call and gives the host the time to
//! be ahead of the device, so that no launch is waited for; a call that itself copies to or from the host (ids, losses) is
//! timed with that wait. (Peers' scripts rotate three weights instead, and leave x in L2.)
//! On the CPU device: the best of five samples of at least a tenth of a second; there are no ceilings.
//!
//! Ceilings are measured in the same run: a large copy on the device, and the best bf16 product of 8192 x 8192 x 8192, of
//! cuBLASLt and ours.

use llamacare::device::{DType, Device, Tensor};
use llamacare::ffi::cublas_lt::CublasLt;
use llamacare::ops::matmul::Layout;
use llamacare::train::ceiling::Square;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::time::Instant;

/// What a device reaches at most.
pub struct Ceilings {
    /// Bytes a second read and written.
    pub copy: f64,
    /// bf16 operations a second.
    pub product: f64,
    by: &'static str,
}

/// Times operations on one device.
pub struct Bench {
    /// Where.
    pub device: Device,
    only: Vec<String>,
    smoke: bool,
    json: Option<File>,
    ceilings: Option<Ceilings>,
    library: Option<CublasLt>,
    flush: Option<Tensor>,
    n_lines: usize,
}

/// What one call moves and computes; 0: not meaningful.
#[derive(Default, Clone, Copy)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read and written at least.
    pub bytes: f64,
}

/// The product that the library makes for a line, beside it.
pub type Product = (Layout, usize, usize, usize);

impl Bench {
    /// `only`: names to run, matched as substrings; empty: all. `smoke`: every call once, untimed, to see that it runs.
    pub fn new(device: Device, only: Vec<String>, smoke: bool, json: Option<File>) -> Bench {
        let mut bench = Bench { device, only, smoke, json, ceilings: None, library: None, flush: None, n_lines: 0 };
        if bench.device.is_cuda() && !smoke {
            bench.library = CublasLt::open(&bench.device);
            bench.flush = Some(bench.device.zeros("flush", DType::U8, &[256 << 20]).expect("memory"));
            bench.ceilings = Some(bench.measure_ceilings());
        }
        bench
    }

    /// Whether the command line asks for this name.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| name.contains(o.as_str()))
    }

    /// Whether calls are only tried.
    pub fn smoke(&self) -> bool {
        self.smoke
    }

    /// Lines done.
    pub fn n_lines(&self) -> usize {
        self.n_lines
    }

    /// Says what everything is measured on and against.
    pub fn introduce(&mut self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let device = self.device.name();
        let library = self.library.as_ref().map(CublasLt::version);
        match &self.ceilings {
            None => println!("{device}, {cores} threads; best of 5 samples of at least 0.1 s; no ceilings on a CPU"),
            Some(c) => {
                println!("{device}; CUDA events, median, L2 flushed before each sample");
                println!(
                    "ceilings of this run: copy {:.0} GB/s; bf16 product 8192^3 {:.1} TFLOP/s by {}; cuBLASLt {}",
                    c.copy / 1e9,
                    c.product / 1e12,
                    c.by,
                    library.map_or("not found".into(), |v| v.to_string())
                );
            }
        }
        let ceilings = self
            .ceilings
            .as_ref()
            .map(|c| json!({"copy_gb_s": c.copy / 1e9, "product_tflop_s": c.product / 1e12, "product_by": c.by}));
        self.record(json!({"device": device, "gpu": self.device.is_cuda(), "cores": cores, "ceilings": ceilings, "cublaslt": library}));
    }

    /// Adds a line to the file of `--json`.
    pub fn record(&mut self, line: Value) {
        if let Some(file) = &mut self.json {
            writeln!(file, "{line}").expect("a file that can be written");
        }
    }

    /// Times `call` and prints its line.
    pub fn line(&mut self, name: &str, shape: &str, work: Work, call: impl FnMut()) {
        self.compared(name, shape, work, None, call);
    }

    /// Times a matrix product and prints its line, with the library's time for it where there is one.
    pub fn product(&mut self, name: &str, shape: &str, work: Work, product: Product, call: impl FnMut()) {
        self.compared(name, shape, work, Some(product), call);
    }

    fn compared(&mut self, name: &str, shape: &str, work: Work, product: Option<Product>, mut call: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        self.n_lines += 1;
        if self.smoke {
            return call();
        }
        let seconds = self.seconds(&mut call);
        let library = product.and_then(|p| self.library_seconds(p));
        let gpu = self.device.is_cuda();
        let (unit, scale) = if gpu { ("TFLOP/s", 1e12) } else { ("GFLOP/s", 1e9) };
        let rate = |amount: f64, scale: f64, unit: &str| match amount > 0.0 {
            true => format!("{:9.2} {unit:<7}", amount / seconds / scale),
            false => " ".repeat(17),
        };
        // Whatever bounds it: the time it would take at both ceilings, and the longer of the two.
        let least = |c: &Ceilings| (work.flops / c.product).max(work.bytes / c.copy);
        let share = self.ceilings.as_ref().map(least).filter(|s| *s > 0.0).map(|s| 100.0 * s / seconds);
        let mut line = format!("{name:<26} {shape:<36} {:>10.1} us ", seconds * 1e6);
        line += &format!("{} {}", rate(work.flops, scale, unit), rate(work.bytes, 1e9, "GB/s"));
        if gpu {
            line += &share.map_or(" ".repeat(8), |s| format!("{s:6.1} %"));
            if product.is_some() {
                line += &library.map_or("       -".into(), |l| format!("{:8.2} of cuBLASLt", l / seconds));
            }
        }
        println!("{}", line.trim_end());
        self.record(json!({
            "name": name, "shape": shape, "us": seconds * 1e6, "flops": work.flops, "bytes": work.bytes,
            "percent_of_ceiling": share, "cublaslt_us": library.map(|l| l * 1e6),
            "of_cublaslt": library.map(|l| l / seconds),
        }));
    }

    /// How long one call takes.
    pub fn seconds(&mut self, call: &mut dyn FnMut()) -> f64 {
        if self.device.is_cuda() { self.gpu_seconds(call) } else { self.cpu_seconds(call) }
    }

    fn cpu_seconds(&self, call: &mut dyn FnMut()) -> f64 {
        call();
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let start = Instant::now();
            let mut calls = 0;
            while start.elapsed().as_secs_f64() < 0.1 {
                call();
                calls += 1;
            }
            best = best.min(start.elapsed().as_secs_f64() / f64::from(calls));
        }
        best
    }

    fn gpu_seconds(&self, call: &mut dyn FnMut()) -> f64 {
        let sample = |call: &mut dyn FnMut()| {
            if let Some(flush) = &self.flush {
                flush.fill_zero().expect("a healthy device");
            }
            let from = self.device.tick().expect("a healthy device");
            call();
            let to = self.device.tick().expect("a healthy device");
            self.device.seconds_between(&from, &to).expect("a healthy device")
        };
        for _ in 0..3 {
            call();
        }
        // Half a second of samples, at least 5 and at most 40.
        let n = (0.5 / (sample(call) + 2e-4)).clamp(5.0, 40.0) as usize;
        median((0..n).map(|_| sample(call)).collect())
    }

    /// The library's best way of the first four it names, on the same numbers as ours would read.
    fn library_seconds(&mut self, (layout, m, n, k): Product) -> Option<f64> {
        let library = self.library.as_ref()?;
        let (a_turned, b_turned) = (layout == Layout::TN, layout == Layout::NT);
        let a = operand(&self.device, if a_turned { [k, m] } else { [m, k] });
        let b = operand(&self.device, if b_turned { [n, k] } else { [k, n] });
        let dtype = if layout == Layout::TN { DType::F32 } else { DType::Bf16 };
        let y = self.device.empty("y", dtype, &[m, n]).ok()?;
        let product = match library.product((&a, a_turned), (&b, b_turned), &y, 4) {
            Ok(product) => product,
            Err(e) => {
                println!("{e}");
                return None;
            }
        };
        let ways = 0..product.n_ways();
        let times = ways.map(|way| self.gpu_seconds(&mut || product.run(way).expect("the library multiplies")));
        times.min_by(f64::total_cmp)
    }

    fn measure_ceilings(&mut self) -> Ceilings {
        let device = self.device.clone();
        let bytes = 1usize << 30;
        let [from, to] = ["from", "to"].map(|name| device.empty(name, DType::U8, &[bytes]).expect("memory"));
        let seconds = self.gpu_seconds(&mut || to.copy_from(&from).expect("a healthy device"));
        drop((from, to));
        let square = Square::on(&device).expect("memory");
        let own = square.own_rate().expect("a healthy device");
        let theirs = self.library.as_ref().and_then(|library| {
            let product = library.product((&square.a, false), (&square.b, true), &square.y, 1).ok()?;
            square.rate(|_| product.run(0)).ok()
        });
        let (product, by) = match theirs {
            Some(theirs) if theirs > own => (theirs, "cuBLASLt"),
            Some(_) => (own, "our own matmul (cuBLASLt is slower)"),
            None => (own, "our own matmul"),
        };
        Ceilings { copy: 2.0 * bytes as f64 / seconds, product, by }
    }
}

/// A matrix of the storage type, uniform in ±1: on zeros a GPU draws less power and clocks higher than any training will. A few
/// rows over and over, which no kernel can tell.
pub fn operand(device: &Device, [rows, columns]: [usize; 2]) -> Tensor {
    const ROWS: usize = 16;
    let mut random = llamacare::data::SplitMix64::new(1, 0);
    let mut draw = || (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let values: Vec<f32> = (0..ROWS.min(rows) * columns).map(|_| draw()).collect();
    let x = device.empty("x", device.act(), &[rows, columns]).expect("memory");
    for begin in (0..rows).step_by(ROWS) {
        let end = (begin + ROWS).min(rows);
        x.rows(begin, end).write_f32(&values[..(end - begin) * columns]).expect("a healthy device");
    }
    x
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
