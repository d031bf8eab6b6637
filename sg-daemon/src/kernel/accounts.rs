//! What has passed, flow by flow: switched on and off, recorded by the collector, and taken from its ring.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya::programs::{RawTracePointRunOptions, TestRun as _};
use sg_common::abi::{
    ACCOUNT_AUDIT, ACCOUNT_ORIGIN_OUTBOUND, ACCOUNT_REASON_SHIFT, Be32, Control, Direction, FlowRecord,
    collect, map, program,
};
use sg_common::verdict::Reason;
use std::mem::offset_of;
use zerocopy::FromBytes as _;

use super::tables::v6_of;
use super::{Kernel, KernelError, Slot};

/// Which accounts are to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Those whose flows are over, and those of which no record has told for so many seconds.
    After(u32),
    /// All.
    Now,
}

/// What has passed under one key since the record before, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    pub zone: u32,
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// As in `sg_common::abi::FlowPorts`.
    pub local_port: u16,
    pub remote_port: u16,
    /// Which way the flow's first packet went.
    pub origin: Direction,
    /// Why packets were dropped; of what passed, why the first did that was counted.
    pub reason: Option<Reason>,
    /// Packets passed although there is that reason to drop them.
    pub audit: bool,
    /// The policy that admitted it; 0 if none was asked.
    pub policy: u32,
    /// Inbound, outbound.
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub tcp_flags: [u8; 2],
    /// Seconds of the Unix epoch: the first and the last packet.
    pub start: u64,
    pub end: u64,
}

/// How many records [`Kernel::take_records`] takes at once, at most.
pub const TAKEN_AT_ONCE: usize = 4096;

