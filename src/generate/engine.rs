//! Many requests at once on one model (continuous batching; Yu et al. 2022, Orca).
//!
//! Each pass takes the next token of every sequence under way and the whole prompts of those that begin; a sequence that has
//! ended makes room at once, not when its neighbours end. A request begins when the cache has pages for its prompt and its
//! longest answer. Taking pages only as they are needed would let more begin, and some of them would have to be thrown out
//! and read again; here what has begun is never in want.

use crate::device::{DType, Device, Tensor};
use crate::generate::Sampling;
use crate::model::{EciHead, KvCache, Llama, class_probabilities};
use crate::ops::attention::{PAGE, Paged, SequenceLayout};
use crate::ops::matmul::{Layout, matmul};
use crate::ops::rows::gather_rows;
use crate::tape::{Tape, Var, Write};
use crate::{Result, bail_input};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

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
    /// Goes on where the model would stop: for measuring.
    pub ignore_eos: bool,
}

impl Request {
    /// Pages for the prompt and the longest answer. The answer's last token is never read.
    fn n_pages(&self) -> usize {
        (self.prompt.len() + self.max_new.saturating_sub(1)).div_ceil(PAGE)
    }
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

/// How much is under way at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Tokens of a pass, unless one prompt alone is longer.
    pub tokens: usize,
    /// Pages of the cache.
    pub pages: usize,
    /// Sequences.
    pub sequences: usize,
    /// Tokens of a sequence, its answer included.
    pub positions: usize,
}

/// A sequence that has begun.
struct Running {
    ticket: Ticket,
    request: Request,
    pages: Vec<i32>,
    /// Tokens whose keys are in the cache.
    past: usize,
    answer: Vec<u32>,
}

impl Running {
    /// Tokens of the next pass: the prompt, then the last one said.
    fn next(&self) -> &[u32] {
        if self.past == 0 { &self.request.prompt } else { &self.answer[self.answer.len() - 1..] }
    }
}

/// A model that answers many requests at once.
pub struct Engine<'a> {
    model: &'a Llama,
    heads: &'a [EciHead],
    device: &'a Device,
    capacity: Capacity,
    cache: Rc<KvCache>,
    /// Pages that nobody holds.
    free: Vec<i32>,
    waiting: VecDeque<(Ticket, Request)>,
    running: Vec<Running>,
    n_tickets: u64,
}

