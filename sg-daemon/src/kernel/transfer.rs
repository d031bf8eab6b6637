//! Flows that come from another host: put beside those that are there, while packets pass.

use std::collections::HashSet;
use std::ops::ControlFlow;

use sg_common::abi::{FLOW_LIVE, Flow, Interface, map};

use super::flow_memory::{FlowMemory, Inserted};
use super::flows::{FlowEntry, FlowKey, entry};
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
        self.tables.flow_fds.each(|key, flow| {
            if key.zone() == zone && flow.expires > now {
                flows.push((key, flow));
            }
            ControlFlow::Continue(())
        })?;
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
            zone_flows.into_iter().map(|(key, flow)| (key, flow.is_half_open())).collect()
        };
        let is_there = |(key, flow): &&(FlowKey, Flow)| {
            there.contains(&(*key, false)) || (flow.is_half_open() && there.contains(&(*key, true)))
        };
        let new = flows.iter().filter(|flow| !is_there(flow)).copied();
        let (half_open, live): (Vec<_>, Vec<_>) = new.partition(|(_, flow)| flow.is_half_open());
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
        let memory = self.flow_memory()?;
        let mut adding = Adding {
            kernel: self,
            memory,
            interface,
            live: Vec::new(),
            half_open: Vec::new(),
            spare: live.len(),
        };
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

/// Flows that are being added, for one interface.
struct Adding<'k> {
    kernel: &'k mut Kernel,
    memory: FlowMemory,
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
        for (key, flow) in live {
            let flow = Flow { place: FLOW_LIVE | self.interface.row, ..*flow };
            if self.add(key, &flow, now)? {
                self.live.push(*key);
                self.spare -= 1;
            }
        }
        self.give_back();
        for (key, flow) in half_open {
            let place = self.next_place(matches!(key, FlowKey::V4(_)));
            if self.add(key, &Flow { place, ..*flow }, now)? {
                self.half_open.push(*key);
            }
        }
        Ok(())
    }

    /// Adds a flow, unless one of its key is there that is not over. Of a live flow, a half-open one is out of the way.
    fn add(&self, key: &FlowKey, flow: &Flow, now: u64) -> Result<bool, KernelError> {
        for _ in 0..3 {
            match self.memory.insert(key, flow) {
                Inserted::New => return Ok(true),
                Inserted::Full => return Err(KernelError::Full { name: map::FLOWS_V4 }),
                Inserted::Exists => {}
            }
            // A packet that begins it anew just now is as well served by the flow that comes.
            let taken = match self.memory.get(key) {
                Some(found) if found.expires <= now => self.memory.remove(key),
                Some(found) if found.is_half_open() && !flow.is_half_open() => {
                    self.memory.remove_half_open(key)
                }
                Some(_) => return Ok(false),
                None => None,
            };
            if let Some(taken) = taken {
                self.kernel.shares.taken(taken);
            }
        }
        Ok(false)
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
        for key in &self.half_open {
            // It may have become live, and is then not ours any more.
            let _ = self.memory.remove_half_open(key);
        }
        for key in &self.live {
            self.spare += usize::from(self.memory.remove(key).is_some());
        }
        self.give_back();
    }
}
