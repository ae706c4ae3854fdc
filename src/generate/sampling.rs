//! How a token is chosen from a row of logits, in the order of transformers' generate: repetition penalty, temperature, the k
//! likeliest, the likeliest that reach a share, and then one of them at random.

use crate::data::SplitMix64;
use crate::{Error, Result, bail_input};
use std::collections::BTreeSet;

/// What to choose by. The default is greedy: the likeliest token, every time the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0: greedy.
    pub temperature: f32,
    /// Only the k likeliest, and those as likely as the last of them; 0: all.
    pub top_k: usize,
    /// Only the likeliest that together reach this share (Holtzman et al. 2020); 1: all.
    pub top_p: f32,
    /// Logits of tokens that stand in prompt or answer are divided by this where positive, else multiplied (Keskar et al. 2019);
    /// 1: nothing is changed.
    pub repetition_penalty: f32,
    /// The same request with the same seed gets the same answer.
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
        if !(0.0..=100.0).contains(&self.temperature) {
            bail_input!("temperature {}: expected 0 (greedy) to 100", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            bail_input!("top_p {}: expected more than 0, and at most 1 (all tokens)", self.top_p);
        }
        if !(0.01..=100.0).contains(&self.repetition_penalty) {
            bail_input!(
                "repetition_penalty {}: expected 0.01 to 100, where 1 changes nothing",
                self.repetition_penalty
            );
        }
        Ok(())
    }

    /// The `n`th new token. `logits` [V] are changed; `said` are the ids of the prompt and of the answer so far. A logit that is no
    /// number is an error, not a token.
    pub(super) fn choose(&self, logits: &mut [f32], said: impl Iterator<Item = u32>, n: usize) -> Result<u32> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(Error::NotFinite("a logit is not a number; the adapter or the base is damaged".into()));
        }
        self.penalise(logits, said);
        if self.temperature == 0.0 {
            return Ok(first_of_largest(logits));
        }
        let kept = self.kept(logits);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut left = SplitMix64::new(self.seed, n as u64).unit() * total;
        let drawn = kept.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        Ok(drawn.or(kept.last()).expect("the likeliest is always kept").0)
    }

    fn penalise(&self, logits: &mut [f32], said: impl Iterator<Item = u32>) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        for id in said.collect::<BTreeSet<_>>() {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / self.repetition_penalty } else { *logit * self.repetition_penalty };
        }
    }

    /// The tokens that may be drawn with their weights exp((logit - largest) / temperature), in a fixed order. Nothing
    /// is sorted but what `top_p` may keep.
    fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let least = match self.top_k {
            k if k > 0 && k < logits.len() => *logits.to_vec().select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1,
            _ => f32::NEG_INFINITY,
        };
        let top = f64::from(logits[first_of_largest(logits) as usize]);
        let weight = |logit: f32| ((f64::from(logit) - top) / f64::from(self.temperature)).exp();
        let ids = (0u32..).zip(logits).filter(|(_, logit)| **logit >= least);
        let mut kept: Vec<(u32, f64)> = ids.map(|(id, logit)| (id, weight(*logit))).collect();
        if self.top_p < 1.0 {
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            // Tokens below the n-th part of what may be missing are together less than that: the share is reached without them.
            let missing = (1.0 - f64::from(self.top_p)) * total;
            let n = kept.len() as f64;
            kept.retain(|(_, weight)| weight * n >= missing);
            kept.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            let mut before = 0.0;
            let is_needed = |(_, weight): &&(u32, f64)| {
                let is_needed = before < f64::from(self.top_p) * total;
                before += weight;
                is_needed
            };
            let n = kept.iter().take_while(is_needed).count();
            kept.truncate(n);
        }
        kept
    }
}

/// As torch.argmax.
fn first_of_largest(row: &[f32]) -> u32 {
    let mut best = 0;
    for (i, &v) in row.iter().enumerate() {
        if v > row[best] {
            best = i;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// What tools/golden/sampling.py wrote: transformers' own processors.
    #[test]
    fn what_may_be_drawn_and_how_likely_is_what_transformers_leaves() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sampling.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let read = |name: String| file.tensor(&name).unwrap().data().to_vec();
        let floats = |name: String| bytemuck::allocation::pod_collect_to_vec::<u8, f32>(&read(name));
        for case in 0..8 {
            let mut logits = floats(format!("case{case}.in.logits"));
            let said = bytemuck::allocation::pod_collect_to_vec::<u8, u32>(&read(format!("case{case}.in.said")));
            let want = bytemuck::allocation::pod_collect_to_vec::<u8, f64>(&read(format!("case{case}.out.p")));
            let [temperature, top_k, top_p, repetition_penalty] = floats(format!("case{case}.in.settings"))[..] else {
                panic!("four settings")
            };
            let sampling = Sampling { temperature, top_k: top_k as usize, top_p, repetition_penalty, seed: 1 };
            sampling.penalise(&mut logits, said.into_iter());
            let kept = sampling.kept(&logits);
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            let mut got = vec![0.0; want.len()];
            kept.iter().for_each(|(id, weight)| got[*id as usize] = weight / total);
            for (id, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!((got - want).abs() < 1e-6, "case {case}, token {id}: {got}, transformers {want}");
            }
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let logits = [0.5f32.ln(), 0.3f32.ln(), f32::NEG_INFINITY, 0.2f32.ln()];
        let mut counts = [0; 4];
        for n in 0..20_000 {
            counts[sampling.choose(&mut logits.clone(), std::iter::empty(), n).unwrap() as usize] += 1;
        }
        for (count, share) in counts.into_iter().zip([0.5, 0.3, 0.0, 0.2]) {
            // Four standard deviations of 20,000 draws are 0.014 at most.
            assert!((f64::from(count) / 20_000.0 - share).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_and_no_nan() {
        let choose = |logits: &[f32]| Sampling::default().choose(&mut logits.to_vec(), std::iter::empty(), 0);
        assert_eq!(choose(&[1.0, 3.0, 3.0, -1.0]).unwrap(), 1);
        assert!(choose(&[1.0, f32::NAN]).unwrap_err().to_string().contains("not a number"));
        let penalised = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let said =
            |ids: &[u32], logits: &[f32]| penalised.choose(&mut logits.to_vec(), ids.iter().copied(), 0).unwrap();
        assert_eq!(said(&[1, 1], &[2.0, 3.0]), 0, "twice said counts once: 1.5");
        assert_eq!(said(&[1, 1], &[1.0, 3.0]), 1);
        assert_eq!(said(&[0], &[-1.0, -1.5]), 1, "a negative logit becomes more so");
    }
}
