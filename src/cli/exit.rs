//! How a program ends: one sentence on stderr and an exit code, never a panic's message for bad input.
//!
//! | code | meaning                                                                 |
//! |------|-------------------------------------------------------------------------|
//! | 0    | done                                                                    |
//! | 1    | it failed: a value that is not finite, a device error, a check not met  |
//! | 2    | the input cannot be used; nothing was written over                      |
//! | 101  | a bug of this program                                                   |
//! | 130  | stopped by a second Ctrl-C                                              |

use std::panic::{PanicHookInfo, catch_unwind};
use std::process::ExitCode;

use crate::Result;

/// The code of a process that ended by a bug; Rust's own.
const BUG: u8 = 101;

/// Runs a program and turns what came of it into its exit code. `main` is `exit::run(|| ...)` and no more.
pub fn run(program: impl FnOnce() -> Result<()> + std::panic::UnwindSafe) -> ExitCode {
    std::panic::set_hook(Box::new(report_bug));
    ExitCode::from(code_of(program))
}

fn code_of(program: impl FnOnce() -> Result<()> + std::panic::UnwindSafe) -> u8 {
    match catch_unwind(program) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
        Err(_) => BUG,
    }
}

/// A panic is a fault of ours, and says so. One exception: the reader of our output went away (`finetune | head`).
fn report_bug(panic: &PanicHookInfo) {
    let text = panic.payload();
    let text = text.downcast_ref::<&str>().copied().or(text.downcast_ref::<String>().map(String::as_str));
    let what = text.unwrap_or("no reason given");
    if what.starts_with("failed printing to stdout") {
        // 128 + SIGPIPE, as the shell calls it.
        std::process::exit(141);
    }
    let place = panic.location().map_or("an unknown place".to_string(), |l| format!("{}:{}", l.file(), l.line()));
    eprintln!("error: this is a bug in llamacare {} ({place}): {what}", env!("CARGO_PKG_VERSION"));
    eprintln!("Please report it with this line and the command that led to it. Saved states of the run are kept.");
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn the_code_tells_who_can_mend_it() {
        assert_eq!(code_of(|| Ok(())), 0);
        assert_eq!(code_of(|| Err(Error::Input("no".into()))), 2);
        assert_eq!(code_of(|| Err(Error::NotFinite("NaN".into()))), 1);
        assert_eq!(code_of(|| panic!("planted")), BUG);
    }
}
