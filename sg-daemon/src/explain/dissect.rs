//! A frame read back: in words, and as what rules ask for. By other eyes than those that judge it, so that the words are no echo
//! of what the filter thinks. Headers are read one by one: etherparse 0.21 walks IPv6 extension headers that are cut out of bounds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpPacketSlice, EtherType, Ethernet2HeaderSlice, Ipv4HeaderSlice, Ipv6HeaderSlice, SingleVlanHeaderSlice,
    TcpSlice, UdpSlice,
};
use sg_common::abi::Direction;
use sg_common::packet::protocol;

use crate::compile::fit;
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

impl Tuple {
    /// What rules ask about it, where it passes in a direction.
    pub fn asked(self, direction: Direction) -> fit::Tuple {
        fit::Tuple {
            direction,
            protocol: self.protocol,
            remote: match direction {
                Direction::Inbound => self.source,
                Direction::Outbound => self.destination,
            },
            port: self.ports.map(|(_, to)| to),
            icmp: self.icmp,
        }
    }
}

/// How many tags are told of.
const MAX_TAGS: usize = 4;
/// How many extension headers.
const MAX_EXTENSIONS: usize = 16;

/// Reads a frame.
pub fn dissect(frame: &[u8]) -> Dissected {
    let Ok(link) = Ethernet2HeaderSlice::from_slice(frame) else {
        let words = format!("{} bytes that are no Ethernet frame", frame.len());
        let unread = Some("an Ethernet header has 14 bytes".to_owned());
        return Dissected { words, unread, source_mac: [0; 6], tuple: None };
    };
    let source_mac = link.source();
    let mut words = vec![format!("{} > {}", mac(source_mac), mac(link.destination()))];
    let mut unread = None;
    let mut kind = link.ether_type();
    let mut rest = frame.get(link.slice().len()..).unwrap_or_default();
    for _ in 0..MAX_TAGS {
        if !matches!(kind, EtherType::VLAN_TAGGED_FRAME | EtherType::PROVIDER_BRIDGING) {
            break;
        }
        match SingleVlanHeaderSlice::from_slice(rest) {
            Ok(tag) => {
                words.push(format!("VLAN {}", tag.vlan_identifier().value()));
                kind = tag.ether_type();
                rest = rest.get(tag.slice().len()..).unwrap_or_default();
            }
            Err(error) => {
                unread = Some(format!("VLAN tag: {error}"));
                break;
            }
        }
    }
    let mut tuple = None;
    match kind {
        EtherType::IPV4 | EtherType::IPV6 => match Read::new(rest, kind == EtherType::IPV6, &mut words) {
            Ok((read, payload)) => tuple = Some(read.transport(payload, &mut words, &mut unread)),
            Err(error) => unread = Some(error),
        },
        EtherType::ARP => match ArpPacketSlice::from_slice(rest) {
            Ok(packet) => words.push(arp(&packet)),
            Err(error) => unread = Some(format!("ARP: {error}")),
        },
        other => words.push(ether_type(other)),
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
    /// The IP header, and what stands behind it.
    fn new<'p>(packet: &'p [u8], ipv6: bool, words: &mut Vec<String>) -> Result<(Self, &'p [u8]), String> {
        if !ipv6 {
            let header =
                Ipv4HeaderSlice::from_slice(packet).map_err(|error| format!("IPv4 header: {error}"))?;
            words.push(format!("IPv4 {} bytes, ttl {}", header.total_len(), header.ttl()));
            if !header.options().is_empty() {
                words.push(format!("{} bytes of options", header.options().len()));
            }
            let read = Self {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                // An authentication header is a protocol like any other in IPv4.
                protocol: header.protocol().0,
                piece: (
                    header.fragments_offset().value(),
                    header.more_fragments(),
                    header.identification().into(),
                ),
            };
            // Behind the packet's end there may be padding.
            let end = packet.len().min(header.total_len().into());
            return Ok((read, packet.get(header.slice().len()..end).unwrap_or_default()));
        }
        let header = Ipv6HeaderSlice::from_slice(packet).map_err(|error| format!("IPv6 header: {error}"))?;
        words.push(format!("IPv6 {} bytes, hop limit {}", header.payload_length(), header.hop_limit()));
        let start = header.slice().len();
        let end = packet.len().min(start + usize::from(header.payload_length()));
        let mut rest = packet.get(start..end).unwrap_or_default();
        let mut read = Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.next_header().0,
            piece: (0, false, 0),
        };
        // RFC 8200, section 4; RFC 4302 counts in words and from two less.
        for _ in 0..MAX_EXTENSIONS {
            let name = match read.protocol {
                0 => "hop-by-hop options",
                43 => "routing header",
                44 => "fragment header",
                51 => "authentication header",
                60 => "destination options",
                _ => return Ok((read, rest)),
            };
            let [next, length, second, third, id @ ..] = rest else {
                return Err(format!("{name}: it is cut"));
            };
            let bytes = match read.protocol {
                44 => 8,
                51 => (usize::from(*length) + 2) * 4,
                _ => (usize::from(*length) + 1) * 8,
            };
            if read.protocol == 44 {
                let word = u16::from_be_bytes([*second, *third]);
                let id = id.first_chunk::<4>().map_or(0, |id| u32::from_be_bytes(*id));
                read.piece = (word >> 3, word & 1 == 1, id);
            }
            words.push(name.to_owned());
            read.protocol = *next;
            rest = rest.get(bytes..).ok_or_else(|| format!("{name}: it is cut"))?;
            if read.piece.0 != 0 {
                return Ok((read, rest));
            }
        }
        Err(format!("more than {MAX_EXTENSIONS} extension headers"))
    }

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
    let ipv6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let Ok((Read { source, destination, protocol: number, .. }, payload)) =
        Read::new(packet, ipv6, &mut Vec::new())
    else {
        return " about a packet that cannot be read".to_owned();
    };
    let ports = |payload: &[u8]| match payload {
        [a, b, c, d, ..] => Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))),
        _ => None,
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn words(digits: &str) -> Dissected {
        dissect(&hex::decode(digits.replace(' ', "")).unwrap())
    }

    #[test]
    fn frames_are_told_in_words() {
        let ethernet = "525400000001 525400000005";
        for (digits, expected) in [
            (
                "0800 4500 0028 0000 4000 4006 0000 0a000005 08080808 01bb 0050 00000001 00000000 5002 ffff 0000 0000",
                "IPv4 40 bytes, ttl 64, 10.0.0.5:443 > 8.8.8.8:80 TCP [syn]",
            ),
            (
                "8100 0007 0800 4500 0028 0001 20b9 4011 0000 0a000005 08080808 00000000",
                "VLAN 7, IPv4 40 bytes, ttl 64, 10.0.0.5 > 8.8.8.8 UDP, fragment at byte 1480, more follow, id 1",
            ),
            (
                "86dd 60000000 0010 2c 40 fd000000000000000000000000000005 20010db8000000000000000000000001 \
                 3a 00 0001 00000007 80 00 0000 0009 0001",
                "IPv6 16 bytes, hop limit 64, fragment header, fd00::5 > 2001:db8::1 ICMPV6 echo-request, type 128 code 0 id 9, \
                 first fragment, id 7",
            ),
            (
                "0806 0001 0800 06 04 0001 525400000005 0a000005 000000000000 0a000001",
                "ARP request: 10.0.0.5 is at 52:54:00:00:00:05, asks for 10.0.0.1",
            ),
            ("88cc 0207", "EtherType 0x88cc (LLDP)"),
            (
                "0800 4500 0038 0000 4000 4001 0000 08080808 0a000005 03 03 0000 00000000 \
                 4500 001c 0000 4000 4011 0000 0a000005 08080808 9c40 0035 0008 0000",
                "IPv4 56 bytes, ttl 64, 8.8.8.8 > 10.0.0.5 ICMP port-unreachable, type 3 code 3 about 10.0.0.5:40000 > 8.8.8.8:53 UDP",
            ),
        ] {
            let found = words(&format!("{ethernet} {digits}"));
            assert_eq!(found.words, format!("52:54:00:00:00:05 > 52:54:00:00:00:01, {expected}"), "{digits}");
            assert_eq!(found.unread, None, "{digits}");
        }
        let cut = words(&format!(
            "{ethernet} 86dd 60000000 0008 00 40 fd000000000000000000000000000005 20010db8000000000000000000000001 00ff"
        ));
        assert!(
            cut.unread.is_some_and(|why| why.contains("hop-by-hop options: it is cut")),
            "{:?}",
            cut.words
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
        /// Whoever may ask may send any bytes, and a panic would end sgd.
        #[test]
        fn any_bytes_are_told_of(bytes in vec(any::<u8>(), 0..120), kind in 0..6usize, first in any::<u8>(), next in 0..256usize) {
            let mut frame = bytes;
            if let Some(field) = frame.get_mut(12..15) {
                let kinds = [[0x08, 0x00, 0x45], [0x86, 0xdd, 0x60], [0x81, 0x00, 0x00], [0x08, 0x06, 0x00], [0x08, 0x00, 0x4f]];
                field.copy_from_slice(kinds.get(kind).unwrap_or(&[first; 3]));
            }
            // Extension headers now and then.
            if kind == 1 && let Some(field) = frame.get_mut(20) {
                *field = [0, 43, 44, 51, 60].get(next % 8).copied().unwrap_or(next as u8);
            }
            let told = dissect(&frame);
            prop_assert!(!told.words.is_empty());
        }
    }
}
