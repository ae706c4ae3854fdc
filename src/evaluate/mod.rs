//! The `evaluate` command: how good a model is, in numbers that can be compared.
//!
//! One question set, three readings, one report ([`ask`](mod@ask)); and around it what needs no question or several models: a peer's way of
//! scoring, tables over settings, the paper's experiments, other people's predictions, ratings by people.

mod ablate;
mod ask;
mod experiment;
mod harness;
mod people;
mod questions;
mod readings;

use crate::Result;
use crate::cli::evaluate::Evaluate;
use crate::cli::options::Options;

/// How a base is asked whose prompt nothing else says.
const TEMPLATE: &str = "three_step";

/// Does what was typed, and says what came of it on stdout.
pub fn run(typed: &Evaluate) -> Result<()> {
    if let Some(axes) = &typed.ablate {
        return ablate::run(typed, axes);
    }
    if let Some(name) = &typed.experiment {
        return experiment::run(typed, name);
    }
    if let Some(what) = &typed.score {
        return people::score(typed, what);
    }
    match (typed.human_sheet.as_slice(), typed.human_read.as_slice()) {
        ([], []) => ask::run(typed),
        ([], filled) => people::read(typed, filled),
        (named, _) => people::sheet(typed, named),
    }
}

/// Puts what was typed over the settings of a run that is trained or sized here: machine, base, steps where there are `steps`.
fn put_typed(typed: &Evaluate, options: &mut Options, steps: Option<usize>) {
    (options.machine.device, options.machine.compute) = (Some(typed.which.device.clone()), Some(typed.which.compute));
    options.model.path = typed.which.model.clone().or(options.model.path.take());
    options.model.quant = typed.which.quant.or(options.model.quant);
    if steps.is_some() {
        (options.train.steps, options.train.epochs) = (steps, Some(0.0));
    }
}
