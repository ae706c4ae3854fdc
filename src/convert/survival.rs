//! What is left of an adapter's delta once the sum is rounded, weight by weight.
//!
//! `d` is what the adapter adds to `W`, and `got = round(W + d) - W` what the stored weight adds. A part of `d` below half a step of
//! the type is lost where the step is coarse. `kept = <got, d> / <d, d>` is 1 where rounding leaves the delta as it is on
//! average; `error = |got - d| / |d|` is the noise beside it. In 16 bits the first stays near 1 and the second
//! grows as the delta shrinks: noise of the size of the delta may still average out in a product, and may not.

use crate::checkpoint::LINEARS;
use crate::convert::weights::{Lora, Rows};
use crate::table::Table;
use rayon::prelude::*;
use serde::Serialize;

/// Sums over a weight, in fp64.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    w2: f64,
    d2: f64,
    got_d: f64,
    error2: f64,
}

/// A weight's line in the report.
#[derive(Debug, Clone, Serialize)]
pub struct Survival {
    /// The layer; none in the total.
    pub layer: Option<usize>,
    /// As in a Hugging Face folder, or `all`.
    pub linear: &'static str,
    /// |d| / |W|, Frobenius.
    pub delta: f64,
    /// <got, d> / <d, d>.
    pub kept: f64,
    /// |got - d| / |d|.
    pub error: f64,
}

impl Sums {
    /// Adds some rows and what they were rounded to.
    pub fn add(&mut self, rows: &Rows, rounded: &[f32]) {
        let row = |((w, d), r): ((&[f32], &[f32]), &[f32])| {
            let mut sums = Sums::default();
            for ((&w, &d), &r) in w.iter().zip(d).zip(r) {
                let (w, d) = (f64::from(w), f64::from(d));
                let got = f64::from(r) - w;
                sums.plus(&Sums { w2: w * w, d2: d * d, got_d: got * d, error2: (got - d).powi(2) });
            }
            sums
        };
        let width = rows.width;
        let rows = rows.base.par_chunks(width).zip(rows.delta.par_chunks(width)).zip(rounded.par_chunks(width));
        // Row by row, and then in their order: the same for any number of threads.
        rows.map(row).collect::<Vec<_>>().iter().for_each(|sums| self.plus(sums));
    }

    fn plus(&mut self, more: &Sums) {
        self.w2 += more.w2;
        self.d2 += more.d2;
        self.got_d += more.got_d;
        self.error2 += more.error2;
    }

    fn line(&self, layer: Option<usize>, linear: &'static str) -> Survival {
        // An adapter that adds nothing loses nothing.
        let of = |x: f64, d: f64, otherwise: f64| if d > 0.0 { x / d } else { otherwise };
        Survival {
            layer,
            linear,
            delta: of(self.d2, self.w2, 0.0).sqrt(),
            kept: of(self.got_d, self.d2, 1.0),
            error: of(self.error2, self.d2, 0.0).sqrt(),
        }
    }
}

/// The lines of a model.
#[derive(Debug, Default)]
pub struct Report {
    sums: Vec<(usize, &'static str, Sums)>,
}

impl Report {
    /// Takes a weight.
    pub fn add(&mut self, lora: &Lora, sums: Sums) {
        self.sums.push((lora.layer, lora.linear, sums));
    }

    /// A line a weight.
    pub fn lines(&self) -> Vec<Survival> {
        self.sums.iter().map(|(layer, linear, sums)| sums.line(Some(*layer), linear)).collect()
    }

    /// A line a kind of linear layer, and one over all of them.
    pub fn totals(&self) -> Vec<Survival> {
        let total = |name: &'static str| {
            let mut all = Sums::default();
            let of = self.sums.iter().filter(|(_, linear, _)| name == "all" || *linear == name);
            of.for_each(|(.., sums)| all.plus(sums));
            all.line(None, name)
        };
        let there = LINEARS.into_iter().filter(|name| self.sums.iter().any(|(_, linear, _)| linear == name));
        there.chain(["all"]).map(total).collect()
    }

    /// The weight of which the least is left.
    pub fn worst(&self) -> Option<Survival> {
        let off = |line: &Survival| (line.kept - 1.0).abs().max(line.error);
        self.lines().into_iter().max_by(|a, b| off(a).total_cmp(&off(b)))
    }
}

/// Lines as a table.
pub fn table(lines: &[Survival]) -> Table {
    let mut table = Table::new(["weight", "|d|/|W|", "kept", "error"]);
    for line in lines {
        let name = match line.layer {
            Some(layer) => format!("{layer}.{}", line.linear),
            None => line.linear.to_string(),
        };
        let percent = |x: f64| format!("{:.3} %", 100.0 * x);
        table.row([&name, &percent(line.delta), &percent(line.kept), &percent(line.error)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(base: &[f32], delta: &[f32], rounded: &[f32]) -> Survival {
        let sum: Vec<f32> = base.iter().zip(delta).map(|(w, d)| w + d).collect();
        let mut sums = Sums::default();
        sums.add(&Rows { width: 2, base, delta, sum: &sum }, rounded);
        sums.line(None, "all")
    }

    #[test]
    fn what_arrives_whole_is_kept_whole_and_what_is_rounded_away_is_lost() {
        let whole = of(&[3.0, 0.0, 4.0, 0.0], &[0.5, 0.0, 0.0, 0.0], &[3.5, 0.0, 4.0, 0.0]);
        assert_eq!((whole.delta, whole.kept, whole.error), (0.1, 1.0, 0.0));
        let half = of(&[3.0, 4.0], &[0.3, 0.3], &[3.3f32 - 3.0 + 3.0, 4.0]);
        assert!((half.kept - 0.5).abs() < 1e-6 && (half.error - 0.5f64.sqrt()).abs() < 1e-6, "{half:?}");
        let none = of(&[3.0, 4.0], &[0.0, 0.0], &[3.0, 4.0]);
        assert_eq!((none.delta, none.kept, none.error), (0.0, 1.0, 0.0));
    }
}
