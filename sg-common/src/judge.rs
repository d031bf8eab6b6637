//! One packet, one verdict.

use crate::abi::{Direction, FLAG_ROLE_HOST, FLAG_STRICT_TCP, Flow, Hook, Interface, InterfaceHalf};
use crate::abi::{INTERFACE_PROBES, INTERFACE_SLOTS, PairKey, Row};
use crate::baseline;
use crate::classify::classify;
use crate::conntrack::{self, FlowRef, Known, State};
use crate::family::{Family, V4, V6};
use crate::packet::{Ethernet, Ip, Kind, Packet, ReadIp, Transport, ether_type, read_transport};
use crate::tcp::Segment;
use crate::verdict::{AdmittedBy, Reason, Verdict};

/// What holds for everything that is asked about one packet.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// [`crate::abi::Control::generation`], loaded once.
    pub generation: u64,
    /// Jiffies since boot, with [`crate::abi::Control::clock_offset`].
    pub now: u64,
}

/// The tables that do not depend on the address family.
pub trait Environment {
    /// Judge, but change nothing.
    const DRY_RUN: bool;

    fn moment(&self) -> Option<Moment>;
    /// The entry at `index` of [`INTERFACE_SLOTS`]. What is in force does not change while a packet can see it.
    fn interface(&self, index: u32) -> Option<&Interface>;
    fn member_set(&self, slot: u32, parity: usize) -> u32;
    fn pair(&self, key: &PairKey) -> Option<&Row>;
    fn port_table_contains(&self, index: u32, number: u16) -> bool;
}

/// The tables of one address family.
pub trait Tables<F: Family>: Environment {
    /// Longest match.
    fn class(&self, key: &F::ClassKey) -> Option<&Row>;
    fn member(&self, key: &F::MemberKey) -> Option<u32>;
    fn flow(&self, key: &F::FlowKey) -> Option<FlowRef<'_>>;
    /// Adds a flow; false if the table is full. With `replace`, an entry that is over may be there already.
    fn insert_flow(&self, key: &F::FlowKey, flow: &Flow, replace: bool) -> bool;
}

/// A verdict and where it is counted.
#[derive(Clone, Copy, Debug)]
#[must_use = "a verdict that nobody acts on is a packet that passes"]
pub struct Judgement {
    pub verdict: Verdict,
    /// The row of [`crate::abi::counter_index`].
    pub counters: u32,
    pub direction: Direction,
}

/// Judges a frame that passes `hook` of the device `ifindex`.
#[inline(always)]
pub fn judge<P, T>(packet: &P, tables: &T, ifindex: u32, hook: Hook) -> Judgement
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    let Some(moment) = tables.moment() else { return unknown(hook) };
    let Some(interface) = find_interface(tables, ifindex) else { return unknown(hook) };
    // One load of one word decides which generation this packet sees, in everything that follows (SPEC D21).
    let parity = (moment.generation & 1) as usize;
    let Some(half) = interface.halves.get(parity) else { return unknown(hook) };
    let host = half.flags & FLAG_ROLE_HOST != 0;
    let direction = match (hook, host) {
        (Hook::Ingress, false) | (Hook::Egress, true) => Direction::Outbound,
        (Hook::Egress, false) | (Hook::Ingress, true) => Direction::Inbound,
    };
    let at = At { half, zone: interface.zone, parity, direction, now: moment.now };
    let verdict = match judge_frame(packet, tables, &at) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::of(reason),
    };
    Judgement { verdict, counters: interface.counters, direction }
}

/// Fail closed: nothing passes an interface that the filter was not told about.
#[inline(always)]
const fn unknown(hook: Hook) -> Judgement {
    let direction = match hook {
        Hook::Ingress => Direction::Outbound,
        Hook::Egress => Direction::Inbound,
    };
    Judgement { verdict: Verdict::of(Reason::UnknownInterface), counters: 0, direction }
}

#[inline(always)]
fn find_interface<T: Environment>(tables: &T, ifindex: u32) -> Option<&Interface> {
    let mut probe = 0;
    while probe < INTERFACE_PROBES {
        let index = ifindex.wrapping_add(probe) & (INTERFACE_SLOTS - 1);
        let interface = tables.interface(index)?;
        if interface.ifindex == ifindex {
            return Some(interface);
        }
        probe += 1;
    }
    None
}

/// Where and when the packet is.
struct At<'a> {
    half: &'a InterfaceHalf,
    zone: u32,
    parity: usize,
    direction: Direction,
    now: u64,
}

