//! Reading packets: from headers to the 5-tuple that the decisions work with.
//!
//! A field is read only through [`Packet::read`], which checks the length, so nothing here can read outside of the packet.

use crate::abi::{Be32, Direction, FlowPorts};
use crate::family::{Family, V4, V6};
pub use crate::headers::{
    Arp, Byte, ETHERNET_BYTES, Ethernet, Extension, FirstBytes, Header, Icmp, Ipv4, Ipv6, LinkLayerOption,
    Neighbor, Tcp, Udp, VlanTag, Word, ether_type, protocol,
};
use crate::tcp::{MAX_SCALE, NO_SCALE, SYN, Seen};
use crate::verdict::Reason;

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

    /// Where in the frame a checksum of two bytes is still to be written, behind the filter: by the device that sends the
    /// frame on, or by the kernel in its place. Whoever made the frame chose the place (`CHECKSUM_PARTIAL` in
    /// include/linux/skbuff.h; `VIRTIO_NET_HDR_F_NEEDS_CSUM` in virtio 1.2, section 5.1.6.2).
    fn pending_checksum(&self) -> Option<u32>;
}

/// The network layer of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Ip<F: Family> {
    pub source: F::Address,
    pub destination: F::Address,
    pub protocol: u8,
    pub hop_limit: u8,
    /// An option (IPv4) or a header (IPv6) that names routers to pass.
    pub source_routed: bool,
    pub piece: Piece,
    /// Where the transport header starts, in bytes from the start of the frame.
    pub transport: u32,
    /// Where that starts which is in pieces: behind the IPv4 header, or behind IPv6's fragment header; 0 without one.
    pub data: u32,
    /// Where the IP packet ends, likewise.
    pub end: u32,
}

impl<F: Family> Ip<F> {
    /// The instance's address and the other side's, of a packet that goes in `direction`.
    #[inline(always)]
    pub fn local_and_remote(&self, direction: Direction) -> (F::Address, F::Address) {
        match direction {
            Direction::Inbound => (self.destination, self.source),
            Direction::Outbound => (self.source, self.destination),
        }
    }
}

impl<F: ReadIp> Ip<F> {
    pub const NOTHING: Self = Self {
        source: F::UNSPECIFIED,
        destination: F::UNSPECIFIED,
        protocol: 0,
        hop_limit: 0,
        source_routed: false,
        piece: Piece::WHOLE,
        transport: 0,
        data: 0,
        end: 0,
    };
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub id: u32,
    /// In units of 8 bytes.
    pub offset: u16,
    pub more: bool,
}

impl Piece {
    const WHOLE: Self = Self { id: 0, offset: 0, more: false };

    /// The datagram is in one piece.
    #[inline(always)]
    pub const fn is_whole(&self) -> bool {
        self.offset == 0 && !self.more
    }

    /// The piece has the transport header, and more pieces follow.
    #[inline(always)]
    pub const fn is_first(&self) -> bool {
        self.offset == 0 && self.more
    }

    /// The piece has no transport header.
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.offset != 0
    }
}

/// How a family's header is read.
pub trait ReadIp: Family {
    /// Reads the header at `network`, and what lies between it and the transport header, into `ip`: a result would be
    /// a second copy on a stack of 512 bytes.
    ///
    /// # Errors
    ///
    /// The reason to drop the packet for.
    fn read_ip<P: Packet>(
        packet: &P,
        network: u32,
        ip: &mut Ip<Self>,
        position: Opaque<'_>,
    ) -> Result<(), Reason>;

    /// An address, for an [`Ip`] that nothing is read into yet.
    const UNSPECIFIED: Self::Address;

    /// Reads the header of a packet that an ICMP error quotes, of which the end may be missing.
    fn read_quoted<P: Packet>(packet: &P, network: u32, position: Opaque<'_>) -> Option<Ip<Self>>;
}

#[inline(always)]
fn piece_v4(header: &Ipv4) -> Piece {
    let field = u16::from_be(header.flags_fragment);
    Piece {
        id: u32::from(u16::from_be(header.identification)),
        offset: field & 0x1fff,
        more: field & 0x2000 != 0,
    }
}

/// A word in memory that changes from one round of a loop to the next. Kept in a register, the verifier would follow each
/// of its values through all later rounds.
#[derive(Debug)]
pub struct Opaque<'a>(pub &'a mut u32);

impl Opaque<'_> {
    #[inline(always)]
    pub fn get(&self) -> u32 {
        load(self.0)
    }

    #[inline(always)]
    pub fn set(&mut self, value: u32) {
        store(self.0, value);
    }
}

