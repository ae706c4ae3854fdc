//! Text from the model: greedy decoding of many prompts at once.

mod greedy;

pub use greedy::{Greedy, generate, logits};
