//! Connections: accepted, told who is on the other side, and served.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tower::ServiceExt as _;

use super::peer::{Peer, Writers};

/// How long the head of a request may take, and how long a connection may wait for one.
const HEAD: Duration = Duration::from_secs(10);

/// Serves until the task is dropped.
///
/// # Errors
///
/// If the listener fails.
pub async fn listen(listener: UnixListener, router: Router, writers: Writers) -> io::Result<()> {
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_the_peers(&error) => continue,
            Err(error) => {
                // Out of descriptors or memory, which passes; so axum does.
                tracing::error!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        match Peer::of(&stream, &writers) {
            Ok(peer) => drop(tokio::spawn(serve(stream, router.clone(), peer))),
            Err(error) => tracing::debug!(%error, "a peer that is not known is not served"),
        }
    }
}

async fn serve(stream: UnixStream, router: Router, peer: Peer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, uid = peer.uid, "a connection has failed");
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
