//! The `evaluate` command: parse, run, exit code.

use clap::Parser;
use llamacare::cli::{evaluate::Evaluate, exit};
use llamacare::{evaluate, ffi};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = Evaluate::parse();
    let threads = command.which.threads;
    exit::run(move || ffi::set_threads(threads, || evaluate::run(&command)))
}
