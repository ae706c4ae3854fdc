//! The `convert` command: parse, run, exit code.

use clap::Parser;
use llamacare::cli::convert::Convert;
use llamacare::cli::exit;
use llamacare::{convert, ffi};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = Convert::parse();
    let threads = command.what.threads();
    exit::run(move || ffi::set_threads(threads, || convert::run(&command)))
}
