//! What becomes of a packet, written a second time from docs/packets.md, the specification and the RFCs.
//!
//! It shares no code with the filter. Plain and slow on purpose: maps of everything, numbers wide enough not to think
//! about, every packet looked at from its first byte.

mod asked;
mod flows;
mod guards;
mod headers;
mod link;
mod pieces;
mod policy;
mod quote;
mod tcp;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use self::asked::Rules;
use self::flows::{Flows, Seen};
use self::headers::{Packet, Transport};
use self::link::Frame;
use self::pieces::{Name, Pieces};
use self::policy::Interface;
use self::quote::Quoted;
use crate::rules;

/// The reason for which a packet passes, or the one for which it is dropped.
type Verdict = Result<&'static str, &'static str>;

/// Of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub live: u64,
    pub half_v4: u64,
    pub half_v6: u64,
    /// Datagrams in pieces, of each family.
    pub datagrams: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// In audit also for a reason to drop it.
    pub passes: bool,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowView {
    pub device: String,
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Local and remote. ICMP: identifier, and the request's type in the high byte, 1 in the low one if the instance
    /// asks. Other protocols: 0.
    pub ports: (u16, u16),
    pub state: &'static str,
    pub live: bool,
    pub begun_by_instance: bool,
    pub seconds_left: u64,
}

pub struct Oracle {
    interfaces: BTreeMap<String, Interface>,
    rules: Rules,
    limits: Limits,
    /// Seconds.
    now: u64,
    /// Every device that ever was in a policy; its place here stands for it.
    devices: Vec<String>,
    flows: Flows,
    pieces: Pieces,
}

impl Oracle {
    pub fn new(files: &[Value], limits: Limits) -> Self {
        let mut oracle = Self {
            interfaces: BTreeMap::new(),
            rules: Rules::new(&[]),
            limits,
            now: 0,
            devices: Vec::new(),
            flows: Flows::default(),
            pieces: Pieces::default(),
        };
        oracle.set_policy(files);
        oracle
    }

    /// K11: flows go on under another policy.
    pub fn set_policy(&mut self, files: &[Value]) {
        self.interfaces = policy::interfaces(files);
        self.rules = Rules::new(files);
        for device in self.interfaces.keys() {
            if !self.devices.contains(device) {
                self.devices.push(device.clone());
            }
        }
    }

    /// The same policy; neither flows nor pieces.
    pub fn forgotten(mut self) -> Self {
        (self.flows, self.pieces) = (Flows::default(), Pieces::default());
        self
    }

    pub fn advance(&mut self, seconds: u64) {
        self.now += seconds;
    }

    /// `ingress`: on which of the device's hooks.
    pub fn judge(&mut self, device: &str, ingress: bool, frame: &[u8]) -> Said {
        self.judge_pending(device, ingress, frame, None)
    }

    /// The same for a frame into which a checksum is still to be written, so many bytes from its start.
    pub fn judge_pending(
        &mut self,
        device: &str,
        ingress: bool,
        frame: &[u8],
        checksum: Option<usize>,
    ) -> Said {
        match self.decide(device, ingress, frame, checksum) {
            Ok(reason) => Said { passes: true, reason },
            // Section 10: the reason stays, and the packet passes.
            Err(reason) => {
                let passes = self.interfaces.get(device).is_some_and(|interface| interface.audit);
                Said { passes, reason }
            }
        }
    }

    /// Those whose time is not over; sorted.
    pub fn flows(&self) -> Vec<FlowView> {
        let known = self.flows.known.iter().filter(|(_, flow)| self.now < flow.over_at);
        let mut views: Vec<FlowView> = known
            .map(|(key, flow)| FlowView {
                device: self.devices[key.interface].clone(),
                protocol: key.protocol,
                local: key.local,
                remote: key.remote,
                ports: key.ports,
                state: flow.state,
                live: flow.live,
                begun_by_instance: flow.begun_by_instance,
                seconds_left: flow.over_at - self.now,
            })
            .collect();
        views.sort();
        views
    }

    fn decide(&mut self, device: &str, ingress: bool, frame: &[u8], checksum: Option<usize>) -> Verdict {
        let interface = self.interfaces.get(device).cloned().ok_or("unknown_interface")?;
        assert!(!interface.bare_metal, "a bare-metal interface is not filtered: {device}");
        // A guest's device is the other end of its wire, a host's is its own.
        let outbound = ingress != interface.host;
        let (version, bytes) = match link::read(&interface, outbound, frame, checksum) {
            Frame::Ip(version, bytes) => (version, bytes),
            Frame::Decided(verdict) => return verdict,
        };
        let packet = headers::packet(version, bytes, frame.len())?;
        let id = self.devices.iter().position(|known| known == device).unwrap();
        let name = Name::of(id, outbound, &packet);
        // From the start of the transport header.
        let headers = packet.rest.as_ptr().addr() - frame.as_ptr().addr();
        let pending = checksum.map(|at| at as i64 - headers as i64);
        if packet.piece.is_later() {
            if pending.is_some_and(|at| at < 0) {
                return Err("checksum_place");
            }
            guards::later_piece(&interface, outbound, &packet)?;
            let remote = if outbound { packet.destination } else { packet.source };
            let early = || self.rules.allow_some(device, remote, packet.protocol);
            return self.pieces.later(&name, self.limits, self.now, &packet, early);
        }
        let verdict = match headers::transport(&packet) {
            Ok(transport) if pending.is_some_and(|at| transport.is_spoiled_by(at)) => Err("checksum_place"),
            Ok(transport) => guards::judge(&interface, outbound, &packet, &transport)
                .unwrap_or_else(|| self.connection(device, id, &interface, outbound, &packet, &transport)),
            // Not remembered even of a first piece.
            Err("malformed") => return Err("malformed"),
            Err(reason) => Err(reason),
        };
        if packet.piece.is_first() {
            return self.pieces.first(&name, self.limits, self.now, packet.piece, verdict);
        }
        verdict
    }

    /// Flows, then errors about them, then rules.
    fn connection(
        &mut self,
        device: &str,
        id: usize,
        interface: &Interface,
        outbound: bool,
        packet: &Packet<'_>,
        transport: &Transport,
    ) -> Verdict {
        let seen = Seen::new(id, outbound, packet, transport);
        if let Some(verdict) = self.flows.judge(interface, self.limits, self.now, &seen, transport) {
            return verdict;
        }
        if self.is_related(id, outbound, packet, transport) {
            return Ok("related");
        }
        let remote = if outbound { packet.destination } else { packet.source };
        let asked = match *transport {
            Transport::Tcp { destination, .. } => rules::Transport::Tcp { port: destination },
            Transport::Udp { destination, .. } => rules::Transport::Udp { port: destination },
            Transport::Icmp { kind, code, .. } => rules::Transport::Icmp { kind, code },
            Transport::Other => rules::Transport::Other(packet.protocol),
        };
        let allowed = || self.rules.allow(device, outbound, remote, asked);
        self.flows.begin(interface, self.limits, self.now, &seen, transport, allowed)
    }

    /// D13.
    fn is_related(&self, id: usize, outbound: bool, packet: &Packet<'_>, transport: &Transport) -> bool {
        let Transport::Icmp { kind, .. } = *transport else { return false };
        if !quote::is_error(kind, packet.source.is_ipv4()) {
            return false;
        }
        match quote::read(id, !outbound, packet.destination, &packet.rest[8..]) {
            Some(Quoted::Flow(key)) => self.flows.is_known(&key, self.now),
            Some(Quoted::LaterPiece(name)) => self.pieces.first_passed(&name, self.now),
            None => false,
        }
    }
}
