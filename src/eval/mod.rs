//! How good a model is: measures over its answers.

mod evaluate;
pub mod metrics;

pub(crate) use evaluate::forward;
pub use evaluate::{Evaluate, Evaluation};
pub use metrics::Confusion;
