//! D13: the packet that an ICMP error quotes.

use std::net::IpAddr;

use super::flows::{Key, icmp_query};
use super::headers::{be16, be32, is_icmp, v4, v6};
use super::pieces::Name;

/// Of an ICMP error that arrives one way, about a packet that went the other.
#[derive(Debug, Clone)]
pub enum Quoted {
    Flow(Key),
    LaterPiece(Name),
}

/// Which messages are errors (RFC 792, RFC 4443).
pub fn is_error(kind: u8, v4: bool) -> bool {
    if v4 { matches!(kind, 3 | 11 | 12) } else { (1..=4).contains(&kind) }
}

struct Header<'f> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Offset in bytes, identification.
    offset: u16,
    identification: u32,
    rest: &'f [u8],
}

/// `outbound` and `sender` are of the quoted packet: which way it went, and who must have sent it.
pub fn read(interface: usize, outbound: bool, sender: IpAddr, bytes: &[u8]) -> Option<Quoted> {
    let header = if sender.is_ipv4() { header_v4(bytes)? } else { header_v6(bytes)? };
    let Header { source, destination, protocol, .. } = header;
    if source != sender {
        return None;
    }
    if header.offset != 0 {
        return Some(Quoted::LaterPiece(Name {
            interface,
            outbound,
            source,
            destination,
            identification: header.identification,
            protocol: source.is_ipv4().then_some(protocol),
        }));
    }
    let (local, remote) = if outbound { (source, destination) } else { (destination, source) };
    let ports = match protocol {
        6 | 17 => {
            let ports = header.rest.get(..8)?;
            let (from, to) = (be16(ports, 0), be16(ports, 2));
            if outbound { (from, to) } else { (to, from) }
        }
        protocol if is_icmp(protocol, source) => {
            let message = header.rest.get(..8)?;
            icmp_query(source.is_ipv4(), message[0], be16(message, 4), outbound)?.0
        }
        _ => (0, 0),
    };
    Some(Quoted::Flow(Key { interface, protocol, local, remote, ports }))
}

fn header_v4(bytes: &[u8]) -> Option<Header<'_>> {
    let fixed = bytes.get(..20)?;
    let length = usize::from(fixed[0] & 15) * 4;
    if fixed[0] >> 4 != 4 || length < 20 {
        return None;
    }
    Some(Header {
        source: v4(fixed, 12),
        destination: v4(fixed, 16),
        protocol: fixed[9],
        offset: (be16(fixed, 6) & 0x1fff) * 8,
        identification: be16(fixed, 4).into(),
        rest: bytes.get(length..)?,
    })
}

fn header_v6(bytes: &[u8]) -> Option<Header<'_>> {
    let fixed = bytes.get(..40)?;
    if fixed[0] >> 4 != 6 {
        return None;
    }
    let (mut next, mut at) = (fixed[6], 40);
    let (mut offset, mut identification) = (0, 0);
    let mut walked = 0;
    while matches!(next, 0 | 43 | 44 | 60) && offset == 0 {
        if walked == 6 {
            return None;
        }
        walked += 1;
        let header = bytes.get(at..at + 8)?;
        if next == 44 {
            offset = be16(header, 2) & 0xfff8;
            identification = be32(header, 4);
            at += 8;
        } else {
            at += (usize::from(header[1]) + 1) * 8;
        }
        bytes.get(at..)?;
        next = header[0];
    }
    Some(Header {
        source: v6(fixed, 8),
        destination: v6(fixed, 24),
        protocol: next,
        offset,
        identification,
        rest: bytes.get(at..)?,
    })
}
