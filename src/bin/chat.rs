//! The `chat` command: parse, run, exit code.

use clap::Parser;
use llamacare::cli::{chat::Chat, exit};
use llamacare::{chat, ffi};
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = Chat::parse();
    let threads = command.which.threads;
    exit::run(move || ffi::set_threads(threads, || chat::run(&command)))
}
