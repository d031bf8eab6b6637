//! Sections 7 and 9 of docs/packets.md: known flows, and new ones.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::headers::{Packet, Transport};
use super::policy::Interface;
use super::tcp::{Connection, Outcome};
use super::{Limits, Verdict};

/// D10.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub interface: usize,
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// Local, remote; of an ICMP query its identifier, and type and asker.
    pub ports: (u16, u16),
}

#[derive(Debug, Clone)]
pub struct Flow {
    pub state: &'static str,
    pub live: bool,
    pub begun_by_instance: bool,
    pub over_at: u64,
    /// Whether the side that did not begin it has been heard.
    replied: bool,
    /// Which of the flows of its interface and family that ever began.
    ordinal: u64,
    tcp: Connection,
}

#[derive(Debug, Clone, Default)]
pub struct Flows {
    pub known: BTreeMap<Key, Flow>,
    /// How many have begun, by interface and family (true: IPv4).
    begun: BTreeMap<(usize, bool), u64>,
}

/// A query's "ports", and whether the message is the answer; nothing for other messages.
pub fn icmp_query(v4: bool, kind: u8, identifier: u16, outbound: bool) -> Option<((u16, u16), bool)> {
    let (request, is_answer) = match (v4, kind) {
        (true, 8 | 13 | 15 | 17) | (false, 128 | 139) => (kind, false),
        (true, 0) => (8, true),
        (true, 14 | 16 | 18) | (false, 129 | 140) => (kind - 1, true),
        _ => return None,
    };
    let instance_asks = outbound != is_answer;
    Some(((identifier, u16::from(request) << 8 | u16::from(instance_asks)), is_answer))
}

/// What a packet is to the flows.
pub struct Seen {
    /// None: it is of no flow.
    key: Option<Key>,
    /// An answer begins no flow.
    is_answer: bool,
    v4: bool,
    outbound: bool,
}

impl Seen {
    pub fn new(interface: usize, outbound: bool, packet: &Packet<'_>, transport: &Transport) -> Self {
        let (source, destination) = (packet.source, packet.destination);
        let (local, remote) = if outbound { (source, destination) } else { (destination, source) };
        let v4 = source.is_ipv4();
        let query = match *transport {
            Transport::Tcp { source, destination, .. } | Transport::Udp { source, destination } => {
                Some((if outbound { (source, destination) } else { (destination, source) }, false))
            }
            Transport::Icmp { kind, identifier, .. } => icmp_query(v4, kind, identifier, outbound),
            Transport::Other => Some(((0, 0), false)),
        };
        let key = query.map(|(ports, _)| Key { interface, protocol: packet.protocol, local, remote, ports });
        Self { key, is_answer: query.is_some_and(|(_, is_answer)| is_answer), v4, outbound }
    }
}

impl Flows {
    pub fn is_known(&self, key: &Key, now: u64) -> bool {
        self.known.get(key).is_some_and(|flow| now < flow.over_at)
    }

    /// What a known flow says; nothing if there is none.
    pub fn judge(
        &mut self,
        interface: &Interface,
        limits: Limits,
        now: u64,
        seen: &Seen,
        transport: &Transport,
    ) -> Option<Verdict> {
        let key = seen.key.as_ref()?;
        let old = self.known.get(key).filter(|flow| now < flow.over_at)?;
        let from_origin = seen.outbound == old.begun_by_instance;
        let mut flow = old.clone();
        let is_ready = match transport {
            Transport::Tcp { segment, .. } => {
                match flow.tcp.judge(flow.state, from_origin, segment) {
                    Outcome::Drop(reason) => return Some(Err(reason)),
                    Outcome::Restart => return None,
                    Outcome::Nothing => return Some(Ok("established")),
                    Outcome::Closed => flow.state = "close",
                    Outcome::State(state) => {
                        flow.state = state;
                        flow.replied |= !from_origin;
                    }
                }
                flow.replied && !matches!(flow.state, "syn_sent" | "syn_recv" | "close")
            }
            _ => {
                if flow.state == "udp" && flow.replied && from_origin {
                    flow.state = "udp_stream";
                }
                flow.replied |= !from_origin;
                flow.replied
            }
        };
        let is_live =
            |(of, flow): &(&Key, &Flow)| of.interface == key.interface && flow.live && now < flow.over_at;
        let is_full = self.known.iter().filter(is_live).count() as u64 >= limits.live;
        if is_ready && !flow.live && is_full {
            return Some(Err("table_full"));
        }
        let anew = now + interface.timeout(flow.state);
        flow.over_at = if flow.state == old.state { old.over_at.max(anew) } else { anew };
        flow.live |= is_ready;
        self.known.insert(key.clone(), flow);
        Some(Ok("established"))
    }

    /// Section 9; `allowed` asks the rules.
    pub fn begin(
        &mut self,
        interface: &Interface,
        limits: Limits,
        now: u64,
        seen: &Seen,
        transport: &Transport,
        allowed: impl FnOnce() -> bool,
    ) -> Verdict {
        use super::tcp::Kind;
        if let Transport::Tcp { segment, .. } = transport {
            if segment.kind == Kind::Nonsense {
                return Err("tcp_flags");
            }
            if interface.strict_tcp && segment.kind != Kind::Syn {
                return Err("strict_tcp");
            }
        }
        if !allowed() {
            return Err("no_rule");
        }
        let begun = match transport {
            Transport::Tcp { segment, .. } => Connection::begin(segment),
            Transport::Udp { .. } => Some((Connection::default(), "udp")),
            Transport::Icmp { .. } if seen.is_answer => None,
            Transport::Icmp { .. } => Some((Connection::default(), "icmp")),
            Transport::Other => Some((Connection::default(), "other")),
        };
        let (Some(key), Some((tcp, state))) = (&seen.key, begun) else { return Ok("rule_only") };
        let most = if seen.v4 { limits.half_v4 } else { limits.half_v6 };
        if most == 0 {
            return Err("table_full");
        }
        let begun = self.begun.entry((key.interface, seen.v4)).or_default();
        *begun += 1;
        let ordinal = *begun;
        self.known.retain(|other, flow| {
            let same = other.interface == key.interface && other.local.is_ipv4() == seen.v4;
            flow.live || !same || ordinal - flow.ordinal < most
        });
        let flow = Flow {
            state,
            live: false,
            begun_by_instance: seen.outbound,
            over_at: now + interface.timeout(state),
            replied: false,
            ordinal,
            tcp,
        };
        self.known.insert(key.clone(), flow);
        Ok("new_flow")
    }
}
