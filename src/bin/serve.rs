//! The `serve` command: parse, run, exit code.

use clap::Parser;
use llamacare::cli::{exit, serve::Serve};
use llamacare::{ffi, serve};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = Serve::parse();
    let threads = command.which.threads;
    exit::run(move || ffi::set_threads(threads, || serve::run(&command)))
}