pub(super) fn ring(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, KernelError> {
    let name = map::FLOW_RECORDS;
    ebpf.take_map(name).ok_or(KernelError::Missing { name })?.try_into().map_err(KernelError::map(name))
}

impl Kernel {
    /// Whether what passes is counted flow by flow: from now on, for every interface, and without this daemon too.
    pub fn is_accounting(&self) -> bool {
        self.control().account != 0
    }

    /// Counts from now on, or counts no more and forgets what has been counted.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to forget.
    pub fn set_accounting(&mut self, on: bool) -> Result<(), KernelError> {
        if on == self.is_accounting() {
            return Ok(());
        }
        self.control.store(0, offset_of!(Control, account), u64::from(on));
        if !on {
            // Packets that have seen the word as it was have had their time.
            super::grace();
            self.run_collector(0, collect::FORGET | collect::ALL, 0)?;
            while self.records.next().is_some() {}
            for (_, slot) in self.devices() {
                self.take_unrecorded(slot);
            }
        }
        Ok(())
    }

    /// Deletes flows that have been over for a second. Returns how many.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the test run.
    pub fn collect(&mut self) -> Result<u32, KernelError> {
        Ok(self.run_collector(0, 0, 0)? & !collect::FULL)
    }

    /// The same, and puts records of what has passed into the ring. Also returns whether some are left for the next call,
    /// when the ring has been read.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the test run.
    pub fn collect_records(&mut self, due: Due) -> Result<(u32, bool), KernelError> {
        let answer = match due {
            Due::Now => self.run_collector(0, collect::RECORD | collect::ALL, 0)?,
            Due::After(seconds) => self.run_collector(0, collect::RECORD, self.jiffies(seconds))?,
        };
        Ok((answer & !collect::FULL, answer & collect::FULL != 0))
    }

    /// Deletes every flow of a zone, and records its accounts.
    pub(super) fn purge(&mut self, zone: u32) -> Result<u32, KernelError> {
        let accounts = if self.is_accounting() { collect::RECORD } else { 0 };
        // Of other zones nothing is due that is not over: half of all time is never.
        Ok(self.run_collector(zone, accounts, u64::MAX / 2)? & !collect::FULL)
    }

    fn run_collector(&mut self, zone: u32, accounts: u64, interval: u64) -> Result<u32, KernelError> {
        let name = program::COLLECT;
        let mut options = RawTracePointRunOptions::new();
        let [grace, of_zone, which, every, ..] = &mut options.args;
        [*grace, *of_zone, *which, *every] = [u64::from(self.hz), u64::from(zone), accounts, interval];
        let began = Instant::now();
        let result = self
            .programs
            .tracepoint(name)?
            .test_run(options)
            .map_err(|source| KernelError::Program { name, source });
        if zone == 0 {
            let collected = result.as_ref().ok().map(|result| result.return_value & !collect::FULL);
            self.collector.note(collected, began.elapsed());
        }
        Ok(result?.return_value)
    }

    /// Takes records from the ring, at most [`TAKEN_AT_ONCE`]. What is taken is not there any more, also for the next daemon.
    ///
    /// # Errors
    ///
    /// If the clock cannot be read.
    pub fn take_records(&mut self) -> Result<Vec<Collected>, KernelError> {
        let clock = Clock { jiffies: self.now()?, hz: u64::from(self.hz.max(1)), wall: SystemTime::now() };
        let mut taken = Vec::new();
        while taken.len() < TAKEN_AT_ONCE
            && let Some(item) = self.records.next()
        {
            // The ring has no other items.
            if let Ok(record) = FlowRecord::read_from_bytes(&item) {
                taken.push(collected(&record, &clock));
            }
        }
        Ok(taken)
    }

    /// Takes the number of an interface's packets that have passed and are in no account.
    pub fn take_unrecorded(&mut self, slot: Slot) -> u64 {
        let row = self.interfaces.get(slot.0).map_or(0, |interface| interface.row);
        self.shares.take_unrecorded(row)
    }

    /// How many accounts an interface has of what passes and of what is dropped, and how many it may have of both.
    pub fn accounts(&self, slot: Slot) -> ([u64; 2], u32) {
        let row = self.interfaces.get(slot.0).map_or(0, |interface| interface.row);
        let Some(share) = self.shares.get(row) else { return ([0; 2], 0) };
        ([share.accounts & 0xffff_ffff, share.accounts >> 32], share.account_limit)
    }

    /// How many accounts there are on all interfaces, and how many fit in the table of a family.
    pub fn accounts_of_all(&self) -> (u64, u32) {
        let of_all = self.devices().into_iter().flat_map(|(_, slot)| self.accounts(slot).0).sum();
        (of_all, self.tables.account_room)
    }
}

/// The kernel's time and everybody's, at one moment.
struct Clock {
    jiffies: u64,
    hz: u64,
    wall: SystemTime,
}

impl Clock {
    /// Seconds of the Unix epoch.
    fn wall(&self, jiffies: u64) -> u64 {
        let ago = Duration::from_millis(self.jiffies.saturating_sub(jiffies).saturating_mul(1000) / self.hz);
        let then = self.wall.checked_sub(ago).unwrap_or(UNIX_EPOCH);
        then.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

fn collected(record: &FlowRecord, clock: &Clock) -> Collected {
    let address = |words: [Be32; 4]| -> IpAddr {
        let [first, ..] = words;
        if record.family == 4 { Ipv4Addr::from_bits(first.to_host()).into() } else { v6_of(words).into() }
    };
    let origin =
        if record.kind & ACCOUNT_ORIGIN_OUTBOUND == 0 { Direction::Inbound } else { Direction::Outbound };
    Collected {
        zone: record.zone_protocol >> 8,
        protocol: record.zone_protocol as u8,
        local: address(record.local),
        remote: address(record.remote),
        local_port: record.ports.local,
        remote_port: record.ports.remote,
        origin,
        reason: Reason::from_number(record.kind >> ACCOUNT_REASON_SHIFT),
        audit: record.kind & ACCOUNT_AUDIT != 0,
        policy: record.policy,
        packets: record.packets,
        bytes: record.bytes,
        tcp_flags: [record.tcp_flags as u8, (record.tcp_flags >> 8) as u8],
        start: clock.wall(record.first),
        end: clock.wall(record.last),
    }
}
