//! How good a model is.

mod evaluate;

pub use evaluate::{Evaluate, Evaluation};
//! How good a model is: measures over its answers.

pub mod metrics;

pub use metrics::Confusion;
