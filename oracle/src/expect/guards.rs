//! Section 4 of docs/packets.md: what holds whatever the rules say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Verdict;
use super::headers::{Packet, Transport, v6};
use super::policy::Interface;

/// What the guards say of a whole packet or first piece; nothing if rules and flows decide.
pub fn judge(
    interface: &Interface,
    outbound: bool,
    packet: &Packet<'_>,
    transport: &Transport,
) -> Option<Verdict> {
    if let Some(reason) = source_route(interface, packet) {
        return Some(Err(reason));
    }
    match *transport {
        Transport::Icmp { kind: 130..=132 | 143, .. }
            if is_listener_report(packet) && packet.hop_limit == 1 && !packet.piece.is_first() =>
        {
            let passes = is_unspecified(packet.source) || interface.may_send(outbound, packet.source);
            return Some(if passes { Ok("neighbor_discovery") } else { Err("source_address") });
        }
        Transport::Icmp { kind: kind @ 133..=136, .. } if packet.source.is_ipv6() => {
            if let Some(verdict) = discovery(interface, outbound, packet, kind) {
                return Some(verdict);
            }
        }
        _ => {}
    }
    if let Transport::Icmp { kind, .. } = *transport
        && kind == (if packet.source.is_ipv4() { 5 } else { 137 })
        && interface.guard("redirects")
    {
        return Some(Err("redirect"));
    }
    if let Transport::Udp { source, destination } = *transport
        && let Some(verdict) = dhcp(interface, outbound, packet, source, destination)
    {
        return Some(verdict);
    }
    (!interface.may_send(outbound, packet.source)).then_some(Err("source_address"))
}

/// What the guards say of a later piece.
pub fn later_piece(interface: &Interface, outbound: bool, packet: &Packet<'_>) -> Result<(), &'static str> {
    if let Some(reason) = source_route(interface, packet) {
        return Err(reason);
    }
    if interface.may_send(outbound, packet.source) { Ok(()) } else { Err("source_address") }
}

fn source_route(interface: &Interface, packet: &Packet<'_>) -> Option<&'static str> {
    (interface.guard("source_routing") && packet.source_routed).then_some("source_route")
}

fn is_unspecified(address: IpAddr) -> bool {
    address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// RFC 3810, section 5: from link-local or no address, to a group.
fn is_listener_report(packet: &Packet<'_>) -> bool {
    match (packet.source, packet.destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            (source.is_unspecified() || source.is_unicast_link_local()) && destination.is_multicast()
        }
        _ => false,
    }
}

/// RFC 4861: router solicitation (133) and advertisement (134), neighbour solicitation (135) and advertisement (136).
fn discovery(interface: &Interface, outbound: bool, packet: &Packet<'_>, kind: u8) -> Option<Verdict> {
    let guarded = interface.guard("neighbor_discovery");
    if packet.hop_limit != 255 || packet.piece.is_first() {
        return guarded.then_some(Err("neighbor_spoof"));
    }
    if kind == 134 {
        return advertisement(interface, outbound, packet.source);
    }
    if outbound && guarded {
        if !is_unspecified(packet.source) && !interface.owns(packet.source) {
            return Some(Err("neighbor_spoof"));
        }
        if kind == 136 {
            if packet.rest.len() < 24 {
                return Some(Err("malformed"));
            }
            if !interface.owns(v6(packet.rest, 8)) {
                return Some(Err("neighbor_spoof"));
            }
        }
        if interface.guard("source_mac")
            && let Some(mac) = interface.mac
        {
            let options = packet.rest.get(if kind == 133 { 8.. } else { 24.. }).unwrap_or_default();
            if !options_are_own(options, mac) {
                return Some(Err("neighbor_spoof"));
            }
        }
    }
    Some(Ok("neighbor_discovery"))
}

fn advertisement(interface: &Interface, outbound: bool, source: IpAddr) -> Option<Verdict> {
    if outbound {
        let guarded = interface.guard("router_advertisements");
        return Some(if guarded { Err("router_advertisement") } else { Ok("neighbor_discovery") });
    }
    let of_router = matches!(source, IpAddr::V6(source) if interface.routers.contains(&source));
    if interface.host || of_router {
        return Some(Ok("neighbor_discovery"));
    }
    (!interface.routers.is_empty()).then_some(Err("router_advertisement"))
}

/// RFC 4861, section 4.6.1: the link-layer addresses of source (1) and target (2).
fn options_are_own(mut options: &[u8], mac: [u8; 6]) -> bool {
    let mut seen = 0;
    while !options.is_empty() {
        let length = options.get(1).map_or(0, |length| usize::from(*length) * 8);
        if seen == 8 || length == 0 || length > options.len() {
            return false;
        }
        if matches!(options[0], 1 | 2) && options[2..8] != mac {
            return false;
        }
        seen += 1;
        options = &options[length..];
    }
    true
}

fn dhcp(
    interface: &Interface,
    outbound: bool,
    packet: &Packet<'_>,
    source: u16,
    destination: u16,
) -> Option<Verdict> {
    let v4 = packet.source.is_ipv4();
    let (client, server) = if v4 { (68, 67) } else { (546, 547) };
    let listed = |address: IpAddr| interface.dhcp_servers.contains(&address);
    if outbound && (source, destination) == (client, server) {
        let (everybody, nobody) = if v4 {
            (IpAddr::V4(Ipv4Addr::BROADCAST), IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        } else {
            // RFC 8415, section 7.1: all relay agents and servers.
            let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
            (IpAddr::V6(all), IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        };
        let to = packet.destination == everybody || listed(packet.destination) || interface.host;
        let from = packet.source == nobody || interface.may_send(outbound, packet.source);
        if to && from {
            return Some(Ok("dhcp"));
        }
    }
    if !outbound && (source, destination) == (server, client) {
        let none_listed = interface.dhcp_servers.iter().all(|server| server.is_ipv4() != v4);
        if listed(packet.source) || none_listed || interface.host {
            return Some(Ok("dhcp"));
        }
    }
    (outbound && destination == client && interface.guard("dhcp_server")).then_some(Err("dhcp_server"))
}
