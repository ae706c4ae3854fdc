//! Stops a run whose validation loss no longer falls.

/// Counts validations in a row that were no better than the best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStop {
    patience: usize,
    best: f64,
    best_step: usize,
    n_worse: usize,
}

/// What a validation's loss means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The best so far: worth keeping.
    Best,
    /// Not better, but go on.
    Wait,
    /// Not better, too often in a row.
    Stop,
}

impl EarlyStop {
    /// Stops after `patience` validations in a row without a better loss; 0: never.
    pub fn new(patience: usize) -> EarlyStop {
        EarlyStop { patience, best: f64::INFINITY, best_step: 0, n_worse: 0 }
    }

    /// Takes in the joint loss on the validation rows after `step`. A loss that is NaN is never better.
    pub fn judge(&mut self, step: usize, joint_loss: f64) -> Verdict {
        if joint_loss < self.best {
            (self.best, self.best_step, self.n_worse) = (joint_loss, step, 0);
            return Verdict::Best;
        }
        self.n_worse += 1;
        if self.patience > 0 && self.n_worse >= self.patience { Verdict::Stop } else { Verdict::Wait }
    }

    /// The best loss and its step, once there was one.
    pub fn best(&self) -> Option<(f64, usize)> {
        self.best.is_finite().then_some((self.best, self.best_step))
    }

    /// A resumed run counts on: takes in what the log of the run says of its validations.
    pub fn replay(&mut self, validations: impl IntoIterator<Item = (usize, f64)>) {
        for (step, joint_loss) in validations {
            self.judge(step, joint_loss);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Best, Stop, Wait};

    #[test]
    fn it_stops_after_patience_validations_without_a_better_loss() {
        let mut stop = EarlyStop::new(2);
        let losses = [3.0, 2.0, 2.0, 1.5, 1.6, f64::NAN];
        let verdicts: Vec<Verdict> = losses.iter().enumerate().map(|(i, l)| stop.judge(10 * (i + 1), *l)).collect();
        assert_eq!(verdicts, [Best, Best, Wait, Best, Wait, Stop]);
        assert_eq!(stop.best(), Some((1.5, 40)));
    }

    #[test]
    fn without_patience_it_never_stops() {
        let mut stop = EarlyStop::new(0);
        assert_eq!(stop.best(), None);
        assert!((0..50).all(|step| stop.judge(step, 1.0) != Stop));
    }

    #[test]
    fn a_resumed_run_counts_on() {
        let mut whole = EarlyStop::new(3);
        let mut resumed = EarlyStop::new(3);
        let losses = [(10, 1.0), (20, 1.1), (30, 1.2)];
        for (step, loss) in losses {
            whole.judge(step, loss);
        }
        resumed.replay(losses);
        assert_eq!(whole, resumed);
        assert_eq!(resumed.judge(40, 1.3), Stop);
    }
}
