//! How good a model is.

mod evaluate;

pub use evaluate::{Evaluate, Evaluation};
