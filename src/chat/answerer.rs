//! An engine that speaks: records in, text and labels out.

use std::collections::HashMap;

use crate::data::{LabelSet, Record, TextStream};
use crate::device::Device;
use crate::generate::{Capacity, Engine, Event, Finish, Request, Sampling, Ticket};
use crate::subject::{Loaded, Subject};
use crate::{Result, bail_input};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The question with what was said before; its answer and label are not looked at.
    pub record: Record,
    /// What is to be decided, by its place in [`Subject::sets`]: the prompt names its labels as in training, and its head is read.
    /// None: a question without a decision.
    pub set: Option<usize>,
    /// New tokens at most; 0: only the label.
    pub max_new: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// The head's probabilities, in the order of its labels.
    Label(Vec<f64>),
    /// The next piece of the answer. All pieces together are the text of all its tokens.
    Text(String),
    /// Nothing more comes; new tokens in all.
    Done(Finish, usize),
}

/// A model that is asked in words. It is not `Send`: it lives on one thread, and others talk to that.
pub struct Answerer<'a> {
    subject: &'a Subject,
    sets: Vec<LabelSet>,
    engine: Engine<'a>,
    open: HashMap<Ticket, (TextStream<'a>, usize)>,
}

impl<'a> Answerer<'a> {
    /// On a loaded model.
    pub fn new(
        subject: &'a Subject,
        loaded: &'a Loaded,
        device: &'a Device,
        capacity: Capacity,
    ) -> Result<Answerer<'a>> {
        let engine = Engine::new(&loaded.model, &loaded.heads, device, capacity)?;
        Ok(Answerer { subject, sets: subject.sets(), engine, open: HashMap::new() })
    }

    /// The ids that a question is put in: the same that training and evaluation make of it.
    pub fn prompt(&self, question: &Question) -> Result<Vec<u32>> {
        let labels = question.set.map_or(&[][..], |set| self.sets[set].labels.as_slice());
        let turns = self.subject.prompt.turns(&question.record, labels)?;
        self.subject.tokenizer.encode_turns(&turns)
    }

    /// What can be decided, in the order that [`Question::set`] counts.
    pub fn sets(&self) -> &[LabelSet] {
        &self.sets
    }

    /// How many new tokens a question may have behind a prompt of `n_prompt`: as many as it wants, or what there is room for. Refused
    /// where that leaves none.
    pub fn room(&self, n_prompt: usize, wanted: usize) -> Result<usize> {
        let most = self.engine.most_tokens();
        if n_prompt + wanted.min(1) > most {
            bail_input!(
                "the question has {n_prompt} tokens with all that stands before it, there is room for {most} with the answer; shorten it"
            );
        }
        Ok(wanted.min(most - n_prompt))
    }

    /// Takes a question, whose [`Answerer::prompt`] this is; refuses what is too long.
    pub fn ask(&mut self, question: &Question, prompt: Vec<u32>) -> Result<Ticket> {
        let has_heads = self.subject.heads().next().is_some();
        let (max_new, sampling) = (question.max_new, question.sampling.clone());
        let head = question.set.filter(|_| has_heads);
        let ticket = self.engine.submit(Request { prompt, max_new, sampling, head, ignore_eos: false })?;
        self.open.insert(ticket, (self.subject.tokenizer.stream(), 0));
        Ok(ticket)
    }

    /// Forgets a question; how many new tokens it had.
    pub fn cancel(&mut self, ticket: Ticket) -> usize {
        self.engine.cancel(ticket);
        self.open.remove(&ticket).map_or(0, |(_, n_new)| n_new)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// One pass of the model over all that is under way.
    pub fn step(&mut self) -> Result<Vec<(Ticket, Said)>> {
        self.step_with(|_, _| ())
    }

    /// The same; `token` is told the id of every new token.
    pub fn step_with(&mut self, mut token: impl FnMut(Ticket, u32)) -> Result<Vec<(Ticket, Said)>> {
        let mut said = Vec::new();
        for (ticket, event) in self.engine.step()? {
            let Some((text, n_new)) = self.open.get_mut(&ticket) else { continue };
            match event {
                Event::Label(probabilities) => said.push((ticket, Said::Label(probabilities))),
                Event::Token(id) => {
                    *n_new += 1;
                    token(ticket, id);
                    let piece = text.push(id)?;
                    if !piece.is_empty() {
                        said.push((ticket, Said::Text(piece)));
                    }
                }
                Event::Done(finish) => {
                    let rest = text.finish()?;
                    if !rest.is_empty() {
                        said.push((ticket, Said::Text(rest)));
                    }
                    said.push((ticket, Said::Done(finish, *n_new)));
                    self.open.remove(&ticket);
                }
            }
        }
        Ok(said)
    }
}
