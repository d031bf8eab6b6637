//! Frames, built by hand, byte for byte.
//!
//! [`Packet`] is an IP packet that is right in every field until a test bends one; [`Packet::frame`] gives its bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// TCP flags (RFC 9293, section 3.1).
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// The sequence number of both sides' SYN, unless a test sets another.
pub const FIRST: u32 = 1000;

/// IPv6 extension headers (IANA protocol numbers).
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;

/// The shortest frame on a wire, without its check sequence; what is shorter is padded.
const SHORTEST: usize = 60;

/// An IP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub protocol: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: the number, and what follows the first two bytes (6, 14, 22 … bytes).
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Offset in bytes, whether more follow, identification.
    pub fragment: Option<(u16, bool, u16)>,
    /// The transport header and what it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A packet of any protocol.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one packet, one family");
        Self {
            source,
            destination,
            hop_limit: 64,
            protocol,
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            payload,
        }
    }

    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        let mut header = Vec::with_capacity(20);
        header.extend(source.port().to_be_bytes());
        header.extend(destination.port().to_be_bytes());
        // Sequence and acknowledgment, data offset, flags, window, checksum, urgent pointer.
        header.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Self::new(source.ip(), destination.ip(), TCP, header).numbered()
    }

    /// The numbers of a handshake in which both sides begin with [`FIRST`], and of what follows it without data.
    fn numbered(self) -> Self {
        let flags = self.payload[13];
        let sequence = if flags & SYN == 0 { FIRST + 1 } else { FIRST };
        self.sequence(sequence, if flags & ACK == 0 { 0 } else { FIRST + 1 })
    }

    pub fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Self {
        let mut header = Vec::with_capacity(8 + data.len());
        header.extend(source.port().to_be_bytes());
        header.extend(destination.port().to_be_bytes());
        header.extend((8 + data.len() as u16).to_be_bytes());
        header.extend([0, 0]);
        header.extend(data);
        Self::new(source.ip(), destination.ip(), UDP, header)
    }

    /// ICMP or ICMPv6, as the addresses are.
    pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, identifier: u16) -> Self {
        let mut header = vec![kind, code, 0, 0];
        header.extend(identifier.to_be_bytes());
        header.extend([0, 1]);
        header.extend(b"sgd test");
        Self::new(source, destination, if source.is_ipv4() { 1 } else { 58 }, header)
    }

    /// An echo request.
    pub fn ping(source: IpAddr, destination: IpAddr, identifier: u16) -> Self {
        Self::icmp(source, destination, if source.is_ipv4() { 8 } else { 128 }, 0, identifier)
    }

    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        self.extensions.push((number, body.to_vec()));
        self
    }

    pub fn fragment(mut self, offset: u16, more: bool, identification: u16) -> Self {
        self.fragment = Some((offset, more, identification));
        self
    }

    /// Bytes `from..to` of what the packet carries, as one of several pieces.
    pub fn piece(&self, from: usize, to: usize, identification: u16) -> Self {
        let mut piece = self.clone().fragment(from as u16, to < self.payload.len(), identification);
        piece.payload = self.payload[from..to].to_vec();
        piece
    }

    /// The ICMP error with which `router` answers this packet; it quotes all of it.
    pub fn error(&self, router: IpAddr, kind: u8, code: u8) -> Self {
        let mut error = Self::icmp(router, self.source, kind, code, 0);
        error.payload.truncate(8);
        error.payload.extend(&self.bare()[14..]);
        error
    }

    /// More bytes behind the transport header.
    pub fn data(mut self, data: &[u8]) -> Self {
        self.payload.extend(data);
        if self.protocol == UDP {
            let length = self.payload.len() as u16;
            self.payload[4..6].copy_from_slice(&length.to_be_bytes());
        }
        self
    }

    pub fn sequence(mut self, sequence: u32, acknowledgment: u32) -> Self {
        assert_eq!(self.protocol, TCP);
        self.payload[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.payload[8..12].copy_from_slice(&acknowledgment.to_be_bytes());
        self
    }

    /// The same connection, the other way, with other TCP flags.
    pub fn answer(&self, flags: u8) -> Self {
        let mut answer = self.reply();
        answer.payload[13] = flags;
        answer.numbered()
    }

    /// The same connection, the same way, with other TCP flags.
    pub fn then(&self, flags: u8) -> Self {
        assert_eq!(self.protocol, TCP);
        let mut next = self.clone();
        next.payload[13] = flags;
        next.numbered()
    }

    /// What comes back: addresses and ports change places, an ICMP request becomes its answer.
    pub fn reply(&self) -> Self {
        let mut reply = self.clone();
        (reply.source, reply.destination) = (self.destination, self.source);
        match self.protocol {
            TCP | UDP => {
                reply.payload[..2].copy_from_slice(&self.payload[2..4]);
                reply.payload[2..4].copy_from_slice(&self.payload[..2]);
            }
            1 if self.source.is_ipv4() => {
                reply.payload[0] = match self.payload[0] {
                    8 => 0,
                    kind => kind + 1,
                }
            }
            58 if self.source.is_ipv6() => reply.payload[0] = self.payload[0] + 1,
            _ => {}
        }
        reply
    }

    /// From the Ethernet header on, with right lengths and checksums, padded.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = self.bare();
        frame.resize(frame.len().max(SHORTEST), 0);
        frame
    }

    /// The same, not padded.
    pub fn bare(&self) -> Vec<u8> {
        let payload = self.checked_payload();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet(0x0800, &self.ipv4(source, destination, &payload))
            }
            _ => ethernet(0x86dd, &self.ipv6(&payload)),
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        assert_eq!(self.options.len() % 4, 0, "options are padded to words");
        let length = 20 + self.options.len();
        let (offset, more, identification) = self.fragment.unwrap_or_default();
        let mut packet = vec![0x40 | (length / 4) as u8, 0];
        packet.extend(((length + payload.len()) as u16).to_be_bytes());
        packet.extend(identification.to_be_bytes());
        packet.extend(((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        packet.extend([self.hop_limit, self.protocol, 0, 0]);
        packet.extend(source.octets());
        packet.extend(destination.octets());
        packet.extend(&self.options);
        let checksum = checksum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn ipv6(&self, payload: &[u8]) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some((offset, more, identification)) = self.fragment {
            let mut body = (offset | u16::from(more)).to_be_bytes().to_vec();
            body.extend(u32::from(identification).to_be_bytes());
            chain.push((FRAGMENT, body));
        }
        let mut following = Vec::new();
        for (index, (number, body)) in chain.iter().enumerate() {
            assert_eq!((body.len() + 2) % 8, 0, "extension headers are padded to eight bytes");
            following.push(chain.get(index + 1).map_or(self.protocol, |next| next.0));
            // The fragment header's second byte is reserved.
            following.push(if *number == FRAGMENT { 0 } else { (body.len() / 8) as u8 });
            following.extend(body);
        }
        following.extend(payload);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((following.len() as u16).to_be_bytes());
        packet.extend([chain.first().map_or(self.protocol, |first| first.0), self.hop_limit]);
        packet.extend(octets(self.source));
        packet.extend(octets(self.destination));
        packet.extend(following);
        packet
    }

    /// The payload with its checksum, where there is room for one.
    fn checked_payload(&self) -> Vec<u8> {
        let mut payload = self.payload.clone();
        let icmp_v4 = self.protocol == 1 && self.source.is_ipv4();
        let at = match self.protocol {
            TCP => 16,
            UDP => 6,
            1 if icmp_v4 => 2,
            58 if self.source.is_ipv6() => 2,
            _ => return payload,
        };
        if payload.len() < at + 2 || self.fragment.is_some() {
            return payload;
        }
        payload[at..at + 2].fill(0);
        let mut summed = Vec::new();
        if !icmp_v4 {
            // The pseudo-header; written the IPv6 way it sums up alike for IPv4.
            summed.extend(octets(self.source));
            summed.extend(octets(self.destination));
            summed.extend((payload.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, self.protocol]);
        }
        summed.extend(&payload);
        let sum = checksum(&summed);
        // Zero says "none" in UDP (RFC 768).
        let sum = if sum == 0 && self.protocol == UDP { 0xffff } else { sum };
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        payload
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The hardware address that every frame here comes from.
pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 5];

/// Any frame, not padded.
pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 1];
    frame.extend(MAC);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The same frame behind one more tag (IEEE 802.1Q).
pub fn tagged(frame: &[u8], tag_type: u16, tag: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend(tag_type.to_be_bytes());
    tagged.extend(tag.to_be_bytes());
    tagged.extend(&frame[12..]);
    tagged
}

/// The same frame from another hardware address.
pub fn from_mac(mut frame: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    frame[6..12].copy_from_slice(&mac);
    frame
}

/// RFC 826: who has `target`?
pub fn arp(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4, 0, 1];
    payload.extend(MAC);
    payload.extend(sender.octets());
    payload.extend([0; 6]);
    payload.extend(target.octets());
    let mut frame = ethernet(0x0806, &payload);
    frame.resize(SHORTEST, 0);
    frame
}
