//! The tables of connections for whoever only reads: without the kernel in hand, so that nobody waits for it.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};

use sg_common::abi::{CREATED_UNIT, Datagram, Flow, FlowPorts, FragmentKeyV4, FragmentKeyV6, map};

use super::batch;
use super::flow_memory::FlowFds;
use super::flows::{FlowKey, entry};
use super::tables::{v4_of, v6_of};
use super::traffic::{Accounts, Traffic};
use super::{FlowEntry, Kernel, KernelError};

/// The tables at a time.
pub struct FlowTables {
    flows: FlowFds,
    fragments: [OwnedFd; 2],
    /// While packets are counted flow by flow.
    accounts: Option<Accounts>,
    /// Jiffies.
    now: u64,
    hz: u64,
}

/// What tables hold, with what is over and not collected yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entries {
    pub live_v4: u64,
    pub half_v4: u64,
    pub live_v6: u64,
    pub half_v6: u64,
}

/// An entry as the table has it.
#[derive(Debug, Clone, Copy)]
pub struct RawFlow {
    pub key: FlowKey,
    pub flow: Flow,
}

impl Kernel {
    /// # Errors
    ///
    /// If the clock cannot be read, or this process has no file descriptor left.
    pub fn flow_tables(&mut self) -> Result<FlowTables, KernelError> {
        let (now, hz) = (self.now()?, u64::from(self.hz()));
        let clone = |fd: &OwnedFd, name| fd.try_clone().map_err(|source| KernelError::Io { name, source });
        let [v4, v6] = &self.tables.fragment_fds;
        let fragments = [clone(v4, map::FRAGMENTS_V4)?, clone(v6, map::FRAGMENTS_V6)?];
        Ok(FlowTables {
            flows: self.tables.flow_fds.try_clone()?,
            fragments,
            accounts: self.open_accounts()?,
            now,
            hz,
        })
    }
}

impl FlowTables {
    /// Every flow that was not over when this was made, once, in no order, until `each` has enough. What the tables of flows
    /// hold, as far as they were read.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn read(&self, mut each: impl FnMut(RawFlow) -> ControlFlow<()>) -> Result<Entries, KernelError> {
        let mut entries = Entries::default();
        self.flows.each(|key, flow| {
            *match (&key, flow.is_half_open()) {
                (FlowKey::V4(_), false) => &mut entries.live_v4,
                (FlowKey::V4(_), true) => &mut entries.half_v4,
                (FlowKey::V6(_), false) => &mut entries.live_v6,
                (FlowKey::V6(_), true) => &mut entries.half_v6,
            } += 1;
            if flow.expires > self.now { each(RawFlow { key, flow }) } else { ControlFlow::Continue(()) }
        })?;
        Ok(entries)
    }

    /// How many datagrams in pieces the tables hold, of IPv4 and of IPv6.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn fragments(&self) -> Result<(u64, u64), KernelError> {
        let [v4, v6] = &self.fragments;
        let (mut of_v4, mut of_v6) = (0, 0);
        batch::each(v4.as_fd(), |_: FragmentKeyV4, _: Datagram| of_v4 += 1)
            .map_err(|source| KernelError::Io { name: map::FRAGMENTS_V4, source })?;
        batch::each(v6.as_fd(), |_: FragmentKeyV6, _: Datagram| of_v6 += 1)
            .map_err(|source| KernelError::Io { name: map::FRAGMENTS_V6, source })?;
        Ok((of_v4, of_v6))
    }

    /// Whether packets are counted flow by flow.
    pub fn is_accounting(&self) -> bool {
        self.accounts.is_some()
    }

    /// What a flow has carried, if that is counted and the flow has an account.
    pub fn traffic(&self, raw: &RawFlow) -> Option<Traffic> {
        self.accounts.as_ref()?.of(&raw.key)
    }

    /// What has passed between each zone and its remotes, in parts and in no order; nothing if it is not counted.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn read_traffic(&self, mut each: impl FnMut(u32, IpAddr, Traffic)) -> Result<(), KernelError> {
        let Some(accounts) = &self.accounts else { return Ok(()) };
        accounts.read(|key, traffic| each(key.zone_protocol() >> 8, key.remote(), traffic))
    }

    /// The flow in words; `None` if its state is none that this version knows.
    pub fn describe(&self, raw: &RawFlow) -> Option<FlowEntry> {
        entry(raw.key, &raw.flow, self.now, self.hz)
    }

    /// Seconds since its first packet.
    pub fn age(&self, raw: &RawFlow) -> u64 {
        self.now.saturating_sub(u64::from(raw.flow.created) * CREATED_UNIT) / self.hz
    }
}

impl FlowKey {
    fn zone_protocol(&self) -> u32 {
        match self {
            Self::V4(key) => key.zone_protocol,
            Self::V6(key) => key.zone_protocol,
        }
    }

    fn remote(&self) -> IpAddr {
        match self {
            Self::V4(key) => v4_of(key.remote).into(),
            Self::V6(key) => v6_of(key.remote).into(),
        }
    }
}

impl RawFlow {
    pub fn zone(&self) -> u32 {
        self.zone_protocol() >> 8
    }

    pub fn protocol(&self) -> u8 {
        self.zone_protocol() as u8
    }

    fn zone_protocol(&self) -> u32 {
        self.key.zone_protocol()
    }

    pub fn local(&self) -> IpAddr {
        match &self.key {
            FlowKey::V4(key) => v4_of(key.local).into(),
            FlowKey::V6(key) => v6_of(key.local).into(),
        }
    }

    pub fn remote(&self) -> IpAddr {
        self.key.remote()
    }

    pub fn ports(&self) -> FlowPorts {
        match &self.key {
            FlowKey::V4(key) => key.ports,
            FlowKey::V6(key) => key.ports,
        }
    }
}
