//! The `serve` command: a model behind HTTP, in the shape of OpenAI's chat completions.
//!
//! The model lives on the thread that calls [`run`] ([`worker`]); connections live on tokio's. Between them goes one channel with
//! questions, and one back for each request ([`shared`], [`routes`]). What a client can do wrong is refused before it gets to the model
//! ([`gate`], [`connections`], [`fields`], [`request`]), in a shape that clients understand ([`refusal`], [`reply`]).

mod connections;
mod fields;
mod gate;
mod page;
mod refusal;
mod reply;
mod request;
mod routes;
mod shared;
mod stops;
mod worker;

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use self::gate::Gate;
use self::shared::{Facts, Limits, Shared, Status};
use self::worker::{Message, Worker};
use crate::chat::{Answerer, TEMPLATE};
use crate::cli::serve::Serve;
use crate::subject::Subject;
use crate::train::prepare::open_device;
use crate::{Error, Result, bail_input};

/// Where a token is looked for that is not on the command line.
const TOKEN: &str = "LLAMACARE_TOKEN";
/// How long the last answers may be on their way to their clients.
const FAREWELL: Duration = Duration::from_secs(3);

/// Serves until Ctrl-C or SIGTERM, or until the model fails.
pub fn run(typed: &Serve) -> Result<()> {
    let token = token(typed)?;
    let name = name(typed)?;
    // First of all: a port in use is said now, not when the model is loaded.
    let listener = bind(typed)?;
    let address = listener.local_addr().map_err(io)?;
    let local = address.ip().is_loopback();
    if !local && token.is_none() {
        eprintln!("warning: whoever can reach {address} can ask this model; require a token with --token or {TOKEN}");
    }
    let limits =
        Limits { max_body: typed.max_body, queue: typed.queue, timeout: typed.timeout, max_new: typed.max_new_tokens };
    let longest = limits.timeout + Duration::from_secs(5);
    let (shared, inbox) = Shared::new(name, limits);
    let shared = Arc::new(shared);
    println!("loading {}; http://{address}/ answers when it is there", shared.name);

    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(io)?;
    let (stop, stopped) = watch::channel(false);
    let router = routes::router(shared.clone(), Gate::new(token.as_deref(), local));
    watch_signals(&runtime, &shared, stop.clone())?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(io)?
    };
    let server = runtime.spawn(connections::serve(listener, router, stopped, longest));

    let outcome = answer(typed, &shared, &inbox, || println!("ready: {} at http://{address}/", shared.name));
    stop.send_replace(true);
    // Whoever is still there after this does not read what it asked for.
    let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, server).await });
    runtime.shutdown_background();
    outcome
}

/// Opens the model and answers with it.
fn answer(typed: &Serve, shared: &Shared, inbox: &Receiver<Message>, ready: impl FnOnce()) -> Result<()> {
    let subject = Subject::open(&typed.which, TEMPLATE)?;
    let device = open_device(&typed.which.device, typed.which.compute)?;
    let capacity = subject.capacity(&device, &typed.which, typed.at_once)?;
    let loaded = subject.load(&device, subject.quant())?;
    let context = capacity.positions;
    let facts = Facts { sets: subject.sets(), has_heads: subject.heads().next().is_some(), context };
    let worker = Worker::new(shared, context);
    worker.run(
        inbox,
        || Answerer::new(&subject, &loaded, &device, capacity),
        || {
            shared.set(Status::Ready(Arc::new(facts)));
            ready();
        },
    )
}

/// The first signal lets answers under way end; a second one ends at once. While the model loads there is nothing to wait for.
fn watch_signals(runtime: &Runtime, shared: &Arc<Shared>, stop: watch::Sender<bool>) -> Result<()> {
    let _inside = runtime.enter();
    let first = connections::interrupted().map_err(io)?;
    let shared = shared.clone();
    runtime.spawn(async move {
        first.await;
        if !shared.stop() {
            std::process::exit(0);
        }
        eprintln!("Stopping: answers under way may take a few seconds. Once more stops at once.");
        stop.send_replace(true);
        if let Ok(second) = connections::interrupted() {
            second.await;
            std::process::exit(130);
        }
    });
    Ok(())
}

/// Takes the address; nobody is answered yet.
fn bind(typed: &Serve) -> Result<TcpListener> {
    let (host, port) = (typed.host.trim_matches(['[', ']']), typed.port);
    let listener = TcpListener::bind((host, port)).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Error::Input(format!(
            "port {port} of {host} is in use by another program; choose another with --port, or let 0 find a free one"
        )),
        _ => Error::Input(format!(
            "{host}, port {port} cannot be listened at: {e}; choose others with --host and --port"
        )),
    })?;
    listener.set_nonblocking(true).map_err(io)?;
    Ok(listener)
}

/// The token that was typed or stands in the environment.
fn token(typed: &Serve) -> Result<Option<String>> {
    let found = typed.token.clone().or(std::env::var(TOKEN).ok());
    match &found {
        Some(token) if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) => {
            bail_input!("the token is empty or holds more than visible ASCII characters, which no header can carry")
        }
        _ => Ok(found),
    }
}

/// What clients call the model.
fn name(typed: &Serve) -> Result<String> {
    if let Some(name) = &typed.name {
        return Ok(name.clone());
    }
    let folder: Option<&Path> = typed.which.adapter.as_deref().or(typed.which.model.as_deref());
    let whole = folder.and_then(|folder| folder.canonicalize().ok());
    let last = whole.as_deref().or(folder).and_then(Path::file_name);
    Ok(last.map_or("llamacare".into(), |name| name.to_string_lossy().into_owned()))
}

/// Differs from call to call.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn io(error: std::io::Error) -> Error {
    Error::Device(format!("the network cannot be used: {error}"))
}
