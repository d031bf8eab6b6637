//! The flow log: who has spoken to whom, how much, and by which rule; and who has been refused (docs/flow-log.md).
//!
//! The kernel counts packets flow by flow ([`sg_common::account`]) and its collector makes records of the counts; here they get
//! their names, and are written. The log is the daemon's own affair, and its options are the daemon's: a policy says what may
//! pass, and may come from elsewhere; what a host keeps of its traffic, and where, is its operator's to say.

mod file;
mod intervals;
mod owners;
pub mod record;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use self::intervals::Intervals;
use self::owners::Owners;
use self::record::{Format, LogStatus, Record};
use self::writer::{Line, Writer};
use crate::api::server::Shared;
use crate::api::types::FlowLogStatus;
use crate::enforce::Enforcer;
use crate::kernel::{Due, KernelError, TAKEN_AT_ONCE};

/// What the command line says of the flow log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowLogOptions {
    pub path: PathBuf,
    pub format: Format,
    /// Seconds within which a flow's packets have their record.
    pub interval: u32,
    /// The file is rotated when it has as many bytes; 0: it is not.
    pub max_size: u64,
    /// How many rotated files are kept.
    pub keep: u32,
}

/// The log of a daemon that runs.
pub struct FlowLog {
    options: FlowLogOptions,
    writer: Writer,
    owners: Owners,
    intervals: Intervals,
    /// Packets that the kernel had no room to count, so far.
    unrecorded: u64,
}

impl FlowLog {
    /// Opens the file. Counting has not begun: see [`Self::begin`].
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn open(options: FlowLogOptions) -> io::Result<Self> {
        let writer = Writer::start(&options.path, options.max_size, options.keep)?;
        let intervals = Intervals::new(options.interval, now());
        Ok(Self { options, writer, owners: Owners::default(), intervals, unrecorded: 0 })
    }

    /// From now on packets are counted. What an earlier daemon left counted is kept, and has no record yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn begin(&mut self, enforcer: &mut Enforcer) -> Result<(), KernelError> {
        enforcer.kernel().set_accounting(true)
    }

    /// Collects what is over, and writes the records that are due.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; nothing is lost, the next call finds it.
    pub fn collect(&mut self, shared: &Shared) -> Result<u32, KernelError> {
        self.collect_due(shared, Due::After(self.options.interval))
    }

    /// Writes the records of everything so far, and ends.
    pub fn end(mut self, shared: &Shared) {
        if let Err(error) = self.collect_due(shared, Due::Now) {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "not all that was counted is in the flow log; the next sgd has it"
            );
        }
        self.writer.stop();
    }

    /// Returns how many flows were over.
    fn collect_due(&mut self, shared: &Shared, due: Due) -> Result<u32, KernelError> {
        let mut over = 0;
        loop {
            let (flows, more) = shared.enforcer().kernel().collect_records(due)?;
            over += flows;
            // Batch by batch, so that nobody waits long for the enforcer.
            while self.take(&mut shared.enforcer())? == TAKEN_AT_ONCE {}
            if !more {
                break;
            }
        }
        self.close_intervals(&mut shared.enforcer());
        Ok(over)
    }

    /// Takes records out of the ring and hands their lines to the writer; returns how many there were.
    fn take(&mut self, enforcer: &mut Enforcer) -> Result<usize, KernelError> {
        self.owners.look(enforcer);
        let taken = enforcer.kernel().take_records()?;
        let (_, active, _) = enforcer.parts();
        let mut lines = Vec::with_capacity(taken.len());
        for collected in &taken {
            let (interface, records) = self.owners.records(collected, active);
            for record in records {
                self.intervals.note(&interface, (record.start, record.end));
                lines
                    .push(Line { interface: Arc::clone(&interface), text: record.line(self.options.format) });
            }
        }
        self.writer.write(lines);
        Ok(taken.len())
    }

    /// What there is to say of interfaces when an interval is over.
    fn close_intervals(&mut self, enforcer: &mut Enforcer) {
        let zones = enforcer.zones();
        let (kernel, _, devices) = enforcer.parts();
        for (name, device) in devices {
            let packets = kernel.take_unrecorded(device.slot);
            if packets > 0 && zones.values().any(|known| known == name) {
                self.unrecorded += packets;
                self.intervals.lose(&name.as_str().into(), packets);
            }
        }
        for (interface, lines) in self.writer.take_lost() {
            self.intervals.lose(&interface, lines);
        }
        let Some(closed) = self.intervals.close(now(), self.owners.all()) else { return };
        let lines = closed.into_iter().map(|said| {
            let record = Record {
                skipped: said.skipped,
                ..Record::of_interval(&said.interface, said.account.as_deref(), said.interval, said.status)
            };
            Line { interface: said.interface, text: record.line(self.options.format) }
        });
        self.writer.write(lines.collect());
    }

    /// The next line goes to whatever file has the name then.
    pub fn reopen(&self) {
        self.writer.reopen();
    }

    pub fn status(&self) -> FlowLogStatus {
        let written = self.writer.written();
        FlowLogStatus {
            path: self.options.path.display().to_string(),
            format: self.options.format,
            interval: self.options.interval,
            records: written.lines,
            lost_records: written.lost,
            unrecorded_packets: self.unrecorded,
            error: written.error,
        }
    }
}

/// What is said of an interface in an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    interface: Arc<str>,
    account: Option<Arc<str>>,
    interval: (u64, u64),
    status: LogStatus,
    skipped: Option<u64>,
}

/// Seconds of the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
