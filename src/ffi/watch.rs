//! Every launch of a piece of work with its time, for benches: where a step spends it. Switched on for one thread and one
//! piece of work; off, a launch pays for looking at one flag.

use crate::Result;
use crate::device::{Device, Lane, Tensor, Tick};
use std::cell::{Cell, RefCell};

/// A launch that was watched.
#[derive(Debug)]
pub struct Launched {
    /// The launcher, e.g. `rms_norm_fwd`.
    pub name: &'static str,
    /// Where it ran.
    pub lane: Lane,
    /// Names and shapes of the tensors of the call, in the order in which the operation gave them.
    pub tensors: Vec<(String, Vec<usize>)>,
    from: Tick,
    to: Tick,
}

impl Launched {
    /// How long it ran; on a GPU from the end of what was launched before it in the lane, or from its own launch if that
    /// came later.
    pub fn seconds(&self, device: &Device) -> Result<f64> {
        device.seconds_between(&self.from, &self.to)
    }
}

thread_local! {
    static WATCHING: Cell<bool> = const { Cell::new(false) };
    static SEEN: RefCell<Vec<Launched>> = const { RefCell::new(Vec::new()) };
}

/// Does `work` and tells every launch of this thread meanwhile.
pub fn watch<T>(work: impl FnOnce() -> T) -> (T, Vec<Launched>) {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            WATCHING.set(false);
        }
    }
    let off = Off;
    SEEN.take();
    WATCHING.set(true);
    let result = work();
    drop(off);
    (result, SEEN.take())
}

/// Before a launch; none where nobody watches.
pub(super) fn began(device: &Device) -> Result<Option<Tick>> {
    if WATCHING.get() { device.tick().map(Some) } else { Ok(None) }
}

/// Behind it.
pub(super) fn ended(device: &Device, name: &'static str, tensors: &[&Tensor], began: Option<Tick>) -> Result<()> {
    if let Some(from) = began {
        let to = device.tick()?;
        let tensors = tensors.iter().map(|t| (t.name().to_string(), t.shape().to_vec())).collect();
        SEEN.with_borrow_mut(|seen| seen.push(Launched { name, lane: device.lane(), tensors, from, to }));
    }
    Ok(())
}
