//! Greedy answers to a whole set of prompts, for evaluation: all of them in one engine.

use std::collections::HashMap;

use crate::Result;
use crate::device::Device;
use crate::generate::{Capacity, Engine, Event, Request, Sampling};
use crate::model::Llama;
use crate::ops::attention::PAGE;

/// The most sequences side by side. By count, a product of that many tokens is no longer bound by reading weights; not measured.
const SEQUENCES: usize = 256;

impl Capacity {
    /// For answers of at most `max_new` tokens to these prompts, with passes of `tokens` and a cache of `cached` tokens, or of as many
    /// as the longest needs.
    pub fn for_prompts<'a>(
        prompts: impl Iterator<Item = &'a [u32]>,
        max_new: usize,
        tokens: usize,
        cached: usize,
    ) -> Capacity {
        let (mut n, mut positions, mut pages) = (0, 0, 0);
        for prompt in prompts {
            let whole = prompt.len() + max_new;
            (n, positions, pages) = (n + 1, positions.max(whole), pages + whole.div_ceil(PAGE));
        }
        let pages = pages.min((cached / PAGE).max(positions.div_ceil(PAGE)));
        Capacity { tokens, pages, sequences: SEQUENCES.min(n), positions }
    }
}

/// The answer to each prompt, without its closing token. `ignore_eos`: nothing closes it but its length. `done` is told how many have
/// been answered.
pub fn generate(
    model: &Llama,
    device: &Device,
    prompts: &[&[u32]],
    max_new: usize,
    ignore_eos: bool,
    capacity: Capacity,
    mut done: impl FnMut(usize),
) -> Result<Vec<Vec<u32>>> {
    let mut engine = Engine::new(model, &[], device, capacity)?;
    let mut places = HashMap::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let request =
            Request { prompt: prompt.to_vec(), max_new, sampling: Sampling::default(), head: None, ignore_eos };
        places.insert(engine.submit(request)?, i);
    }
    let (mut answers, mut n_done) = (vec![Vec::new(); prompts.len()], 0);
    while !engine.is_idle() {
        for (ticket, event) in engine.step()? {
            match event {
                Event::Label(_) => {}
                Event::Token(id) => answers[places[&ticket]].push(id),
                Event::Done(_) => n_done += 1,
            }
        }
        done(n_done);
    }
    Ok(answers)
}
