//! Text from the model: many requests at once on one model, token by token.

mod batch;
mod engine;
mod sampling;

pub use batch::generate;
pub use engine::{Capacity, Engine, Event, Finish, Request, Ticket, logits};
pub use sampling::Sampling;
