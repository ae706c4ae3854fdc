//! The learning rate over the steps of a run: a warm-up in a straight line, then a fall to a floor.
//!
//! Steps count from 1, and none is wasted: the first already has `1/warmup` of the peak (most schedules give it 0), the last
//! step of the warm-up has the whole peak, and the fall would reach its floor only one step after the last.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Half a cosine wave.
    #[default]
    Cosine,
    /// A straight line.
    Linear,
    /// Not at all.
    Constant,
}

/// The learning rate of every step, as a share of its peak; adapter and head have peaks of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    shape: Shape,
    total_steps: usize,
    warmup_steps: usize,
    min_ratio: f64,
}

impl Schedule {
    /// A run of `total_steps`, of which the share `warmup` (at least one step, unless it is 0) rises to the peak; the fall
    /// ends at `min_ratio` of the peak.
    pub fn new(shape: Shape, total_steps: usize, warmup: f64, min_ratio: f64) -> Schedule {
        let warmup_steps = (warmup * total_steps as f64).round() as usize;
        let least = usize::from(warmup > 0.0);
        Schedule { shape, total_steps, warmup_steps: warmup_steps.max(least).min(total_steps), min_ratio }
    }

    /// Steps of the run.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// The share of the peak at `step`, which counts from 1. Past the end it stays at the floor.
    pub fn ratio(&self, step: usize) -> f64 {
        debug_assert!(step >= 1, "steps count from 1");
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let peak_step = self.warmup_steps.max(1);
        let n_falling = (self.total_steps + 1).saturating_sub(peak_step).max(1);
        let fallen = ((step - peak_step) as f64 / n_falling as f64).min(1.0);
        let left = match self.shape {
            Shape::Constant => return 1.0,
            Shape::Linear => 1.0 - fallen,
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * fallen).cos()),
        };
        self.min_ratio + (1.0 - self.min_ratio) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratios(schedule: Schedule) -> Vec<f64> {
        (1..=schedule.total_steps()).map(|step| schedule.ratio(step)).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!((f - e).abs() < 1e-12, "step {}: {f}, expected {e}", i + 1);
        }
    }

    #[test]
    fn linear_rises_to_the_peak_in_its_last_warm_up_step_and_falls_evenly() {
        let schedule = Schedule::new(Shape::Linear, 8, 0.5, 0.0);
        assert_close(&ratios(schedule), &[0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2]);
        assert_close(&[schedule.ratio(9), schedule.ratio(100)], &[0.0, 0.0]);
    }

    #[test]
    fn cosine_passes_the_middle_between_peak_and_floor_half_way() {
        let schedule = Schedule::new(Shape::Cosine, 5, 0.4, 0.1);
        let at = |fallen: f64| 0.1 + 0.9 * 0.5 * (1.0 + (std::f64::consts::PI * fallen).cos());
        assert_close(&ratios(schedule), &[0.5, 1.0, at(0.25), 0.55, at(0.75)]);
        assert_close(&[schedule.ratio(6)], &[0.1]);
    }

    #[test]
    fn without_warm_up_the_first_step_has_the_peak() {
        assert_close(&ratios(Schedule::new(Shape::Linear, 4, 0.0, 0.0)), &[1.0, 0.75, 0.5, 0.25]);
        assert_close(&ratios(Schedule::new(Shape::Constant, 3, 0.0, 0.0)), &[1.0; 3]);
    }

    #[test]
    fn constant_stays_at_the_peak_after_its_warm_up() {
        assert_close(&ratios(Schedule::new(Shape::Constant, 5, 0.4, 0.0)), &[0.5, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn no_step_is_wasted_whatever_the_length() {
        for total in 1..60 {
            for warmup in [0.0, 0.03, 0.3, 0.5, 1.0] {
                for shape in [Shape::Cosine, Shape::Linear, Shape::Constant] {
                    let ratios = ratios(Schedule::new(shape, total, warmup, 0.0));
                    assert!(ratios.iter().all(|r| *r > 0.0 && *r <= 1.0), "{shape:?} {total} {warmup}: {ratios:?}");
                    assert!(ratios.contains(&1.0), "{shape:?} {total} {warmup} never reaches its peak: {ratios:?}");
                }
            }
        }
    }
}
