//! The connection table.

use std::net::IpAddr;
use std::ops::ControlFlow;

use sg_common::abi::{
    CREATED_UNIT, Direction, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED, Flow, FlowKeyV4, FlowKeyV6,
};
use sg_common::conntrack::State;

use super::flow_memory::FlowMemory;
use super::tables::{v4_of, v6_of};
use super::{Kernel, KernelError};

/// A flow's key, as the map has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowKey {
    V4(FlowKeyV4),
    V6(FlowKeyV6),
}

impl FlowKey {
    pub const fn zone(&self) -> u32 {
        match self {
            Self::V4(key) => key.zone_protocol >> 8,
            Self::V6(key) => key.zone_protocol >> 8,
        }
    }
}

/// A live flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    pub key: FlowKey,
    pub zone: u32,
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Ports of TCP and UDP, as in `sg_common::abi::FlowPorts`.
    pub local_port: u16,
    pub remote_port: u16,
    pub origin: Direction,
    pub replied: bool,
    /// It may be pushed out by newer ones of its interface.
    pub half_open: bool,
    pub state: State,
    /// Seconds until it expires, if no packet comes.
    pub expires_in: u64,
    /// Seconds since its first packet.
    pub age: u64,
    /// The policy that admitted it.
    pub policy: u32,
}

impl FlowEntry {
    /// What the rules were asked for when the flow began: see `sg_common::packet::Transport::number`.
    pub fn number(&self) -> u16 {
        match (self.protocol, self.origin) {
            (6 | 17, Direction::Outbound) => self.remote_port,
            (6 | 17, Direction::Inbound) => self.local_port,
            // The request's type is kept in the upper byte; requests have code 0.
            (1, _) if self.remote.is_ipv4() => self.remote_port & 0xff00,
            (58, _) if self.remote.is_ipv6() => self.remote_port & 0xff00,
            (protocol, _) => protocol.into(),
        }
    }
}

impl Kernel {
    /// The tables of flows, as memory.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the mapping.
    pub fn flow_memory(&self) -> Result<FlowMemory, KernelError> {
        self.tables.flow_fds.map()
    }

    /// Every flow that is not over, in no order.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn flows(&mut self) -> Result<Vec<FlowEntry>, KernelError> {
        let (now, hz) = (self.now()?, u64::from(self.hz()));
        let mut flows = Vec::new();
        self.tables.flow_fds.each(|key, flow| {
            flows.extend(entry(key, &flow, now, hz));
            ControlFlow::Continue(())
        })?;
        Ok(flows)
    }

    /// Cuts a flow: its next packet is judged by the rules. A flow that is gone is none to cut.
    pub fn delete_flow(&self, memory: &FlowMemory, flow: &FlowEntry) {
        // Whoever takes a live flow out counts it.
        if let Some(taken) = memory.remove(&flow.key) {
            self.shares.taken(taken);
        }
    }
}

/// The flow behind a table's entry, unless it is over.
pub(super) fn entry(key: FlowKey, flow: &Flow, now: u64, hz: u64) -> Option<FlowEntry> {
    let (zone_protocol, local, remote, ports) = match &key {
        FlowKey::V4(key) => (key.zone_protocol, v4_of(key.local).into(), v4_of(key.remote).into(), key.ports),
        FlowKey::V6(key) => (key.zone_protocol, v6_of(key.local).into(), v6_of(key.remote).into(), key.ports),
    };
    let state = State::from_number(flow.state)?;
    (flow.expires > now).then(|| FlowEntry {
        key,
        zone: zone_protocol >> 8,
        protocol: zone_protocol as u8,
        local,
        remote,
        local_port: ports.local,
        remote_port: ports.remote,
        origin: if flow.flags & FLOW_ORIGIN_OUTBOUND == 0 { Direction::Inbound } else { Direction::Outbound },
        replied: flow.flags & FLOW_REPLIED != 0,
        half_open: flow.is_half_open(),
        state,
        expires_in: (flow.expires - now) / hz,
        age: (now.saturating_sub(u64::from(flow.created) * CREATED_UNIT)) / hz,
        policy: flow.policy,
    })
}
