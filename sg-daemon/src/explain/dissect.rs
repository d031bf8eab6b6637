//! A frame read back: in words, and as what rules ask for. By another's eyes than those that judge it (etherparse), so that the
//! words are no echo of what the filter thinks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::err::Layer;
use etherparse::{
    ArpPacketSlice, EtherType, Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, TcpSlice,
    UdpSlice,
};
use sg_common::packet::protocol;

use crate::protocols::{icmp_name, name, tcp_flag_words};

/// A frame in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dissected {
    pub words: String,
    /// What could not be read, and why.
    pub unread: Option<String>,
    pub source_mac: [u8; 6],
    /// Of IP packets.
    pub tuple: Option<Tuple>,
}

/// What rules and people ask about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// Source and destination, of TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// Type and code, of the family's ICMP.
    pub icmp: Option<(u8, u8)>,
    pub tcp_flags: Option<u8>,
    /// Not the first piece of its datagram: there is no transport header.
    pub later_piece: bool,
}

/// Reads a frame.
pub fn dissect(frame: &[u8]) -> Dissected {
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else {
        let words = format!("{} bytes that are no Ethernet frame", frame.len());
        let unread = Some("an Ethernet header has 14 bytes".to_owned());
        return Dissected { words, unread, source_mac: [0; 6], tuple: None };
    };
    let mut words = Vec::new();
    let mut source_mac = [0; 6];
    if let Some(LinkSlice::Ethernet2(link)) = &sliced.link {
        source_mac = link.source();
        words.push(format!("{} > {}", mac(source_mac), mac(link.destination())));
    }
    for id in sliced.vlan_ids() {
        words.push(format!("VLAN {}", id.value()));
    }
    let mut unread = sliced
        .stop_err
        .as_ref()
        // Judged below by what the filter asks of it: etherparse asks more of some messages.
        .filter(|(_, layer)| {
            !matches!(
                layer,
                Layer::Icmpv4 | Layer::Icmpv4Timestamp | Layer::Icmpv4TimestampReply | Layer::Icmpv6
            )
        })
        .map(|(error, layer)| format!("{layer}: {error}"));
    let mut tuple = None;
    match &sliced.net {
        Some(LaxNetSlice::Arp(packet)) => words.push(arp(packet)),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let offset = header.fragments_offset().value();
            let read = Read {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                // An authentication header is a protocol like any other in IPv4.
                protocol: header.protocol().0,
                piece: (offset, header.more_fragments(), header.identification().into()),
            };
            words.push(format!("IPv4 {} bytes, ttl {}", header.total_len(), header.ttl()));
            if !header.options().is_empty() {
                words.push(format!("{} bytes of options", header.options().len()));
            }
            tuple = Some(read.transport(ip.payload().payload, &mut words, &mut unread));
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let mut piece = (0, false, 0);
            let mut extensions = Vec::new();
            for extension in ip.extensions().clone() {
                extensions.push(match extension {
                    Ipv6ExtensionSlice::HopByHop(_) => "hop-by-hop options",
                    Ipv6ExtensionSlice::Routing(_) => "routing header",
                    Ipv6ExtensionSlice::Fragment(fragment) => {
                        piece = (
                            fragment.fragment_offset().value(),
                            fragment.more_fragments(),
                            fragment.identification(),
                        );
                        "fragment header"
                    }
                    Ipv6ExtensionSlice::DestinationOptions(_) => "destination options",
                    Ipv6ExtensionSlice::Authentication(_) => "authentication header",
                });
            }
            words.push(format!("IPv6 {} bytes, hop limit {}", header.payload_length(), header.hop_limit()));
            if !extensions.is_empty() {
                words.push(extensions.join(", "));
            }
            let read = Read {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: ip.payload().ip_number.0,
                piece,
            };
            tuple = Some(read.transport(ip.payload().payload, &mut words, &mut unread));
        }
        None => {
            if let Some(payload) = sliced.ether_payload() {
                words.push(ether_type(payload.ether_type));
            }
        }
    }
    Dissected { words: words.join(", "), unread, source_mac, tuple }
}

struct Read {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Offset in units of 8 bytes, whether more follow, identification.
    piece: (u16, bool, u32),
}

