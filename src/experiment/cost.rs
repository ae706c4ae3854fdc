//! The paper's third experiment: **what does an answer cost?** One forward over the prompt with the head, against writing the answer
//! token by token, for the same questions, on whatever device is there; and what the head itself costs, by its kind and size.
//!
//! Costs do not depend on the values of weights, so nothing is trained: the adapter and the heads are as they are initialised, and every
//! answer is written to its full length, because an untrained model does not know when to stop.
//!
//! What must come out, said before the run: reading with the head is cheaper in time than the shortest answer and needs no more memory;
//! longer answers take longer; a head that pools over tokens costs little beside the forward it reads.

use std::time::Instant;

use super::ExperimentReport;
use super::cost_tables::{head_table, memory_table, method, planned_table, time_table, titled, verdicts};
use crate::checkpoint::{EciConfig, LlamaConfig, ModelFolder};
use crate::device::Device;
use crate::eval::bootstrap::{Interval, bootstrap, quantile};
use crate::generate::{Capacity, generate};
use crate::model::{Batch, EciHead, Frozen, Llama, LoraSpec, Params, RunOptions, Source, load};
use crate::tape::Tape;
use crate::{Result, bail_input};

/// On the command line.
pub const NAME: &str = "cost";

/// New tokens of the answers compared; 1 is the prefill and its first token.
pub(super) const LENGTHS: [usize; 4] = [1, 8, 32, 64];
/// Questions asked at once.
pub(super) const BATCHES: [usize; 2] = [1, 8];
/// Widths of the published head's layers.
pub(super) const PAPER_DIMS: [usize; 5] = [1024, 256, 64, 16, 4];
/// Positions of the paper's head: for a short prompt, and up to the published size.
pub(super) const POSITIONS: [usize; 4] = [96, 300, 600, 1200];
/// fp32 weight, gradient and the two moments of AdamW.
pub(super) const TRAINING_BYTES: usize = 16;

/// What is measured.
pub struct Given<'a> {
    /// The base.
    pub folder: &'a ModelFolder,
    /// How its linear layers are stored.
    pub frozen: Frozen,
    /// The adapter's sizes.
    pub lora: LoraSpec,
    /// The head that is compared with the text.
    pub head: EciConfig,
    /// The questions as ids, at least as many as are asked at once.
    pub prompts: Vec<Vec<u32>>,
    /// Opens the device anew: memory is counted from nothing.
    pub open: &'a dyn Fn() -> Result<Device>,
    /// Few repetitions.
    pub quick: bool,
    /// Is told a line as each part ends.
    pub say: fn(&str),
}

/// The model on a fresh device.
struct Loaded {
    model: Llama,
    heads: Vec<EciHead>,
    device: Device,
    _params: Params,
}

/// Milliseconds of repetitions.
pub(super) struct Times(Vec<f64>);

impl Times {
    pub(super) fn median(&self) -> f64 {
        median(&self.0).expect("measured at least once")
    }

    pub(super) fn interval(&self) -> Interval {
        let drawn = bootstrap(self.0.len(), |drawn| median(&drawn.iter().map(|&i| self.0[i]).collect::<Vec<_>>()));
        drawn.expect("measured at least twice")
    }

