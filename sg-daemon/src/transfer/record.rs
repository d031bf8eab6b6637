//! The file that connections travel in: JSON, a line for what it is and one for each connection (docs/flows.md).
//!
//! Nothing in it depends on the host that wrote it or on the layout of its maps: names instead of numbers and bits, times
//! that are left or past instead of clocks, addresses and ports as text and numbers.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sg_common::abi::{
    self, Be32, CREATED_UNIT, FLOW_FIN_ORIGIN, FLOW_FIN_REPLY, FLOW_LIVE, FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED,
    Flow, FlowKeyV4, FlowKeyV6, FlowPorts,
};
use sg_common::conntrack::State;
use sg_common::packet::protocol;
use sg_common::tcp::{MAX_SCALE, Told, known_of, told};

use crate::api::types::Direction;
use crate::kernel::{FlowEntry, FlowKey, words_of};

pub const FORMAT: &str = "sgd-flows";
/// Raise it whenever a field gets another meaning, is taken away, or must not be overlooked.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format: String,
    pub version: u32,
    /// The device that the connections were of.
    pub interface: String,
    /// How many lines follow.
    pub flows: usize,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The IP protocol's number.
    pub protocol: u8,
    /// The instance's address.
    pub local: IpAddr,
    pub remote: IpAddr,
    /// TCP and UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// ICMP queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Query>,
    /// Which way the first packet went, seen from the instance. The side that asks, of an ICMP query.
    pub direction: Direction,
    pub state: String,
    /// It may still be pushed out by newer ones.
    pub half_open: bool,
    /// A packet of the other direction was seen.
    pub replied: bool,
    /// Milliseconds until it is over, if no packet comes.
    pub expires_in_ms: u64,
    /// Milliseconds since its first packet.
    pub age_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub id: u16,
    /// The ICMP type of the question.
    pub request: u8,
}

/// What is known of both sides of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcp {
    /// Of the side that began it.
    pub origin: Side,
    pub reply: Side,
    /// Segments came in pieces.
    pub pieces: bool,
}

/// Absent is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// The highest sequence number that it has used, plus one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u32>,
    /// The highest acknowledgment that it has sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack: Option<u32>,
    /// The window that it offered with that, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// The shift of its window; absent if it has not offered the option.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u8>,
    /// It has sent a FIN.
    pub fin: bool,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("the file is empty; expected is what `sgctl flows export` writes")]
    Empty,
    #[error(
        "line 1 is not the header of a file that `sgctl flows export` writes ({{\"format\":\"{FORMAT}\",…}}): {0}"
    )]
    NoHeader(String),
    #[error(
        "the file is of version {0}, this sgd reads version {VERSION}; use an sgd of one version on both hosts"
    )]
    Version(u64),
    #[error("line {line}: {why}; export the connections anew")]
    Line { line: usize, why: String },
    #[error(
        "the header says {expected} flows, {found} follow: the file was cut or put together by hand; export the connections anew"
    )]
    Count { expected: usize, found: usize },
}

/// Where the zone, the clock and the policy of a flow are those of this host.
#[derive(Debug, Clone, Copy)]
pub struct Here {
    pub zone: u32,
    pub now: u64,
    pub hz: u32,
    pub policy: u32,
    /// By state, in jiffies.
    pub timeouts: [u32; 12],
}

impl Here {
    /// Rounded down, so that nothing lasts longer for having travelled.
    fn ms(&self, jiffies: u64) -> u64 {
        jiffies.saturating_mul(1000) / u64::from(self.hz)
    }

    fn jiffies(&self, ms: u64) -> u64 {
        ms.saturating_mul(u64::from(self.hz)) / 1000
    }
}

impl Record {
    /// A flow that is not over.
    pub fn new(entry: &FlowEntry, flow: &Flow, here: &Here) -> Self {
        let has_ports = matches!(entry.protocol, protocol::TCP | protocol::UDP);
        let is_query = is_icmp(entry.protocol, entry.remote);
        Self {
            protocol: entry.protocol,
            local: entry.local,
            remote: entry.remote,
            local_port: has_ports.then_some(entry.local_port),
            remote_port: has_ports.then_some(entry.remote_port),
            icmp: is_query.then_some(Query { id: entry.local_port, request: (entry.remote_port >> 8) as u8 }),
            direction: entry.origin.into(),
            state: entry.state.name().to_owned(),
            half_open: entry.half_open,
            replied: entry.replied,
            expires_in_ms: here.ms(flow.expires.saturating_sub(here.now)),
            age_ms: here.ms(here.now.saturating_sub(u64::from(flow.created) * CREATED_UNIT)),
            tcp: (entry.protocol == protocol::TCP).then(|| Tcp::new(flow)),
        }
    }