impl<'a> Engine<'a> {
    /// An engine on a loaded model; allocates the cache.
    pub fn new(model: &'a Llama, heads: &'a [EciHead], device: &'a Device, capacity: Capacity) -> Result<Engine<'a>> {
        let cache = Rc::new(KvCache::new(device, &model.config, capacity.pages)?);
        let free = (0..capacity.pages as i32).rev().collect();
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Ok(Engine { model, heads, device, capacity, cache, free, waiting, running, n_tickets: 0 })
    }

    /// Takes a request; refuses what the model's context or the cache can never hold, and settings outside their range.
    pub fn submit(&mut self, request: Request) -> Result<Ticket> {
        request.sampling.check()?;
        let (n_prompt, n_new) = (request.prompt.len(), request.max_new);
        let most = self.most_tokens();
        if n_prompt == 0 {
            bail_input!("a prompt without tokens: expected at least one");
        }
        if n_prompt + n_new > most {
            bail_input!(
                "the prompt has {n_prompt} tokens and the answer may have {n_new}; there is room for {most} in all: shorten the prompt \
                 or allow fewer new tokens"
            );
        }
        if request.n_pages() > self.capacity.pages {
            bail_input!(
                "the prompt has {n_prompt} tokens and the answer may have {n_new}; the memory set aside holds {} in all: shorten \
                 the prompt, allow fewer new tokens or raise --budget",
                self.capacity.pages * PAGE
            );
        }
        if let Some(head) = request.head {
            self.heads[head].expect_prompt(n_prompt)?;
        }
        let ticket = Ticket(self.n_tickets);
        self.n_tickets += 1;
        self.waiting.push_back((ticket, request));
        Ok(ticket)
    }

    /// Tokens of a sequence at most, its answer included.
    pub fn most_tokens(&self) -> usize {
        self.model.config.max_positions.min(self.capacity.positions)
    }

    /// Forgets a request; nothing more is said about it.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|(other, _)| *other != ticket);
        if let Some(at) = self.running.iter().position(|running| running.ticket == ticket) {
            let gone = self.running.remove(at);
            self.free.extend(gone.pages);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Pages that nobody holds.
    pub fn n_free_pages(&self) -> usize {
        self.free.len()
    }

    /// One pass; what it brought, each request's events in their order.
    pub fn step(&mut self) -> Result<Vec<(Ticket, Event)>> {
        self.admit();
        if self.running.is_empty() {
            return Ok(Vec::new());
        }
        let mut tape = Tape::inference(self.device);
        let mut events = Vec::new();
        let chosen = {
            let hidden = self.pass(&mut tape, &self.running)?;
            self.labels(&mut tape, &hidden, &mut events)?;
            self.choose(&mut tape, &hidden)?
        };
        let mut ended = Vec::new();
        for (i, (sequence, token)) in self.running.iter_mut().zip(chosen).enumerate() {
            sequence.past += sequence.next().len();
            let finish = match token {
                None => Some(Finish::Length),
                Some(id) if self.model.config.eos.contains(&id) && !sequence.request.ignore_eos => Some(Finish::Eos),
                Some(token) => {
                    sequence.answer.push(token);
                    events.push((sequence.ticket, Event::Token(token)));
                    (sequence.answer.len() == sequence.request.max_new).then_some(Finish::Length)
                }
            };
            if let Some(finish) = finish {
                events.push((sequence.ticket, Event::Done(finish)));
                ended.push(i);
            }
        }
        for i in ended.into_iter().rev() {
            let gone = self.running.remove(i);
            self.free.extend(gone.pages);
        }
        Ok(events)
    }

    /// Lets requests begin, in the order in which they came: none is overtaken by a smaller one for ever.
    fn admit(&mut self) {
        let mut tokens = self.running.len();
        while let Some((_, request)) = self.waiting.front() {
            let (n_pages, n_prompt) = (request.n_pages(), request.prompt.len());
            let fits = n_pages <= self.free.len()
                && self.running.len() < self.capacity.sequences
                && (tokens == 0 || tokens + n_prompt <= self.capacity.tokens);
            if !fits {
                return;
            }
            tokens += n_prompt;
            let (ticket, request) = self.waiting.pop_front().expect("looked at");
            let pages = self.free.split_off(self.free.len() - n_pages);
            self.running.push(Running { ticket, request, pages, past: 0, answer: Vec::new() });
        }
    }

    /// The hidden states of the next tokens of these sequences, laid end to end.
    fn pass(&self, tape: &mut Tape, running: &[Running]) -> Result<Var> {
        let entries: Vec<Paged> =
            running.iter().map(|s| Paged { pages: &s.pages, past: s.past, new: s.next().len() }).collect();
        let ids: Vec<i32> = running.iter().flat_map(|s| s.next()).map(|&id| id as i32).collect();
        let layout = Arc::new(SequenceLayout::paged(self.device, &entries)?);
        self.model.forward_cached(tape, &ids, &layout, &self.cache)
    }

    /// What the heads say of the prompts of this pass.
    fn labels(&self, tape: &mut Tape, hidden: &Var, events: &mut Vec<(Ticket, Event)>) -> Result<()> {
        let mut begin = 0;
        for sequence in &self.running {
            let n = sequence.next().len();
            if let Some(head) = sequence.request.head.filter(|_| sequence.past == 0) {
                let prompt = tape.var(hidden.value().rows(begin, begin + n), false);
                let logits = self.heads[head].forward(tape, &prompt, &[0, n as i32], &[n as i32])?;
                let probabilities = class_probabilities(&logits.value().read_f32()?)?;
                events.push((sequence.ticket, Event::Label(probabilities)));
            }
            begin += n;
        }
        Ok(())
    }

    /// The next token of every sequence that wants one.
    fn choose(&self, tape: &mut Tape, hidden: &Var) -> Result<Vec<Option<u32>>> {
        let ends = self.running.iter().scan(0, |end, s| {
            *end += s.next().len() as i32;
            Some((*end - 1, s.request.max_new > 0))
        });
        let last: Vec<i32> = ends.filter(|(_, wanted)| *wanted).map(|(last, _)| last).collect();
        if last.is_empty() {
            return Ok(vec![None; self.running.len()]);
        }
        let states = gather_rows(tape, hidden, &last)?;
        let mut logits = logits(self.model, states.value())?.read_f32()?;
        let (width, vocab) = (self.model.head.shape()[0], self.model.config.vocab);
        let wanting = self.running.iter().enumerate().filter(|(_, s)| s.request.max_new > 0);
        let rows: Vec<_> = wanting.zip(logits.chunks_mut(width)).collect();
        // Each walks its whole vocabulary: side by side, not in turn.
        let token = |((place, s), row): ((usize, &Running), &mut [f32])| {
            let said = s.request.prompt.iter().chain(&s.answer).copied();
            Ok((place, s.request.sampling.choose(&mut row[..vocab], said, s.answer.len())?))
        };
        let mut chosen = vec![None; self.running.len()];
        for (place, token) in rows.into_par_iter().map(token).collect::<Result<Vec<_>>>()? {
            chosen[place] = Some(token);
        }
        Ok(chosen)
    }

    /// The two passes that take the most memory: prompts that fill one, and the longest sequences side by side. For planning on
    /// paper, where nothing is computed.
    pub fn rehearse(&self) -> Result<()> {
        let longest = self.capacity.positions.min(self.capacity.pages * PAGE);
        let pages: Vec<i32> = (0..longest.div_ceil(PAGE) as i32).collect();
        let sequence = |past: usize, new: usize| Running {
            ticket: Ticket(0),
            request: Request {
                prompt: vec![0; new],
                max_new: 1,
                sampling: Sampling::default(),
                head: None,
                ignore_eos: true,
            },
            pages: pages.clone(),
            past,
            answer: vec![0],
        };
        // A pass takes no more prompts than the cache holds, and every sequence holds a page.
        let tokens = self.capacity.tokens.min(self.capacity.pages * PAGE).max(longest);
        let n_single = self.capacity.sequences.min(self.capacity.pages);
        let prompts: Vec<Running> =
            (0..tokens).step_by(longest).map(|begin| sequence(0, longest.min(tokens - begin))).collect();
        let single: Vec<Running> = (0..n_single).map(|_| sequence(longest - 1, 1)).collect();
        for running in [&prompts, &single] {
            let mut tape = Tape::inference(self.device);
            let hidden = self.pass(&mut tape, running)?;
            for head in self.heads {
                let n = match head.config.kind.as_str() {
                    "paper" => running[0].next().len().min(head.config.positions) as i32,
                    _ => running[0].next().len() as i32,
                };
                let prompt = tape.var(hidden.value().rows(0, n as usize), false);
                head.forward(&mut tape, &prompt, &[0, n], &[n])?;
            }
            let states = gather_rows(&mut tape, &hidden, &(0..running.len() as i32).collect::<Vec<_>>())?;
            logits(self.model, states.value())?;
        }
        Ok(())
    }
}

/// Logits [n, Vp] fp32 of hidden states [n, C]; columns from V on are padding.
pub fn logits(model: &Llama, hidden: &Tensor) -> Result<Tensor> {
    let out = hidden.device().empty("logits", DType::F32, &[hidden.shape()[0], model.head.shape()[0]])?;
    matmul(Layout::NT, &[(hidden, &model.head)], &out, 1.0, Write::Set)?;
    Ok(out)
}
