//! Times what the engine does, on whatever device is there.
//!
//!     cargo bench --bench main [-- NAME... --json FILE --base DIR]
//!     cargo bench --bench main -- --ours ROWS --base DIR --tokens N [--steps N --warm N --positions N --tag NAME --json FILE]
//!
//! The first prints a line per kernel and shape, 13B's on a GPU, and the training step by parts; NAMEs, matched within, choose
//! lines. `--json` adds every line to a file as an object. `--base`: a model folder for the whole step on a GPU
//! (tools/gpu/make_synthetic_base.py makes one). The second is our row beside the peers' (side_by_side.rs).
//!
//! `cargo test` runs this too, without `--bench`: then every call is made once and nothing is timed. The checked build is
//! refused: it would time the checks.

mod decode;
mod engine;
mod harness;
mod ops;
mod parts;
mod side_by_side;
mod step;

use harness::Bench;
use llamacare::device::{Compute, Device};
use std::fs::OpenOptions;
use std::path::PathBuf;

/// The command line: flags with a value, flags without, and names.
pub struct Args {
    flags: Vec<(String, String)>,
    names: Vec<String>,
    bench: bool,
}

const WITH_VALUE: [&str; 9] =
    ["--json", "--base", "--ours", "--tokens", "--steps", "--warm", "--positions", "--tag", "--device"];

impl Args {
    fn read() -> Args {
        let mut args = Args { flags: Vec::new(), names: Vec::new(), bench: false };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--bench" => args.bench = true,
                flag if WITH_VALUE.contains(&flag) => match words.next() {
                    Some(value) => args.flags.push((word, value)),
                    None => fail(&format!("{word} names no value")),
                },
                // cargo and cargo test hand on flags of their own.
                flag if flag.starts_with('-') => {}
                _ => args.names.push(word),
            }
        }
        args
    }

    /// The value of a flag, where it was given.
    pub fn get(&self, flag: &str) -> Option<&str> {
        self.flags.iter().find(|(name, _)| name == flag).map(|(_, value)| value.as_str())
    }

    /// The same as a number.
    pub fn number(&self, flag: &str, otherwise: usize) -> usize {
        self.get(flag).map_or(otherwise, |v| v.parse().unwrap_or_else(|_| fail(&format!("{flag} {v}: a number"))))
    }

    /// The same as a path.
    pub fn path(&self, flag: &str) -> Option<PathBuf> {
        self.get(flag).map(PathBuf::from)
    }
}

fn fail(what: &str) -> ! {
    eprintln!("error: {what}");
    std::process::exit(2);
}

fn main() {
    let args = Args::read();
    if cfg!(feature = "checked") {
        if args.bench {
            fail("the checked build is no measure of speed");
        }
        return println!("benches: not run in the checked build");
    }
    llamacare::ffi::set_threads(0, || {
        if args.get("--ours").is_some() {
            if let Err(e) = side_by_side::run(&args) {
                fail(&e.to_string());
            }
            return;
        }
        let open = |path: &str| OpenOptions::new().create(true).append(true).open(path);
        let json = args.get("--json").map(|path| open(path).unwrap_or_else(|e| fail(&format!("{path}: {e}"))));
        let device = Device::open(args.get("--device").unwrap_or("auto"), Compute::Bf16).expect("a device");
        let smoke = !args.bench;
        let mut bench = Bench::new(device, args.names.clone(), smoke, json);
        if !smoke {
            bench.introduce();
        }
        // The step first: the arenas of the lines stay with their device until the end.
        step::run(&mut bench, args.path("--base").as_deref());
        decode::run(&mut bench, args.path("--base").as_deref());
        ops::run(&mut bench);
        if smoke {
            println!("benches: {} lines, each run once and not timed", bench.n_lines());
        }
    });
}
