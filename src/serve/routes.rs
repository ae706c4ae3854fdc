//! What can be asked at which address.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use super::gate::{Gate, guard};
use super::page::page;
use super::refusal::Refusal;
use super::reply::{self, Reply};
use super::request::{self, Ask, Chat};
use super::shared::{Facts, Shared};
use super::worker::{Job, Piece};

/// From the end of the headers to that of the body.
const BODY: Duration = Duration::from_secs(30);
/// A stream says at least so often that it is alive: proxies cut what is silent.
const ALIVE: Duration = Duration::from_secs(10);
/// Pieces of a stream that wait for a client that reads slowly.
const AHEAD: usize = 16;

type Answer = Result<Response, Refusal>;

/// All addresses.
pub(super) fn router(shared: Arc<Shared>, gate: Gate) -> Router {
    let limit = DefaultBodyLimit::max(shared.limits.max_body);
    Router::new()
        .route("/", get(page))
        .route("/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(chat))
        .route("/classify", post(classify))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(limit)
        .layer(middleware::from_fn_with_state(Arc::new(gate), guard))
        .with_state(shared)
}

async fn nowhere(uri: Uri) -> Refusal {
    let message = format!(
        "there is nothing at {:?}; there are /v1/chat/completions, /v1/models, /classify, /health and /",
        uri.path()
    );
    Refusal::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("{} does not take {method}; expected GET for what is read, POST for questions", uri.path());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message)
}

async fn health(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let (status, body) = shared.health();
    (status, Json(body))
}

async fn models(State(shared): State<Arc<Shared>>) -> Answer {
    Ok(reply::models(&shared.name, &*shared.ready()?))
}

async fn classify(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    let facts = shared.ready()?;
    let ask = request::classify(&body(&shared, request).await?, &shared.name, &facts)?;
    let reply = reply_to(&shared, &facts, &ask);
    let mut answering = Answering::begin(&shared, ask).await?;
    let mut label = None;
    loop {
        match answering.next().await? {
            Piece::Label(probabilities) => label = Some(probabilities),
            Piece::Done(..) => break,
            _ => {}
        }
    }
    let label =
        label.ok_or_else(|| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the head said nothing; this is a bug"))?;
    Ok(Json(reply.classified(&label, answering.n_prompt)).into_response())
}

async fn chat(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    let facts = shared.ready()?;
    let Chat { ask, stream, include_usage } =
        request::chat(&body(&shared, request).await?, &shared.name, &facts, &shared.limits)?;
    let reply = reply_to(&shared, &facts, &ask);
    let mut answering = Answering::begin(&shared, ask).await?;
    if stream {
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::spawn(Speech { answering, reply, include_usage, send }.run());
        let alive = KeepAlive::new().interval(ALIVE);
        return Ok(Sse::new(ReceiverStream::new(receive)).keep_alive(alive).into_response());
    }
    let (mut label, mut text) = (None, String::new());
    let (finish, n_new) = loop {
        match answering.next().await? {
            Piece::Label(probabilities) => label = Some(probabilities),
            Piece::Text(piece) => text.push_str(&piece),
            Piece::Done(finish, n_new) => break (finish, n_new),
            Piece::Begun(_) | Piece::Failed(_) => {}
        }
    };
    Ok(Json(reply.whole(&text, label.as_deref(), finish, answering.n_prompt, n_new)).into_response())
}

fn reply_to(shared: &Shared, facts: &Facts, ask: &Ask) -> Reply {
    Reply::new(&shared.name, ask.set.map(|set| facts.sets[set].clone()), ask.sampling.seed)
}

/// The body, which must be there in time, small enough, and called JSON.
async fn body(shared: &Shared, request: Request) -> Result<Bytes, Refusal> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message =
            format!("the body is called {kind:?}; expected JSON with the header \"Content-Type: application/json\"");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    match tokio::time::timeout(BODY, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(e)) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!(
                "the request is larger than {}, which is what this server takes",
                crate::bytes::readable(shared.limits.max_body)
            );
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Ok(Err(e)) => Err(Refusal::bad(format!("the body cannot be read: {}", e.body_text()))),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

/// An answer on its way from the worker. Dropped, the engine forgets the request.
struct Answering {
    pieces: UnboundedReceiver<Piece>,
    n_prompt: usize,
    until: Instant,
    limit: Duration,
}

impl Answering {
    /// Sends the question and waits until the engine has taken it, so that what it refuses is refused with a status.
    async fn begin(shared: &Shared, ask: Ask) -> Result<Answering, Refusal> {
        let Ok(seat) = shared.seats.clone().try_acquire_owned() else {
            let message =
                format!("{} requests wait already, and no more are taken; ask again in a while", shared.limits.queue);
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, message).code("queue_full"));
        };
        let (reply, pieces) = mpsc::unbounded_channel();
        shared.send(Job { ask, reply, _seat: seat })?;
        let limit = shared.limits.timeout;
        let mut answering = Answering { pieces, n_prompt: 0, until: Instant::now() + limit, limit };
        if let Piece::Begun(n_prompt) = answering.next().await? {
            answering.n_prompt = n_prompt;
        }
        Ok(answering)
    }

    /// The next piece; a failed answer and one that is late are errors.
    async fn next(&mut self) -> Result<Piece, Refusal> {
        match timeout_at(self.until, self.pieces.recv()).await {
            Ok(Some(Piece::Failed(refusal))) => Err(refusal),
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => {
                Err(Refusal::unavailable("the server was stopped before the answer was complete").code("stopping"))
            }
            Err(_) => Err(Refusal::late(self.limit)),
        }
    }
}

/// An answer on its way to a client that reads it piece by piece.
struct Speech {
    answering: Answering,
    reply: Reply,
    include_usage: bool,
    send: mpsc::Sender<Result<Event, Infallible>>,
}

impl Speech {
    /// Sends until the end, or until nobody reads any more. What fails ends the stream with an error, and without the mark of a whole
    /// answer.
    async fn run(mut self) {
        let reader = self.send.clone();
        let ended = tokio::select! {
            _ = reader.closed() => return,
            ended = self.pieces() => ended,
        };
        let last = match ended {
            Ok(()) => "[DONE]".to_string(),
            Err(refusal) => refusal.body().to_string(),
        };
        // At the very end of its time there is still a moment to say so.
        let _ = tokio::time::timeout(Duration::from_secs(1), reader.send(Ok(Event::default().data(last)))).await;
    }

    async fn pieces(&mut self) -> Result<(), Refusal> {
        let mut first = true;
        loop {
            let piece = self.answering.next().await?;
            // The label comes before any text: the first piece waits for either.
            if std::mem::take(&mut first) {
                let label =
                    if let Piece::Label(probabilities) = &piece { Some(probabilities.as_slice()) } else { None };
                self.say(self.reply.first(label)).await?;
            }
            match piece {
                Piece::Text(text) => self.say(self.reply.text(&text)).await?,
                Piece::Done(finish, n_new) => {
                    self.say(self.reply.last(finish)).await?;
                    if self.include_usage {
                        self.say(self.reply.tokens(self.answering.n_prompt, n_new)).await?;
                    }
                    return Ok(());
                }
                Piece::Begun(_) | Piece::Label(_) | Piece::Failed(_) => {}
            }
        }
    }

    /// Waits where the client reads slowly, as long as the answer may take.
    async fn say(&self, piece: Value) -> Result<(), Refusal> {
        let event = Ok(Event::default().data(piece.to_string()));
        match timeout_at(self.answering.until, self.send.send(event)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::late(self.answering.limit)),
        }
    }
}
