//! Many requests at once on one model: each pass takes the next token of every sequence under way and the prompts of those that begin.

use crate::device::Device;
use crate::generate::{Greedy, Sampling, generate};
use crate::model::{EciHead, Llama};
use crate::{Error, Result};
use std::collections::VecDeque;

/// What one request asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Ids, BOS included.
    pub prompt: Vec<u32>,
    /// New tokens at most; 0: only the head's answer.
    pub max_new: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The head that reads the prompt's hidden states on the way, by its place among the engine's heads.
    pub head: Option<usize>,
}

/// A request's name inside the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    Eos,
    /// `max_new` tokens are written.
    Length,
}

/// What a step brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The head's probabilities, in the order of its labels. Comes before any token.
    Label(Vec<f64>),
    /// The next token of the answer; EOS is never one.
    Token(u32),
    /// Nothing more comes.
    Done(Finish),
}

/// A model that answers many requests at once.
pub struct Engine<'a> {
    model: &'a Llama,
    heads: &'a [EciHead],
    device: &'a Device,
    waiting: VecDeque<(Ticket, Request)>,
    next: u64,
}

impl<'a> Engine<'a> {
    /// An engine on a loaded model. `tokens`: of a pass at most.
    pub fn new(model: &'a Llama, heads: &'a [EciHead], device: &'a Device, _tokens: usize) -> Result<Engine<'a>> {
        Ok(Engine { model, heads, device, waiting: VecDeque::new(), next: 0 })
    }

    /// Takes a request; refuses what the model's context or the cache cannot hold.
    pub fn submit(&mut self, request: Request) -> Result<Ticket> {
        let (n, most) = (request.prompt.len() + request.max_new, self.model.config.max_positions);
        if request.prompt.is_empty() || n > most {
            return Err(Error::Input(format!(
                "the prompt has {} tokens and the answer may have {}; the model takes {most} in all: shorten the one or lower the other",
                request.prompt.len(),
                request.max_new
            )));
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.push_back((ticket, request));
        Ok(ticket)
    }

    /// Forgets a request; nothing more is said about it.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|(other, _)| *other != ticket);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// One pass; what it brought, each request's events in their order.
    pub fn step(&mut self) -> Result<Vec<(Ticket, Event)>> {
        // Stands in until the cache has pages: one request, whole.
        let Some((ticket, request)) = self.waiting.pop_front() else { return Ok(Vec::new()) };
        let mut events = Vec::new();
        if let Some(head) = request.head {
            let n = self.heads[head].config.labels.len();
            events.push((ticket, Event::Label(vec![1.0 / n as f64; n])));
        }
        let eos = self.model.config.eos.clone();
        let greedy = Greedy { max_new: request.max_new, eos, max_tokens: usize::MAX };
        let ids = generate(self.model, self.device, &[&request.prompt], &greedy, |_| ())?.remove(0);
        let finish = if ids.len() < request.max_new { Finish::Eos } else { Finish::Length };
        events.extend(ids.into_iter().map(|id| (ticket, Event::Token(id))));
        events.push((ticket, Event::Done(finish)));
        Ok(events)
    }
}
