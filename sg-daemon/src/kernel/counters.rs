//! Counters by the row, and how full the tables of half-open flows are: read without the kernel's owner at hand.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::MapData;
use sg_common::abi::{Counter, Direction, Flow, FlowKeyV4, FlowKeyV6, REASON_SLOTS, WOULD_DROP, map};
use sg_common::verdict::{Action, Reason};

use super::flows::{batch, look_up};
use super::{Kernel, KernelError};

/// One counter of an interface that is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub direction: Direction,
    pub reason: Reason,
    /// It was not dropped, as the interface is in audit.
    pub would_drop: bool,
    pub counter: Counter,
}

/// The last counters of a zone that is gone.
#[derive(Debug, Clone)]
pub struct Retired {
    pub zone: u32,
    pub samples: Vec<Sample>,
}

/// So many are kept for whoever asks.
pub(super) const MOST_RETIRED: usize = 1024;

/// Descriptors of the maps, so that reading them holds nobody up.
#[derive(Debug)]
pub struct CounterReader {
    counters: OwnedFd,
    half_v4: OwnedFd,
    half_v6: OwnedFd,
    cpus: usize,
}

impl Kernel {
    /// # Errors
    ///
    /// If a map cannot be opened once more.
    pub fn counter_reader(&self) -> Result<CounterReader, KernelError> {
        let name = map::COUNTERS;
        let failed = |source| KernelError::Io { name, source };
        let data = MapData::from_pin(self.pins().map(name)).map_err(KernelError::map(name))?;
        let again = |index: usize, name: &'static str| {
            let fd = self.tables.flow_fds.get(index).ok_or(KernelError::Missing { name })?;
            fd.try_clone().map_err(|source| KernelError::Io { name, source })
        };
        Ok(CounterReader {
            counters: data.fd().as_fd().try_clone_to_owned().map_err(failed)?,
            half_v4: again(1, map::HALF_V4)?,
            half_v6: again(3, map::HALF_V6)?,
            cpus: aya::util::nr_cpus().map_err(|(_, source)| failed(source))?,
        })
    }

    /// The counters of zones that have gone since the last call.
    pub fn take_retired(&mut self) -> Vec<Retired> {
        std::mem::take(&mut self.retired).into()
    }

    /// Keeps what an interface has counted, before its row becomes another's.
    pub(super) fn retire(&mut self, zone: u32, row: u32) {
        let mut samples = Vec::new();
        for would_drop in [false, true] {
            let counters = match self.tables.counters(row, would_drop) {
                Ok(counters) => counters,
                Err(error) => {
                    tracing::warn!(%error, "what a device that is gone has counted is not known");
                    return;
                }
            };
            samples.extend(counters.into_iter().map(|(direction, reason, counter)| Sample {
                direction,
                reason,
                would_drop,
                counter,
            }));
        }
        while self.retired.len() >= MOST_RETIRED {
            self.retired.pop_front();
        }
        self.retired.push_back(Retired { zone, samples });
    }
}

impl CounterReader {
    /// The counters of one row.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn row(&self, row: u32) -> io::Result<Vec<Sample>> {
        let slots = REASON_SLOTS as usize;
        let values = look_up::<Counter>(self.counters.as_fd(), row * 2 * REASON_SLOTS, 2 * slots, self.cpus)?;
        let mut samples = Vec::new();
        for (index, counters) in values.chunks(self.cpus).enumerate() {
            let direction = if index < slots { Direction::Inbound } else { Direction::Outbound };
            let slot = (index % slots) as u32;
            let (reason, would_drop) = match Reason::from_number(slot) {
                Some(reason) => (reason, false),
                None => match slot.checked_sub(WOULD_DROP).and_then(Reason::from_number) {
                    Some(reason) if reason.action() == Action::Drop => (reason, true),
                    _ => continue,
                },
            };
            let counter = counters.iter().fold(Counter { packets: 0, bytes: 0 }, |sum, counter| Counter {
                packets: sum.packets + counter.packets,
                bytes: sum.bytes + counter.bytes,
            });
            if counter.packets > 0 {
                samples.push(Sample { direction, reason, would_drop, counter });
            }
        }
        Ok(samples)
    }

    /// How many half-open flows there are of IPv4 and of IPv6; those that are over count until they are collected.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn half_open(&self) -> io::Result<[u64; 2]> {
        let (mut v4, mut v6) = (0, 0);
        batch::<FlowKeyV4, Flow>(self.half_v4.as_fd(), |_, _| v4 += 1)?;
        batch::<FlowKeyV6, Flow>(self.half_v6.as_fd(), |_, _| v6 += 1)?;
        Ok([v4, v6])
    }
}
