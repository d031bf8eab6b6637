//! Counters, a row in one system call; and how full the tables of half-open flows are, without the kernel's owner at hand.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use sg_common::abi::{COUNTED_TWICE, Counter, Direction, HANDED_ON, REASON_SLOTS, WOULD_DROP, map};
use sg_common::verdict::{Action, Reason};

use super::batch::look_up;
use super::flow_memory::FlowFds;
use super::{Kernel, KernelError, Slot};

/// One counter of an interface that is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub direction: Direction,
    pub reason: Reason,
    /// It was not dropped, as the interface is in audit.
    pub would_drop: bool,
    pub counter: Counter,
}

/// The counters of an interface.
#[derive(Debug, Clone)]
pub struct Counted {
    pub samples: Vec<Sample>,
    /// What was counted twice, by direction: by XDP, which passed it, and by the program behind it, which found something.
    pub twice: [Counter; 2],
    /// What was handed to another port of its bridge, by direction; it is in `samples` too.
    pub handed_on: [Counter; 2],
}

/// The last counters of a zone that is gone.
#[derive(Debug, Clone)]
pub struct Retired {
    pub zone: u32,
    pub counted: Counted,
}

/// So many are kept for whoever asks.
pub(super) const MOST_RETIRED: usize = 1024;

/// Descriptors of the maps, so that reading them holds nobody up.
#[derive(Debug)]
pub struct CounterReader {
    counters: OwnedFd,
    flows: FlowFds,
    cpus: usize,
}

impl Kernel {
    /// # Errors
    ///
    /// If a map cannot be opened once more.
    pub fn counter_reader(&self) -> Result<CounterReader, KernelError> {
        let again = |fd: &OwnedFd, name| fd.try_clone().map_err(|source| KernelError::Io { name, source });
        Ok(CounterReader {
            counters: again(&self.tables.counters_fd, map::COUNTERS)?,
            flows: self.tables.flow_fds.try_clone()?,
            cpus: self.tables.cpus,
        })
    }

    /// What an interface has counted.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn counters(&self, slot: Slot) -> Result<Counted, KernelError> {
        self.counters_of_row(self.interfaces.get(slot.0).map_or(0, |interface| interface.row))
    }

    fn counters_of_row(&self, row: u32) -> Result<Counted, KernelError> {
        read(self.tables.counters_fd.as_fd(), self.tables.cpus, row)
            .map_err(|source| KernelError::Io { name: map::COUNTERS, source })
    }

    /// The counters of zones that have gone since the last call.
    pub fn take_retired(&mut self) -> Vec<Retired> {
        std::mem::take(&mut self.retired).into()
    }

    /// Keeps what an interface has counted, before its row becomes another's.
    pub(super) fn retire(&mut self, zone: u32, row: u32) {
        let counted = match self.counters_of_row(row) {
            Ok(counted) => counted,
            Err(error) => {
                tracing::warn!(%error, "what a device that is gone has counted is not known");
                return;
            }
        };
        while self.retired.len() >= MOST_RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(Retired { zone, counted });
    }
}

impl CounterReader {
    /// The counters of one row.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn row(&self, row: u32) -> io::Result<Counted> {
        read(self.counters.as_fd(), self.cpus, row)
    }

    /// How many half-open flows there are of IPv4 and of IPv6; those that are over count until they are collected.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn half_open(&self) -> Result<[u64; 2], KernelError> {
        Ok(self.flows.fill()?.map(|fill| fill.half_open))
    }
}

/// Reads one row of `COUNTERS`.
fn read(map: BorrowedFd<'_>, cpus: usize, row: u32) -> io::Result<Counted> {
    let slots = REASON_SLOTS as usize;
    let values = look_up::<Counter>(map, row * 2 * REASON_SLOTS, 2 * slots, cpus)?;
    let nothing = [Counter { packets: 0, bytes: 0 }; 2];
    let (mut samples, mut twice, mut handed_on) = (Vec::new(), nothing, nothing);
    for (index, counters) in values.chunks(cpus).enumerate() {
        let direction = if index < slots { Direction::Inbound } else { Direction::Outbound };
        let slot = (index % slots) as u32;
        let counter = counters.iter().fold(Counter { packets: 0, bytes: 0 }, |sum, counter| Counter {
            packets: sum.packets + counter.packets,
            bytes: sum.bytes + counter.bytes,
        });
        let beside = match slot {
            COUNTED_TWICE => twice.get_mut(direction as usize),
            HANDED_ON => handed_on.get_mut(direction as usize),
            _ => None,
        };
        if let Some(beside) = beside {
            *beside = counter;
        }
        let (reason, would_drop) = match Reason::from_number(slot) {
            Some(reason) => (reason, false),
            None => match slot.checked_sub(WOULD_DROP).and_then(Reason::from_number) {
                Some(reason) if reason.action() == Action::Drop => (reason, true),
                _ => continue,
            },
        };
        if counter.packets > 0 {
            samples.push(Sample { direction, reason, would_drop, counter });
        }
    }
    Ok(Counted { samples, twice, handed_on })
}
