//! Reading packets: headers as they stand on the wire, and the 5-tuple that the decisions work with.
//!
//! Multi-byte fields of header structs are in network order and are converted where they are used. A field is read
//! only through [`Packet::read`], which checks the length, so nothing here can read outside of the packet.

use crate::abi::{Be32, Direction, FlowPorts};
use crate::family::{Family, V4, V6};
use crate::verdict::Reason;

/// A header: plain bytes, any content valid.
///
/// # Safety
///
/// Every bit pattern must be a value of the type, and it must have no padding.
pub unsafe trait Header: Copy {}

/// A frame from its Ethernet header on.
pub trait Packet {
    /// Bytes of the whole frame, also those that only the device has at hand (fragments of a super-packet).
    fn len(&self) -> u32;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The header at `offset`, or `None` if the frame ends before the header does.
    fn read<H: Header>(&self, offset: u32) -> Option<H>;

    /// Whether the device has taken a VLAN tag out of the frame.
    fn has_offloaded_vlan(&self) -> bool;
}

macro_rules! headers {
    ($($(#[$doc:meta])* pub struct $name:ident: $size:literal { $(pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: integers only, and the size assertion leaves no room for padding.
        unsafe impl Header for $name {}
    )*};
}

headers! {
    /// IEEE 802.3.
    pub struct Ethernet: 14 {
        pub destination: [u8; 6],
        pub source: [u8; 6],
        pub ether_type: u16,
    }

    /// RFC 791, section 3.1, without options.
    pub struct Ipv4: 20 {
        pub version_ihl: u8,
        pub tos: u8,
        pub total_length: u16,
        pub identification: u16,
        pub flags_fragment: u16,
        pub ttl: u8,
        pub protocol: u8,
        pub checksum: u16,
        pub source: Be32,
        pub destination: Be32,
    }

    /// RFC 8200, section 3.
    pub struct Ipv6: 40 {
        pub version_class_flow: u32,
        pub payload_length: u16,
        pub next_header: u8,
        pub hop_limit: u8,
        pub source: [Be32; 4],
        pub destination: [Be32; 4],
    }

    /// RFC 8200, section 4: what all extension headers but ESP have in common.
    pub struct Extension: 2 {
        pub next_header: u8,
        pub length: u8,
    }

    /// RFC 9293, section 3.1, without options.
    pub struct Tcp: 20 {
        pub source: u16,
        pub destination: u16,
        pub sequence: u32,
        pub acknowledgment: u32,
        pub data_offset: u8,
        pub flags: u8,
        pub window: u16,
        pub checksum: u16,
        pub urgent: u16,
    }

    /// RFC 768.
    pub struct Udp: 8 {
        pub source: u16,
        pub destination: u16,
        pub length: u16,
        pub checksum: u16,
    }

    /// RFC 792 and RFC 4443; the identifier has a meaning only in requests and replies.
    pub struct Icmp: 8 {
        pub kind: u8,
        pub code: u8,
        pub checksum: u16,
        pub identifier: u16,
        pub sequence: u16,
    }
}

pub const ETHERNET_BYTES: u32 = 14;

/// EtherTypes (IEEE 802 numbers), in host order.
pub mod ether_type {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const RARP: u16 = 0x8035;
    pub const VLAN: u16 = 0x8100;
    pub const PROVIDER_VLAN: u16 = 0x88a8;
    pub const IPV6: u16 = 0x86dd;
}

/// IP protocol numbers (IANA).
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT_HEADER: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// The network layer of a packet that is whole and no fragment.
#[derive(Clone, Copy, Debug)]
pub struct Ip<F: Family> {
    pub source: F::Address,
    pub destination: F::Address,
    pub protocol: u8,
    pub hop_limit: u8,
    /// Where the transport header starts, in bytes from the start of the frame.
    pub transport: u32,
    /// Where the IP packet ends, likewise.
    pub end: u32,
}

/// How a family's header is read.
pub trait ReadIp: Family {
    /// # Errors
    ///
    /// The reason to drop the packet for.
    fn read_ip<P: Packet>(packet: &P) -> Result<Ip<Self>, Reason>;
}

impl ReadIp for V4 {
    #[inline(always)]
    fn read_ip<P: Packet>(packet: &P) -> Result<Ip<Self>, Reason> {
        let Some(header) = packet.read::<Ipv4>(ETHERNET_BYTES) else { return Err(Reason::Malformed) };
        let header_bytes = u32::from(header.version_ihl & 0x0f) * 4;
        let total = u32::from(u16::from_be(header.total_length));
        if header.version_ihl >> 4 != 4 || header_bytes < 20 || total < header_bytes {
            return Err(Reason::Malformed);
        }
        let end = ETHERNET_BYTES + total;
        if end > packet.len() {
            return Err(Reason::Malformed);
        }
        // More-fragments flag or an offset.
        if u16::from_be(header.flags_fragment) & 0x3fff != 0 {
            return Err(Reason::Fragment);
        }
        Ok(Ip {
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            hop_limit: header.ttl,
            transport: ETHERNET_BYTES + header_bytes,
            end,
        })
    }
}

/// How many IPv6 extension headers are walked.
const MAX_EXTENSIONS: u32 = 6;

impl ReadIp for V6 {
    #[inline(always)]
    fn read_ip<P: Packet>(packet: &P) -> Result<Ip<Self>, Reason> {
        let Some(header) = packet.read::<Ipv6>(ETHERNET_BYTES) else { return Err(Reason::Malformed) };
        let end = ETHERNET_BYTES + 40 + u32::from(u16::from_be(header.payload_length));
        if u32::from_be(header.version_class_flow) >> 28 != 6 || end > packet.len() {
            return Err(Reason::Malformed);
        }
        let mut ip = Ip {
            source: header.source,
            destination: header.destination,
            protocol: header.next_header,
            hop_limit: header.hop_limit,
            transport: ETHERNET_BYTES + 40,
            end,
        };
        let mut walked = 0;
        while walked < MAX_EXTENSIONS {
            match ip.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {}
                protocol::FRAGMENT => return Err(Reason::Fragment),
                _ => return Ok(ip),
            }
            let Some(extension) = packet.read::<Extension>(ip.transport) else {
                return Err(Reason::Malformed);
            };
            ip.protocol = extension.next_header;
            ip.transport += (u32::from(extension.length) + 1) * 8;
            if ip.transport > end {
                return Err(Reason::Malformed);
            }
            walked += 1;
        }
        match ip.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::FRAGMENT => {
                Err(Reason::ExtensionHeaders)
            }
            _ => Ok(ip),
        }
    }
}

