//! How good a model is: measures over its answers.

mod evaluate;
pub mod metrics;

pub use evaluate::{Evaluate, Evaluation};
pub use metrics::Confusion;
