//! Datagrams in pieces (SPEC D14). Nothing is held back and nothing is put together: the first fragment has the ports and
//! is judged like any packet, and what became of it is remembered for the others.
//!
//! A piece that comes before its first fragment can be neither judged nor kept. It passes if some rule, of either
//! direction, lets its protocol and remote pass at all, because then a connection may well exist; without its first
//! fragment nobody can do anything with it. If that one is dropped, so is everything that comes after.
//!
//! Overlaps are dropped (RFC 5722 for IPv6; for IPv4 receivers differ in what they make of them, which is why they are
//! sent: RFC 1858). As the later piece never arrives, receivers see each byte once. Identifications come round, so a first
//! fragment of a datagram that is whole begins another one.
//!
//! Datagrams are remembered as half-open flows are: each interface has a ring of places, and its newest takes the place of
//! its own oldest.

use crate::abi::{DATAGRAM_ALLOW, DATAGRAM_DROP, DATAGRAM_EARLY, DATAGRAM_WHOLE, Datagram, Direction};
use crate::classify::touches;
use crate::family::Family;
use crate::judge::{At, Scratch, Tables};
use crate::packet::{Ip, ReadIp, load, protocol, store, zeroes};
use crate::verdict::{Action, Reason, Verdict};

/// The ranges of 8 bytes that a piece covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Range {
    pub start: u32,
    pub end: u32,
}

impl Range {
    /// What a piece with `bytes` of data covers.
    ///
    /// # Errors
    ///
    /// If it is a piece that no datagram has: longer than one can be, empty, or not the last and odd.
    #[inline(always)]
    pub fn of<F: Family>(ip: &Ip<F>) -> Result<Self, Reason> {
        let bytes = ip.end - ip.data;
        let start = u32::from(ip.piece.offset);
        if bytes == 0 || (ip.piece.more && !bytes.is_multiple_of(8)) || start * 8 + bytes > 0xffff {
            return Err(Reason::Malformed);
        }
        Ok(Self { start, end: start + bytes.div_ceil(8) })
    }
}

/// Adds a range to what has passed, joined to its neighbours.
///
/// What changes from one round to the next is in memory and accessed as such: kept in registers, the verifier would follow
/// each of the rounds' outcomes through all later rounds.
///
/// # Errors
///
/// If it overlaps what has passed, or there are too many gaps. The datagram is then no longer of use.
#[inline(always)]
pub fn add(datagram: &mut Datagram, joined: &mut Range, free: &mut u32, range: Range) -> Result<(), Reason> {
    store(joined, range);
    store(free, NO_PLACE);
    let mut index = 0;
    while let Some(slot) = datagram.ranges.get_mut(index as usize) {
        let (taken, so_far) = (load(slot), load(joined));
        let (start, end) = (taken >> 16, taken & 0xffff);
        if taken == 0 {
            store(free, index);
        } else if range.start < end && start < range.end {
            return Err(Reason::FragmentOverlap);
        } else if end == so_far.start || so_far.end == start {
            store(joined, Range { start: min(start, so_far.start), end: max(end, so_far.end) });
            store(slot, 0);
            store(free, index);
        }
        index += 1;
    }
    let place = load(free) as usize;
    let joined = load(joined);
    let Some(slot) = datagram.ranges.get_mut(place) else { return Err(Reason::FragmentLimit) };
    store(slot, (joined.start << 16) | joined.end);
    Ok(())
}

/// No free place among the ranges.
const NO_PLACE: u32 = u32::MAX;

#[inline(always)]
const fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[inline(always)]
const fn max(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

/// Judges a piece that is not the first.
#[inline(never)]
pub fn later<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, scratch: &mut Scratch<F>) -> Reason {
    let Scratch { ip, datagram, joined, free, piece, .. } = &mut *scratch;
    let (_, remote) = ip.local_and_remote(at.direction());
    // The second 8 bytes of a TCP header are its flags: with an offset of 1 they could be written anew (RFC 3128).
    if ip.protocol == protocol::TCP && ip.piece.offset == 1 {
        return Reason::TinyFragment;
    }
    let range = match Range::of(ip) {
        Ok(range) => range,
        Err(reason) => return reason,
    };
    *piece = key_of(at, at.direction(), ip);
    recall::<F, T>(tables, at, piece, datagram, false);
    if datagram.verdict == DATAGRAM_DROP {
        return Reason::FragmentOfDropped;
    }
    if datagram.verdict == DATAGRAM_EARLY && !touches::<F, T>(tables, at, remote, ip.protocol) {
        return Reason::FragmentLimit;
    }
    if let Err(reason) = add(datagram, joined, free, range) {
        return reason;
    }
    if !ip.piece.more {
        datagram.end = range.end;
    }
    if joined.start == 0 && joined.end == datagram.end {
        datagram.verdict = DATAGRAM_WHOLE;
    }
    if !T::DRY_RUN {
        remember::<F, T>(tables, at, scratch);
    }
    let passes = scratch.datagram.verdict & DATAGRAM_ALLOW != 0;
    if passes { Reason::Fragment } else { Reason::EarlyFragment }
}

/// Whether a datagram's first fragment has passed, so that an ICMP error about a later one is about a flow.
#[inline(always)]
pub fn has_passed<F: ReadIp, T: Tables<F>>(
    tables: &T,
    at: &At<'_>,
    direction: Direction,
    ip: &Ip<F>,
    datagram: &mut Datagram,
) -> bool {
    let known = tables.datagram(&key_of(at, direction, ip), datagram) && datagram.expires > at.now;
    known && datagram.verdict & DATAGRAM_ALLOW != 0
}

