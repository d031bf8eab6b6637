//! Sections 1 and 6 of docs/packets.md: the frame, and ARP.

use std::net::IpAddr;

use super::Verdict;
use super::policy::Interface;

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const RARP: u16 = 0x8035;
const TAG: u16 = 0x8100;
const SERVICE_TAG: u16 = 0x88a8;

/// What the link layer makes of a frame.
pub enum Frame<'f> {
    /// Version, and the bytes from the IP header on, padding included.
    Ip(u8, &'f [u8]),
    Decided(Verdict),
}

/// `checksum`: where one is still to be written.
pub fn read<'f>(
    interface: &Interface,
    outbound: bool,
    frame: &'f [u8],
    checksum: Option<usize>,
) -> Frame<'f> {
    let decided = match split(interface, outbound, frame) {
        Err(reason) => Err(reason),
        Ok((IPV4, rest)) => return Frame::Ip(4, rest),
        Ok((IPV6, rest)) => return Frame::Ip(6, rest),
        Ok((ARP | RARP, _)) if checksum.is_some() => Err("checksum_place"),
        Ok((_, rest)) if checksum.is_some_and(|at| at < frame.len() - rest.len()) => Err("checksum_place"),
        Ok((ARP, rest)) => arp(interface, outbound, rest),
        Ok((RARP, _)) => Ok("arp"),
        Ok((TAG | SERVICE_TAG, _)) => Err("vlan"),
        Ok((ether_type, _)) => {
            let listed = interface.ether_types.as_ref().is_none_or(|listed| listed.contains(&ether_type));
            if interface.host || listed { Ok("ether_type_listed") } else { Err("ether_type") }
        }
    };
    Frame::Decided(decided)
}

/// EtherType, and what comes behind it.
fn split<'f>(
    interface: &Interface,
    outbound: bool,
    frame: &'f [u8],
) -> Result<(u16, &'f [u8]), &'static str> {
    if frame.len() < 14 {
        return Err("malformed");
    }
    if outbound && interface.guard("source_mac") && interface.mac.is_some_and(|mac| frame[6..12] != mac) {
        return Err("source_mac");
    }
    let ether_type = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if ether_type(12) != TAG || (interface.guard("vlan") && !interface.trunk) {
        return Ok((ether_type(12), &frame[14..]));
    }
    // As if the tag were not there: without it the frame is too short.
    if frame.len() < 18 {
        return Err("malformed");
    }
    Ok((ether_type(16), &frame[18..]))
}

fn arp(interface: &Interface, outbound: bool, bytes: &[u8]) -> Verdict {
    if bytes.len() < 28 || bytes[..6] != [0, 1, 8, 0, 6, 4] {
        return Err("malformed");
    }
    if !outbound || !interface.guard("arp") || interface.listed.is_empty() {
        return Ok("arp");
    }
    let foreign_mac = interface.guard("source_mac") && interface.mac.is_some_and(|mac| bytes[8..14] != mac);
    let sender = [bytes[14], bytes[15], bytes[16], bytes[17]];
    // RFC 5227: a probe has no sender's address yet.
    let foreign_address = sender != [0; 4] && !interface.listed.contains(&IpAddr::from(sender));
    if foreign_mac || foreign_address { Err("arp_spoof") } else { Ok("arp") }
}
