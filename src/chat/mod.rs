//! Questions in words to a model, and its answers in words, piece by piece.
//!
//! What `chat` and `serve` have in common: [`Answerer`], which asks and answers; [`Decide`], what is to be decided about a question;
//! [`Decision`], what the head said. And the `chat` command: a conversation (terminal.rs), or a file of questions at once (once.rs).

mod answerer;
mod decide;
mod input;
mod once;
mod stop;
mod terminal;

pub use answerer::{Answerer, Question, Said};
pub use decide::{Decide, Decision};

use crate::cli::chat::Chat;
use crate::cli::which::AtOnce;
use crate::generate::Sampling;
use crate::subject::Subject;
use crate::train::prepare::open_device;
use crate::{Result, bail_input};

/// Stands wherever an answer does.
pub const NOTICE: &str = "Research software: what it says may be wrong and is no medical advice.";

/// How a base is asked whose prompt nothing else says.
pub const TEMPLATE: &str = "conversation";

/// Answers in the terminal or at once. Whatever is wrong with the input is said before weights are loaded.
pub fn run(typed: &Chat) -> Result<()> {
    let sampling = Sampling {
        temperature: typed.temperature,
        top_k: typed.top_k,
        top_p: typed.top_p,
        repetition_penalty: typed.repetition_penalty,
        seed: typed.seed,
    };
    sampling.check()?;
    let subject = Subject::open(&typed.which, TEMPLATE)?;
    let decide = Decide::parse(typed.label.as_deref(), &subject.sets())?;
    if typed.new_tokens == 0 && (subject.heads().next().is_none() || decide == Decide::Nothing) {
        bail_input!("--new-tokens 0 asks for labels alone, and no ECI head is asked; give at least 1");
    }
    if typed.once {
        return once::run(typed, &subject, decide, sampling);
    }
    let contexts = typed.context.iter().map(|path| input::whole(path)).collect::<Result<Vec<_>>>()?;
    let device = open_device(&typed.which.device, typed.which.compute)?;
    // One conversation has one answer under way.
    let capacity = subject.capacity(&device, &typed.which, AtOnce { at_once: 1, ..typed.at_once })?;
    let loaded = subject.load(&device, subject.quant())?;
    let answerer = Answerer::new(&subject, &loaded, &device, capacity)?;
    terminal::run(typed, &subject, answerer, contexts, decide, sampling)
}