    /// The flow as the tables of this host have it.
    ///
    /// # Errors
    ///
    /// What contradicts itself.
    pub fn flow(&self, here: &Here) -> Result<(FlowKey, Flow), String> {
        let state = self.state()?;
        let ports = self.ports()?;
        let zone_protocol = (here.zone << 8) | u32::from(self.protocol);
        let key = match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => FlowKey::V4(FlowKeyV4 {
                zone_protocol,
                local: Be32::from_host(local.to_bits()),
                remote: Be32::from_host(remote.to_bits()),
                ports,
            }),
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let (local, remote) = (words_of(local), words_of(remote));
                FlowKey::V6(FlowKeyV6 { zone_protocol, local, remote, ports })
            }
            (local, remote) => return Err(format!("{local} and {remote} are of different families")),
        };
        let handshake = matches!(state, State::TcpSynSent | State::TcpSynReceived);
        if !self.half_open && (!self.replied || handshake) {
            return Err("only a connection that was answered can be live (\"half_open\": false)".to_owned());
        }
        if self.tcp.is_some() != (self.protocol == protocol::TCP) {
            return Err("\"tcp\" is there for protocol 6, and for no other".to_owned());
        }
        let outbound = self.direction == Direction::Outbound;
        let mut flags = [(outbound, FLOW_ORIGIN_OUTBOUND), (self.replied, FLOW_REPLIED)]
            .into_iter()
            .fold(0, |flags, (is, flag)| if is { flags | flag } else { flags });
        let (mut known, mut sequence) = (0, [0; 6]);
        if let Some(tcp) = self.tcp {
            (known, sequence) = tcp.words()?;
            flags |= tcp.fins();
        }
        // No longer than any connection of this state lasts here.
        let most = here.timeouts.get(usize::from(state as u8) - 1).copied().unwrap_or(0);
        let left = here.jiffies(self.expires_in_ms).min(most.into());
        let flow = Flow {
            expires: here.now.saturating_add(left),
            created: (here.now.saturating_sub(here.jiffies(self.age_ms)) / CREATED_UNIT) as u32,
            place: if self.half_open { 0 } else { FLOW_LIVE },
            policy: here.policy,
            state: state as u8,
            flags,
            tcp: known,
            sequence,
        };
        Ok((key, flow))
    }

    fn state(&self) -> Result<State, String> {
        let named = State::EVERY.into_iter().find(|state| state.name() == self.state);
        let state = named.ok_or_else(|| format!("{:?} is no state of a connection", self.state))?;
        let fits = match state {
            State::Udp | State::UdpStream => self.protocol == protocol::UDP,
            State::Icmp => is_icmp(self.protocol, self.remote),
            State::Other => {
                !is_icmp(self.protocol, self.remote)
                    && !matches!(self.protocol, protocol::TCP | protocol::UDP)
            }
            _ => self.protocol == protocol::TCP,
        };
        let wrong = || format!("protocol {} has no state {:?}", self.protocol, self.state);
        if fits { Ok(state) } else { Err(wrong()) }
    }

    fn ports(&self) -> Result<FlowPorts, String> {
        let nothing = FlowPorts { local: 0, remote: 0 };
        match (self.protocol, self.local_port, self.remote_port, self.icmp) {
            (protocol::TCP | protocol::UDP, Some(local), Some(remote), None) => {
                Ok(FlowPorts { local, remote })
            }
            (number, None, None, Some(query)) if is_icmp(number, self.remote) => {
                let requests: &[u8] = if self.remote.is_ipv4() { &[8, 13, 15, 17] } else { &[128, 139] };
                if !requests.contains(&query.request) {
                    return Err(format!("ICMP type {} asks for no answer", query.request));
                }
                let asker: abi::Direction = self.direction.into();
                Ok(FlowPorts { local: query.id, remote: (u16::from(query.request) << 8) | asker as u16 })
            }
            (number, None, None, None)
                if !is_icmp(number, self.remote) && !matches!(number, protocol::TCP | protocol::UDP) =>
            {
                Ok(nothing)
            }
            _ => Err(
                "protocols 6 and 17 have \"local_port\" and \"remote_port\", the family's ICMP has \"icmp\", others \
                 have neither"
                    .to_owned(),
            ),
        }
    }
}

fn is_icmp(number: u8, address: IpAddr) -> bool {
    number == if address.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
}

