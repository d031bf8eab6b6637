//! Packets through the real programs, one by one (`BPF_PROG_TEST_RUN`), on XDP and on TC.
//!
//! Every packet that a test runs is also held to SPEC D24: exactly one counter moves, by one.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test program: a panic is how it says what is wrong"
)]

mod accounts;
mod audit;
mod baseline;
mod bench;
mod connections;
mod counters;
mod errors;
mod events;
mod extensions;
mod fragments;
mod increments;
mod malformed;
mod revision;
mod rules;
mod sequences;
mod shares;
mod timeouts;
mod transfer;
mod zones;

use std::net::{IpAddr, SocketAddr};

use bench::{Way, ip};
use frame::{ACK, FIN, Packet, RST, SYN};
use serde_json::{Value, json};
use sg_common::verdict::Action;
use sg_oracle::frame;

/// The instance behind `sg0`.
const GUEST: [&str; 2] = ["10.0.0.5", "fd00::5"];
/// Anybody else.
const OTHER: [&str; 2] = ["198.51.100.7", "2001:db8:bad::7"];

/// One policy file: these groups, and the interface `sg0` in the groups `attached`.
fn policy(hook: bench::Ingress, groups: &Value, attached: &[&str]) -> Value {
    json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
        "security_groups": groups,
        "interfaces": [{ "name": "sg0", "hook": hook.name(), "addresses": GUEST, "security_groups": attached }],
    })
}

/// The interface `sg0` in one custom group with these rules.
fn with_rules(hook: bench::Ingress, inbound: &Value, outbound: &Value) -> Value {
    policy(hook, &json!([{ "name": "test", "inbound": inbound, "outbound": outbound }]), &["test"])
}

/// Rules that let everything of both families in, or out.
fn everything(remote: &str) -> Value {
    json!([{ "protocol": "ALL", remote: "0.0.0.0/0" }, { "protocol": "ALL", remote: "::/0" }])
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// The first packet of a flow from one address to another, of each kind that is tracked, and of both families.
fn openers(v4: (&str, &str), v6: (&str, &str)) -> Vec<(&'static str, Packet)> {
    let mut openers = Vec::new();
    for (names, (from, to)) in [
        (["TCP, IPv4", "UDP, IPv4", "ICMP", "GRE, IPv4"], v4),
        (["TCP, IPv6", "UDP, IPv6", "ICMPv6", "GRE, IPv6"], v6),
    ] {
        let (from, to): (IpAddr, IpAddr) = (ip(from), ip(to));
        openers.push((names[0], Packet::tcp((from, 40_000).into(), (to, 443).into(), SYN)));
        openers.push((names[1], Packet::udp((from, 40_000).into(), (to, 443).into(), b"?")));
        openers.push((names[2], Packet::ping(from, to, 77)));
        openers.push((names[3], Packet::new(from, to, 47, vec![0; 16])));
    }
    openers
}

/// What the guest sends first, and what others send it first.
fn outbound_openers() -> Vec<(&'static str, Packet)> {
    openers((GUEST[0], OTHER[0]), (GUEST[1], OTHER[1]))
}

fn inbound_openers() -> Vec<(&'static str, Packet)> {
    openers((OTHER[0], GUEST[0]), (OTHER[1], GUEST[1]))
}

/// The answer to the first packet of a flow.
fn answer(opener: &Packet) -> Packet {
    if opener.protocol == frame::TCP { opener.answer(SYN | ACK) } else { opener.reply() }
}

/// The next packet of the side that began.
fn next(opener: &Packet) -> Packet {
    if opener.protocol == frame::TCP { opener.then(ACK) } else { opener.clone() }
}

/// Which side a packet of a script comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// The one that opened the connection.
    Opener,
    Answerer,
}

/// The life of a TCP connection, segment by segment.
const LIFE: [(Side, u8); 8] = [
    (Side::Opener, SYN),
    (Side::Answerer, SYN | ACK),
    (Side::Opener, ACK),
    (Side::Opener, FIN | ACK),
    (Side::Answerer, ACK),
    (Side::Answerer, FIN | ACK),
    (Side::Opener, ACK),
    (Side::Opener, RST),
];

/// A TCP connection whose segments have the numbers that they would have between two hosts.
#[derive(Debug, Clone)]
struct Talk {
    opener: Packet,
    /// What the side that began sends next, and the other.
    next: [u32; 2],
}

impl Talk {
    /// The sides begin with different numbers, so that neither stands in for the other.
    fn new(opener: &Packet) -> Self {
        Self { opener: opener.clone(), next: [1000, 500_000] }
    }

    /// The connection after its handshake, which has passed.
    fn established(bench: &mut bench::Bench, opener: &Packet, outbound: bool) -> Self {
        let mut talk = Self::new(opener);
        for (side, flags) in LIFE.into_iter().take(3) {
            let packet = talk.segment(side, flags);
            assert_eq!(bench.run_at("sg0", side.way(outbound), &packet.frame()).action(), Action::Allow);
        }
        talk
    }

    /// The next segment of a side: it acknowledges everything that the other has said.
    fn segment(&mut self, side: Side, flags: u8) -> Packet {
        self.data(side, flags, &[])
    }

    fn data(&mut self, side: Side, flags: u8, data: &[u8]) -> Packet {
        let (own, other) = (self.next[side as usize], self.next[1 - side as usize]);
        let packet = self.at(side, flags, own, if flags & ACK == 0 { 0 } else { other }).data(data);
        self.next[side as usize] += data.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
        packet
    }

    /// A segment with these numbers, whatever was said so far.
    fn at(&self, side: Side, flags: u8, sequence: u32, acknowledgment: u32) -> Packet {
        let packet = match side {
            Side::Opener => self.opener.then(flags),
            Side::Answerer => self.opener.answer(flags),
        };
        packet.sequence(sequence, acknowledgment)
    }
}

impl Side {
    /// Which way its packets pass the device, if the guest opened the connection (`outbound`) or did not.
    fn way(self, outbound: bool) -> Way {
        if (self == Self::Opener) == outbound { Way::Ingress } else { Way::Egress }
    }
}