/// Loads from memory, whatever the compiler believes is there.
#[inline(always)]
pub fn load<T: Copy>(from: &T) -> T {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::from_ref(from).read_volatile() }
}

/// Stores to memory, at once.
#[inline(always)]
pub fn store<T: Copy>(to: &mut T, value: T) {
    // SAFETY: a mutable reference is valid, aligned and ours alone.
    unsafe { core::ptr::from_mut(to).write_volatile(value) }
}

/// Copies word by word: a whole array is copied, or filled with zeroes, by a function, byte by byte.
#[inline(always)]
pub fn copy<const N: usize, T: Copy>(to: &mut [T; N], from: [T; N]) {
    for (to, from) in to.iter_mut().zip(from) {
        store(to, from);
    }
}

/// Zeroes that the compiler does not see, for the same reason.
#[inline(always)]
pub fn zeroes<const N: usize, T: Copy + Default>() -> [T; N] {
    [core::hint::black_box(T::default()); N]
}

/// A loop counter that the compiler does not see through: unrolled, these loops would be nine tenths of the program. It goes
/// through 8 bytes of stack, of which the verifier remembers what was stored, and so how often the loop goes round; of 4
/// bytes it may forget it.
#[inline(always)]
pub fn rolled(counter: u32) -> u32 {
    core::hint::black_box(u64::from(counter)) as u32
}

/// How many IPv4 options are looked at: as many as 40 bytes hold, if each is padding.
const MAX_OPTIONS: u32 = 40;

/// Loose and strict source routes (RFC 791, section 3.1).
#[inline(always)]
fn has_source_route<P: Packet>(packet: &P, start: u32, end: u32, mut position: Opaque<'_>) -> bool {
    position.set(start);
    let mut looked = 0;
    while rolled(looked) < MAX_OPTIONS {
        let at = position.get();
        if at >= end {
            return false;
        }
        let Some(kind) = packet.read::<Byte>(at) else { return false };
        match kind.value {
            131 | 137 => return true,
            0 => return false,
            1 => position.set(at + 1),
            _ => {
                let Some(length) = packet.read::<Byte>(at + 1) else { return false };
                if length.value < 2 {
                    return false;
                }
                position.set(at + u32::from(length.value));
            }
        }
        looked += 1;
    }
    false
}

impl ReadIp for V4 {
    const UNSPECIFIED: Be32 = Be32(0);

    #[inline(always)]
    fn read_ip<P: Packet>(
        packet: &P,
        network: u32,
        ip: &mut Ip<Self>,
        position: Opaque<'_>,
    ) -> Result<(), Reason> {
        let Some(header) = packet.read::<Ipv4>(network) else { return Err(Reason::Malformed) };
        let header_bytes = u32::from(header.version_ihl & 0x0f) * 4;
        let mut total = u32::from(u16::from_be(header.total_length));
        if total == 0 && packet.len() > 0xffff {
            // A super-packet longer than the field can tell (net/ipv4/af_inet.c, BIG TCP).
            total = packet.len() - network;
        }
        if header.version_ihl >> 4 != 4 || header_bytes < 20 || total < header_bytes {
            return Err(Reason::Malformed);
        }
        let end = network + total;
        if end > packet.len() {
            return Err(Reason::Malformed);
        }
        ip.source = header.source;
        ip.destination = header.destination;
        ip.protocol = header.protocol;
        ip.hop_limit = header.ttl;
        ip.piece = piece_v4(&header);
        ip.transport = network + header_bytes;
        ip.data = ip.transport;
        ip.end = end;
        // Options that only the device has at hand could name any route.
        if header_bytes > 20 && packet.read::<Byte>(ip.transport - 1).is_none() {
            return Err(Reason::Malformed);
        }
        ip.source_routed =
            header_bytes > 20 && has_source_route(packet, network + 20, ip.transport, position);
        Ok(())
    }

    #[inline(always)]
    fn read_quoted<P: Packet>(packet: &P, network: u32, _position: Opaque<'_>) -> Option<Ip<Self>> {
        let header = packet.read::<Ipv4>(network)?;
        let header_bytes = u32::from(header.version_ihl & 0x0f) * 4;
        if header.version_ihl >> 4 != 4 || header_bytes < 20 {
            return None;
        }
        Some(Ip {
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            hop_limit: header.ttl,
            source_routed: false,
            piece: piece_v4(&header),
            transport: network + header_bytes,
            data: network + header_bytes,
            end: 0,
        })
    }
}

/// How many IPv6 extension headers are walked (SPEC D15).
const MAX_EXTENSIONS: u32 = 6;

