//! What the daemon counts of itself. One for the process, as Prometheus' own libraries have it: whoever does the work counts
//! it, and nobody has to be handed a counter.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::events::Lost;

#[derive(Debug, Default)]
pub struct Tally {
    applied: AtomicU64,
    unchanged: AtomicU64,
    failed: AtomicU64,
    last_success_ms: AtomicU64,
    events_limited: AtomicU64,
    events_full: AtomicU64,
    events_slow: AtomicU64,
}

pub static TALLY: Tally = Tally {
    applied: AtomicU64::new(0),
    unchanged: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    last_success_ms: AtomicU64::new(0),
    events_limited: AtomicU64::new(0),
    events_full: AtomicU64::new(0),
    events_slow: AtomicU64::new(0),
};

/// What was counted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counted {
    pub applied: u64,
    pub unchanged: u64,
    pub failed: u64,
    /// Seconds since 1970; none if it has not happened.
    pub last_success: Option<f64>,
    /// Events that those who watch were not told of.
    pub lost: Lost,
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

    /// Events that somebody who watches is not told of.
    pub fn lost(&self, lost: Lost) {
        let Lost { limited, full, slow } = lost;
        self.events_limited.fetch_add(limited, Relaxed);
        self.events_full.fetch_add(full, Relaxed);
        self.events_slow.fetch_add(slow, Relaxed);
    }

    pub fn counted(&self) -> Counted {
        let last = self.last_success_ms.load(Relaxed);
        Counted {
            applied: self.applied.load(Relaxed),
            unchanged: self.unchanged.load(Relaxed),
            failed: self.failed.load(Relaxed),
            last_success: (last > 0).then_some(last as f64 / 1000.0),
            lost: Lost {
                limited: self.events_limited.load(Relaxed),
                full: self.events_full.load(Relaxed),
                slow: self.events_slow.load(Relaxed),
            },
        }
    }
}