impl Tcp {
    fn new(flow: &Flow) -> Self {
        let (origin, reply, pieces) = told(flow.tcp);
        let [end, ack, window, reply_end, reply_ack, reply_window] = flow.sequence;
        let side = |told: Told, [end, ack, window]: [u32; 3], fin: u8| Side {
            end: told.end.then_some(end),
            ack: told.ack.then_some(ack),
            window: told.ack.then_some(window),
            scale: told.scale,
            fin: flow.flags & fin != 0,
        };
        Self {
            origin: side(origin, [end, ack, window], FLOW_FIN_ORIGIN),
            reply: side(reply, [reply_end, reply_ack, reply_window], FLOW_FIN_REPLY),
            pieces,
        }
    }

    /// `Flow::tcp` and `Flow::sequence`.
    fn words(&self) -> Result<(u16, [u32; 6]), String> {
        for side in [self.origin, self.reply] {
            if side.ack.is_some() != side.window.is_some() {
                return Err("\"ack\" and \"window\" are known together or not at all".to_owned());
            }
            if side.scale.is_some_and(|scale| scale > MAX_SCALE) {
                return Err(format!("a window scale is at most {MAX_SCALE}"));
            }
        }
        let told = |side: Side| Told { scale: side.scale, end: side.end.is_some(), ack: side.ack.is_some() };
        let words = |side: Side| [side.end, side.ack, side.window].map(Option::unwrap_or_default);
        let ([end, ack, window], [reply_end, reply_ack, reply_window]) =
            (words(self.origin), words(self.reply));
        let known = known_of(told(self.origin), told(self.reply), self.pieces);
        Ok((known, [end, ack, window, reply_end, reply_ack, reply_window]))
    }

    fn fins(&self) -> u8 {
        let origin = if self.origin.fin { FLOW_FIN_ORIGIN } else { 0 };
        origin | if self.reply.fin { FLOW_FIN_REPLY } else { 0 }
    }
}

/// The whole file.
///
/// # Errors
///
/// If a record cannot be written as JSON, which does not happen.
pub fn write(interface: &str, records: &[Record]) -> serde_json::Result<String> {
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        interface: interface.to_owned(),
        flows: records.len(),
    };
    let mut text = serde_json::to_string(&header)?;
    text.push('\n');
    for record in records {
        text += &serde_json::to_string(record)?;
        text.push('\n');
    }
    Ok(text)
}

/// Reads a whole file.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn read(text: &str) -> Result<(Header, Vec<Record>), Fault> {
    let mut lines = text.lines();
    let header = read_header(lines.next().ok_or(Fault::Empty)?)?;
    let mut records: Vec<Record> = Vec::new();
    for (line, text) in (2..).zip(lines) {
        // What is wrong, and where in the line.
        let record = serde_json::from_str(text).map_err(|error| {
            let (why, column) = (error.to_string(), error.column());
            let why = printable(why.split(" at line ").next().unwrap_or_default());
            Fault::Line { line, why: format!("column {column}: {why}") }
        });
        match record {
            Ok(record) => records.push(record),
            // Cut in the middle of a line.
            Err(_) if !text.ends_with('}') => {
                return Err(Fault::Count { expected: header.flows, found: records.len() });
            }
            Err(fault) => return Err(fault),
        }
    }
    if records.len() != header.flows {
        return Err(Fault::Count { expected: header.flows, found: records.len() });
    }
    Ok((header, records))
}

fn read_header(line: &str) -> Result<Header, Fault> {
    let shown = || printable(&line.chars().take(60).collect::<String>());
    let value: serde_json::Value = serde_json::from_str(line).map_err(|_| Fault::NoHeader(shown()))?;
    if value.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
        return Err(Fault::NoHeader(shown()));
    }
    // Before all else: of another version, nothing else is known.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => return Err(Fault::Version(version)),
        None => return Err(Fault::NoHeader(shown())),
    }
    serde_json::from_value(value).map_err(|error| Fault::NoHeader(printable(&error.to_string())))
}

/// Fit for a terminal and a log: what is wrong with a file may be quoted from it.
fn printable(text: &str) -> String {
    text.chars()
        .take(400)
        .map(
            |letter| {
                if letter.is_control() { letter.escape_debug().to_string() } else { letter.to_string() }
            },
        )
        .collect()
}

/// The flows of a file, each once.
///
/// # Errors
///
/// The first line that contradicts itself or another.
pub fn flows(records: &[Record], here: &Here) -> Result<Vec<(FlowKey, Flow)>, Fault> {
    let mut seen = HashMap::with_capacity(records.len());
    let mut flows = Vec::with_capacity(records.len());
    for (line, record) in (2..).zip(records) {
        let (key, flow) = record.flow(here).map_err(|why| Fault::Line { line, why })?;
        if let Some(first) = seen.insert(key, line) {
            return Err(Fault::Line { line, why: format!("this is the connection of line {first} again") });
        }
        flows.push((key, flow));
    }
    Ok(flows)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
