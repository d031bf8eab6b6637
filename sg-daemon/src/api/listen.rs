//! Connections: accepted, told who is on the other side, and served, within limits.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use super::behind;
use super::extract::Failure;
use super::limits::{BODY, HEAD, Limits, Place, REFUSAL, REFUSALS, UNREAD};
use super::paced::{Paced, Timed};
use super::peer::{Access, Peer};

/// Serves until the task is dropped.
pub async fn listen(listener: UnixListener, router: Router, access: Access) -> io::Result<()> {
    let limits = Limits::default();
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_the_peers(&error) => continue,
            Err(error) => {
                // Out of descriptors or memory, which passes.
                tracing::error!(%error, "no connection can be accepted");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let peer = match Peer::of(&stream, access) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "a peer that is not known is not served");
                continue;
            }
        };
        let admitted = if peer.may_read {
            limits.admit(peer)
        } else {
            Err(Failure(
                StatusCode::FORBIDDEN,
                format!(
                    "user {} may not ask here; root and the members of sgd's --read-group and --write-group may",
                    peer.uid
                ),
            ))
        };
        match admitted {
            Ok(place) => drop(tokio::spawn(serve(stream, router.clone(), peer, place))),
            // While as many as that are being told, others wait to be accepted.
            Err(Failure(status, why)) => {
                let Ok(permit) = Arc::clone(&refusals).acquire_owned().await else { continue };
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL, refuse(stream, status, why)).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn serve(stream: UnixStream, router: Router, peer: Peer, place: Place) {
    let place = &place;
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| Body::new(Timed::new(body, BODY)));
        request.extensions_mut().insert(peer);
        let router = router.clone();
        async move {
            let Ok(_turn) = place.turn().await else { return Ok(super::limits::busy().into_response()) };
            router.oneshot(request).await
        }
    });
    let io = TokioIo::new(Paced::new(stream, UNREAD));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 << 10);
    if let Err(error) = behind::serve(http.serve_connection(io, service)).await {
        tracing::debug!(%error, uid = peer.uid, "a connection has failed");
    }
}

/// Hears one request and says no: a client that is cut off while it writes would not read why.
async fn refuse(stream: UnixStream, status: StatusCode, why: String) {
    let service = service_fn(|_: Request<Incoming>| {
        let response = Failure(status, why.clone()).into_response();
        async move { Ok::<Response, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REFUSAL).max_buf_size(16 << 10).keep_alive(false);
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
