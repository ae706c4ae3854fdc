//! `cargo bench [-- NAME]`: one line per kernel and shape, on whatever device is there. `--features checked` is refused: it
//! would time the checks.

mod harness;
mod ops;
mod step;

use harness::Bench;
use llamacare::device::{Compute, Device};

fn main() {
    if cfg!(feature = "checked") {
        eprintln!("error: the checked build is no measure of speed");
        std::process::exit(2);
    }
    let only: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    llamacare::ffi::set_threads(0, || {
        let device = Device::open("auto", Compute::Bf16).expect("a device");
        println!("{}, {} threads; best of 5 samples of at least 0.1 s", device.name(), rayon_threads());
        let mut bench = Bench::new(device, only);
        ops::run(&mut bench);
        step::run(&mut bench);
    });
}

fn rayon_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
