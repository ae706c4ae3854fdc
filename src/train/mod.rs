//! Training: the step and what drives it.

mod step;

pub use step::{AdamW, LossWeights, Losses, Trainer, argmax};
