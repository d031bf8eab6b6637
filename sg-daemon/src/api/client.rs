//! The client's side, for `sgctl`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::Problem;

/// How long a daemon may take for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach sgd at {path}: {why}; is it running, and is --socket right?")]
    Connect { path: PathBuf, why: io::Error },
    #[error("sgd did not answer")]
    Http(#[from] hyper::Error),
    #[error("sgd did not answer within {} seconds", .0.as_secs())]
    Silence(Duration),
    #[error("{0}")]
    Refused(String),
    /// The answer is not no: it was not asked for, as this user may not, or sgd is busy.
    #[error("{0}")]
    NotAsked(String),
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
    let body = Bytes::from(body);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)?;
    runtime.block_on(async {
        let asked = async move {
            let mut times = 1;
            loop {
                let answer = request(socket, method.clone(), path, content_type, body.clone()).await?;
                match answer {
                    Answer::Done(bytes) => return Ok(bytes),
                    Answer::No(error) => return Err(error),
                    // Nothing was done.
                    Answer::Busy(why) if times == TIMES => return Err(ClientError::NotAsked(why)),
                    Answer::Busy(_) => {
                        times += 1;
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            }
        };
        tokio::time::timeout(patience, asked).await.unwrap_or(Err(ClientError::Silence(patience)))
    })
}

/// How often a busy daemon is asked, and how long it is left in peace.
const TIMES: u32 = 5;
const AGAIN: Duration = Duration::from_secs(1);

enum Answer {
    Done(Bytes),
    No(ClientError),
    /// Come again.
    Busy(String),
}

async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    content_type: &str,
    body: Bytes,
) -> Result<Answer, ClientError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|why| ClientError::Connect { path: socket.to_owned(), why })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "sgd")
        .header(CONTENT_TYPE, content_type)
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let again = response.headers().contains_key(RETRY_AFTER);
    let bytes = response.into_body().collect().await?.to_bytes();
    if status.is_success() {
        return Ok(Answer::Done(bytes));
    }
    let why = match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) => problem.error,
        Err(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    Ok(match status {
        _ if again => Answer::Busy(why),
        StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => Answer::No(ClientError::NotAsked(why)),
        _ => Answer::No(ClientError::Refused(why)),
    })
}
