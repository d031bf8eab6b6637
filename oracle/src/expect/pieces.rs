//! Section 5 of docs/packets.md: datagrams in pieces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Verdict;
use super::headers::{Packet, Piece};

/// Seconds.
const KNOWN_FOR: u64 = 30;
const MOST_RANGES: usize = 8;

/// By what the pieces of one datagram know each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub interface: usize,
    pub outbound: bool,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub identification: u32,
    /// RFC 791; an IPv6 datagram is known without it (RFC 8200, section 4.5).
    pub protocol: Option<u8>,
}

impl Name {
    pub fn of(interface: usize, outbound: bool, packet: &Packet<'_>) -> Self {
        Self {
            interface,
            outbound,
            source: packet.source,
            destination: packet.destination,
            identification: packet.piece.identification,
            protocol: packet.source.is_ipv4().then_some(packet.protocol),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Datagram {
    begun: u64,
    /// Whether the first piece has passed, once it has been seen.
    first: Option<bool>,
    /// From, to (not included), in units of eight bytes; sorted, none touches another.
    ranges: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, Default)]
pub struct Pieces {
    known: BTreeMap<Name, Datagram>,
}

impl Pieces {
    fn get(&self, name: &Name, now: u64) -> Option<&Datagram> {
        self.known.get(name).filter(|datagram| now < datagram.begun + KNOWN_FOR)
    }

    fn note(&mut self, name: &Name, now: u64) -> &mut Datagram {
        if self.get(name, now).is_none() {
            self.known.insert(name.clone(), Datagram { begun: now, ..Datagram::default() });
        }
        self.known.get_mut(name).unwrap()
    }

    pub fn first_passed(&self, name: &Name, now: u64) -> bool {
        self.get(name, now).is_some_and(|datagram| datagram.first == Some(true))
    }

    /// A first piece, of which all else has said `verdict`.
    pub fn first(&mut self, name: &Name, now: u64, piece: Piece, verdict: Verdict) -> Verdict {
        let datagram = self.note(name, now);
        let ranges = verdict.and_then(|_| datagram.with(range(piece)?));
        match ranges {
            Ok(ranges) => {
                datagram.ranges = ranges;
                datagram.first = Some(true);
                verdict
            }
            Err(reason) => {
                datagram.first = datagram.first.or(Some(false));
                Err(reason)
            }
        }
    }

    /// `early`: whether the rules let a piece pass before the first one.
    pub fn later(
        &mut self,
        name: &Name,
        now: u64,
        packet: &Packet<'_>,
        early: impl FnOnce() -> bool,
    ) -> Verdict {
        if packet.protocol == 6 && packet.piece.offset == 8 {
            return Err("tiny_fragment");
        }
        let range = range(packet.piece)?;
        let known = self.get(name, now).cloned().unwrap_or_default();
        let reason = match known.first {
            Some(false) => return Err("fragment_of_dropped"),
            Some(true) => "fragment",
            None if early() => "early_fragment",
            None => return Err("fragment_limit"),
        };
        let ranges = known.with(range)?;
        self.note(name, now).ranges = ranges;
        Ok(reason)
    }
}

fn range(piece: Piece) -> Result<(u64, u64), &'static str> {
    let end = piece.offset + piece.length;
    if piece.length == 0 || (piece.more && !piece.length.is_multiple_of(8)) || end > 65_535 {
        return Err("malformed");
    }
    Ok((piece.offset / 8, end.div_ceil(8)))
}

impl Datagram {
    /// The ranges with one more.
    fn with(&self, (from, to): (u64, u64)) -> Result<Vec<(u64, u64)>, &'static str> {
        if self.ranges.iter().any(|range| from < range.1 && range.0 < to) {
            return Err("fragment_overlap");
        }
        let mut sorted = self.ranges.clone();
        sorted.push((from, to));
        sorted.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (from, to) in sorted {
            match ranges.last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => ranges.push((from, to)),
            }
        }
        if ranges.len() > MOST_RANGES { Err("fragment_limit") } else { Ok(ranges) }
    }
}
