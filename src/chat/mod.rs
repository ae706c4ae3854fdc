//! Questions in words to a model, and its answers in words, piece by piece: what `chat` and `serve` have in common.

mod answerer;

pub use answerer::{Answerer, Question, Said};
