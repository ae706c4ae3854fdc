//! The memory plan: the program itself, run on paper.
//!
//! A device on paper ([`Device::paper`]) gives buffers names and places but no memory, and launches nothing. What a run
//! would hold is found by running it there: the same loading, the same forward, backward and update, through the same
//! allocator. There is no formula beside the code that could drift from it, and the peak is right to the byte.
//!
//! The policies of the layers ([`Keep`]) are chosen for the least modelled time: from keeping everything down a ladder of
//! policies, each rung the one that saves the most bytes a second, the oldest layers first (their activations wait longest),
//! until the peak fits the budget.

use crate::checkpoint::LlamaConfig;
use crate::cli::RunConfig;
use crate::data::LabelSet;
use crate::device::{Compute, Device, MemoryUse};
use crate::eval;
use crate::generate::{Capacity, Engine};
use crate::model::{Batch, Keep, RunOptions, Source};
use crate::train::prepare;
use crate::train::work::{Use, Work};
use crate::{Result, bail_input, bytes};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::rc::Rc;

/// What the driver itself holds on a GPU for our context and kernels: an estimate. No GPU has been asked yet.
pub const CONTEXT: usize = 560 << 20;

/// Left alone of what a GPU says is free: most kernels are loaded when they are first launched, after the arena was taken, and
/// would then find nothing. An estimate too.
pub const LATER: usize = 256 << 20;

/// Micro-batches are never larger (the setting's own limit).
pub const MOST_TOKENS: usize = 65536;

/// A run to be planned.
pub struct Planner<'a> {
    /// All settings.
    pub config: &'a RunConfig,
    /// The base: its files, or its sizes alone.
    pub source: Source<'a>,
    /// What can be decided: a head for each.
    pub sets: &'a [LabelSet],
    /// Storage type.
    pub compute: Compute,
    /// For a GPU, or for the CPU device.
    pub cuda: bool,
    /// What the device holds before the first buffer.
    pub context: usize,
    /// What nobody uses of the device, its context already there; none where it does not say.
    pub free: Option<usize>,
}

/// What a run will hold, and how its layers keep their activations.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The policy of every layer.
    pub keep: Rc<[Keep]>,
    /// The arena: what is asked from the device, and what the run reaches.
    pub arena: usize,
    /// What the device holds before the first buffer.
    pub context: usize,
    /// Bytes by buffer name at the peak.
    pub at_peak: Vec<(String, usize)>,
    /// Tokens that the cache holds when text is generated.
    pub cached_tokens: usize,
    /// Pinned host memory.
    pub pinned: usize,
    /// Modelled time of a step, relative to one that keeps the outputs of all products.
    pub slower: f64,
}

impl Plan {
    /// All of the device's memory that the run takes.
    pub fn total(&self) -> usize {
        self.arena + self.context
    }
}

/// What one simulation found.
struct Found {
    memory: MemoryUse,
    pinned: usize,
    /// The micro-batch that reached the peak.
    highest: usize,
}

