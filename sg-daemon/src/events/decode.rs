//! An event, read.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use sg_common::abi::{Be32, Direction, EVENT_AUDIT, Event};
use sg_common::family::{V4, V6};
use sg_common::packet::{
    Arp, ETHERNET_BYTES, Ethernet, Header, Ip, Kind, Opaque, Packet, ReadIp, Transport, VlanTag, ether_type,
    protocol, read_transport,
};
use sg_common::verdict::{Action, Reason};

use crate::api::explain::{RuleText, Verdict};
use crate::kernel::v6_of;

/// A packet and its verdict.
#[derive(Debug, Clone)]
pub struct Told {
    /// As the kernel told it.
    pub event: Event,
    /// When the packet came by.
    pub time: SystemTime,
    /// The device's name; absent if the filter has none for it (any more).
    pub interface: Option<String>,
    pub direction: Direction,
    pub verdict: Verdict,
    pub reason: Reason,
    pub packet: Seen,
    /// The rules that allow it, of packets that rules were asked about.
    pub rules: Vec<RuleText>,
}

/// What is seen of a packet. What cannot be read is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub ether_type: Option<u16>,
    /// Of an 802.1Q tag in the frame.
    pub vlan: Option<u16>,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub protocol: Option<u8>,
    /// Source and destination.
    pub ports: Option<(u16, u16)>,
    /// Type and code.
    pub icmp: Option<(u8, u8)>,
    pub tcp_flags: Option<u8>,
    /// Not the first piece of its datagram.
    pub later_piece: bool,
    /// ARP: who has `destination`, or `source` is at an address.
    pub arp: Option<u16>,
}

impl Seen {
    /// The instance's side and the other.
    pub fn local_and_remote(&self, direction: Direction) -> (Option<IpAddr>, Option<IpAddr>) {
        match direction {
            Direction::Inbound => (self.destination, self.source),
            Direction::Outbound => (self.source, self.destination),
        }
    }
}

/// The beginning of a frame.
struct Frame<'e> {
    bytes: &'e [u8],
    len: u32,
}

impl Packet for Frame<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        let start = offset as usize;
        let bytes = self.bytes.get(start..start.checked_add(size_of::<H>())?)?;
        // SAFETY: the bytes are as many as a header has, and any bytes are a `Header`.
        Some(unsafe { bytes.as_ptr().cast::<H>().read_unaligned() })
    }

    fn has_offloaded_vlan(&self) -> bool {
        false
    }

    fn pending_checksum(&self) -> Option<u32> {
        None
    }
}

/// Reads a frame of which `bytes` are the beginning.
pub fn read(event: &Event, direction: Direction) -> Seen {
    let captured = event.frame.get(..event.captured as usize).unwrap_or(&event.frame);
    let frame = Frame { bytes: captured, len: event.bytes };
    let mut seen = Seen::default();
    let Some(ethernet) = frame.read::<Ethernet>(0) else { return seen };
    let (mut kind, mut network) = (u16::from_be(ethernet.ether_type), ETHERNET_BYTES);
    if kind == ether_type::VLAN
        && let Some(tag) = frame.read::<VlanTag>(ETHERNET_BYTES)
    {
        seen.vlan = Some(u16::from_be(tag.tci) & 0xfff);
        (kind, network) = (u16::from_be(tag.ether_type), ETHERNET_BYTES + 4);
    }
    seen.ether_type = Some(kind);
    match kind {
        ether_type::IPV4 => ip::<V4>(&frame, network, direction, v4, &mut seen),
        ether_type::IPV6 => ip::<V6>(&frame, network, direction, |words| v6_of(words).into(), &mut seen),
        ether_type::ARP => {
            if let Some(arp) = frame.read::<Arp>(network) {
                seen.arp = Some(u16::from_be(arp.operation));
                seen.source = Some(Ipv4Addr::from(arp.sender_address).into());
                seen.destination = Some(Ipv4Addr::from(arp.target_address).into());
            }
        }
        _ => {}
    }
    seen
}

fn v4(address: Be32) -> IpAddr {
    Ipv4Addr::from_bits(address.to_host()).into()
}

/// With the filter's own reader: what it cannot read, the filter could not either.
fn ip<F: ReadIp>(
    frame: &Frame<'_>,
    network: u32,
    direction: Direction,
    address: impl Fn(F::Address) -> IpAddr,
    seen: &mut Seen,
) {
    let (mut ip, mut transport, mut free) = (Ip::<F>::NOTHING, Transport::NOTHING, 0);
    let read = F::read_ip(frame, network, &mut ip, Opaque(&mut free));
    if ip.end == 0 {
        return;
    }
    seen.source = Some(address(ip.source));
    seen.destination = Some(address(ip.destination));
    seen.protocol = Some(ip.protocol);
    seen.later_piece = ip.piece.is_later();
    if read.is_err() || seen.later_piece {
        return;
    }
    if read_transport(frame, &ip, direction, &mut transport, Opaque(&mut free)).is_err() {
        return;
    }
    match transport.kind {
        Kind::Tcp | Kind::Udp => {
            let (local, remote) = (transport.ports.local, transport.ports.remote);
            seen.ports = Some(match direction {
                Direction::Inbound => (remote, local),
                Direction::Outbound => (local, remote),
            });
            if ip.protocol == protocol::TCP {
                seen.tcp_flags = Some(transport.seen.flags);
            }
        }
        Kind::IcmpRequest | Kind::IcmpReply | Kind::IcmpOther => {
            seen.icmp = Some(((transport.number >> 8) as u8, transport.number as u8));
        }
        Kind::Other => {}
    }
}

/// What the kernel decided.
pub fn verdict(event: &Event, reason: Reason) -> Verdict {
    match reason.action() {
        Action::Allow => Verdict::Allow,
        Action::Drop if event.flags & EVENT_AUDIT != 0 => Verdict::WouldDrop,
        Action::Drop => Verdict::Drop,
    }
}

/// The monotonic clock and the wall's, at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    monotonic: Duration,
    wall: SystemTime,
}

impl Clocks {
    pub fn now() -> Self {
        let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_or(Duration::ZERO, Duration::from);
        Self { monotonic, wall: SystemTime::now() }
    }

    /// The time on the wall when the monotonic clock showed so many nanoseconds.
    pub fn wall(self, nanoseconds: u64) -> SystemTime {
        let then = Duration::from_nanos(nanoseconds);
        match self.monotonic.checked_sub(then) {
            Some(ago) => self.wall.checked_sub(ago),
            None => self.wall.checked_add(then.saturating_sub(self.monotonic)),
        }
        .unwrap_or(self.wall)
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
