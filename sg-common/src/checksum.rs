//! Checksums that are still to be written when a packet is judged.
//!
//! Senders leave the transport checksum to the device and name its place: where the sum begins, and where it goes. For a
//! guest's packet that place is the guest's word (virtio 1.2, section 5.1.6.2; PACKET_VNET_HDR in packet(7)), and whoever
//! computes it, a device or `skb_checksum_help` in net/core/dev.c, does so behind the filter. So a guest could have two
//! bytes of its choice changed after they were judged: a port, an address, the sender of an ARP announcement.
//!
//! An honest place is the checksum field of the transport header, or lies behind all that was judged, as in a tunnel's
//! inner packet.

use crate::abi::Hook;
use crate::family::{Family, V4, V6};
use crate::judge::{Judgement, Scratch, Tables, network_of, place};
use crate::packet::{Ethernet, Ip, Opaque, Packet, ReadIp, ether_type, protocol};
use crate::verdict::{Reason, Verdict};

/// Whether a checksum is to be written over something of an IP packet that was judged.
#[inline(always)]
pub fn spoils<F: Family, P: Packet>(packet: &P, ip: &Ip<F>) -> bool {
    match packet.pending_checksum() {
        None => false,
        Some(place) => !is_honest(place, ip),
    }
}

#[inline(always)]
fn is_honest<F: Family>(place: u32, ip: &Ip<F>) -> bool {
    let start = ip.transport;
    // What later pieces hold is data. The place is 16 bits wide twice over, so nothing wraps.
    let (field, behind) = match ip.protocol {
        _ if ip.piece.offset != 0 => (start, start),
        protocol::TCP => (start + 16, u32::MAX),
        protocol::UDP => (start + 6, start + 8),
        // A message of ICMP is judged to its end.
        icmp if icmp == F::ICMP => (start + 2, u32::MAX),
        _ => (start, start),
    };
    place == field || place >= behind
}

/// Whether a checksum is to be written over something that was judged of a frame without IP, of which `network` bytes are the
/// Ethernet header.
#[inline(always)]
pub fn spoils_frame<P: Packet>(packet: &P, network: u32, kind: u16) -> bool {
    match packet.pending_checksum() {
        None => false,
        Some(place) => place < network || matches!(kind, ether_type::ARP | ether_type::RARP),
    }
}

/// Judges nothing of a frame but where its checksum goes; `None` if there is nothing to say against it. For devices whose
/// packets are judged by a program that does not see this place: XDP's.
///
/// What cannot be read is left to that program, which has dropped it.
#[inline(always)]
pub fn check<P, T>(packet: &P, tables: &T, ifindex: u32, hook: Hook) -> Option<Judgement>
where
    P: Packet,
    T: Tables<V4> + Tables<V6>,
{
    // Without any there is nothing to read.
    packet.pending_checksum()?;
    let at = place(tables, ifindex, hook)?;
    let ethernet = packet.read::<Ethernet>(0)?;
    let (kind, network) = network_of(packet, &at, u16::from_be(ethernet.ether_type))?;
    let spoils = match kind {
        ether_type::IPV4 => spoils_ip::<V4, P, T>(packet, tables, network),
        ether_type::IPV6 => spoils_ip::<V6, P, T>(packet, tables, network),
        other => spoils_frame(packet, network, other),
    };
    // Of the scratch only the IP header was read here.
    spoils.then(|| Judgement::new(Verdict::of(Reason::ChecksumPlace), &at, 0))
}

#[inline(never)]
fn spoils_ip<F: ReadIp, P: Packet, T: Tables<F>>(packet: &P, tables: &T, network: u32) -> bool {
    let Some(Scratch { ip, free, .. }) = tables.scratch() else { return true };
    F::read_ip(packet, network, ip, Opaque(free)).is_ok() && spoils(packet, ip)
}
