//! The client's side, for `sgctl`.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::transfer::NDJSON;
use super::types::Problem;

/// How long a daemon may take for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach sgd at {path}: {why}; is it running, and is --socket right?")]
    Connect { path: PathBuf, why: io::Error },
    #[error("sgd did not answer")]
    Http(#[from] hyper::Error),
    #[error("sgd ended its answer early: what came is not all; its log may say why")]
    CutShort(#[source] hyper::Error),
    #[error("the answer cannot be written")]
    Output(#[source] io::Error),
    #[error("sgd did not answer within {} seconds", .0.as_secs())]
    Silence(Duration),
    #[error("sgd has ended, or does not send any more")]
    Ended,
    #[error("{0}")]
    Refused(String),
    #[error("sgd's answer is not what this version of sgctl expects")]
    Answer(#[from] serde_json::Error),
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
    #[error("the runtime cannot be started")]
    Runtime(#[source] io::Error),
}

/// Sends one request and waits for its answer.
///
/// # Errors
///
/// If the daemon cannot be reached, refuses, or answers something else.
pub fn call<B: Serialize, A: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&B>,
) -> Result<A, ClientError> {
    call_within(PATIENCE, socket, method, path, body)
}

/// As [`call`], of what may take its time.
///
/// # Errors
///
/// As [`call`].
pub fn call_within<B: Serialize, A: DeserializeOwned>(
    patience: Duration,
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&B>,
) -> Result<A, ClientError> {
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    Ok(serde_json::from_slice(&call_raw(patience, socket, method, path, "application/json", body)?)?)
}

/// Sends one request with any body and returns the answer as it came.
///
/// # Errors
///
/// If the daemon cannot be reached or refuses.
pub fn call_raw(
    patience: Duration,
    socket: &Path,
    method: Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<Bytes, ClientError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
    runtime.block_on(async {
        tokio::time::timeout(patience, request(socket, method, path, content_type, body))
            .await
            .unwrap_or(Err(ClientError::Silence(patience)))
    })
}

/// Sends a question and hands its answer to `each` in parts, as they come.
///
/// # Errors
///
/// If the daemon cannot be reached, refuses, falls silent or ends the answer early, or `each` fails.
pub fn stream(
    socket: &Path,
    path: &str,
    accept: &'static str,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ClientError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
    let silence = |_| ClientError::Silence(PATIENCE);
    runtime.block_on(async {
        let asked = send(socket, Method::GET, path, (ACCEPT, accept), Vec::new());
        let mut response = tokio::time::timeout(PATIENCE, asked).await.map_err(silence)??;
        if !response.status().is_success() {
            return Err(refused(&response.into_body().collect().await?.to_bytes()));
        }
        while let Some(frame) =
            tokio::time::timeout(PATIENCE, response.body_mut().frame()).await.map_err(silence)?
        {
            if let Ok(data) = frame.map_err(ClientError::CutShort)?.into_data() {
                each(&data).map_err(ClientError::Output)?;
            }
        }
        Ok(())
    })
}

async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> Result<Bytes, ClientError> {
    let response = send(socket, method, path, (CONTENT_TYPE, content_type), body).await?;
    let ok = response.status().is_success();
    let bytes = response.into_body().collect().await?.to_bytes();
    if ok {
        return Ok(bytes);
    }
    Err(refused(&bytes))
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    header: (HeaderName, &str),
    body: Vec<u8>,
) -> Result<Response<Incoming>, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|why| ClientError::Connect { path: socket.to_owned(), why })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "sgd")
        .header(header.0, header.1)
        .body(Full::new(Bytes::from(body)))?;
    Ok(sender.send_request(request).await?)
}

fn refused(answer: &[u8]) -> ClientError {
    ClientError::Refused(match serde_json::from_slice::<Problem>(answer) {
        Ok(problem) => problem.error,
        Err(_) => String::from_utf8_lossy(answer).trim().to_owned(),
    })
}

/// Asks for lines without end, and gives each that is not empty to `line` until that has enough, or the user presses Ctrl-C.
///
/// # Errors
///
/// If the daemon cannot be reached, refuses, or ends.
pub fn follow(
    socket: &Path,
    path: &str,
    mut line: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ClientError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
    runtime.block_on(async {
        tokio::select! {
            ended = lines(socket, path, &mut line) => ended,
            // Nothing is left half done.
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

async fn lines(
    socket: &Path,
    path: &str,
    line: &mut impl FnMut(&str) -> ControlFlow<()>,
) -> Result<(), ClientError> {
    let begun = tokio::time::timeout(PATIENCE, send(socket, Method::GET, path, (ACCEPT, NDJSON), Vec::new()));
    let response = begun.await.unwrap_or(Err(ClientError::Silence(PATIENCE)))?;
    if !response.status().is_success() {
        return Err(refused(&response.into_body().collect().await?.to_bytes()));
    }
    let mut body = response.into_body();
    let mut begun = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(part);
            if begun.last() != Some(&b'\n') {
                continue;
            }
            let text = String::from_utf8_lossy(&begun);
            if !text.trim().is_empty() && line(text.trim()).is_break() {
                return Ok(());
            }
            begun.clear();
        }
    }
    Err(ClientError::Ended)
}
