//! The thread that owns the model. It takes jobs from a channel, lets the engine make one pass after another over all that are
//! under way, and sends what comes of each back over the job's own channel. A job whose channel nobody listens to any more is
//! cancelled in the engine: that is how a closed connection and a time that is over arrive here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::refusal::Refusal;
use super::request::Ask;
use super::shared::{Shared, Status};
use super::stops::Stops;
use crate::chat::{Answerer, Question, Said};
use crate::generate::{Finish, Ticket};
use crate::{Error, Result};

/// How long answers under way may go on when the server is stopped.
const GRACE: Duration = Duration::from_secs(5);

/// To the worker.
pub(super) enum Message {
    /// A request.
    Ask(Box<Job>),
    /// Finish what is under way, and end.
    Stop,
}

/// A request on its way to the model.
pub(super) struct Job {
    /// What is asked.
    pub(super) ask: Ask,
    /// Where the answer goes. No bound: an answer has at most as many pieces as tokens, and a client that reads slowly must not hold up
    /// the others.
    pub(super) reply: UnboundedSender<Piece>,
    /// Its place among the requests that may be there; given back with the job.
    pub(super) _seat: OwnedSemaphorePermit,
}

/// A part of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    /// The engine has taken it; the prompt has so many tokens.
    Begun(usize),
    /// The head's probabilities.
    Label(Vec<f64>),
    /// More text.
    Text(String),
    /// Nothing more comes: how it ended, and new tokens in all.
    Done(Finish, usize),
    /// Nothing more comes, and the answer is not whole.
    Failed(Refusal),
}

/// A request under way.
struct Open {
    job: Box<Job>,
    stops: Stops,
}

/// The worker's state beside the engine.
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    context: usize,
    open: HashMap<Ticket, Open>,
}

impl<'a> Worker<'a> {
    /// `context`: tokens that the model takes in all.
    pub(super) fn new(shared: &'a Shared, context: usize) -> Worker<'a> {
        Worker { shared, context, open: HashMap::new() }
    }

    /// Answers until it is told to stop. `fresh` makes an engine: the first one, and another where a pass has failed, since nobody
    /// knows what a failed pass left behind. `ready` is called when the first is there.
    ///
    /// # Errors
    /// Of the device or a kernel: what the next pass would do is not known then. Any other error of a pass ends the requests under way
    /// and nothing else.
    pub(super) fn run(
        mut self,
        inbox: &Receiver<Message>,
        fresh: impl Fn() -> Result<Answerer<'a>>,
        ready: impl FnOnce(),
    ) -> Result<()> {
        let mut answerer = fresh()?;
        ready();
        let mut end: Option<Instant> = None;
        loop {
            loop {
                let idle = self.open.is_empty() && end.is_none();
                let message =
                    if idle { inbox.recv().map_err(|_| TryRecvError::Disconnected) } else { inbox.try_recv() };
                match message {
                    Ok(Message::Ask(job)) => self.begin(&mut answerer, job),
                    Ok(Message::Stop) | Err(TryRecvError::Disconnected) if end.is_none() => {
                        end = Some(Instant::now() + GRACE);
                    }
                    Ok(Message::Stop) => {}
                    Err(_) => break,
                }
            }
            self.forget_the_deserted(&mut answerer);
            if end.is_some_and(|end| self.open.is_empty() || Instant::now() > end) {
                self.fail_all(
                    &Refusal::unavailable("the server was stopped before the answer was complete").code("stopping"),
                );
                return Ok(());
            }
            if self.open.is_empty() {
                continue;
            }
            match answerer.step() {
                Ok(said) => {
                    said.into_iter().for_each(|(ticket, said)| self.tell(&mut answerer, ticket, said));
                    if answerer.is_idle() && !self.open.is_empty() {
                        self.fail_all(&Refusal::new(
                            StatusCode::INTERNAL_SERVER_ERROR,
                            "the engine lost the request; this is a bug",
                        ));
                    }
                }
                Err(error) => {
                    eprintln!("a pass of the model failed, and {} requests with it: {error}", self.open.len());
                    self.fail_all(&Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).code("engine"));
                    if matches!(error, Error::Device(_) | Error::Kernel { .. }) {
                        self.shared.set(Status::Failed(error.to_string()));
                        return Err(error);
                    }
                    // The pages of the one must be free before the other takes its own.
                    drop(answerer);
                    answerer = fresh()?;
                }
            }
        }
    }

