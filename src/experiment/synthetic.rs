//! Made-up last hidden states whose best possible accuracy is known: what a head could be given, without a model.
//!
//! The `C` columns fall into blocks of 64, the width that the paper's head pools to one number; all columns of a block carry the
//! same value, plus an offset that a column keeps in all rows (hidden states have such columns). A sequence of class `k` is
//!
//! `block j of token t = signal [j = k] + sequence noise_j + TOKEN_NOISE token noise_tj`
//!
//! with standard normal noise: the sequence's is common to all its tokens and cannot be averaged away, each token has its own
//! beside it. Blocks beyond the last class say nothing. [`super::bayes`] derives the best accuracy from this line.
//!
//! Behind the prompt stand [`ANSWER`] more tokens that shout the class, as an answer does that states the label: in this engine a
//! head sees the prompt only, and one that saw more would beat the best possible accuracy.

use std::ops::RangeInclusive;

use crate::data::SplitMix64;

/// Columns of the hidden states.
pub const HIDDEN: usize = 320;
/// Columns that the paper's head pools to one feature.
pub const BLOCK: usize = 64;
/// Tokens of a prompt, each length equally likely.
pub const LENGTHS: RangeInclusive<usize> = 4..=24;
/// Tokens of the answer behind it.
pub const ANSWER: usize = 4;
/// The spread of a token's own noise; a sequence's is 1.
pub const TOKEN_NOISE: f64 = 1.0;
/// What the answer's tokens add to the block of their class.
const SHOUT: f64 = 10.0;

/// A distribution of labelled sequences.
#[derive(Clone, Debug)]
pub struct World {
    /// How likely each class is; they sum to 1.
    pub mix: Vec<f64>,
    /// What a class adds to its block; 0: labels and states know nothing of each other.
    pub signal: f64,
    /// [C], the same in all rows.
    offsets: Vec<f32>,
}

/// Sequences laid end to end, as a head sees a micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// [T, C].
    pub hidden: Vec<f32>,
    /// [S+1], from 0 to T.
    pub cu_seqlens: Vec<i32>,
    /// [S], tokens of the prompt.
    pub n_prompt: Vec<i32>,
    /// [S].
    pub labels: Vec<i32>,
}

impl World {
    /// `seed` decides the columns' offsets.
    pub fn new(mix: Vec<f64>, signal: f64, seed: u64) -> World {
        assert!(mix.len() <= HIDDEN / BLOCK, "a block for each class");
        let mut random = SplitMix64::new(seed, 0x0ff5e7);
        World { mix, signal, offsets: (0..HIDDEN).map(|_| normal(&mut random) as f32).collect() }
    }

    /// `n` sequences; the same generator state gives the same bytes.
    pub fn draw(&self, n: usize, random: &mut SplitMix64) -> Rows {
        let mut rows = Rows { hidden: Vec::new(), cu_seqlens: vec![0], n_prompt: Vec::new(), labels: Vec::new() };
        for _ in 0..n {
            let class = self.class(random.unit());
            let n_prompt = LENGTHS.start() + random.below(LENGTHS.count());
            let mut blocks: Vec<f64> = (0..HIDDEN / BLOCK).map(|_| normal(random)).collect();
            blocks[class] += self.signal;
            for t in 0..n_prompt + ANSWER {
                for (j, block) in blocks.iter().enumerate() {
                    let shout = if t >= n_prompt && j == class { SHOUT } else { 0.0 };
                    let value = (block + shout + TOKEN_NOISE * normal(random)) as f32;
                    rows.hidden.extend(self.offsets[j * BLOCK..][..BLOCK].iter().map(|offset| value + offset));
                }
            }
            rows.cu_seqlens.push((rows.hidden.len() / HIDDEN) as i32);
            rows.n_prompt.push(n_prompt as i32);
            rows.labels.push(class as i32);
        }
        rows
    }

    fn class(&self, mut at: f64) -> usize {
        let found = self.mix.iter().position(|share| {
            at -= share;
            at < 0.0
        });
        found.unwrap_or(self.mix.len() - 1) // the shares sum to 1 only to the last bit
    }
}

/// A standard normal number (Box and Muller 1958).
pub(super) fn normal(random: &mut SplitMix64) -> f64 {
    let radius = (-2.0 * (1.0 - random.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.unit()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_means_and_variances_that_the_formula_says() {
        let world = World::new(vec![0.5, 0.5], 3.0, 5);
        let rows = world.draw(20_000, &mut SplitMix64::new(1, 0));
        // The first token's block 1 of sequences of class 1: mean 3, variance 1 + 1; of class 0: mean 0.
        for (class, mean) in [(1, 3.0), (0, 0.0)] {
            let firsts = rows.labels.iter().zip(&rows.cu_seqlens).filter(|(label, _)| **label == class);
            let values: Vec<f64> = firsts
                .map(|(_, at)| f64::from(rows.hidden[*at as usize * HIDDEN + BLOCK] - world.offsets[BLOCK]))
                .collect();
            let n = values.len() as f64;
            let m = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / n;
            assert!((n - 10_000.0).abs() < 300.0 && (m - mean).abs() < 0.05, "{n} rows, mean {m}");
            assert!((variance - 2.0).abs() < 0.1, "variance {variance}");
        }
    }

    #[test]
    fn sequences_follow_each_other_and_hold_prompt_and_answer() {
        let rows = World::new(vec![0.2, 0.3, 0.5], 1.0, 1).draw(500, &mut SplitMix64::new(2, 0));
        let lengths: Vec<i32> = rows.cu_seqlens.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(lengths.iter().zip(&rows.n_prompt).all(|(n, prompt)| *n == prompt + ANSWER as i32));
        assert!(LENGTHS.clone().all(|n| rows.n_prompt.contains(&(n as i32))), "every length comes up");
        assert_eq!(rows.hidden.len(), lengths.iter().sum::<i32>() as usize * HIDDEN);
        let share = |class| rows.labels.iter().filter(|l| **l == class).count() as f64 / 500.0;
        assert!((share(0) - 0.2).abs() < 0.07 && (share(2) - 0.5).abs() < 0.07);
    }
}
