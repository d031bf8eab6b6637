//! Flows that come from another host: put beside those that are there, while packets pass.

use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use std::collections::HashSet;
use std::os::fd::AsFd as _;

use sg_common::abi::{FLOW_HALF_OPEN, Flow, FlowKeyV4, FlowKeyV6, Interface, map};

use super::flows::{FlowEntry, FlowKey, batch, entry};
use super::mapped::ShareWord;
use super::{Kernel, KernelError, Slot};

/// The flows of one zone that are not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneFlows {
    /// Jiffies, when they were read.
    pub now: u64,
    pub hz: u32,
    /// Each key once.
    pub flows: Vec<(FlowKey, Flow)>,
}

/// What became of flows that were to be added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    pub live: usize,
    pub half_open: usize,
    /// Flows of the same key were there and stay as they are.
    pub kept: usize,
}

/// Why no flow was added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    #[error(
        "{wanted} {what} flows are to be added, and the interface's share has room for {room}; raise `sgd --live-flows` or `--half-open-flows`"
    )]
    NoRoom { what: &'static str, wanted: usize, room: u64 },
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A flow of a table as others have it; `None` if it is over.
pub fn described(key: FlowKey, flow: &Flow, now: u64, hz: u32) -> Option<FlowEntry> {
    entry(key, flow, now, hz.into())
}

impl Kernel {
    /// Every flow of a zone that is not over.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn zone_flows(&mut self, zone: u32) -> Result<ZoneFlows, KernelError> {
        let (now, hz) = (self.now()?, self.hz());
        let mut flows = Vec::new();
        let mut seen = HashSet::new();
        let [live_v4, half_v4, live_v6, half_v6] = &self.tables.flow_fds;
        // One that becomes live meanwhile is in both. Live ones are read last, and it is they that count.
        let tables = [
            (half_v4, map::HALF_V4),
            (half_v6, map::HALF_V6),
            (live_v4, map::FLOWS_V4),
            (live_v6, map::FLOWS_V6),
        ];
        for (index, (table, name)) in tables.into_iter().enumerate() {
            let mut each = |key: FlowKey, zone_protocol: u32, flow: Flow| {
                if zone_protocol >> 8 == zone && flow.expires > now {
                    flows.push((key, flow));
                }
            };
            let read = if index % 2 == 0 {
                batch(table.as_fd(), |key: FlowKeyV4, flow| each(FlowKey::V4(key), key.zone_protocol, flow))
            } else {
                batch(table.as_fd(), |key: FlowKeyV6, flow| each(FlowKey::V6(key), key.zone_protocol, flow))
            };
            read.map_err(|source| KernelError::Io { name, source })?;
        }
        flows.reverse();
        flows.retain(|(key, _)| seen.insert(*key));
        Ok(ZoneFlows { now, hz, flows })
    }

    /// Adds flows to those of an interface: all, or none. Flows of the same key that are there already stay as they are,
    /// but a half-open one gives way to a live one. What `place` says in the flows does not matter.
    ///
    /// # Errors
    ///
    /// If the interface's share has no room for all of them (SPEC D16), or the kernel refuses.
    pub fn add_flows(&mut self, slot: Slot, flows: &[(FlowKey, Flow)]) -> Result<Added, AddError> {
        let Some(interface) = self.interfaces.get(slot.0) else { return Ok(Added::default()) };
        // What is over takes room until it is collected.
        self.collect()?;
        let there: HashSet<(FlowKey, bool)> = {
            let zone_flows = self.zone_flows(interface.zone)?.flows;
            zone_flows.into_iter().map(|(key, flow)| (key, is_half_open(&flow))).collect()
        };
        let is_there = |(key, flow): &&(FlowKey, Flow)| {
            there.contains(&(*key, false)) || (is_half_open(flow) && there.contains(&(*key, true)))
        };
        let new = flows.iter().filter(|flow| !is_there(flow)).copied();
        let (half_open, live): (Vec<_>, Vec<_>) = new.partition(|(_, flow)| is_half_open(flow));
        for (what, limit, v4) in [
            ("half-open IPv4", interface.half_limit_v4, true),
            ("half-open IPv6", interface.half_limit_v6, false),
        ] {
            let wanted = half_open.iter().filter(|(key, _)| matches!(key, FlowKey::V4(_)) == v4).count();
            if wanted > limit as usize {
                return Err(AddError::NoRoom { what, wanted, room: limit.into() });
            }
        }
        self.reserve(&interface, live.len())?;
        let mut adding =
            Adding { kernel: self, interface, live: Vec::new(), half_open: Vec::new(), spare: live.len() };
        if let Err(error) = adding.all(&live, &half_open) {
            adding.undo();
            return Err(error.into());
        }
        let (live, half_open) = (adding.live.len(), adding.half_open.len());
        Ok(Added { live, half_open, kept: flows.len() - live - half_open })
    }

    /// Takes that much of an interface's share of live flows, if it is free.
    fn reserve(&self, interface: &Interface, wanted: usize) -> Result<(), AddError> {
        let Interface { row, zone, live_limit, .. } = *interface;
        let before = self.shares.add(row, zone, ShareWord::Live, wanted as u64).unwrap_or(u64::MAX / 2);
        if before + wanted as u64 <= u64::from(live_limit) {
            return Ok(());
        }
        let _ = self.shares.add(row, zone, ShareWord::Live, (wanted as u64).wrapping_neg());
        let room = u64::from(live_limit).saturating_sub(before);
        Err(AddError::NoRoom { what: "live", wanted, room })
    }
}

