//! The synthetic packet that stands for a question.

use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header,
    SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};
use sg_common::packet::protocol;

/// The shortest frame on a wire, without its check sequence.
const SHORTEST: usize = 60;
/// `Ipv6FragmentHeader`'s number.
const FRAGMENT: u8 = 44;

/// A packet to ask about. Checksums are not right: the filter leaves them to the receiver.
#[derive(Debug, Clone)]
pub struct Probe {
    pub source_mac: [u8; 6],
    pub vlan: Option<VlanId>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub piece: Option<Fraction>,
    /// The transport header and what follows; of a later piece, whatever stands there.
    pub payload: Vec<u8>,
}

/// A piece of a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Fraction {
    /// In units of 8 bytes.
    pub offset: IpFragOffset,
    pub more: bool,
    pub id: u32,
}

impl Probe {
    /// The Ethernet frame. `None` if the addresses are of different families, or the packet is too long for one.
    pub fn frame(&self) -> Option<Vec<u8>> {
        let ether_type = if self.source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let outer = if self.vlan.is_some() { EtherType::VLAN_TAGGED_FRAME } else { ether_type };
        let link =
            Ethernet2Header { source: self.source_mac, destination: [2, 0, 0, 0, 0, 1], ether_type: outer };
        let mut frame = link.to_bytes().to_vec();
        if let Some(vlan_id) = self.vlan {
            frame.extend(SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() }.to_bytes());
        }
        frame.extend(self.packet()?);
        frame.resize(frame.len().max(SHORTEST), 0);
        Some(frame)
    }

    /// From the IP header on: what an ICMP error quotes.
    pub fn packet(&self) -> Option<Vec<u8>> {
        let mut packet = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(self.payload.len()).ok()?;
                let mut header = Ipv4Header::new(
                    length,
                    64,
                    IpNumber(self.protocol),
                    source.octets(),
                    destination.octets(),
                )
                .ok()?;
                if let Some(piece) = self.piece {
                    header.identification = u16::try_from(piece.id).ok()?;
                    header.more_fragments = piece.more;
                    header.fragment_offset = piece.offset;
                }
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let fragment = self.piece.map(|piece| {
                    Ipv6FragmentHeader::new(IpNumber(self.protocol), piece.offset, piece.more, piece.id)
                        .to_bytes()
                });
                let length = self.payload.len() + fragment.map_or(0, |header| header.len());
                let header = Ipv6Header {
                    payload_length: u16::try_from(length).ok()?,
                    next_header: IpNumber(if fragment.is_some() { FRAGMENT } else { self.protocol }),
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                let mut bytes = header.to_bytes().to_vec();
                bytes.extend(fragment.into_iter().flatten());
                bytes
            }
            _ => return None,
        };
        packet.extend(&self.payload);
        Some(packet)
    }
}

/// The transport header of a packet that begins something.
#[derive(Debug, Clone, Copy)]
pub struct Transport {
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    pub icmp: (u8, u8),
    pub tcp_flags: u8,
}

impl Transport {
    /// Its bytes, and some more of a protocol that has none.
    pub fn bytes(&self) -> Vec<u8> {
        match self.protocol {
            protocol::TCP => {
                let mut header = TcpHeader::new(self.source_port, self.destination_port, 1, 0xffff);
                header.acknowledgment_number = 1;
                let mut bytes = header.to_bytes().to_vec();
                // Flags stand in one byte (RFC 9293, section 3.1).
                if let Some(flags) = bytes.get_mut(13) {
                    *flags = self.tcp_flags;
                }
                bytes
            }
            protocol::UDP => UdpHeader {
                source_port: self.source_port,
                destination_port: self.destination_port,
                length: 8,
                checksum: 0,
            }
            .to_bytes()
            .to_vec(),
            protocol::ICMP | protocol::ICMPV6 => {
                let [high, low] = self.source_port.to_be_bytes();
                vec![self.icmp.0, self.icmp.1, 0, 0, high, low, 0, 1]
            }
            _ => vec![0; 8],
        }
    }
}