/// Remembers what became of a first fragment. An overlap with what came earlier drops it.
#[inline(never)]
pub fn first<F: ReadIp, T: Tables<F>>(
    tables: &T,
    at: &At<'_>,
    scratch: &mut Scratch<F>,
    verdict: Verdict,
) -> Verdict {
    let Scratch { ip, transport, datagram, joined, free, piece, .. } = &mut *scratch;
    *piece = key_of(at, at.direction(), ip);
    recall::<F, T>(tables, at, piece, datagram, true);
    let mut verdict = verdict;
    if matches!(verdict.action(), Action::Allow) {
        datagram.ports = u32::from(transport.ports.local) << 16 | u32::from(transport.ports.remote);
        match Range::of(ip).and_then(|range| add(datagram, joined, free, range)) {
            Ok(()) if joined.end == datagram.end => datagram.verdict = DATAGRAM_WHOLE,
            Ok(()) => datagram.verdict = DATAGRAM_ALLOW,
            // What has passed stays known; the ranges at hand are half changed.
            Err(reason) if datagram.verdict == DATAGRAM_ALLOW => return Verdict::of(reason),
            Err(reason) => {
                datagram.verdict = DATAGRAM_DROP;
                verdict = Verdict::of(reason);
            }
        }
    } else if datagram.verdict != DATAGRAM_ALLOW {
        // A forged first fragment must not spoil a datagram that passes.
        datagram.verdict = DATAGRAM_DROP;
    }
    if !T::DRY_RUN {
        remember::<F, T>(tables, at, scratch);
    }
    verdict
}

/// [`Datagram::place`] of one that is not in the table.
const NO_DATAGRAM: u32 = u32::MAX;

/// What is known of a datagram, or a new one of which nothing is: also for a first fragment, if the datagram is whole.
#[inline(always)]
fn recall<F: ReadIp, T: Tables<F>>(
    tables: &T,
    at: &At<'_>,
    key: &F::FragmentKey,
    datagram: &mut Datagram,
    first: bool,
) {
    let known = tables.datagram(key, datagram) && datagram.expires > at.now;
    if !known || (first && datagram.verdict == DATAGRAM_WHOLE) {
        *datagram = Datagram {
            expires: at.now + u64::from(F::patience(at.half)),
            verdict: DATAGRAM_EARLY,
            place: NO_DATAGRAM,
            end: 0,
            ports: 0,
            ranges: zeroes(),
        };
    }
}

/// Stores what has become of a datagram. A new one takes the next place in its interface's ring; the datagram that has that
/// place, if it is known still, goes.
#[inline(never)]
fn remember<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, scratch: &mut Scratch<F>) {
    let Scratch { datagram, piece: key, oldest, .. } = scratch;
    if datagram.place != NO_DATAGRAM {
        tables.update_datagram(key, datagram);
        return;
    }
    let (limit, base) = (at.interface.datagram_limit, at.interface.datagram_base);
    if limit == 0 {
        return;
    }
    datagram.place = base + (tables.next_datagram(at.interface.row) % u64::from(limit)) as u32;
    if !tables.take_datagram_place(datagram.place, key, oldest) {
        return;
    }
    if tables.datagram_place(oldest) == Some(datagram.place) {
        tables.remove_datagram(oldest);
    }
    tables.insert_datagram(key, datagram);
}

#[inline(always)]
fn key_of<F: Family>(at: &At<'_>, direction: Direction, ip: &Ip<F>) -> F::FragmentKey {
    // In IPv6 the protocol that a piece names is the first header behind its fragment header, and anybody may name another
    // for the next piece: datagrams are told by addresses and identification alone (RFC 8200, section 4.5).
    let protocol = if F::BIT == 0 { ip.protocol } else { 0 };
    F::fragment_key(at.zone_protocol(protocol), ip.source, ip.destination, ip.piece.id, direction)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(parts: &[(u32, u32)]) -> Result<Datagram, Reason> {
        let mut datagram = Datagram { expires: 0, verdict: 0, place: 0, end: 0, ports: 0, ranges: [0; 8] };
        for &(start, end) in parts {
            let (mut joined, mut free) = (Range { start: 0, end: 0 }, 0);
            add(&mut datagram, &mut joined, &mut free, Range { start, end })?;
        }
        Ok(datagram)
    }

    #[test]
    fn spec_d14_pieces_in_any_order_join() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 0, 1]] {
            let parts = order.map(|n| (n * 10, n * 10 + 10));
            let joined = datagram(&parts).unwrap();
            assert!(joined.ranges.iter().filter(|&&range| range != 0).count() <= 2, "{order:?} {joined:?}");
        }
    }

    #[test]
    fn spec_d14_overlaps_are_told() {
        for parts in [
            [(0, 10), (9, 12)],
            [(10, 20), (5, 11)],
            [(0, 10), (0, 10)],
            [(5, 6), (0, 20)],
            [(0, 20), (5, 6)],
        ] {
            assert_eq!(datagram(&parts), Err(Reason::FragmentOverlap), "{parts:?}");
        }
        assert!(datagram(&[(0, 10), (10, 20), (20, 21)]).is_ok());
    }

    #[test]
    fn spec_d14_too_many_gaps_are_dropped() {
        let parts: [(u32, u32); 9] = core::array::from_fn(|n| (n as u32 * 4, n as u32 * 4 + 2));
        assert!(datagram(&parts[..8]).is_ok());
        assert_eq!(datagram(&parts), Err(Reason::FragmentLimit));
    }
}