fn is_half_open(flow: &Flow) -> bool {
    flow.flags & FLOW_HALF_OPEN != 0
}

/// Flows that are being added, for one interface.
struct Adding<'k> {
    kernel: &'k mut Kernel,
    interface: Interface,
    /// Those that are in the tables by now.
    live: Vec<FlowKey>,
    half_open: Vec<FlowKey>,
    /// How much of the share is taken for flows that are not in the tables yet.
    spare: usize,
}

impl Adding<'_> {
    /// Of the share, there is enough to spare for each live flow.
    fn all(&mut self, live: &[(FlowKey, Flow)], half_open: &[(FlowKey, Flow)]) -> Result<(), KernelError> {
        let now = self.kernel.now()?;
        let Interface { row, zone, .. } = self.interface;
        for (key, flow) in live {
            let flow = Flow { place: row, flags: flow.flags & !FLOW_HALF_OPEN, ..*flow };
            let tables = &mut self.kernel.tables;
            let (new, over) = match key {
                FlowKey::V4(key) => {
                    let added = insert(&mut tables.live_v4, key, &flow, now)
                        .map_err(KernelError::map(map::FLOWS_V4))?;
                    let _ = added.new.then(|| tables.half_v4.remove(key));
                    (added.new, added.over)
                }
                FlowKey::V6(key) => {
                    let added = insert(&mut tables.live_v6, key, &flow, now)
                        .map_err(KernelError::map(map::FLOWS_V6))?;
                    let _ = added.new.then(|| tables.half_v6.remove(key));
                    (added.new, added.over)
                }
            };
            // Whoever deletes a live flow counts it.
            if over {
                self.kernel.shares.one_live_less(row, zone);
            }
            if new {
                self.live.push(*key);
                self.spare -= 1;
            }
        }
        self.give_back();
        for (key, flow) in half_open {
            let v4 = matches!(key, FlowKey::V4(_));
            let place = self.next_place(v4);
            let flow = Flow { place, flags: flow.flags | FLOW_HALF_OPEN, ..*flow };
            let tables = &mut self.kernel.tables;
            let new = match key {
                FlowKey::V4(key) => {
                    take_place(&mut tables.ring_v4, &mut tables.half_v4, place, key)
                        .map_err(KernelError::map(map::RING_V4))?;
                    insert(&mut tables.half_v4, key, &flow, now).map_err(KernelError::map(map::HALF_V4))?.new
                }
                FlowKey::V6(key) => {
                    take_place(&mut tables.ring_v6, &mut tables.half_v6, place, key)
                        .map_err(KernelError::map(map::RING_V6))?;
                    insert(&mut tables.half_v6, key, &flow, now).map_err(KernelError::map(map::HALF_V6))?.new
                }
            };
            if new {
                self.half_open.push(*key);
            }
        }
        Ok(())
    }

    /// As `sg_common::conntrack::start` does it.
    fn next_place(&self, v4: bool) -> u32 {
        let Interface { row, zone, half_limit_v4, half_base_v4, half_limit_v6, half_base_v6, .. } =
            self.interface;
        let (word, limit, base) = if v4 {
            (ShareWord::HalfV4, half_limit_v4, half_base_v4)
        } else {
            (ShareWord::HalfV6, half_limit_v6, half_base_v6)
        };
        let begun = self.kernel.shares.add(row, zone, word, 1).unwrap_or(0);
        base + (begun % u64::from(limit.max(1))) as u32
    }

    /// Gives back what is spare of the share: flows that packets have begun meanwhile have counted themselves.
    fn give_back(&mut self) {
        let Interface { row, zone, .. } = self.interface;
        let spare = std::mem::take(&mut self.spare) as u64;
        let _ = self.kernel.shares.add(row, zone, ShareWord::Live, spare.wrapping_neg());
    }

    /// Takes out what was put in.
    fn undo(&mut self) {
        let tables = &mut self.kernel.tables;
        for key in &self.half_open {
            // It may have become live, and is then not ours any more.
            let _ = match key {
                FlowKey::V4(key) => tables.half_v4.remove(key),
                FlowKey::V6(key) => tables.half_v6.remove(key),
            };
        }
        for key in &self.live {
            let gone = match key {
                FlowKey::V4(key) => tables.live_v4.remove(key),
                FlowKey::V6(key) => tables.live_v6.remove(key),
            };
            self.spare += usize::from(gone.is_ok());
        }
        self.give_back();
    }
}

