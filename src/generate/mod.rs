//! Text from the model: many requests at once on one model, token by token.

mod engine;
mod greedy;
mod sampling;

pub use engine::{Engine, Event, Finish, Request, Ticket};
pub use greedy::{Greedy, generate, logits};
pub use sampling::Sampling;
