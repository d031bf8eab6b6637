//! Who reads the tables now, and what was seen last.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::Summary;
use super::summary::millis;

/// So many questions are answered at a time: each keeps a CPU busy, and may keep what it sorts in memory.
const AT_A_TIME: usize = 2;

/// Gives each question its turn, and remembers what many ask.
#[derive(Debug)]
pub struct Readers {
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
    pub summary: Arc<Mutex<Option<Summary>>>,
    /// When the daemon was started.
    started: Instant,
}

/// The right to read. It ends with the value.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held")] Option<OwnedSemaphorePermit>);

impl Default for Readers {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(AT_A_TIME)),
            waiting: AtomicUsize::new(0),
            summary: Arc::default(),
            started: Instant::now(),
        }
    }
}

impl Readers {
    pub async fn turn(&self) -> Turn {
        let _waits = Waits::new(&self.waiting);
        // It is never closed.
        Turn(Arc::clone(&self.room).acquire_owned().await.ok())
    }

    pub fn uptime_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    pub fn somebody_waits(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Counted for as long as it is there, also if whoever waits gives up.
struct Waits<'w>(&'w AtomicUsize);

impl<'w> Waits<'w> {
    fn new(waiting: &'w AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