/// What an insertion did.
struct Inserted {
    /// The flow is in the table. If not, another one of its key is.
    new: bool,
    /// One that was over has been deleted for it.
    over: bool,
}

/// `BPF_NOEXIST`, include/uapi/linux/bpf.h.
const NOEXIST: u64 = 1;

/// Adds a flow, unless one of its key is there that is not over.
fn insert<K: Pod>(
    table: &mut HashMap<MapData, K, Flow>,
    key: &K,
    flow: &Flow,
    now: u64,
) -> Result<Inserted, MapError> {
    let mut over = false;
    for _ in 0..2 {
        match table.insert(key, flow, NOEXIST) {
            Ok(()) => return Ok(Inserted { new: true, over }),
            Err(error) if is_there(&error) => {}
            Err(error) => return Err(error),
        }
        match table.get(key, 0) {
            Ok(found) if found.expires > now => return Ok(Inserted { new: false, over }),
            // A packet that begins it anew just now is as well served by the flow that comes.
            Ok(_) => over |= table.remove(key).is_ok(),
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Inserted { new: false, over })
}

fn is_there(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EEXIST))
}

/// Puts a key in a place of the ring; the flow that has the place, if it is half-open still, goes.
fn take_place<K: Pod>(
    ring: &mut Array<MapData, K>,
    half_open: &mut HashMap<MapData, K, Flow>,
    place: u32,
    key: &K,
) -> Result<(), MapError> {
    let oldest = ring.get(&place, 0)?;
    ring.set(place, *key, 0)?;
    if half_open.get(&oldest, 0).is_ok_and(|flow| flow.place == place) {
        let _ = half_open.remove(&oldest);
    }
    Ok(())
}
