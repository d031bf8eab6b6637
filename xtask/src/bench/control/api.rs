//! Requests to the daemon's socket, timed without a program's start.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub struct Api(PathBuf);

impl Api {
    pub fn new(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Opens a connection, asks, and reads the answer to its end. Fails unless the daemon has done what it was asked for.
    pub fn send(&self, method: &str, path: &str, body: &Value) -> Result<Duration> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: sgd\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let began = Instant::now();
        let mut stream = UnixStream::connect(&self.0).context("sgd's socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("sgd does not answer")?;
        let took = began.elapsed();
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        Ok(took)
    }
}