/// Whether a next-header value is an extension header, known or not (IANA, "IPv6 Extension Header Types").
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
            | 135
            | 139
            | 140
            | 253
            | 254
    )
}

impl ReadIp for V6 {
    const UNSPECIFIED: [Be32; 4] = [Be32(0); 4];

    #[inline(always)]
    fn read_ip<P: Packet>(
        packet: &P,
        network: u32,
        ip: &mut Ip<Self>,
        position: Opaque<'_>,
    ) -> Result<(), Reason> {
        // A copy of its own to be checked and used: the compiler would put the other one on the stack in between, and the verifier of
        // Linux 6.1 forgets there what the check said.
        let Some(header) = packet.read::<Ipv6>(rolled(network)) else { return Err(Reason::Malformed) };
        let mut payload = u32::from(u16::from_be(header.payload_length));
        if payload == 0 && packet.len() > 0xffff {
            // A super-packet longer than the field can tell; its hop-by-hop option does not matter here (RFC 2675).
            payload = packet.len() - network - 40;
        }
        let end = network + 40 + payload;
        if u32::from_be(header.version_class_flow) >> 28 != 6 || end > packet.len() {
            return Err(Reason::Malformed);
        }
        copy(&mut ip.source, header.source);
        copy(&mut ip.destination, header.destination);
        ip.protocol = header.next_header;
        ip.hop_limit = header.hop_limit;
        ip.source_routed = false;
        ip.piece = Piece::WHOLE;
        ip.transport = network + 40;
        ip.data = 0;
        ip.end = end;
        if !is_extension(ip.protocol) {
            return Ok(());
        }
        let mut position = position;
        // Where the next header is, and which it is.
        position.set((ip.transport << 8) | u32::from(ip.protocol));
        let mut walked = 0;
        while rolled(walked) < MAX_EXTENSIONS {
            ip.transport = position.get() >> 8;
            ip.protocol = position.get() as u8;
            if !is_extension(ip.protocol) {
                return Ok(());
            }
            // One fragment header: nobody who is honest divides a piece again.
            let is_walked = matches!(
                ip.protocol,
                protocol::HOP_BY_HOP
                    | protocol::ROUTING
                    | protocol::AUTHENTICATION
                    | protocol::DESTINATION_OPTIONS
            ) || (ip.protocol == protocol::FRAGMENT && ip.data == 0);
            if !is_walked {
                return Err(Reason::ExtensionHeaders);
            }
            let Some(extension) = packet.read::<Extension>(ip.transport) else {
                return Err(Reason::Malformed);
            };
            let bytes = match ip.protocol {
                protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => (u32::from(extension.length) + 1) * 8,
                protocol::ROUTING => {
                    // Type 0 is source routing and nothing else (RFC 5095).
                    ip.source_routed |= extension.third == 0;
                    (u32::from(extension.length) + 1) * 8
                }
                // RFC 4302, section 2.2.
                protocol::AUTHENTICATION => (u32::from(extension.length) + 2) * 4,
                // The fragment header.
                _ => {
                    let Some(id) = packet.read::<Word>(ip.transport + 4) else {
                        return Err(Reason::Malformed);
                    };
                    let field = u16::from_be_bytes([extension.third, extension.fourth]);
                    ip.piece = Piece { id: u32::from_be(id.value), offset: field >> 3, more: field & 1 != 0 };
                    ip.data = ip.transport + 8;
                    8
                }
            };
            ip.protocol = extension.next_header;
            ip.transport += bytes;
            if ip.transport > end {
                return Err(Reason::Malformed);
            }
            // What follows in a later fragment is data, whatever it looks like.
            if ip.piece.offset != 0 {
                return Ok(());
            }
            position.set((ip.transport << 8) | u32::from(ip.protocol));
            walked += 1;
        }
        if is_extension(ip.protocol) { Err(Reason::ExtensionHeaders) } else { Ok(()) }
    }