    fn begin(&mut self, answerer: &mut Answerer, mut job: Box<Job>) {
        if job.reply.is_closed() {
            return count(&self.shared.counts.cancelled);
        }
        let begun = self.question(answerer, &job.ask).and_then(|(question, prompt)| {
            let n_prompt = prompt.len();
            let ticket = answerer.ask(&question, prompt).map_err(|e| Refusal::of(&e))?;
            Ok((ticket, n_prompt))
        });
        match begun {
            Ok((ticket, n_prompt)) => {
                let stops = Stops::new(std::mem::take(&mut job.ask.stop));
                send(&job, Piece::Begun(n_prompt));
                self.open.insert(ticket, Open { job, stops });
            }
            Err(refusal) => send(&job, Piece::Failed(refusal)),
        }
    }

    /// The engine's question, and its prompt. Where the request names no number of new tokens it gets what there is
    /// room for.
    fn question(&self, answerer: &Answerer, ask: &Ask) -> std::result::Result<(Question, Vec<u32>), Refusal> {
        let mut question = Question {
            record: ask.record.clone(),
            set: ask.set,
            max_new: ask.max_new.unwrap_or_default(),
            sampling: ask.sampling.clone(),
        };
        let prompt = answerer.prompt(&question).map_err(|e| Refusal::of(&e))?;
        let n_prompt = prompt.len();
        let room = self.context.saturating_sub(n_prompt);
        let least = ask.max_new.unwrap_or(1);
        if room < least {
            let message = format!(
                "the prompt has {n_prompt} tokens and the answer may have {least}; the model takes {} in all: shorten the one or \
                 lower the other",
                self.context
            );
            return Err(Refusal::bad(message).param("messages").code("context_length_exceeded"));
        }
        if ask.max_new.is_none() {
            question.max_new = room.min(self.shared.limits.max_new);
        }
        Ok((question, prompt))
    }

    /// Cancels what nobody listens to.
    fn forget_the_deserted(&mut self, answerer: &mut Answerer) {
        self.open.retain(|ticket, open| {
            let deserted = open.job.reply.is_closed();
            if deserted {
                answerer.cancel(*ticket);
                count(&self.shared.counts.cancelled);
            }
            !deserted
        });
    }

    fn tell(&mut self, answerer: &mut Answerer, ticket: Ticket, said: Said) {
        // One that a stop text has ended may have more in the same pass.
        let Some(open) = self.open.get_mut(&ticket) else { return };
        let done = match said {
            Said::Label(probabilities) => {
                send(&open.job, Piece::Label(probabilities));
                return;
            }
            Said::Text(piece) => {
                let (text, stopped) = open.stops.push(&piece);
                if !text.is_empty() {
                    send(&open.job, Piece::Text(text));
                }
                if !stopped {
                    return;
                }
                Piece::Done(Finish::Eos, answerer.cancel(ticket))
            }
            Said::Done(finish, n_new) => {
                let rest = open.stops.finish();
                if !rest.is_empty() {
                    send(&open.job, Piece::Text(rest));
                }
                Piece::Done(finish, n_new)
            }
        };
        send(&open.job, done);
        count(&self.shared.counts.answered);
        self.open.remove(&ticket);
    }

    fn fail_all(&mut self, refusal: &Refusal) {
        for (_, open) in self.open.drain() {
            send(&open.job, Piece::Failed(refusal.clone()));
            count(&self.shared.counts.failed);
        }
    }
}

/// Whoever no longer listens is found by [`Worker::forget_the_deserted`].
fn send(job: &Job, piece: Piece) {
    let _ = job.reply.send(piece);
}

fn count(n: &AtomicU64) {
    n.fetch_add(1, Ordering::Relaxed);
}