impl Read {
    fn transport(&self, payload: &[u8], words: &mut Vec<String>, unread: &mut Option<String>) -> Tuple {
        let (offset, more, id) = self.piece;
        let mut tuple = Tuple {
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            ports: None,
            icmp: None,
            tcp_flags: None,
            later_piece: offset != 0,
        };
        let mut fail = |layer: &str, error: String| {
            unread.get_or_insert_with(|| format!("{layer}: {error}"));
        };
        let ipv6 = self.source.is_ipv6();
        let own_icmp = if ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
        let mut what = name(self.protocol)
            .map_or_else(|| format!("protocol {}", self.protocol), str::to_ascii_uppercase);
        match self.protocol {
            _ if offset != 0 => {}
            protocol::TCP => match TcpSlice::from_slice(payload) {
                Ok(tcp) => {
                    let flags = tcp.header_slice().get(13).copied().unwrap_or_default();
                    tuple.ports = Some((tcp.source_port(), tcp.destination_port()));
                    tuple.tcp_flags = Some(flags);
                    what += &format!(" [{}]", tcp_flag_words(flags));
                }
                Err(error) => fail("TCP header", error.to_string()),
            },
            protocol::UDP => match UdpSlice::from_slice_lax(payload) {
                Ok(udp) => tuple.ports = Some((udp.source_port(), udp.destination_port())),
                Err(error) => fail("UDP header", error.to_string()),
            },
            // Some types have a longer header, which matters to nobody here.
            number if number == own_icmp => match payload {
                [kind, code, _, _, high, low, _, _, quoted @ ..] => {
                    let (kind, code) = (*kind, *code);
                    tuple.icmp = Some((kind, code));
                    let called =
                        icmp_name(kind, code, ipv6).map_or_else(String::new, |name| format!("{name}, "));
                    what += &format!(" {called}type {kind} code {code}");
                    if is_query(kind, ipv6) {
                        what += &format!(" id {}", u16::from_be_bytes([*high, *low]));
                    }
                    if is_error(kind, ipv6) {
                        what += &quote(quoted);
                    }
                }
                short => fail("ICMP header", format!("8 bytes were expected, and there are {}", short.len())),
            },
            _ => {}
        }
        let end = |address: IpAddr, port: Option<u16>| match (address, port) {
            (address, None) => address.to_string(),
            (address, Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        };
        words.push(format!(
            "{} > {} {what}",
            end(self.source, tuple.ports.map(|ports| ports.0)),
            end(self.destination, tuple.ports.map(|ports| ports.1)),
        ));
        if offset != 0 || more {
            let piece = match (offset, more) {
                (0, _) => "first fragment".to_owned(),
                (_, true) => format!("fragment at byte {}, more follow", u32::from(offset) * 8),
                (_, false) => format!("last fragment, at byte {}", u32::from(offset) * 8),
            };
            words.push(format!("{piece}, id {id}"));
        }
        tuple
    }
}

/// Whether the type is a query's or its answer's, which have an identifier.
fn is_query(kind: u8, ipv6: bool) -> bool {
    if ipv6 { matches!(kind, 128 | 129 | 139 | 140) } else { matches!(kind, 0 | 8 | 13..=18) }
}

/// Whether messages of the type quote the packet that they are about.
pub fn is_error(kind: u8, ipv6: bool) -> bool {
    if ipv6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) }
}

/// ` about 10.0.0.5:40000 > 8.8.8.8:53 UDP`.
fn quote(packet: &[u8]) -> String {
    let Ok(sliced) = LaxSlicedPacket::from_ip(packet) else {
        return " about a packet that cannot be read".to_owned();
    };
    let ports = |payload: &[u8]| match payload {
        [a, b, c, d, ..] => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
        _ => None,
    };
    let (source, destination, number, payload): (IpAddr, IpAddr, u8, &[u8]) = match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            (source.into(), destination.into(), header.protocol().0, ip.payload().payload)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            (source.into(), destination.into(), ip.payload().ip_number.0, ip.payload().payload)
        }
        _ => return " about a packet that cannot be read".to_owned(),
    };
    let what = name(number).map_or_else(|| format!("protocol {number}"), str::to_ascii_uppercase);
    match ports(payload).filter(|_| matches!(number, protocol::TCP | protocol::UDP)) {
        Some((from, to)) => format!(
            " about {} > {} {what}",
            std::net::SocketAddr::new(source, from),
            std::net::SocketAddr::new(destination, to)
        ),
        None => format!(" about {source} > {destination} {what}"),
    }
}

fn arp(packet: &ArpPacketSlice<'_>) -> String {
    let operation = match packet.operation().0 {
        1 => "request".to_owned(),
        2 => "reply".to_owned(),
        other => format!("operation {other}"),
    };
    let address = |bytes: &[u8]| match bytes {
        [a, b, c, d] => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        other => <[u8; 16]>::try_from(other)
            .map_or_else(|_| hex::encode(other), |bytes| Ipv6Addr::from(bytes).to_string()),
    };
    let hardware = |bytes: &[u8]| <[u8; 6]>::try_from(bytes).map_or_else(|_| hex::encode(bytes), mac);
    format!(
        "ARP {operation}: {} is at {}, asks for {}",
        address(packet.sender_protocol_addr()),
        hardware(packet.sender_hw_addr()),
        address(packet.target_protocol_addr())
    )
}

fn ether_type(ether_type: EtherType) -> String {
    let known = match ether_type.0 {
        0x8035 => " (RARP)",
        0x88cc => " (LLDP)",
        0x8847 | 0x8848 => " (MPLS)",
        0x8863 | 0x8864 => " (PPPoE)",
        0x888e => " (802.1X)",
        _ => "",
    };
    format!("EtherType 0x{:04x}{known}", ether_type.0)
}

/// `52:54:00:12:34:56`.
pub fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