    /// Of each repetition, how many times as long as in `other`: what slows the machine down slows down both.
    pub(super) fn over(&self, other: &Times) -> Times {
        Times(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// One batch size: the head's forward, and an answer of each length.
pub(super) struct Measured {
    pub(super) batch: usize,
    pub(super) head: Times,
    pub(super) answers: Vec<Times>,
    pub(super) head_bytes: Peak,
    pub(super) answer_bytes: Vec<Peak>,
}

/// Device memory above the loaded model.
pub(super) struct Peak {
    pub(super) n_bytes: usize,
    /// Loading had reached further already, so it may be less.
    pub(super) at_most: bool,
    pub(super) cache: usize,
}

/// Measures and compares.
pub fn run(given: &Given) -> Result<ExperimentReport> {
    let clock = Instant::now();
    if given.prompts.len() < BATCHES[1] {
        bail_input!(
            "{} questions are given, at least {} are asked at once; give more",
            given.prompts.len(),
            BATCHES[1]
        );
    }
    let loaded = given.load(std::slice::from_ref(&given.head))?;
    let config = loaded.model.config.clone();
    let mut measured = Vec::new();
    for batch in BATCHES {
        measured.push(given.measure(&loaded, batch)?);
        (given.say)(&format!("{batch} question(s) at once: measured"));
    }
    let heads = given.heads();
    let own = given.own(&heads)?;
    (given.say)("heads by themselves: measured");
    let element = loaded.device.act().bytes();
    let tables = vec![
        titled("Time to read a decision", time_table(&measured)),
        titled("Device memory above the loaded model", memory_table(given, &measured, &config, element)),
        titled("The head by itself, on hidden states that are there", head_table(&heads, &own, &measured)),
        titled("Llama-2-13B, computed from its sizes, not run", planned_table()),
    ];
    Ok(ExperimentReport {
        name: NAME.into(),
        question: "What does the ECI head cost, in time and memory, beside writing the answer?".into(),
        method: method(given, &config),
        tables,
        verdicts: verdicts(&measured, &heads, &own),
        seconds: clock.elapsed().as_secs_f64(),
        device: loaded.device.name(),
    })
}

impl Given<'_> {
    pub(super) fn n_repeats(&self) -> usize {
        if self.quick { 5 } else { 25 }
    }

    fn load(&self, heads: &[EciConfig]) -> Result<Loaded> {
        let device = (self.open)()?;
        let (model, params, plans) =
            load(&device, Source::Folder(self.folder), self.frozen, Some(&self.lora), 1, |builder| {
                let plan = |head: &EciConfig| {
                    let plan = EciHead::plan(builder, head)?;
                    // Nothing is trained: the factors of a gradient are the least room it can have.
                    plan.factor(builder, 1);
                    Ok(plan)
                };
                heads.iter().map(plan).collect::<Result<Vec<_>>>()
            })?;
        let heads = plans.into_iter().map(|plan| EciHead::new(plan, &params)).collect::<Result<_>>()?;
        Ok(Loaded { model, heads, device, _params: params })
    }

    /// Questions of a repetition: the next ones, from the first again after the last.
    pub(super) fn drawn(&self, repeat: usize, batch: usize) -> Vec<&[u32]> {
        (0..batch).map(|i| self.prompts[(repeat * batch + i) % self.prompts.len()].as_slice()).collect()
    }

    fn measure(&self, loaded: &Loaded, batch: usize) -> Result<Measured> {
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); 1 + LENGTHS.len()];
        let one = |which: usize, prompts: &[&[u32]]| match which.checked_sub(1) {
            None => loaded.read(prompts),
            Some(length) => loaded.write(prompts, LENGTHS[length]),
        };
        for repeat in 0..=self.n_repeats() {
            let prompts = self.drawn(repeat, batch);
            // Each repetition begins with another, so that none of them always follows the same.
            for turn in 0..times.len() {
                let which = (repeat + turn) % times.len();
                let ms = timed(&loaded.device, || one(which, &prompts))?;
                // The first time everything is cold.
                if repeat > 0 {
                    times[which].push(ms);
                }
            }
        }
        let peak = |which: usize| {
            let fresh = self.load(std::slice::from_ref(&self.head))?;
            let before = fresh.device.memory_use();
            match which.checked_sub(1) {
                None => fresh.read(&self.drawn(0, batch))?,
                Some(length) => fresh.write(&self.drawn(0, batch), LENGTHS[length])?,
            }
            let after = fresh.device.memory_use();
            Ok(Peak {
                n_bytes: after.peak_bytes - before.current_bytes,
                at_most: after.peak_bytes == before.peak_bytes,
                cache: after.at_peak.get("kv cache").copied().unwrap_or(0),
            })
        };
        let mut peaks = (0..times.len()).map(peak).collect::<Result<Vec<Peak>>>()?;
        let mut times: Vec<Times> = times.into_iter().map(Times).collect();
        let (head, head_bytes) = (times.remove(0), peaks.remove(0));
        Ok(Measured { batch, head, answers: times, head_bytes, answer_bytes: peaks })
    }

    /// The paper's head in its sizes, and the cheap kind.
    fn heads(&self) -> Vec<EciConfig> {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let paper = |positions: usize| EciConfig {
            kind: "paper".into(),
            positions,
            dims: PAPER_DIMS.to_vec(),
            activation: "leaky_relu".into(),
            ..self.head.clone()
        };
        let papers = POSITIONS.into_iter().filter(|p| *p >= longest && self.head.hidden.is_multiple_of(64)).map(paper);
        let mean = EciConfig { kind: "mean".into(), positions: 0, ..self.head.clone() };
        papers.chain([mean]).enumerate().map(|(i, head)| EciConfig { name: format!("head{i}"), ..head }).collect()
    }

    /// Times of each head at each batch size, the hidden states being there.
    fn own(&self, heads: &[EciConfig]) -> Result<Vec<[Times; 2]>> {
        let loaded = self.load(heads)?;
        let mut times = Vec::new();
        for head in &loaded.heads {
            let of_batch = |batch: usize| -> Result<Times> {
                let mut ms = Vec::new();
                for repeat in 0..=self.n_repeats() {
                    let batch = Batch::of_prompts(self.drawn(repeat, batch));
                    let mut tape = Tape::inference(&loaded.device);
                    let hidden = loaded.model.forward(&mut tape, &batch, &RunOptions::default())?;
                    loaded.device.synchronize()?;
                    let of_head = || {
                        head.forward(&mut tape, &hidden, &batch.cu_seqlens, &batch.n_prompt)?.value().read_f32()?;
                        Ok(())
                    };
                    let passed = timed(&loaded.device, of_head)?;
                    ms.extend((repeat > 0).then_some(passed));
                }
                Ok(Times(ms))
            };
            times.push([of_batch(BATCHES[0])?, of_batch(BATCHES[1])?]);
        }
        Ok(times)
    }
}

