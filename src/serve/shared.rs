//! What the threads of the server share: its settings, whether the model is there, and the way to it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::refusal::Refusal;
use super::worker::{Job, Message};
use crate::data::LabelSet;

/// What requests are held to.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Bytes of a request's body.
    pub(super) max_body: usize,
    /// Requests waiting or under way.
    pub(super) queue: usize,
    /// From the request to the end of its answer.
    pub(super) timeout: Duration,
    /// New tokens of an answer.
    pub(super) max_new: usize,
}

/// What requests need to know of the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Facts {
    /// What can be decided, in the order of the heads.
    pub(super) sets: Vec<LabelSet>,
    /// Whether heads read it; else the prompt alone names the labels.
    pub(super) has_heads: bool,
    /// Tokens of prompt and answer at most.
    pub(super) context: usize,
}

/// Where the server stands.
#[derive(Clone, Debug)]
pub(super) enum Status {
    /// The model is not there yet.
    Loading,
    /// Questions are answered.
    Ready(Arc<Facts>),
    /// What is under way is finished, nothing new is taken.
    Stopping,
    /// The model can answer no more; the sentence why.
    Failed(String),
}

/// How requests ended.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// With a whole answer.
    pub(super) answered: AtomicU64,
    /// By their client, which went away, or by their time.
    pub(super) cancelled: AtomicU64,
    /// By an error of the engine.
    pub(super) failed: AtomicU64,
}

/// What all connections share.
pub(super) struct Shared {
    /// The model, as clients call it.
    pub(super) name: String,
    pub(super) limits: Limits,
    /// One for each request that may wait or be under way; it goes back when the engine has forgotten the request.
    pub(super) seats: Arc<Semaphore>,
    pub(super) counts: Counts,
    status: Mutex<Status>,
    jobs: mpsc::Sender<Message>,
}

impl Shared {
    /// A server that is loading; the other end of its way to the model is the worker's.
    pub(super) fn new(name: String, limits: Limits) -> (Shared, mpsc::Receiver<Message>) {
        let (jobs, inbox) = mpsc::channel();
        let seats = Arc::new(Semaphore::new(limits.queue));
        (Shared { name, limits, seats, counts: Counts::default(), status: Mutex::new(Status::Loading), jobs }, inbox)
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().expect("nobody panics while holding it")
    }

    /// Says where the server stands from now on.
    pub(super) fn set(&self, status: Status) {
        *self.status() = status;
    }

    /// Stops taking requests and tells the worker. Returns whether there is a worker to wait for: not while the model is loading.
    pub(super) fn stop(&self) -> bool {
        let loading = matches!(std::mem::replace(&mut *self.status(), Status::Stopping), Status::Loading);
        // The worker may have ended already.
        let _ = self.jobs.send(Message::Stop);
        !loading
    }

    /// The model, where it can be asked.
    pub(super) fn ready(&self) -> Result<Arc<Facts>, Refusal> {
        match &*self.status() {
            Status::Ready(facts) => Ok(facts.clone()),
            Status::Loading => {
                Err(Refusal::unavailable("the model is still loading; ask again in a while").code("loading"))
            }
            Status::Stopping => Err(Refusal::unavailable("the server is being stopped").code("stopping")),
            Status::Failed(why) => Err(Refusal::unavailable(format!("the model has failed: {why}")).code("failed")),
        }
    }

    /// Sends a job to the worker.
    pub(super) fn send(&self, job: Job) -> Result<(), Refusal> {
        self.jobs
            .send(Message::Ask(Box::new(job)))
            .map_err(|_| Refusal::unavailable("the server is being stopped").code("stopping"))
    }

    /// Status and body of `/health`.
    pub(super) fn health(&self) -> (StatusCode, Value) {
        let (code, status, error) = match &*self.status() {
            Status::Ready(_) => (StatusCode::OK, "ok", None),
            Status::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading", None),
            Status::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping", None),
            Status::Failed(why) => (StatusCode::SERVICE_UNAVAILABLE, "failed", Some(why.clone())),
        };
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let Counts { answered, cancelled, failed } = &self.counts;
        let body = json!({
            "status": status, "model": self.name, "error": error,
            "under_way": self.limits.queue - self.seats.available_permits(), "queue": self.limits.queue,
            "answered": count(answered), "cancelled": count(cancelled), "failed": count(failed),
        });
        (code, body)
    }
}
