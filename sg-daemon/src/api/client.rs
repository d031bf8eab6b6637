//! The client's side, for `sgctl`.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::transfer::NDJSON;
use super::types::Problem;

/// How long a daemon may take for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach sgd at {path}: {why}; is it running, and is --socket right?")]
    Connect { path: PathBuf, why: io::Error },
    #[error("sgd has hung up without an answer; see its log, and ask again")]
    Http(#[from] hyper::Error),
    #[error("sgd ended its answer early: what came is not all; its log may say why; ask again")]
    CutShort(#[source] hyper::Error),
    #[error("the answer cannot be written: {0}; look at the disk, or at what reads it")]
    Output(#[source] io::Error),
    #[error("sgd did not answer within {} seconds; it may be busy with a large policy: see its log, and ask again", .0.as_secs())]
    Silence(Duration),
    #[error(
        "sgd has ended, or does not send any more; see its log, and ask again when it runs (systemctl status sgd)"
    )]
    Ended,
    #[error("{0}")]
    Refused(String),
    /// The answer is not no: it was not asked for, as this user may not, or sgd is busy.
    #[error("{0}")]
    NotAsked(String),
    #[error("sgd's answer is not what this sgctl expects; use both of one version (`sgctl --version`)")]
    Answer(#[from] serde_json::Error),
    #[error("the request cannot be made; look for letters in it that no URL has")]
    Request(#[from] hyper::http::Error),
    #[error("the runtime cannot be started; look at the limits of processes and memory (ulimit -a)")]
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
    runtime()?.block_on(async {
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

/// Sends a question and hands its answer to `each` in parts, as they come.
///
/// # Errors
///
/// If the daemon cannot be reached, refuses, falls silent or ends the answer early, or `each` fails.
pub fn receive(
    socket: &Path,
    path: &str,
    accept: &'static str,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), ClientError> {
    runtime()?.block_on(async {
        let mut body = open(socket, path, accept).await?;
        while let Some(frame) = within_patience(body.frame()).await? {
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
    body: Bytes,
) -> Result<Answer, ClientError> {
    let response = begin(socket, method, path, (CONTENT_TYPE, content_type), body).await?;
    let (head, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    if head.status.is_success() {
        return Ok(Answer::Done(bytes));
    }
    Ok(refusal(head.status, head.headers.contains_key(RETRY_AFTER), &bytes))
}

/// Sends one request; the beginning of its answer.
async fn begin(
    socket: &Path,
    method: Method,
    path: &str,
    header: (HeaderName, &str),
    body: Bytes,
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
        .body(Full::new(body))?;
    Ok(sender.send_request(request).await?)
}

fn refusal(status: StatusCode, again: bool, bytes: &Bytes) -> Answer {
    let why = match serde_json::from_slice::<Problem>(bytes) {
        Ok(problem) => problem.error,
        Err(_) => String::from_utf8_lossy(bytes).trim().to_owned(),
    };
    match status {
        _ if again => Answer::Busy(why),
        StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => Answer::No(ClientError::NotAsked(why)),
        _ => Answer::No(ClientError::Refused(why)),
    }
}

/// The body of an answer that is read in parts.
async fn open(socket: &Path, path: &str, accept: &str) -> Result<Incoming, ClientError> {
    let asked = begin(socket, Method::GET, path, (ACCEPT, accept), Bytes::new());
    let (head, body) = within_patience(asked).await??.into_parts();
    if head.status.is_success() {
        return Ok(body);
    }
    let bytes = body.collect().await?.to_bytes();
    Err(match refusal(head.status, head.headers.contains_key(RETRY_AFTER), &bytes) {
        Answer::Busy(why) => ClientError::NotAsked(why),
        Answer::No(error) => error,
        Answer::Done(_) => ClientError::Ended,
    })
}

async fn within_patience<T>(work: impl Future<Output = T>) -> Result<T, ClientError> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| ClientError::Silence(PATIENCE))
}

fn runtime() -> Result<Runtime, ClientError> {
    Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)
}

/// For a path or a query of a URL: everything that may mean something there is escaped (RFC 3986, section 2).
pub fn escaped(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
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
    runtime()?.block_on(async {
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
    let mut body = open(socket, path, NDJSON).await?;
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
