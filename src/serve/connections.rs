//! Connections: how many there are, how long each may live, and how they end when the server does.
//!
//! axum's own loop has no clock for a client that sends its headers one byte a minute, so hyper is driven here. Three rules hold
//! whatever a client does: headers come within seconds; a connection of a certain age ends with the answer under way; and where all
//! places are taken the next client waits in the system's queue.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Connections at once. A browser keeps up to six.
const MOST: usize = 256;
/// From the first byte of a request to the end of its headers; and how long a connection may lie idle.
const HEADERS: Duration = Duration::from_secs(15);
/// After this a connection takes no more requests.
const AGE: Duration = Duration::from_secs(600);

/// Serves until `stop` says so, then until the connections have ended. `longest`: that an answer may take.
pub(super) async fn serve(listener: TcpListener, router: Router, mut stop: watch::Receiver<bool>, longest: Duration) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut open = JoinSet::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("never closed");
            (listener.accept().await, place)
        };
        tokio::select! {
            _ = stop.changed() => break,
            // Those that have ended are taken off the list.
            Some(_) = open.join_next() => {}
            (accepted, place) = next => match accepted {
                Ok((stream, _)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    open.spawn(async move {
                        connection(stream, router, stop, longest).await;
                        drop(place);
                    });
                }
                // Out of file handles, say: others may give theirs back.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn connection(stream: TcpStream, router: Router, mut stop: watch::Receiver<bool>, longest: Duration) {
    // Small pieces of a stream go out at once.
    let _ = stream.set_nodelay(true);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.changed() => {}
        _ = tokio::time::sleep(AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(longest, connection).await;
}

/// Ends when the process is asked to end: Ctrl-C, or SIGTERM.
pub(super) fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