    #[inline(always)]
    fn read_quoted<P: Packet>(packet: &P, network: u32, mut position: Opaque<'_>) -> Option<Ip<Self>> {
        let header = packet.read::<Ipv6>(network)?;
        if u32::from_be(header.version_class_flow) >> 28 != 6 {
            return None;
        }
        let mut ip = Ip {
            source: header.source,
            destination: header.destination,
            protocol: header.next_header,
            hop_limit: header.hop_limit,
            source_routed: false,
            piece: Piece::WHOLE,
            transport: network + 40,
            data: network + 40,
            end: 0,
        };
        position.set((ip.transport << 8) | u32::from(ip.protocol));
        let mut walked = 0;
        while rolled(walked) < MAX_EXTENSIONS {
            ip.transport = position.get() >> 8;
            ip.protocol = position.get() as u8;
            let bytes = match ip.protocol {
                protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS | protocol::ROUTING => {
                    (u32::from(packet.read::<Extension>(ip.transport)?.length) + 1) * 8
                }
                protocol::FRAGMENT => {
                    let extension = packet.read::<Extension>(ip.transport)?;
                    let id = packet.read::<Word>(ip.transport + 4)?;
                    let field = u16::from_be_bytes([extension.third, extension.fourth]);
                    ip.piece = Piece { id: u32::from_be(id.value), offset: field >> 3, more: field & 1 != 0 };
                    8
                }
                _ => break,
            };
            ip.protocol = packet.read::<Extension>(ip.transport)?.next_header;
            ip.transport += bytes;
            // What follows in a later fragment is data, whatever it looks like.
            if ip.piece.offset != 0 {
                break;
            }
            position.set((ip.transport << 8) | u32::from(ip.protocol));
            walked += 1;
        }
        Some(ip)
    }
}

/// What a packet asks of the rules and of the connection table. Every field has a value for every kind: memory that is
/// copied without having been written may hold half a pointer, which the verifier refuses.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// What a rule's port set is asked for: the destination port, `type << 8 | code`, or the protocol.
    pub number: u16,
    pub ports: FlowPorts,
    pub kind: Kind,
    /// For [`Kind::Tcp`].
    pub seen: Seen,
}

impl Transport {
    pub const NOTHING: Self = Self {
        number: 0,
        ports: FlowPorts { local: 0, remote: 0 },
        kind: Kind::Other,
        seen: Seen {
            flags: 0,
            sequence: 0,
            acknowledgment: 0,
            payload: 0,
            partial: false,
            window: 0,
            scale: NO_SCALE,
        },
    };
}

impl Transport {
    /// As [`Self::NOTHING`], as far as anybody looks who does not know of a segment.
    #[inline(always)]
    pub const fn forget(&mut self) {
        self.number = 0;
        self.ports = FlowPorts { local: 0, remote: 0 };
        self.kind = Kind::Other;
        self.seen.flags = 0;
    }
}

/// What kind of packet it is, as far as connections are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Tcp,
    Udp,
    /// An ICMP message that asks and is answered.
    IcmpRequest,
    /// The answer to one.
    IcmpReply,
    /// Any other ICMP message: it starts no connection.
    IcmpOther,
    Other,
}

/// Reads the transport header of `ip` into `transport`, of which [`Transport::forget`] has made nothing.
///
/// # Errors
///
/// The reason to drop the packet for.
#[inline(always)]
pub fn read_transport<F: Family, P: Packet>(
    packet: &P,
    ip: &Ip<F>,
    direction: Direction,
    transport: &mut Transport,
    position: Opaque<'_>,
) -> Result<(), Reason> {
    let bytes = ip.end - ip.transport;
    if ip.protocol == protocol::TCP {
        if bytes < 20 {
            return Err(too_short(ip));
        }
        let Some(tcp) = packet.read::<Tcp>(ip.transport) else { return Err(Reason::Malformed) };
        let header_bytes = u32::from(tcp.data_offset >> 4) * 4;
        if header_bytes < 20 {
            return Err(Reason::Malformed);
        }
        if header_bytes > bytes {
            return Err(too_short(ip));
        }
        transport.kind = Kind::Tcp;
        transport.set_ports(tcp.source, tcp.destination, direction);
        transport.seen = Seen {
            flags: tcp.flags,
            sequence: u32::from_be(tcp.sequence),
            acknowledgment: u32::from_be(tcp.acknowledgment),
            payload: bytes - header_bytes,
            partial: ip.piece.more,
            window: u16::from_be(tcp.window),
            scale: NO_SCALE,
        };
        // Behind the rest, which need not be kept at hand meanwhile.
        if tcp.flags & SYN != 0 {
            transport.seen.scale = window_scale(packet, ip.transport, header_bytes, position);
        }
    } else if ip.protocol == protocol::UDP {
        if bytes < 8 {
            return Err(too_short(ip));
        }
        let Some(udp) = packet.read::<Udp>(ip.transport) else { return Err(Reason::Malformed) };
        let length = u32::from(u16::from_be(udp.length));
        // A first fragment has only a part of what the length counts.
        if length < 8 || (length > bytes && ip.piece.is_whole()) {
            return Err(Reason::Malformed);
        }
        transport.kind = Kind::Udp;
        transport.set_ports(udp.source, udp.destination, direction);
    } else if ip.protocol == F::ICMP {
        if bytes < 8 {
            return Err(too_short(ip));
        }
        let Some(icmp) = packet.read::<Icmp>(ip.transport) else { return Err(Reason::Malformed) };
        transport.number = (u16::from(icmp.kind) << 8) | u16::from(icmp.code);
        if F::icmp_is_request(icmp.kind) {
            transport.kind = Kind::IcmpRequest;
            transport.ports = query_ports(icmp.identifier, icmp.kind, direction);
        } else if let Some(request) = F::icmp_request_of(icmp.kind) {
            transport.kind = Kind::IcmpReply;
            transport.ports = query_ports(icmp.identifier, request, opposite(direction));
        } else {
            transport.kind = Kind::IcmpOther;
        }
    } else {
        transport.number = u16::from(ip.protocol);
    }
    Ok(())
}

