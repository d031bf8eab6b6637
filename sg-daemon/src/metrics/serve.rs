//! `GET /metrics` over TCP, and nothing else. Whoever can connect can read, so it listens on the loopback device unless the
//! operator insists; and whoever connects can hold up nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use super::Gatherer;
use crate::api::server::Shared;

/// One answer does for all who ask within this.
const FRESH: Duration = Duration::from_secs(1);
/// At a time; others wait to be accepted.
const MOST_CONNECTIONS: usize = 16;
/// To say what one wants.
const HEADERS: Duration = Duration::from_secs(5);
/// To be answered.
const CONNECTION: Duration = Duration::from_secs(30);

/// Where `/metrics` is to be.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub address: SocketAddr,
    /// The operator insists on an address that others can reach.
    pub anywhere: bool,
}

/// Listens, if that is where it should be.
///
/// # Errors
///
/// If the address is not the loopback device's and nobody insists, or cannot be listened on.
pub async fn bind(place: Place) -> anyhow::Result<TcpListener> {
    let Place { address, anywhere } = place;
    if !address.ip().is_loopback() {
        anyhow::ensure!(
            anywhere,
            "--metrics {address} is not an address of the loopback device, and whoever reaches it can read which interfaces \
             there are and what they send; use 127.0.0.1:{}, or add --metrics-not-loopback",
            address.port()
        );
        tracing::warn!(%address, "metrics can be read by everybody who reaches this address");
    }
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; stop whatever does, or pass another address (--metrics)")
    })
}

struct Answers {
    gatherer: Arc<std::sync::Mutex<Gatherer>>,
    /// The last one, and when it was made.
    last: Mutex<Option<(Instant, String)>>,
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, shared: Shared) {
    let answers = Arc::new(Answers {
        gatherer: Arc::new(std::sync::Mutex::new(Gatherer::new(shared))),
        last: Mutex::default(),
    });
    let router = Router::new()
        .route("/metrics", get(answer))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "there is nothing here but /metrics; everything else is at sgd's socket (`sgctl openapi`)\n",
            )
        })
        .with_state(answers);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, for example; that may pass.
                tracing::warn!(%error, "nobody can connect for metrics");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever goes away, or is too slow, is no concern of ours.
            let _ = timeout(CONNECTION, connection).await;
            drop(permit);
        });
    }
}

async fn answer(State(answers): State<Arc<Answers>>) -> Response {
    let mut last = answers.last.lock().await;
    if let Some((made, text)) = last.as_ref()
        && made.elapsed() < FRESH
    {
        return text_of(text.clone());
    }
    let gatherer = Arc::clone(&answers.gatherer);
    let gather = move || {
        let mut gatherer = gatherer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        gatherer.gather()
    };
    match tokio::task::spawn_blocking(gather).await {
        Ok(Ok(text)) => {
            *last = Some((Instant::now(), text.clone()));
            text_of(text)
        }
        Ok(Err(error)) => {
            let why = format!("{:#}\n", anyhow::Error::new(error));
            tracing::warn!(error = why.trim_end(), "no metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn text_of(text: String) -> Response {
    ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
}
