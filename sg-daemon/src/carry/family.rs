//! Numbers and words that the clouds share.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::Remote;
use crate::policy::model::{Match, PortRange, Protocol};

pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// A number, or a number in a string, or a word.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Word {
    Number(i64),
    Text(String),
}

impl Word {
    pub fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.trim().to_ascii_lowercase(),
        }
    }
}

/// A network; host bits are cleared, and an address alone is a network of one.
pub fn network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    // A network that no packet is from is refused by the loader, with the reason.
    Some(net.trunc())
}

/// The ports of a TCP or UDP rule, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    All,
    Some(PortRange),
    /// Without port 0, which the rule has too and no rule of ours can have.
    WithoutZero(PortRange),
    OnlyZero,
    Wrong,
}

/// From a pair of numbers; absent is all of them.
pub fn ports(from: Option<i64>, to: Option<i64>) -> Ports {
    let (Some(from), Some(to)) = (from, to) else {
        return if from.is_none() && to.is_none() { Ports::All } else { Ports::Wrong };
    };
    match (u16::try_from(from), u16::try_from(to)) {
        (Ok(0), Ok(u16::MAX)) => Ports::All,
        (Ok(0), Ok(0)) => Ports::OnlyZero,
        (Ok(0), Ok(max)) => Ports::WithoutZero(PortRange { min: 1, max }),
        (Ok(min), Ok(max)) if min <= max => Ports::Some(PortRange { min, max }),
        _ => Ports::Wrong,
    }
}

/// Type and code from a pair of numbers of which -1 and absent mean any; none if they make no sense.
pub fn icmp(kind: Option<i64>, code: Option<i64>) -> Option<Match> {
    let any = |number: Option<i64>| number.is_none_or(|number| number == -1);
    let byte = |number: Option<i64>| number.and_then(|number| u8::try_from(number).ok());
    match (any(kind), any(code)) {
        (true, true) => Some(Match::Any),
        (true, false) => None,
        (false, true) => byte(kind).map(|kind| Match::Icmp { kind, code: None }),
        (false, false) => {
            let (kind, code) = (byte(kind)?, byte(code)?);
            Some(Match::Icmp { kind, code: Some(code) })
        }
    }
}

/// The protocol of one family's ICMP for a remote: our `ICMP` where the remote has one family, else the number, as a
/// group may have members of both.
pub fn icmp_protocol(number: u8, remote: &Remote) -> Protocol {
    match (number, remote) {
        (ICMP, Remote::Cidr(IpNet::V4(_))) | (ICMPV6, Remote::Cidr(IpNet::V6(_))) => Protocol::Icmp,
        _ => Protocol::Number(number),
    }
}

/// The numbers of the ICMP that a rule of ours means.
pub fn icmp_numbers(protocol: Protocol, remote: &Remote) -> Vec<u8> {
    match (protocol, remote) {
        (Protocol::Icmp, Remote::Cidr(IpNet::V4(_))) => vec![ICMP],
        (Protocol::Icmp, Remote::Cidr(IpNet::V6(_))) => vec![ICMPV6],
        (Protocol::Icmp, Remote::Group(_)) => vec![ICMP, ICMPV6],
        (Protocol::Number(number @ (ICMP | ICMPV6)), _) => vec![number],
        _ => Vec::new(),
    }
}

/// An id that is the same for the same things, as 32 hexadecimal digits (FNV-1a, 128 bits).
pub fn id_of(parts: &[&str]) -> String {
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
    format!("{hash:032x}")
}

/// The same in the form of a UUID.
pub fn uuid_of(parts: &[&str]) -> String {
    let id = id_of(parts);
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}
