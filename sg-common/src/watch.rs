//! Which packets somebody wants to hear of.
//!
//! The programs ask [`wants`] of what they have read anyway, and the daemon again of what it reads from the event's frame.

use crate::abi::{ANY, Be32, FlowPorts, Watcher};
use crate::family::{V4, V6};
use crate::judge::Scratch;
use crate::packet::{Kind, copy, store};

/// What is known of a packet's sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    /// 4 or 6; 0: not IP, or dropped before it was read.
    pub family: u32,
    pub protocol: u32,
    /// 1 if there are ports, else 0.
    pub has_ports: u32,
    pub ports: FlowPorts,
    /// IPv4 in the first word; zero if the header could not be read.
    pub local: [Be32; 4],
    pub remote: [Be32; 4],
}

impl Tuple {
    pub const UNKNOWN: Self = Self {
        family: 0,
        protocol: 0,
        has_ports: 0,
        ports: FlowPorts { local: 0, remote: 0 },
        local: [Be32(0); 4],
        remote: [Be32(0); 4],
    };
}

/// Stores what was read of an IPv4 packet. `outbound`: 1 or 0.
#[inline(always)]
pub fn of_v4(scratch: &Scratch<V4>, outbound: u32, tuple: &mut Tuple) {
    let (source, destination) = (scratch.ip.source, scratch.ip.destination);
    let (local, remote) = if outbound != 0 { (source, destination) } else { (destination, source) };
    store(&mut tuple.local, [local, Be32(0), Be32(0), Be32(0)]);
    store(&mut tuple.remote, [remote, Be32(0), Be32(0), Be32(0)]);
    rest(4, scratch.ip.protocol, scratch.transport.kind, scratch.transport.ports, tuple);
}

/// As [`of_v4`], of IPv6.
#[inline(always)]
pub fn of_v6(scratch: &Scratch<V6>, outbound: u32, tuple: &mut Tuple) {
    if outbound != 0 {
        copy(&mut tuple.local, scratch.ip.source);
        copy(&mut tuple.remote, scratch.ip.destination);
    } else {
        copy(&mut tuple.local, scratch.ip.destination);
        copy(&mut tuple.remote, scratch.ip.source);
    }
    rest(6, scratch.ip.protocol, scratch.transport.kind, scratch.transport.ports, tuple);
}

#[inline(always)]
fn rest(family: u32, protocol: u8, kind: Kind, ports: FlowPorts, tuple: &mut Tuple) {
    store(&mut tuple.family, family);
    store(&mut tuple.protocol, u32::from(protocol));
    store(&mut tuple.has_ports, u32::from(matches!(kind, Kind::Tcp | Kind::Udp)));
    store(&mut tuple.ports, ports);
}

/// Whether a watcher wants a packet of this kind ([`crate::abi::packet_kind`]) and of these sides. Where the sides are
/// unknown, who asks for any is told: the daemon reads the frame and decides.
#[inline(always)]
pub fn wants(watcher: &Watcher, ifindex: u32, kind: u32, tuple: &Tuple) -> bool {
    let Some(word) = watcher.kinds.get((kind >> 5) as usize) else { return false };
    if watcher.active == 0 || word >> (kind & 31) & 1 == 0 {
        return false;
    }
    if watcher.ifindex != 0 && watcher.ifindex != ifindex {
        return false;
    }
    tuple.family == 0 || wants_tuple(watcher, tuple)
}

/// The part of [`wants`] that is about the sides.
#[inline(always)]
pub fn wants_tuple(watcher: &Watcher, tuple: &Tuple) -> bool {
    if watcher.family != 0 && watcher.family != tuple.family {
        return false;
    }
    if watcher.protocol != ANY && watcher.protocol != tuple.protocol {
        return false;
    }
    if watcher.port != ANY
        && (tuple.has_ports == 0
            || (watcher.port != u32::from(tuple.ports.local)
                && watcher.port != u32::from(tuple.ports.remote)))
    {
        return false;
    }
    lies_in(tuple.remote, watcher.remote, watcher.remote_mask)
        && lies_in(tuple.local, watcher.local, watcher.local_mask)
}

/// Without a branch for each word, of which the verifier would follow both ways.
#[inline(always)]
fn lies_in([a, b, c, d]: [Be32; 4], [e, f, g, h]: [Be32; 4], [i, j, k, l]: [Be32; 4]) -> bool {
    let differ = ((a.0 ^ e.0) & i.0) | ((b.0 ^ f.0) & j.0) | ((c.0 ^ g.0) & k.0) | ((d.0 ^ h.0) & l.0);
    differ == 0
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
