//! Connections that are cut before they are over (SPEC K11).

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{ApplyError, Enforcer};
use crate::crash::{self, Point};
use crate::kernel::FlowEntry;

/// Which connections to cut. Those that fit everything that is asked for.
#[derive(Debug, Clone, Default)]
pub struct FlowFilter {
    pub interface: Option<String>,
    pub remote: Option<IpNet>,
    /// Any of these; empty: any at all.
    pub protocols: Vec<u8>,
    /// The port that the rules are asked for: the destination's of the first packet.
    pub port: Option<u16>,
    /// Also those that a rule in force allows.
    pub allowed_too: bool,
}

impl FlowFilter {
    /// All that no rule in force allows, and no other.
    pub fn refused() -> Self {
        Self::default()
    }

    /// Whether it leaves out any.
    pub fn narrows(&self) -> bool {
        self.interface.is_some() || self.remote.is_some() || !self.protocols.is_empty() || self.port.is_some()
    }

    fn fits(&self, interface: &str, flow: &FlowEntry) -> bool {
        self.interface.as_ref().is_none_or(|name| name == interface)
            && self.remote.is_none_or(|net| net.contains(&flow.remote))
            && (self.protocols.is_empty() || self.protocols.contains(&flow.protocol))
            && self.port.is_none_or(|port| matches!(flow.protocol, 6 | 17) && port == flow.number())
    }
}

impl Enforcer {
    /// Cuts connections: the next packet of each is judged by the rules. Returns which, with their interfaces. With
    /// `dry_run`, only that.
    ///
    /// # Errors
    ///
    /// If the tables cannot be read or an entry cannot be deleted; some may be cut by then.
    pub fn revoke(
        &mut self,
        filter: &FlowFilter,
        dry_run: bool,
    ) -> Result<Vec<(String, FlowEntry)>, ApplyError> {
        if !dry_run {
            // A packet that the policy before admits now would begin a connection behind the back of this.
            self.settle();
        }
        let zones = self.zones();
        let Some(active) = &self.active else { return Ok(Vec::new()) };
        let mut revoked: Vec<(String, FlowEntry)> = Vec::new();
        let mut memory = None;
        for flow in self.kernel.flows()? {
            // A zone of no device is over: nothing asks for its flows.
            let Some(name) = zones.get(&flow.zone) else { continue };
            // A managed device in no policy admits nothing.
            let refused = || active.interface(name).is_none_or(|interface| !active.admits(interface, &flow));
            if !filter.fits(name, &flow) || !(filter.allowed_too || refused()) {
                continue;
            }
            if !dry_run {
                let memory = match &mut memory {
                    Some(memory) => memory,
                    none => none.insert(self.kernel.flow_memory()?),
                };
                self.kernel.delete_flow(memory, &flow);
                if revoked.is_empty() {
                    crash::at(Point::FirstFlowRevoked);
                }
            }
            revoked.push((name.clone(), flow));
        }
        if !dry_run {
            self.kernel.settle();
        }
        Ok(revoked)
    }

    /// Takes the names of devices that were attached to since the last call, by zone; some may be gone.
    pub fn take_zones_seen(&mut self) -> BTreeMap<u32, String> {
        std::mem::take(&mut self.zones_seen)
    }

    /// The names of the filtered devices, by zone.
    pub fn zones(&self) -> BTreeMap<u32, String> {
        self.devices
            .iter()
            .filter_map(|(name, device)| Some((self.kernel.zone(device.slot)?, name.clone())))
            .collect()
    }
}
