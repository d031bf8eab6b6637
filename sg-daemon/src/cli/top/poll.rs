//! Asks the daemon, so that the screen never waits for it.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Method;

use crate::api::client::{ClientError, call_within};
use crate::api::live::Stats;

/// A daemon that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answers of a thread that asks again and again.
pub struct Poll {
    answers: Receiver<Result<Stats, String>>,
    /// What was received by looking whether there is something.
    next: Mutex<Option<Result<Stats, String>>>,
}

impl Poll {
    pub fn start(socket: &Path, interval: Duration) -> io::Result<Self> {
        let (sender, answers) = sync_channel(2);
        let socket = socket.to_owned();
        std::thread::Builder::new()
            .name("poll".to_owned())
            .spawn(move || go_on(&socket, interval, &sender))?;
        Ok(Self { answers, next: Mutex::default() })
    }

    pub fn has_news(&self) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_none() {
            *next = self.answers.try_recv().ok();
        }
        next.is_some()
    }

    pub fn next(&self) -> Option<Result<Stats, String>> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        next.or_else(|| self.answers.try_recv().ok())
    }
}

/// Until nobody listens any more.
fn go_on(socket: &Path, interval: Duration, sender: &SyncSender<Result<Stats, String>>) {
    loop {
        let began = Instant::now();
        if sender.send(ask(socket).map_err(|error| error.to_string())).is_err() {
            return;
        }
        std::thread::sleep(interval.saturating_sub(began.elapsed()));
    }
}

pub fn ask(socket: &Path) -> Result<Stats, ClientError> {
    call_within::<(), _>(PATIENCE, socket, Method::GET, "/v1/stats?talkers=100", None)
}
