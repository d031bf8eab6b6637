//! Section 5 of docs/packets.md: datagrams in pieces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::headers::{Packet, Piece};
use super::{Limits, Verdict};

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

    /// Seconds; RFC 8200, section 4.5.
    fn known_for(&self) -> u64 {
        if self.source.is_ipv4() { 30 } else { 60 }
    }

    /// Whose datagrams push out each other.
    fn family(&self) -> (usize, bool) {
        (self.interface, self.source.is_ipv4())
    }
}

#[derive(Debug, Clone, Default)]
struct Datagram {
    begun: u64,
    /// Which of the datagrams of its interface and family that ever began.
    ordinal: u64,
    /// Whether the first piece has passed, once it has been seen.
    first: Option<bool>,
    /// From, to (not included), in units of eight bytes; sorted, none touches another.
    ranges: Vec<(u64, u64)>,
    /// Where the latest piece ends that is followed by none.
    end: Option<u64>,
    whole: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Pieces {
    known: BTreeMap<Name, Datagram>,
    /// How many have begun, by interface and family.
    begun: BTreeMap<(usize, bool), u64>,
}

impl Pieces {
    fn get(&self, name: &Name, now: u64) -> Option<&Datagram> {
        self.known.get(name).filter(|datagram| now < datagram.begun + name.known_for())
    }

    fn note(&mut self, name: &Name, limits: Limits, now: u64) -> &mut Datagram {
        if self.get(name, now).is_none() {
            let begun = self.begun.entry(name.family()).or_default();
            *begun += 1;
            let ordinal = *begun;
            self.known.retain(|other, datagram| {
                other.family() != name.family() || ordinal - datagram.ordinal < limits.datagrams
            });
            self.known.insert(name.clone(), Datagram { begun: now, ordinal, ..Datagram::default() });
        }
        self.known.get_mut(name).unwrap()
    }

    pub fn first_passed(&self, name: &Name, now: u64) -> bool {
        self.get(name, now).is_some_and(|datagram| datagram.first == Some(true))
    }

    /// A first piece, of which all else has said `verdict`.
    pub fn first(
        &mut self,
        name: &Name,
        limits: Limits,
        now: u64,
        piece: Piece,
        verdict: Verdict,
    ) -> Verdict {
        if self.known.get(name).is_some_and(|datagram| datagram.whole) {
            self.known.remove(name);
        }
        let datagram = self.note(name, limits, now);
        let ranges = verdict.and_then(|_| datagram.with(range(piece)?));
        match ranges {
            Ok(ranges) => {
                datagram.first = Some(true);
                datagram.passed(piece, ranges);
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
        limits: Limits,
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
        self.note(name, limits, now).passed(packet.piece, ranges);
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
    /// Notes a piece that has passed.
    fn passed(&mut self, piece: Piece, ranges: Vec<(u64, u64)>) {
        self.ranges = ranges;
        if !piece.more {
            self.end = Some((piece.offset + piece.length).div_ceil(8));
        }
        let from_the_first = self.ranges.first().filter(|(from, _)| *from == 0);
        self.whole |= from_the_first.is_some_and(|(_, to)| Some(*to) == self.end);
    }

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
