//! Headers as they stand on the wire. Fields of several bytes are in network order and are converted where they are used.

use crate::abi::Be32;

/// A header: plain bytes, any content valid.
///
/// # Safety
///
/// Every bit pattern must be a value of the type, and it must have no padding.
pub unsafe trait Header: Copy {}

macro_rules! headers {
    ($($(#[$doc:meta])* pub struct $name:ident: $size:literal {
        $($(#[$fdoc:meta])* pub $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
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

    /// RFC 8200, section 4: the beginning of an extension header.
    pub struct Extension: 4 {
        pub next_header: u8,
        pub length: u8,
        /// The type of a routing header; the upper byte of a fragment header's offset.
        pub third: u8,
        pub fourth: u8,
    }

    pub struct Byte: 1 {
        pub value: u8,
    }

    pub struct Word: 4 {
        pub value: u32,
    }

    /// Two ports, or the beginning of an ICMP message.
    pub struct FirstBytes: 8 {
        pub first: u16,
        pub second: u16,
        pub third: u16,
        pub fourth: u16,
    }

    /// IEEE 802.1Q: what follows the hardware addresses of a tagged frame.
    pub struct VlanTag: 4 {
        pub tci: u16,
        pub ether_type: u16,
    }

    /// RFC 826, for IPv4 over Ethernet.
    pub struct Arp: 28 {
        pub hardware: u16,
        pub protocol: u16,
        pub hardware_bytes: u8,
        pub protocol_bytes: u8,
        pub operation: u16,
        pub sender_mac: [u8; 6],
        pub sender_address: [u8; 4],
        pub target_mac: [u8; 6],
        pub target_address: [u8; 4],
    }

    /// RFC 4861, sections 4.3 and 4.4: solicitation and advertisement.
    pub struct Neighbor: 24 {
        pub kind: u8,
        pub code: u8,
        pub checksum: u16,
        pub flags: u32,
        pub target: [Be32; 4],
    }

    /// RFC 4861, section 4.6.1: an option with a hardware address.
    pub struct LinkLayerOption: 8 {
        pub kind: u8,
        pub length: u8,
        pub mac: [u8; 6],
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
