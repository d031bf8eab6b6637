//! Prometheus metrics: `sgd --metrics 127.0.0.1:9776`, `GET /metrics`.
//!
//! [`sg_common::metrics`] is the list. [`snapshot`] takes what there is to know of the enforcer in a moment, and reads the
//! counters when it has let go of it; [`history`] keeps counters growing when a device is made anew; [`exposition`] makes
//! Prometheus' text; [`tally`] is what the daemon counts of itself; [`serve`] answers.
//!
//! A metric of another part of the daemon: count it in [`tally`] (or take it in [`snapshot`] if the enforcer knows it),
//! give it a line in the list, and a line in [`exposition`].

mod exposition;
mod history;
pub mod serve;
mod snapshot;
pub mod tally;

use std::time::Instant;

use self::history::History;
use crate::api::server::Shared;
use crate::kernel::{CounterReader, KernelError};

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(
        "the counters cannot be read; the filter goes on: restart sgd, and report it if it happens again"
    )]
    Counters(#[source] std::io::Error),
    #[error("the metrics cannot be written; restart sgd, and report it if it happens again")]
    Text(#[from] prometheus::Error),
}

/// Gathers the metrics, one time after the other.
pub struct Gatherer {
    shared: Shared,
    reader: Option<CounterReader>,
    history: History,
}

impl Gatherer {
    pub fn new(shared: Shared) -> Self {
        Self { shared, reader: None, history: History::default() }
    }

    /// The text of `/metrics`. May block.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn gather(&mut self) -> Result<String, MetricsError> {
        let begun = Instant::now();
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.shared.enforcer().kernel().counter_reader()?,
        };
        let reader = self.reader.insert(reader);
        let snapshot = snapshot::take(&self.shared, reader, &mut self.history)?;
        exposition::text(&snapshot, &self.history, begun)
    }
}