/// What a packet asks of the rules and of the connection table.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// What a rule's port set is asked for: the destination port, `type << 8 | code`, or the protocol.
    pub number: u16,
    pub ports: FlowPorts,
    pub kind: Kind,
}

/// What kind of packet it is, as far as connections are concerned.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Tcp(Tcp),
    Udp,
    /// An ICMP request, or a reply to one.
    IcmpQuery {
        request: bool,
    },
    /// Any other ICMP message: it starts no connection.
    IcmpOther,
    Other,
}

/// Reads the transport header of `ip`.
///
/// # Errors
///
/// The reason to drop the packet for.
#[inline(always)]
pub fn read_transport<F: Family, P: Packet>(
    packet: &P,
    ip: &Ip<F>,
    direction: Direction,
) -> Result<Transport, Reason> {
    let bytes = ip.end - ip.transport;
    if ip.protocol == protocol::TCP {
        let Some(tcp) = packet.read::<Tcp>(ip.transport) else { return Err(Reason::Malformed) };
        let header_bytes = u32::from(tcp.data_offset >> 4) * 4;
        if header_bytes < 20 || header_bytes > bytes {
            return Err(Reason::Malformed);
        }
        Ok(with_ports(tcp.source, tcp.destination, direction, Kind::Tcp(tcp)))
    } else if ip.protocol == protocol::UDP {
        if bytes < 8 {
            return Err(Reason::Malformed);
        }
        let Some(udp) = packet.read::<Udp>(ip.transport) else { return Err(Reason::Malformed) };
        Ok(with_ports(udp.source, udp.destination, direction, Kind::Udp))
    } else if ip.protocol == F::ICMP {
        if bytes < 8 {
            return Err(Reason::Malformed);
        }
        let Some(icmp) = packet.read::<Icmp>(ip.transport) else { return Err(Reason::Malformed) };
        let (request, kind) = if F::icmp_is_request(icmp.kind) {
            (Some((icmp.kind, direction)), Kind::IcmpQuery { request: true })
        } else if let Some(request) = F::icmp_request_of(icmp.kind) {
            (Some((request, opposite(direction))), Kind::IcmpQuery { request: false })
        } else {
            (None, Kind::IcmpOther)
        };
        // Who asks is part of the key: both sides may ask with the same identifier at the same time, and a
        // request must never pass as the answer to one.
        let ports = match request {
            Some((request, asker)) => FlowPorts {
                local: u16::from_be(icmp.identifier),
                remote: (u16::from(request) << 8) | asker as u16,
            },
            None => FlowPorts { local: 0, remote: 0 },
        };
        let number = (u16::from(icmp.kind) << 8) | u16::from(icmp.code);
        Ok(Transport { number, ports, kind })
    } else {
        let ports = FlowPorts { local: 0, remote: 0 };
        Ok(Transport { number: u16::from(ip.protocol), ports, kind: Kind::Other })
    }
}

#[inline(always)]
fn with_ports(source: u16, destination: u16, direction: Direction, kind: Kind) -> Transport {
    let (source, destination) = (u16::from_be(source), u16::from_be(destination));
    let ports = match direction {
        Direction::Inbound => FlowPorts { local: destination, remote: source },
        Direction::Outbound => FlowPorts { local: source, remote: destination },
    };
    Transport { number: destination, ports, kind }
}

#[inline(always)]
const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    }
}
