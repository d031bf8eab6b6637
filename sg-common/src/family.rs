//! The only place where IPv4 and IPv6 differ: their headers, their keys, their ICMP.

use crate::abi::PolicyDirection;
use crate::abi::{Be32, ClassKeyV4, ClassKeyV6, FlowKeyV4, FlowKeyV6, FlowPorts, MemberKeyV4, MemberKeyV6};

/// An address family.
pub trait Family: Sized {
    type Address: Copy;
    type ClassKey;
    type MemberKey;
    type FlowKey;

    /// The IP protocol number of the family's own ICMP.
    const ICMP: u8;
    /// The lowest bit of [`crate::abi::PairKey::set_family`].
    const BIT: u32;
    /// Prefix length of a whole [`Self::ClassKey`].
    const CLASS_BITS: u32;

    fn class_key(policy: PolicyDirection, address: Self::Address) -> Self::ClassKey;
    fn member_key(vpc: u32, address: Self::Address) -> Self::MemberKey;
    fn flow_key(
        zone_protocol: u32,
        local: Self::Address,
        remote: Self::Address,
        ports: FlowPorts,
    ) -> Self::FlowKey;

    /// The ICMP types that ask and are answered, as `(request, reply)`.
    fn icmp_is_request(kind: u8) -> bool;
    /// The request's type if `kind` is an answer to one.
    fn icmp_request_of(kind: u8) -> Option<u8>;
}

/// IPv4.
#[derive(Debug)]
pub struct V4;
/// IPv6.
#[derive(Debug)]
pub struct V6;

impl Family for V4 {
    type Address = Be32;
    type ClassKey = ClassKeyV4;
    type MemberKey = MemberKeyV4;
    type FlowKey = FlowKeyV4;

    const ICMP: u8 = 1;
    const BIT: u32 = 0;
    const CLASS_BITS: u32 = 64;

    #[inline(always)]
    fn class_key(policy: PolicyDirection, address: Be32) -> ClassKeyV4 {
        ClassKeyV4 { policy_direction: Be32::from_host(policy.0), address }
    }

    #[inline(always)]
    fn member_key(vpc: u32, address: Be32) -> MemberKeyV4 {
        MemberKeyV4 { vpc, address }
    }

    #[inline(always)]
    fn flow_key(zone_protocol: u32, local: Be32, remote: Be32, ports: FlowPorts) -> FlowKeyV4 {
        FlowKeyV4 { zone_protocol, local, remote, ports }
    }

    /// RFC 792 echo, timestamp, information; RFC 950 address mask.
    #[inline(always)]
    fn icmp_is_request(kind: u8) -> bool {
        matches!(kind, 8 | 13 | 15 | 17)
    }

    #[inline(always)]
    fn icmp_request_of(kind: u8) -> Option<u8> {
        match kind {
            0 => Some(8),
            14 => Some(13),
            16 => Some(15),
            18 => Some(17),
            _ => None,
        }
    }
}

impl Family for V6 {
    type Address = [Be32; 4];
    type ClassKey = ClassKeyV6;
    type MemberKey = MemberKeyV6;
    type FlowKey = FlowKeyV6;

    const ICMP: u8 = 58;
    const BIT: u32 = 1;
    const CLASS_BITS: u32 = 160;

    #[inline(always)]
    fn class_key(policy: PolicyDirection, address: [Be32; 4]) -> ClassKeyV6 {
        ClassKeyV6 { policy_direction: Be32::from_host(policy.0), address }
    }

    #[inline(always)]
    fn member_key(vpc: u32, address: [Be32; 4]) -> MemberKeyV6 {
        MemberKeyV6 { vpc, address }
    }

    #[inline(always)]
    fn flow_key(zone_protocol: u32, local: [Be32; 4], remote: [Be32; 4], ports: FlowPorts) -> FlowKeyV6 {
        FlowKeyV6 { zone_protocol, local, remote, ports }
    }

    /// RFC 4443 echo; RFC 4620 node information.
    #[inline(always)]
    fn icmp_is_request(kind: u8) -> bool {
        matches!(kind, 128 | 139)
    }

    #[inline(always)]
    fn icmp_request_of(kind: u8) -> Option<u8> {
        match kind {
            129 => Some(128),
            140 => Some(139),
            _ => None,
        }
    }
}
