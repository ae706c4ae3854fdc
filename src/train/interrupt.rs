//! Ctrl-C: the first asks the run to finish its step, save and stop; the second stops it at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result};

/// How often Ctrl-C came. A process has one, like its handler.
static COUNT: AtomicUsize = AtomicUsize::new(0);
static INSTALLED: OnceLock<()> = OnceLock::new();

/// 128 + SIGINT, as shells report a program that Ctrl-C ended.
const STOPPED: i32 = 130;

/// Proof that Ctrl-C no longer ends the process by itself.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt(());

impl Interrupt {
    /// From here on the first Ctrl-C only sets [`requested`](Interrupt::requested). A second call changes nothing.
    pub fn install() -> Result<Interrupt> {
        if INSTALLED.set(()).is_ok() {
            ctrlc::set_handler(|| match COUNT.fetch_add(1, Ordering::SeqCst) {
                0 => eprintln!("\nStopping: this step is finished and saved first. Ctrl-C again stops at once."),
                _ => {
                    eprintln!("\nStopped at once; the last saved state is kept.");
                    std::process::exit(STOPPED);
                }
            })
            .map_err(|e| Error::Device(format!("Ctrl-C cannot be caught: {e}")))?;
        }
        Ok(Interrupt(()))
    }

    /// Whether Ctrl-C came. Asked once a step, after it.
    pub fn requested(&self) -> bool {
        COUNT.load(Ordering::SeqCst) > 0
    }

    /// What to say when the run has stopped after `step` of `total` and its state lies in `dir`.
    pub fn farewell(dir: &std::path::Path, step: usize, total: usize) -> String {
        format!("Stopped after step {step} of {total}; all is saved. To go on: finetune --resume {}", dir.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ctrl_c_is_a_request() {
        let interrupt = Interrupt::install().unwrap();
        Interrupt::install().unwrap();
        assert!(!interrupt.requested());
        let me = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &me]).status().unwrap().success());
        let waited = std::time::Instant::now();
        while !interrupt.requested() {
            assert!(waited.elapsed().as_secs() < 10, "the signal never came");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_farewell_says_how_to_go_on() {
        let text = Interrupt::farewell("runs/a".as_ref(), 3, 10);
        assert_eq!(text, "Stopped after step 3 of 10; all is saved. To go on: finetune --resume runs/a");
    }
}
