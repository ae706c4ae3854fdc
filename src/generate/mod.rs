//! Text from the model: a cache of keys and values, and greedy decoding of many prompts at once.

mod cache;
mod greedy;

pub use cache::KvCache;
pub use greedy::{Greedy, generate, logits};