#[inline(always)]
fn judge_frame<P, T>(packet: &P, tables: &T, at: &At<'_>) -> Result<Verdict, Reason>
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    let Some(ethernet) = packet.read::<Ethernet>(0) else { return Err(Reason::Malformed) };
    if packet.has_offloaded_vlan() {
        return Err(Reason::Vlan);
    }
    match u16::from_be(ethernet.ether_type) {
        ether_type::IPV4 => judge_ip::<V4, P, T>(packet, tables, at),
        ether_type::IPV6 => judge_ip::<V6, P, T>(packet, tables, at),
        other => Ok(Verdict::of(baseline::non_ip(other))),
    }
}

#[inline(always)]
fn judge_ip<F, P, T>(packet: &P, tables: &T, at: &At<'_>) -> Result<Verdict, Reason>
where
    F: ReadIp,
    P: Packet,
    T: Tables<F>,
{
    let ip = F::read_ip(packet)?;
    let transport = read_transport(packet, &ip, at.direction)?;
    if let Some(reason) = baseline::passes(&ip, &transport, at.direction) {
        return Ok(Verdict::of(reason));
    }
    let (local, remote) = match at.direction {
        Direction::Inbound => (ip.destination, ip.source),
        Direction::Outbound => (ip.source, ip.destination),
    };
    let key = F::flow_key((at.zone << 8) | u32::from(ip.protocol), local, remote, transport.ports);
    let mut replace = false;
    if let Some(flow) = tables.flow(&key) {
        let known = if T::DRY_RUN {
            conntrack::known::<true>(&flow, at.half, at.direction, &transport.kind, at.now)
        } else {
            conntrack::known::<false>(&flow, at.half, at.direction, &transport.kind, at.now)
        };
        match known {
            Known::Pass(state) => {
                return Ok(Verdict {
                    reason: Reason::Established,
                    admitted_by: AdmittedBy::Nothing,
                    state: state as u8,
                    policy: flow.policy(),
                });
            }
            Known::Drop(reason) => return Err(reason),
            Known::Over => replace = true,
        }
    }
    judge_new::<F, T>(tables, at, &ip, &transport, remote, &key, replace)
}

/// A packet of no known flow: the rules decide, and it may start a flow.
#[inline(always)]
fn judge_new<F: Family, T: Tables<F>>(
    tables: &T,
    at: &At<'_>,
    ip: &Ip<F>,
    transport: &Transport,
    remote: F::Address,
    key: &F::FlowKey,
    replace: bool,
) -> Result<Verdict, Reason> {
    let start = start_state(&transport.kind, at.half.flags & FLAG_STRICT_TCP != 0)?;
    let admitted_by =
        classify::<F, T>(tables, at.half, at.parity, at.direction, remote, ip.protocol, transport.number);
    let reason = match (admitted_by, start) {
        (AdmittedBy::Nothing, _) => Reason::NoRule,
        (_, None) => Reason::RuleOnly,
        (_, Some(_)) if T::DRY_RUN => Reason::NewFlow,
        (_, Some(state)) => {
            let flow = conntrack::start(at.half, at.direction, state, at.now);
            if tables.insert_flow(key, &flow, replace) { Reason::NewFlow } else { Reason::TableFull }
        }
    };
    let state = match (reason, start) {
        (Reason::NewFlow, Some(state)) => state as u8,
        _ => 0,
    };
    Ok(Verdict { reason, admitted_by, state, policy: at.half.policy })
}

/// The state in which a packet starts a flow; `None` if it is of a kind that starts none.
#[inline(always)]
fn start_state(kind: &Kind, strict_tcp: bool) -> Result<Option<State>, Reason> {
    match kind {
        Kind::Tcp(header) => match Segment::of(header.flags) {
            None => Err(Reason::TcpFlags),
            Some(Segment::Syn) => Ok(Some(State::TcpSynSent)),
            Some(_) if strict_tcp => Err(Reason::StrictTcp),
            Some(Segment::Rst) => Ok(None),
            Some(Segment::SynAck) => Ok(Some(State::TcpSynReceived)),
            // The connection is older than its entry.
            Some(Segment::Fin) => Ok(Some(State::TcpFinWait)),
            Some(Segment::Ack) => Ok(Some(State::TcpEstablished)),
        },
        Kind::Udp => Ok(Some(State::Udp)),
        Kind::IcmpQuery { request: true } => Ok(Some(State::Icmp)),
        Kind::IcmpQuery { request: false } | Kind::IcmpOther => Ok(None),
        Kind::Other => Ok(Some(State::Other)),
    }
}
