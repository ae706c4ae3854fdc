//! The `finetune` command: parse, run, exit code.

use llamacare::cli::{Finetune, exit};
use llamacare::{ffi, train};
use std::process::ExitCode;

fn main() -> ExitCode {
    exit::run(|| {
        let start = Finetune::from_command_line().start()?;
        ffi::set_threads(start.config.machine.threads, || train::finetune(&start))
    })
}
