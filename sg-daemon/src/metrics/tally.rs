//! What the daemon counts of itself. One for the process, as Prometheus' own libraries have it: whoever does the work counts
//! it, and nobody has to be handed a counter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Default)]
pub struct Tally {
    applied: AtomicU64,
    unchanged: AtomicU64,
    failed: AtomicU64,
    last_success_ms: AtomicU64,
}

pub static TALLY: Tally = Tally {
    applied: AtomicU64::new(0),
    unchanged: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    last_success_ms: AtomicU64::new(0),
};

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counted {
    pub applied: u64,
    pub unchanged: u64,
    pub failed: u64,
    /// Seconds since 1970; none if it has not happened.
    pub last_success: Option<f64>,
}

impl Tally {
    /// A policy was accepted; `changed`: something is another now.
    pub fn accepted(&self, changed: bool) {
        if changed { &self.applied } else { &self.unchanged }.fetch_add(1, Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_success_ms.store(now.as_millis() as u64, Relaxed);
    }

    /// A policy was not put in force.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub fn counted(&self) -> Counted {
        let last = self.last_success_ms.load(Relaxed);
        Counted {
            applied: self.applied.load(Relaxed),
            unchanged: self.unchanged.load(Relaxed),
            failed: self.failed.load(Relaxed),
            last_success: (last > 0).then_some(last as f64 / 1000.0),
        }
    }
}
