//! Ctrl-C: stops the answer under way; where none is, the program.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

static INSTALLED: OnceLock<()> = OnceLock::new();
static ANSWERING: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// 128 + SIGINT, as shells report a program that Ctrl-C ended.
const STOPPED: i32 = 130;

/// An answer is under way as long as this lives: Ctrl-C is a request.
pub(super) struct Answering(());

impl Answering {
    pub(super) fn begin() -> Result<Answering> {
        if INSTALLED.set(()).is_ok() {
            ctrlc::set_handler(|| match ANSWERING.load(Ordering::SeqCst) {
                true => REQUESTED.store(true, Ordering::SeqCst),
                false => std::process::exit(STOPPED),
            })
            .map_err(|e| Error::Device(format!("Ctrl-C cannot be caught: {e}")))?;
        }
        REQUESTED.store(false, Ordering::SeqCst);
        ANSWERING.store(true, Ordering::SeqCst);
        Ok(Answering(()))
    }

    /// Whether Ctrl-C came. Asked after each pass of the model.
    pub(super) fn is_stopped(&self) -> bool {
        REQUESTED.load(Ordering::SeqCst)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING.store(false, Ordering::SeqCst);
    }
}
