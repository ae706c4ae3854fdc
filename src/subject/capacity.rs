//! How much may be under way at once, so that the device's memory stays within the budget: tried on paper, where every buffer has a
//! size and none has memory.

use super::Subject;
use crate::cli::which::{AtOnce, Which};
use crate::device::Device;
use crate::generate::{Capacity, Engine};
use crate::ops::attention::PAGE;
use crate::train::plan::{CONTEXT, LATER};
use crate::train::prepare::compute;
use crate::{Result, bail_input, bytes};

impl Subject {
    /// As many pages as the budget holds beside the model, at most those that all conversations at their longest would fill. On a GPU
    /// no more than is free. Refuses where not even one at its longest has room.
    pub fn capacity(&self, device: &Device, typed: &Which, at_once: AtOnce) -> Result<Capacity> {
        let most = self.folder.config().max_positions;
        let positions = at_once.max_length.unwrap_or(most);
        if positions > most {
            bail_input!("--max-length {positions}: the model was made for {most} tokens; give no more");
        }
        let room = match device.free_bytes() {
            Some(free) => typed.budget.saturating_sub(CONTEXT).min(free.saturating_sub(LATER)),
            None => typed.budget,
        };
        let least = positions.div_ceil(PAGE);
        let with = |pages| Capacity { tokens: typed.tokens, pages, sequences: at_once.at_once, positions };
        let peak = |pages| {
            let paper = Device::paper(compute(self.compute), device.is_cuda());
            let loaded = self.load(&paper, self.quant())?;
            Engine::new(&loaded.model, &loaded.heads, &paper, with(pages))?.rehearse()?;
            Ok(paper.peak_bytes())
        };
        let needed = peak(least)?;
        if needed > room {
            bail_input!(
                "a conversation of {positions} tokens and the model take {} of device memory, and there is room for {}; allow \
                 shorter ones with --max-length, lower --tokens, or raise --budget",
                bytes::readable(needed),
                bytes::readable(room)
            );
        }
        let all = least * at_once.at_once;
        if all == least || peak(all)? <= room {
            return Ok(with(all));
        }
        // To within a hundredth.
        let (mut good, mut bad) = (least, all);
        while bad - good > 1 + good / 100 {
            let middle = (good + bad) / 2;
            if peak(middle)? <= room { good = middle } else { bad = middle }
        }
        Ok(with(good))
    }
}
