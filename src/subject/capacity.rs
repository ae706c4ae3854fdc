//! How much may be under way at once, so that the device's memory stays within the budget: tried on paper, where every buffer has a
//! size and none has memory.

use super::Subject;
use crate::cli::options::Quant;
use crate::device::Device;
use crate::generate::{Capacity, Engine};
use crate::ops::attention::PAGE;
use crate::train::plan::{CONTEXT, LATER};
use crate::train::prepare::compute;
use crate::{Result, bail_input, bytes};

impl Subject {
    /// `wanted` with as many pages as the budget holds beside the model, at most those asked for: `budget` bytes in all, and what a
    /// GPU says is free. Refuses where not even the longest sequence has room.
    pub fn capacity(&self, device: &Device, quant: Quant, wanted: Capacity, budget: usize) -> Result<Capacity> {
        let room = match device.free_bytes() {
            Some(free) => budget.saturating_sub(CONTEXT).min(free.saturating_sub(LATER)),
            None => budget,
        };
        let peak = |pages: usize| {
            let paper = Device::paper(compute(self.compute), device.is_cuda());
            let loaded = self.load(&paper, quant)?;
            Engine::new(&loaded.model, &loaded.heads, &paper, Capacity { pages, ..wanted })?.rehearse()?;
            Ok(paper.peak_bytes())
        };
        let least = wanted.positions.div_ceil(PAGE).min(wanted.pages);
        let (mut good, mut bad) = (least, wanted.pages + 1);
        let needed = peak(least)?;
        if needed > room {
            bail_input!(
                "a conversation of {} tokens needs {} of device memory with the model, and there is room for {}; allow shorter ones \
                 with --context-tokens, lower --tokens, or raise --budget",
                wanted.positions,
                bytes::readable(needed),
                bytes::readable(room)
            );
        }
        if peak(wanted.pages)? <= room {
            return Ok(wanted);
        }
        // To within a hundredth.
        while bad - good > 1 + good / 100 {
            let middle = (good + bad) / 2;
            if peak(middle)? <= room { good = middle } else { bad = middle }
        }
        Ok(Capacity { pages: good, ..wanted })
    }
}
