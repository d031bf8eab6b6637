//! Sections 2 and 3 of docs/packets.md: bytes to headers.

use std::net::IpAddr;

use super::tcp::Segment;

/// An IP packet up to its transport header.
#[derive(Debug, Clone)]
pub struct Packet<'f> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub protocol: u8,
    pub source_routed: bool,
    pub piece: Piece,
    /// From the transport header to the packet's end.
    pub rest: &'f [u8],
}

/// Which bytes of a datagram a packet holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Piece {
    /// In bytes.
    pub offset: u64,
    pub more: bool,
    pub identification: u32,
    /// In bytes.
    pub length: u64,
}

impl Piece {
    pub fn is_first(self) -> bool {
        self.offset == 0 && self.more
    }

    pub fn is_later(self) -> bool {
        self.offset != 0
    }
}

#[derive(Debug, Clone)]
pub enum Transport {
    Tcp {
        source: u16,
        destination: u16,
        segment: Segment,
    },
    Udp {
        source: u16,
        destination: u16,
    },
    /// Of the packet's family.
    Icmp {
        kind: u8,
        code: u8,
        identifier: u16,
    },
    Other,
}

impl Transport {
    /// Whether a checksum that is still to be written, so far from the start of the transport header, would change what is
    /// judged.
    pub fn is_spoiled_by(&self, at: i64) -> bool {
        match self {
            Self::Tcp { .. } => at != 16,
            Self::Udp { .. } => at != 6 && at < 8,
            Self::Icmp { .. } => at != 2,
            Self::Other => at < 0,
        }
    }
}

pub fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub fn v4(bytes: &[u8], at: usize) -> IpAddr {
    IpAddr::from([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub fn v6(bytes: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
    IpAddr::from(octets)
}

/// `frame`: the length of the whole frame.
pub fn packet(version: u8, bytes: &[u8], frame: usize) -> Result<Packet<'_>, &'static str> {
    if version == 4 { packet_v4(bytes, frame) } else { packet_v6(bytes, frame) }
}

fn packet_v4(bytes: &[u8], frame: usize) -> Result<Packet<'_>, &'static str> {
    if bytes.len() < 20 || bytes[0] >> 4 != 4 {
        return Err("malformed");
    }
    let header = usize::from(bytes[0] & 15) * 4;
    let total = match usize::from(be16(bytes, 2)) {
        0 if frame > 65_535 => bytes.len(),
        total => total,
    };
    if header < 20 || header > total || total > bytes.len() {
        return Err("malformed");
    }
    let flags = be16(bytes, 6);
    Ok(Packet {
        source: v4(bytes, 12),
        destination: v4(bytes, 16),
        hop_limit: bytes[8],
        protocol: bytes[9],
        source_routed: has_source_route(&bytes[20..header]),
        piece: Piece {
            offset: u64::from(flags & 0x1fff) * 8,
            more: flags & 0x2000 != 0,
            identification: be16(bytes, 4).into(),
            length: (total - header) as u64,
        },
        rest: &bytes[header..total],
    })
}

/// RFC 791, section 3.1: loose (131) and strict (137) source routes.
fn has_source_route(options: &[u8]) -> bool {
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            0 => return false,
            1 => at += 1,
            131 | 137 => return true,
            _ => match options.get(at + 1) {
                Some(&length) if length >= 2 => at += usize::from(length),
                _ => return false,
            },
        }
    }
    false
}

fn packet_v6(bytes: &[u8], frame: usize) -> Result<Packet<'_>, &'static str> {
    if bytes.len() < 40 || bytes[0] >> 4 != 6 {
        return Err("malformed");
    }
    let total = match 40 + usize::from(be16(bytes, 4)) {
        40 if frame > 65_535 => bytes.len(),
        total => total,
    };
    let bytes = bytes.get(..total).ok_or("malformed")?;
    let (mut next, mut at) = (bytes[6], 40);
    let (mut source_routed, mut fragment) = (false, None);
    for walked in 0.. {
        match next {
            0 | 43 | 44 | 51 | 60 => {}
            135 | 139 | 140 | 253 | 254 => return Err("extension_headers"),
            _ => break,
        }
        if walked == 6 || (next == 44 && fragment.is_some()) {
            return Err("extension_headers");
        }
        let header = bytes.get(at..at + 8).ok_or("malformed")?;
        let length = match next {
            44 => 8,
            // RFC 4302, section 2.2: in words, less two.
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if at + length > bytes.len() {
            return Err("malformed");
        }
        source_routed |= next == 43 && header[2] == 0;
        at += length;
        if next == 44 {
            let piece = Piece {
                offset: (be16(header, 2) & 0xfff8).into(),
                more: header[3] & 1 != 0,
                identification: be32(header, 4),
                length: (bytes.len() - at) as u64,
            };
            fragment = Some(piece);
            if piece.is_later() {
                next = header[0];
                break;
            }
        }
        next = header[0];
    }
    Ok(Packet {
        source: v6(bytes, 8),
        destination: v6(bytes, 24),
        hop_limit: bytes[7],
        protocol: next,
        source_routed,
        piece: fragment.unwrap_or_default(),
        rest: &bytes[at..],
    })
}

/// Whether the number is the packet's family's ICMP.
pub fn is_icmp(protocol: u8, source: IpAddr) -> bool {
    protocol == if source.is_ipv4() { 1 } else { 58 }
}

/// Of whole packets and first pieces.
pub fn transport(packet: &Packet<'_>) -> Result<Transport, &'static str> {
    let cut = packet.piece.is_first();
    let too_short = if cut { "tiny_fragment" } else { "malformed" };
    let rest = packet.rest;
    match packet.protocol {
        6 => {
            if rest.len() < 20 {
                return Err(too_short);
            }
            let header = usize::from(rest[12] >> 4) * 4;
            if header < 20 {
                return Err("malformed");
            }
            if rest.len() < header {
                return Err(too_short);
            }
            Ok(Transport::Tcp {
                source: be16(rest, 0),
                destination: be16(rest, 2),
                segment: Segment::read(rest, header, cut),
            })
        }
        17 => {
            if rest.len() < 8 {
                return Err(too_short);
            }
            let length = usize::from(be16(rest, 4));
            if length < 8 || (!cut && length > rest.len()) {
                return Err("malformed");
            }
            Ok(Transport::Udp { source: be16(rest, 0), destination: be16(rest, 2) })
        }
        protocol if is_icmp(protocol, packet.source) => {
            if rest.len() < 8 {
                return Err(too_short);
            }
            Ok(Transport::Icmp { kind: rest[0], code: rest[1], identifier: be16(rest, 4) })
        }
        _ => Ok(Transport::Other),
    }
}