impl Planner<'_> {
    /// The fastest plan within the budget, or a sentence that says what to change.
    pub fn plan(&self, work: &Work) -> Result<Plan> {
        let (keep, found) = self.held_by_every(work)?;
        let (cached_tokens, generating) = self.cached(work, found.memory.peak_bytes)?;
        let memory = match generating {
            Some(memory) if memory.peak_bytes > found.memory.peak_bytes => memory,
            _ => found.memory,
        };
        let plan = Plan {
            arena: memory.peak_bytes,
            context: self.context,
            at_peak: memory.at_peak.into_iter().collect(),
            cached_tokens,
            pinned: found.pinned,
            slower: 1.0 + keep.iter().map(|k| self.extra_share(*k)).sum::<f64>() / keep.len().max(1) as f64,
            keep: keep.into(),
        };
        let budget = self.budget();
        if plan.total() > budget {
            let whose = if budget < self.config.machine.budget { "what is free of the device" } else { "the budget" };
            let layers = match self.forced()? {
                Some(_) => format!("with --keep {}", self.config.machine.keep),
                None => "even when every layer keeps its input alone".into(),
            };
            let advice = match self.forced()? {
                Some(_) => "leave out --keep, lower --tokens, or raise --budget",
                None => "lower --tokens, --rank or --eci-positions, or raise --budget",
            };
            bail_input!(
                "the run needs {} of device memory {layers}, {whose} is {}; {advice}",
                bytes::readable(plan.total()),
                bytes::readable(budget)
            );
        }
        let host_budget = self.config.machine.host_budget;
        if plan.pinned > host_budget {
            bail_input!(
                "the run needs {} of pinned host memory with --keep {}, the host budget is {}; leave out --keep, lower \
                 --tokens, or raise --host-budget",
                bytes::readable(plan.pinned),
                self.config.machine.keep,
                bytes::readable(host_budget)
            );
        }
        Ok(plan)
    }

    /// The policies, and what every micro-batch of the run reaches with them. First fit is not monotone: one with a few tokens
    /// less can reach further than the one that the policies were chosen for, by what other gaps it leaves. So all of them
    /// are run, and the policies are chosen again with each that goes beyond the budget.
    fn held_by_every(&self, work: &Work) -> Result<(Vec<Keep>, Found)> {
        let forced = self.forced()?;
        let mut largest = work.largest.clone();
        loop {
            let keep = match &forced {
                Some(keep) => keep.clone(),
                None => self.choose(&largest)?,
            };
            let chosen = self.simulate(&largest, &keep)?;
            let every = work.every.iter().map(|micro| (micro.purpose, Cow::Owned(micro.batch())));
            let every = largest.iter().map(|(purpose, batch)| (*purpose, Cow::Borrowed(batch))).chain(every);
            let found = self.simulate_each(every, &keep)?;
            let beyond = found.highest.checked_sub(largest.len()).map(|at| &work.every[at]);
            match beyond {
                Some(micro) if forced.is_none() && self.within(&chosen) && !self.within(&found) => {
                    largest.push((micro.purpose, micro.batch()));
                }
                _ => return Ok((keep, found)),
            }
        }
    }

    /// The most tokens, in steps of 8, that a micro-batch may have within the budget with this policy in every layer.
    pub fn most_tokens(&self, worst: impl Fn(usize) -> Work<'static>, keep: Keep) -> Result<Option<usize>> {
        let fits = |tokens: usize| -> Result<bool> {
            let found = self.simulate(&worst(tokens).largest, &vec![keep; self.model().n_layers])?;
            Ok(self.within(&found))
        };
        // A power of two that no longer fits, then halves.
        let (mut good, mut bad) = (0, 1);
        while fits(bad * 8)? {
            (good, bad) = (bad, bad * 2);
            if bad * 8 > MOST_TOKENS {
                return Ok(Some(MOST_TOKENS));
            }
        }
        let good = last(good, bad, |middle| fits(middle * 8))?;
        Ok((good > 0).then_some(good * 8))
    }

    /// Sizes of the base.
    pub fn model(&self) -> &LlamaConfig {
        self.source.config()
    }

    /// What may be used: as told, or less where other programs hold a part of the device.
    fn budget(&self) -> usize {
        let there = self.free.map_or(usize::MAX, |free| free.saturating_sub(LATER) + self.context);
        there.min(self.config.machine.budget)
    }

    fn forced(&self) -> Result<Option<Vec<Keep>>> {
        match self.config.machine.keep.as_str() {
            "auto" => Ok(None),
            text => crate::model::parse_layers(text, self.model().n_layers).map(Some),
        }
    }

    fn within(&self, found: &Found) -> bool {
        found.memory.peak_bytes + self.context <= self.budget() && found.pinned <= self.config.machine.host_budget
    }

    /// Down the ladder, each rung for as many of the oldest layers as the budget asks for.
    fn choose(&self, work: &[(Use, Batch)]) -> Result<Vec<Keep>> {
        let mut layers = vec![Keep::Outputs; self.model().n_layers];
        if self.within(&self.simulate(work, &layers)?) {
            return Ok(layers);
        }
        for keep in self.rungs() {
            let held = |keep: Keep| keep.kept_per_token(self.model());
            let mut smaller: Vec<usize> = (0..layers.len()).filter(|&l| held(keep) < held(layers[l])).collect();
            // The same time for each: first those that it frees the most of, of these the oldest.
            smaller.sort_by_key(|&l| Reverse(held(layers[l])));
            let with = |n: usize| {
                let mut layers = layers.clone();
                smaller[..n].iter().for_each(|&l| layers[l] = keep);
                layers
            };
            // As many as pinned memory has room for at most; of these the fewest that fit, or all and on to the next policy.
            let pinned = |n: usize| Ok(self.simulate(work, &with(n))?.pinned <= self.config.machine.host_budget);
            let all = smaller.len();
            let most = if pinned(all)? { all } else { last(0, all, pinned)? };
            if most > 0 && self.within(&self.simulate(work, &with(most))?) {
                let too_few = last(0, most, |n| Ok(!self.within(&self.simulate(work, &with(n))?)))?;
                return Ok(with(too_few + 1));
            }
            layers = with(most);
        }
        Ok(layers)
    }

    /// Loads, and runs these micro-batches on paper.
    fn simulate(&self, work: &[(Use, Batch)], keep: &[Keep]) -> Result<Found> {
        self.simulate_each(work.iter().map(|(purpose, batch)| (*purpose, Cow::Borrowed(batch))), keep)
    }

    fn simulate_each<'a>(&self, work: impl Iterator<Item = (Use, Cow<'a, Batch>)>, keep: &[Keep]) -> Result<Found> {
        let device = Device::paper(self.compute, self.cuda);
        let mut trainer = prepare::trainer(self.config, &device, self.source, self.sets)?;
        let dropout = prepare::dropout(self.config, 0);
        let options = RunOptions { keep: keep.into(), dropout };
        let (mut highest, mut peak) = (0, 0);
        for (i, (purpose, batch)) in work.enumerate() {
            match purpose {
                Use::Train => {
                    trainer.gradients(std::slice::from_ref(&*batch), &options)?;
                    trainer.update(0.0, 0.0)?;
                }
                Use::Validate => drop(trainer.losses(std::slice::from_ref(&*batch))?),
                Use::Test => drop(eval::forward(trainer.subject(), &batch)?),
            }
            let reached = device.peak_bytes();
            if reached > peak {
                (highest, peak) = (i, reached);
            }
        }
        Ok(Found { memory: device.memory_use(), pinned: device.host_memory_use().peak_bytes, highest })
    }

    /// How many tokens of prompts and answers the cache may hold without a higher peak, and what that holds. Prompts are
    /// never left out: the longest alone may raise the peak.
    fn cached(&self, work: &Work, peak: usize) -> Result<(usize, Option<MemoryUse>)> {
        let max_new = self.config.eval.new_tokens;
        let Some(longest) = work.prompts.iter().map(|p| p.len() + max_new).max() else { return Ok((0, None)) };
        let mut tokens = (self.config.train.tokens * 4).max(longest);
        loop {
            let device = Device::paper(self.compute, self.cuda);
            let trainer = prepare::trainer(self.config, &device, self.source, self.sets)?;
            let prompts = work.prompts.iter().map(Vec::as_slice);
            let capacity = Capacity::for_prompts(prompts, max_new, self.config.train.tokens, tokens);
            Engine::new(&trainer.model, &[], &device, capacity)?.rehearse()?;
            let memory = device.memory_use();
            if memory.peak_bytes <= peak || tokens == longest {
                return Ok((tokens, Some(memory)));
            }
            tokens = (tokens / 2).max(longest);
        }
    }
}

