//! Around the training step: how fast to learn, when to stop, what to write down, what to show.

pub mod early_stop;
pub mod interrupt;
pub mod log;
pub mod progress;
pub mod schedule;

pub use early_stop::EarlyStop;
pub use interrupt::Interrupt;
pub use log::{Log, StepLog};
pub use progress::Progress;
pub use schedule::{Schedule, Shape};
//! Training: the step and what drives it.

mod step;

pub use step::{AdamW, LossWeights, Losses, Trainer, argmax};
