//! What passes without a rule, because no instance can live without it: ARP, IPv6 neighbour discovery, DHCP.

use crate::abi::Direction;
use crate::family::Family;
use crate::packet::{Ip, Kind, Transport, ether_type, protocol};
use crate::verdict::Reason;

/// Frames that carry no IP.
#[inline(always)]
pub const fn non_ip(kind: u16) -> Reason {
    match kind {
        ether_type::ARP | ether_type::RARP => Reason::Arp,
        ether_type::VLAN | ether_type::PROVIDER_VLAN => Reason::Vlan,
        _ => Reason::EtherType,
    }
}

/// IP packets that pass whatever the rules say.
#[inline(always)]
pub fn passes<F: Family>(ip: &Ip<F>, transport: &Transport, direction: Direction) -> Option<Reason> {
    match transport.kind {
        Kind::Udp if is_dhcp::<F>(transport) => Some(Reason::Dhcp),
        Kind::IcmpOther
            if F::ICMP == protocol::ICMPV6 && is_discovery(ip.hop_limit, transport, direction) =>
        {
            Some(Reason::NeighborDiscovery)
        }
        _ => None,
    }
}

/// The instance is the client: RFC 2131, section 4.1 (68 and 67); RFC 8415, section 7.2 (546 and 547).
#[inline(always)]
fn is_dhcp<F: Family>(transport: &Transport) -> bool {
    let (client, server) = if F::BIT == 0 { (68, 67) } else { (546, 547) };
    transport.ports.local == client && transport.ports.remote == server
}

/// RFC 4861, section 4 (a hop limit of 255 proves that no router forwarded the message); RFC 2710 and RFC 3810 for
/// the reports that switches snoop. A router's advertisement may come in but not go out.
#[inline(always)]
fn is_discovery(hop_limit: u8, transport: &Transport, direction: Direction) -> bool {
    match transport.number >> 8 {
        130..=132 | 143 => hop_limit == 1,
        133 | 135 | 136 => hop_limit == 255,
        134 => hop_limit == 255 && matches!(direction, Direction::Inbound),
        _ => false,
    }
}
