//! The connection table; and other tables, read in batches.

use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Pod;
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

/// `struct { … } batch` of `union bpf_attr`, include/uapi/linux/bpf.h.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `BPF_MAP_LOOKUP_BATCH`.
const LOOKUP_BATCH: libc::c_int = 24;

/// So many elements of a per-CPU array, from one index on: for each the values of all CPUs (kernel/bpf/arraymap.c; 5.13).
pub(super) fn look_up<V: Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    count: usize,
    cpus: usize,
) -> io::Result<Vec<V>> {
    // Every CPU's value takes a multiple of eight bytes.
    if !size_of::<V>().is_multiple_of(8) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut keys: Vec<u32> = Vec::with_capacity(count);
    let mut values: Vec<V> = Vec::with_capacity(count * cpus);
    let before = first.wrapping_sub(1);
    let mut next = 0u32;
    let mut attr = BatchAttr {
        in_batch: if first > 0 { &raw const before as u64 } else { 0 },
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: count as u32,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attribute's pointers are to live buffers with room for `count` elements of `cpus` values.
    let result = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result != 0 {
        let error = io::Error::last_os_error();
        // The end of the array; what was found is valid.
        if error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error);
        }
    }
    // SAFETY: the kernel has written `attr.count` elements of `cpus` values each, and not more than there is room for.
    unsafe { values.set_len((attr.count as usize).min(count) * cpus) };
    Ok(values)
}

/// Hands every element of a hash map to `each`. The kernel goes bucket by bucket, so an element that stays is seen once
/// (kernel/bpf/hashtab.c, `__htab_map_lookup_and_delete_batch`; 5.6).
pub(super) fn batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> io::Result<()> {
    let mut room = 4096usize;
    let mut keys: Vec<K> = Vec::with_capacity(room);
    let mut values: Vec<V> = Vec::with_capacity(room);
    let mut position = 0u32;
    let mut started = false;
    loop {
        keys.clear();
        values.clear();
        let mut next = 0u32;
        let mut attr = BatchAttr {
            in_batch: if started { &raw const position as u64 } else { 0 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute's pointers are to live buffers with room for `count` elements.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
        let error = if result == 0 { None } else { Some(io::Error::last_os_error()) };
        let end = match error {
            None => false,
            Some(error) => match error.raw_os_error() {
                // The last batch; what it found is valid.
                Some(libc::ENOENT) => true,
                // A bucket has more elements than there is room for.
                Some(libc::ENOSPC) if room < 1 << 20 => {
                    room *= 2;
                    keys.reserve(room);
                    values.reserve(room);
                    continue;
                }
                Some(libc::EINTR) => continue,
                _ => return Err(error),
            },
        };
        let count = (attr.count as usize).min(room);
        // SAFETY: the kernel has written `count` elements to both buffers.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        for (key, value) in keys.iter().zip(&values) {
            each(*key, *value);
        }
        if end {
            return Ok(());
        }
        (position, started) = (next, true);
    }
}
