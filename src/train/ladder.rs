//! Modelled time of the policies: which are worth trying, in what order. It orders them and is no forecast.

use crate::checkpoint::LlamaConfig;
use crate::model::Keep;
use crate::train::Planner;

impl Planner<'_> {
    /// The policies to try, one after the other. Where pinned memory ends before the layers do, the rest goes down the ladder
    /// without it. The CPU device has no other memory to move to.
    pub(super) fn rungs(&self) -> Vec<Keep> {
        let here = self.ladder(|keep| keep != Keep::Host);
        let mut rungs = if self.cuda { self.ladder(|_| true) } else { Vec::new() };
        match rungs.iter().position(|&keep| keep == Keep::Host) {
            Some(host) => {
                rungs.truncate(host + 1);
                rungs.extend(here);
                rungs
            }
            None => here,
        }
    }

    /// The lower convex hull of time over memory, from [`Keep::Outputs`] down: a mixture of two neighbours is the fastest
    /// way to any size between theirs, for the layers are alike.
    fn ladder(&self, allowed: impl Fn(Keep) -> bool) -> Vec<Keep> {
        let (bytes, time) = (|keep: Keep| keep.kept_per_token(self.model()) as f64, |keep| self.extra_seconds(keep));
        let (mut at, mut rungs) = (Keep::Outputs, Vec::new());
        loop {
            let slope = |keep: &Keep| (time(*keep) - time(at)) / (bytes(at) - bytes(*keep));
            let smaller = Keep::ALL.into_iter().filter(|&keep| allowed(keep) && bytes(keep) < bytes(at));
            // Of equal slopes the last, which saves the most.
            let Some(next) = smaller.rev().min_by(|a, b| slope(a).total_cmp(&slope(b))) else { return rungs };
            rungs.push(next);
            at = next;
        }
    }

    /// Modelled seconds that a policy adds to a step, per token and layer.
    fn extra_seconds(&self, keep: Keep) -> f64 {
        let (c, rates) = (self.model(), Rates::of(self.cuda));
        let f = c.intermediate as f64;
        let layer = layer_weights(c) as f64;
        // Gate and up, two bytes a number.
        let gate_up = 4.0 * f;
        let product = |weights: f64| 2.0 * weights / rates.flops;
        match keep {
            Keep::Outputs => 0.0,
            // Read and written once each way, at half the size on one side.
            Keep::Eight => 3.0 * gate_up / rates.memory,
            // The bus carries them while the layer computes, once in the forward and once in the backward, which is
            // twice as long; what does not fit in is waited for.
            Keep::Host => {
                let bus = gate_up / rates.bus;
                (bus - product(layer)).max(0.0) + (bus - 2.0 * product(layer)).max(0.0)
            }
            Keep::GateUp => product(2.0 * f * c.hidden as f64),
            // Everything but the last product.
            Keep::Input => product(layer - f * c.hidden as f64),
        }
    }

    /// The same as a share of what the layer takes when nothing is computed twice.
    pub fn extra_share(&self, keep: Keep) -> f64 {
        self.extra_seconds(keep) / (4.0 * layer_weights(self.model()) as f64 / Rates::of(self.cuda).flops)
    }
}

/// Rates for the order of policies, not for a forecast: a card with 24 GB at its sustained rates, or one CPU core.
struct Rates {
    flops: f64,
    memory: f64,
    bus: f64,
}

impl Rates {
    fn of(cuda: bool) -> Rates {
        if cuda {
            Rates { flops: 120e12, memory: 850e9, bus: 20e9 }
        } else {
            Rates { flops: 50e9, memory: 8e9, bus: 8e9 }
        }
    }
}

/// Frozen weights of one decoder layer.
pub fn layer_weights(c: &LlamaConfig) -> usize {
    c.linears().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}
