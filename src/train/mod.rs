//! Training: the optimiser step, what drives it, and what stands around it: how fast to learn, when to stop, what to write
//! down, what to show.

pub mod early_stop;
pub mod interrupt;
pub mod log;
pub mod prepare;
pub mod progress;
mod run;
pub mod save;
pub mod schedule;
mod step;

pub use early_stop::EarlyStop;
pub use interrupt::Interrupt;
pub use log::{Log, StepLog};
pub use progress::Progress;
pub use run::finetune;
pub use schedule::{Schedule, Shape};
pub use step::{AdamW, LossWeights, Losses, Trainer};
