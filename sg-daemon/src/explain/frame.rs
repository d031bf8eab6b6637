//! The synthetic packet that stands for a question.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sg_common::packet::{ether_type, protocol};
use sg_common::tcp::{ACK, SYN};

/// A packet to ask about.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub source_mac: [u8; 6],
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// ICMP type and code.
    pub icmp: (u8, u8),
    /// TCP: a packet in mid-stream instead of the one that opens the connection.
    pub established: bool,
}

impl Probe {
    /// The Ethernet frame, padded to the shortest that a test run takes. Checksums are zero: the filter leaves them to
    /// the receiver. `None` if the addresses are of different families.
    pub fn frame(&self) -> Option<Vec<u8>> {
        let payload = self.transport();
        let mut frame = vec![2, 0, 0, 0, 0, 1];
        frame.extend(self.source_mac);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(ether_type::IPV4.to_be_bytes());
                ipv4(&mut frame, source, destination, self.protocol, &payload);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(ether_type::IPV6.to_be_bytes());
                ipv6(&mut frame, source, destination, self.protocol, &payload);
            }
            _ => return None,
        }
        frame.extend(&payload);
        frame.resize(frame.len().max(64), 0);
        Some(frame)
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        let ports = |bytes: &mut Vec<u8>| {
            bytes.extend(self.source_port.to_be_bytes());
            bytes.extend(self.destination_port.to_be_bytes());
        };
        match self.protocol {
            protocol::TCP => {
                ports(&mut bytes);
                let flags = if self.established { ACK } else { SYN };
                // Sequence, acknowledgment, five words of header, flags, window, checksum, urgent pointer.
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
            }
            protocol::UDP => {
                ports(&mut bytes);
                bytes.extend([0, 8, 0, 0]);
            }
            protocol::ICMP | protocol::ICMPV6 => {
                bytes.extend([self.icmp.0, self.icmp.1, 0, 0]);
                bytes.extend(self.source_port.to_be_bytes());
                bytes.extend([0, 1]);
            }
            _ => bytes.extend([0; 8]),
        }
        bytes
    }
}

fn ipv4(frame: &mut Vec<u8>, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) {
    let total = (20 + payload.len()) as u16;
    frame.extend([0x45, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
}

fn ipv6(frame: &mut Vec<u8>, source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) {
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([protocol, 64]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
}