/// The transport header is not all there.
#[inline(always)]
const fn too_short<F: Family>(ip: &Ip<F>) -> Reason {
    if ip.piece.is_whole() { Reason::Malformed } else { Reason::TinyFragment }
}

/// Who asks is part of the key: both sides may ask with the same identifier at the same time, and a request must never
/// pass as the answer to one.
#[inline(always)]
fn query_ports(identifier: u16, request: u8, asker: Direction) -> FlowPorts {
    FlowPorts { local: u16::from_be(identifier), remote: (u16::from(request) << 8) | asker as u16 }
}

/// The ports of a packet that an ICMP error quotes and that went in `direction`; `None` if it belongs to no flow or is cut
/// too short (RFC 792 promises 8 bytes).
#[inline(always)]
pub fn quoted_ports<F: Family, P: Packet>(packet: &P, ip: &Ip<F>, direction: Direction) -> Option<FlowPorts> {
    if ip.protocol == protocol::TCP || ip.protocol == protocol::UDP {
        let first = packet.read::<FirstBytes>(ip.transport)?;
        let (source, destination) = (u16::from_be(first.first), u16::from_be(first.second));
        Some(match direction {
            Direction::Inbound => FlowPorts { local: destination, remote: source },
            Direction::Outbound => FlowPorts { local: source, remote: destination },
        })
    } else if ip.protocol == F::ICMP {
        let icmp = packet.read::<Icmp>(ip.transport)?;
        if F::icmp_is_request(icmp.kind) {
            Some(query_ports(icmp.identifier, icmp.kind, direction))
        } else {
            let request = F::icmp_request_of(icmp.kind)?;
            Some(query_ports(icmp.identifier, request, opposite(direction)))
        }
    } else {
        Some(FlowPorts { local: 0, remote: 0 })
    }
}

/// How many TCP options are looked at.
const MAX_TCP_OPTIONS: u32 = 12;

/// The window scale option of a SYN (RFC 7323, section 2.2).
#[inline(always)]
fn window_scale<P: Packet>(packet: &P, transport: u32, header_bytes: u32, mut position: Opaque<'_>) -> u8 {
    let end = transport + header_bytes;
    position.set(transport + 20);
    let mut looked = 0;
    while rolled(looked) < MAX_TCP_OPTIONS {
        let at = position.get();
        if at >= end {
            return NO_SCALE;
        }
        let Some(kind) = packet.read::<Byte>(at) else { return NO_SCALE };
        match kind.value {
            0 => return NO_SCALE,
            1 => position.set(at + 1),
            kind => {
                let Some(length) = packet.read::<Byte>(at + 1) else { return NO_SCALE };
                if length.value < 2 {
                    return NO_SCALE;
                }
                if kind == 3 && length.value == 3 && at + 3 <= end {
                    // More than the largest is the largest (RFC 7323, section 2.3), also what else would stand for none.
                    return packet.read::<Byte>(at + 2).map_or(NO_SCALE, |shift| shift.value.min(MAX_SCALE));
                }
                position.set(at + u32::from(length.value));
            }
        }
        looked += 1;
    }
    NO_SCALE
}

impl Transport {
    #[inline(always)]
    fn set_ports(&mut self, source: u16, destination: u16, direction: Direction) {
        let (source, destination) = (u16::from_be(source), u16::from_be(destination));
        self.number = destination;
        self.ports = match direction {
            Direction::Inbound => FlowPorts { local: destination, remote: source },
            Direction::Outbound => FlowPorts { local: source, remote: destination },
        };
    }
}

/// The other way.
#[inline(always)]
pub const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    }
}