impl Loaded {
    /// One forward over the prompts, with the first head.
    fn read(&self, prompts: &[&[u32]]) -> Result<()> {
        let batch = Batch::of_prompts(prompts.iter().copied());
        let mut tape = Tape::inference(&self.device);
        let hidden = self.model.forward(&mut tape, &batch, &RunOptions::default())?;
        self.heads[0].forward(&mut tape, &hidden, &batch.cu_seqlens, &batch.n_prompt)?.value().read_f32()?;
        Ok(())
    }

    /// Answers of exactly `n` tokens: nothing ends them.
    fn write(&self, prompts: &[&[u32]], n: usize) -> Result<()> {
        let capacity = Capacity::for_prompts(prompts.iter().copied(), n, usize::MAX, usize::MAX);
        let answers = generate(&self.model, &self.device, prompts, n, true, capacity, |_| ())?;
        assert!(answers.iter().all(|answer| answer.len() == n), "an answer of its full length");
        Ok(())
    }
}

fn timed(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    device.synchronize()?;
    let clock = Instant::now();
    work()?;
    device.synchronize()?;
    Ok(1000.0 * clock.elapsed().as_secs_f64())
}

/// Bytes of keys and values of one token.
pub(super) fn cache_per_token(config: &LlamaConfig, element: usize) -> usize {
    2 * config.n_layers * config.n_kv_heads * config.head_dim * element
}

pub(super) fn n_params(head: &EciConfig) -> usize {
    head.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::cost_tables::llama_2_13b;

    #[test]
    fn the_papers_head_and_a_token_of_llama_2_13b_have_the_known_sizes() {
        let (config, head) = llama_2_13b();
        // 1200 x 80 features; (96000 + 1) x 1024 + 1025 x 256 + 257 x 64 + 65 x 16 + 17 x 4 + 5 x 3, added up by hand.
        assert_eq!((head.n_features(), n_params(&head)), (96_000, 98_584_995));
        // 2 x 40 x 5120 numbers of 2 bytes: 800 KiB, as it is usually given for this model.
        assert_eq!(cache_per_token(&config, 2), 819_200);
    }

    #[test]
    fn ratios_are_those_of_neighbours_and_their_median_has_an_interval() {
        // A machine that is ten times slower in the last repetitions: the ratio does not see it.
        let head = Times(vec![1.0, 2.0, 1.0, 10.0, 20.0]);
        let answer = Times(vec![3.0, 6.0, 3.0, 30.0, 60.0]);
        let ratio = answer.over(&head);
        assert_eq!((ratio.median(), ratio.interval()), (3.0, Interval { low: 3.0, high: 3.0 }));
        assert_eq!((head.median(), answer.median()), (2.0, 6.0));
        assert!(head.interval().low < 2.0 && head.interval().high > 2.0);
    }

    #[test]
    fn a_verdict_needs_the_whole_interval_at_every_batch_size() {
        let times = |ms: [f64; 3]| Times(ms.to_vec());
        let peak = |n_bytes| Peak { n_bytes, at_most: false, cache: 0 };
        let measured = |batch, eight: [f64; 3], head_bytes| Measured {
            batch,
            head: times([1.0, 1.0, 1.0]),
            answers: vec![times([1.0; 3]), times(eight), times([4.0; 3]), times([8.0; 3])],
            head_bytes: peak(head_bytes),
            answer_bytes: [1, 2, 3, 4].map(|n| peak(n * 100)).into(),
        };
        let head = EciConfig { kind: "mean".into(), ..llama_2_13b().1 };
        let holds = |eight, head_bytes, own: f64| {
            let measured = [measured(1, [2.0, 2.0, 2.0], 100), measured(8, eight, head_bytes)];
            let own = [[times([own; 3]), times([0.01; 3])]];
            verdicts(&measured, std::slice::from_ref(&head), &own).iter().map(|v| v.holds).collect::<Vec<_>>()
        };
        assert_eq!(holds([2.0, 2.0, 2.0], 200, 0.05), [true; 4]);
        // One slow repetition of three reaches below 1: the interval does too.
        assert_eq!(holds([2.0, 2.0, 0.9], 200, 0.05), [false, true, true, true]);
        assert_eq!(holds([9.0, 9.0, 9.0], 201, 0.11), [true, false, false, false]);
    }
}