/// The last number for which `holds`, between `good`, for which it does, and `bad`, for which it no longer does.
fn last(mut good: usize, mut bad: usize, holds: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    while bad - good > 1 {
        let middle = (good + bad) / 2;
        if holds(middle)? { good = middle } else { bad = middle }
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Finetune;
    use clap::Parser;

    /// The planner of a run with these flags on a model of 13B's widths.
    fn with<T>(cuda: bool, test: impl FnOnce(&Planner) -> T) -> T {
        let flags = ["finetune", "--config", "llama2-13b", "--model", "none", "--data", "none", "--out", "none"];
        let start = Finetune::parse_from(flags).start().unwrap();
        let model = LlamaConfig::llama_2_13b();
        let (config, source, sets) =
            (&start.config, Source::Sizes(&model), [LabelSet::of(&["no".into(), "yes".into()])]);
        let compute = Compute::Bf16;
        test(&Planner { config, source, sets: &sets, compute, cuda, context: 0, free: None })
    }

    #[test]
    fn the_ladder_leaves_out_what_two_others_do_faster() {
        // Making gate and up again saves less a second than making the whole layer again.
        with(false, |planner| assert_eq!(planner.rungs(), [Keep::Eight, Keep::Input]));
        with(true, |planner| assert_eq!(planner.rungs(), [Keep::Host, Keep::Eight, Keep::Input]));
    }

    #[test]
    fn a_plan_keeps_to_what_is_free_and_leaves_room_for_kernels() {
        with(true, |planner| {
            let budget = |free| Planner { context: CONTEXT, free, ..*planner }.budget();
            assert_eq!(budget(None), 24 << 30);
            assert_eq!(budget(Some(80 << 30)), 24 << 30);
            assert_eq!(budget(Some(10 << 30)), (10 << 30) - LATER + CONTEXT);
            assert_eq!(budget(Some(1)), CONTEXT);
        });
    }

    #[test]
    fn less_memory_never_makes_a_plan_faster_and_a_plan_keeps_to_its_budget() {
        with(true, |planner| {
            let work = Work::worst(crate::data::Room { tokens: 1024, rows: 8 }, 4096, 1200, 1);
            let mut slowest = 0.0;
            for gib in [20, 15, 14, 13, 12, 11] {
                let mut config = planner.config.clone();
                config.machine.budget = gib << 30;
                config.machine.host_budget = 1;
                let plan = Planner { config: &config, ..*planner }.plan(&work).unwrap();
                assert!(plan.total() <= gib << 30, "{gib} GiB: {}", plan.total());
                assert!(plan.slower >= slowest, "{gib} GiB: {} after {slowest}", plan.slower);
                slowest = plan.slower;
            }
            assert!(slowest > 1.1, "{slowest}");
        });
    }
}
