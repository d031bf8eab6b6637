//! The only place where IPv4 and IPv6 differ: their headers, their keys, their ICMP.

use crate::abi::{
    AccountKeyV4, AccountKeyV6, Be32, ClassKeyV4, ClassKeyV6, Direction, FlowKeyV4, FlowKeyV6, FlowPorts,
    FragmentKeyV4, FragmentKeyV6, Interface, InterfaceHalf, MemberKeyV4, MemberKeyV6, OwnKeyV4, OwnKeyV6,
    PolicyDirection,
};

/// Something at an address that is a multiple of 8.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Aligned<T>(pub T);

impl<T> Aligned<T> {
    /// The same in words, as [`crate::table`] has keys.
    #[inline(always)]
    pub const fn words<const WORDS: usize>(&self) -> &[u64; WORDS] {
        const { assert!(size_of::<T>() == WORDS * size_of::<u64>()) };
        // SAFETY: it is as long as the words, aligned like them, and has no padding: the map types have none.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// Stores 8 bytes at once: what is compared in pieces of 8 bytes must not have been stored in smaller ones just
    /// before, or the processor waits for each.
    #[inline(always)]
    fn store<const WORDS: usize>(&mut self, words: [u64; WORDS]) {
        const { assert!(size_of::<T>() == WORDS * size_of::<u64>()) };
        let to = core::ptr::from_mut(self).cast::<u64>();
        for (index, word) in words.into_iter().enumerate() {
            // SAFETY: it is as long as the words and aligned like them.
            unsafe { to.add(index).write_volatile(word) };
        }
    }
}

/// Two words that lie behind one another in memory.
#[inline(always)]
const fn pair(first: u32, second: u32) -> u64 {
    let (low, high) = if cfg!(target_endian = "little") { (first, second) } else { (second, first) };
    low as u64 | (high as u64) << 32
}

/// Ports as they lie in memory.
#[inline(always)]
const fn word_of(ports: FlowPorts) -> u32 {
    let FlowPorts { local, remote } = ports;
    let (low, high) = if cfg!(target_endian = "little") { (local, remote) } else { (remote, local) };
    low as u32 | (high as u32) << 16
}

/// An address family.
pub trait Family: Sized {
    type Address: Copy + PartialEq + core::fmt::Debug;
    type ClassKey;
    type MemberKey;
    type FlowKey: Copy + core::fmt::Debug;
    type FragmentKey: Copy;
    type OwnKey;
    type AccountKey: Copy + core::fmt::Debug;

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
    /// [`Self::flow_key`], to be looked up at once.
    fn store_flow_key(
        key: &mut Aligned<Self::FlowKey>,
        zone_protocol: u32,
        local: Self::Address,
        remote: Self::Address,
        ports: FlowPorts,
    );

    fn fragment_key(
        zone_protocol: u32,
        source: Self::Address,
        destination: Self::Address,
        id: u32,
        direction: Direction,
    ) -> Self::FragmentKey;
    fn own_key(guard: u32, address: Self::Address) -> Self::OwnKey;
    fn account_key(flow: Self::FlowKey, dropped: u32) -> Self::AccountKey;

    /// The interface's part of the family's ring: how long it is, and where it begins.
    fn half_share(interface: &Interface) -> (u32, u32);
    /// Jiffies that the pieces of a datagram may take.
    fn patience(half: &InterfaceHalf) -> u32;
    /// The address in [`InterfaceHalf`] that is looked at before the table.
    fn first_own(half: &InterfaceHalf) -> Self::Address;
    fn is_unspecified(address: Self::Address) -> bool;

    /// ICMP types that are about another packet, which they quote, and may pass for its sake (SPEC D13).
    fn icmp_is_error(kind: u8) -> bool;
    /// The ICMP type of redirects.
    const REDIRECT: u8;

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
    type FragmentKey = FragmentKeyV4;
    type OwnKey = OwnKeyV4;
    type AccountKey = AccountKeyV4;

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

    #[inline(always)]
    fn store_flow_key(
        key: &mut Aligned<FlowKeyV4>,
        zone_protocol: u32,
        local: Be32,
        remote: Be32,
        ports: FlowPorts,
    ) {
        key.store([pair(zone_protocol, local.0), pair(remote.0, word_of(ports))]);
    }

    #[inline(always)]
    fn fragment_key(
        zone_protocol: u32,
        source: Be32,
        destination: Be32,
        id: u32,
        direction: Direction,
    ) -> FragmentKeyV4 {
        FragmentKeyV4 { zone_protocol, source, destination, id_direction: (id << 1) | direction as u32 }
    }

    #[inline(always)]
    fn own_key(guard: u32, address: Be32) -> OwnKeyV4 {
        OwnKeyV4 { guard, address }
    }

    #[inline(always)]
    fn account_key(flow: FlowKeyV4, dropped: u32) -> AccountKeyV4 {
        AccountKeyV4 { flow, dropped }
    }

    #[inline(always)]
    fn half_share(interface: &Interface) -> (u32, u32) {
        (interface.half_limit_v4, interface.half_base_v4)
    }

    #[inline(always)]
    fn patience(half: &InterfaceHalf) -> u32 {
        half.patience_v4
    }

    #[inline(always)]
    fn first_own(half: &InterfaceHalf) -> Be32 {
        half.own_v4
    }

    #[inline(always)]
    fn is_unspecified(address: Be32) -> bool {
        address.0 == 0
    }

    /// RFC 792: unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn icmp_is_error(kind: u8) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    const REDIRECT: u8 = 5;

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
    type FragmentKey = FragmentKeyV6;
    type OwnKey = OwnKeyV6;
    type AccountKey = AccountKeyV6;

    const ICMP: u8 = 58;
    const BIT: u32 = 1;
    const CLASS_BITS: u32 = 160;

    #[inline(always)]
    fn class_key(policy: PolicyDirection, address: [Be32; 4]) -> ClassKeyV6 {
        ClassKeyV6 { policy_direction: Be32::from_host(policy.0), address }
    }

    #[inline(always)]
    fn member_key(vpc: u32, address: [Be32; 4]) -> MemberKeyV6 {
        MemberKeyV6 { vpc, print: 0, address }
    }

    #[inline(always)]
    fn flow_key(zone_protocol: u32, local: [Be32; 4], remote: [Be32; 4], ports: FlowPorts) -> FlowKeyV6 {
        FlowKeyV6 { zone_protocol, local, remote, ports }
    }

    #[inline(always)]
    fn store_flow_key(
        key: &mut Aligned<FlowKeyV6>,
        zone_protocol: u32,
        local: [Be32; 4],
        remote: [Be32; 4],
        ports: FlowPorts,
    ) {
        key.store([
            pair(zone_protocol, local[0].0),
            pair(local[1].0, local[2].0),
            pair(local[3].0, remote[0].0),
            pair(remote[1].0, remote[2].0),
            pair(remote[3].0, word_of(ports)),
        ]);
    }

    #[inline(always)]
    fn fragment_key(
        zone_protocol: u32,
        source: [Be32; 4],
        destination: [Be32; 4],
        id: u32,
        direction: Direction,
    ) -> FragmentKeyV6 {
        FragmentKeyV6 { zone_protocol, source, destination, id, direction: direction as u32 }
    }

    #[inline(always)]
    fn own_key(guard: u32, address: [Be32; 4]) -> OwnKeyV6 {
        OwnKeyV6 { guard, address }
    }

    #[inline(always)]
    fn account_key(flow: FlowKeyV6, dropped: u32) -> AccountKeyV6 {
        AccountKeyV6 { flow, dropped }
    }

    #[inline(always)]
    fn half_share(interface: &Interface) -> (u32, u32) {
        (interface.half_limit_v6, interface.half_base_v6)
    }

    #[inline(always)]
    fn patience(half: &InterfaceHalf) -> u32 {
        half.patience_v6
    }

    #[inline(always)]
    fn first_own(half: &InterfaceHalf) -> [Be32; 4] {
        half.own_v6
    }

    #[inline(always)]
    fn is_unspecified(address: [Be32; 4]) -> bool {
        address[0].0 | address[1].0 | address[2].0 | address[3].0 == 0
    }

    /// RFC 4443: unreachable, packet too big, time exceeded, parameter problem.
    #[inline(always)]
    fn icmp_is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }

    const REDIRECT: u8 = 137;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every ICMP type: those that are about another packet, and those that ask, with their answers.
    fn knows<F: Family>(errors: &[u8], queries: &[(u8, u8)]) {
        for kind in 0..=255 {
            assert_eq!(F::icmp_is_error(kind), errors.contains(&kind), "{kind}");
            assert_eq!(F::icmp_is_request(kind), queries.iter().any(|query| query.0 == kind), "{kind}");
            let request = queries.iter().find(|query| query.1 == kind).map(|query| query.0);
            assert_eq!(F::icmp_request_of(kind), request, "{kind}");
        }
    }

    #[test]
    fn spec_d13_errors_and_d10_queries_are_known_by_their_types() {
        knows::<V4>(&[3, 11, 12], &[(8, 0), (13, 14), (15, 16), (17, 18)]);
        knows::<V6>(&[1, 2, 3, 4], &[(128, 129), (139, 140)]);
    }

    #[test]
    fn only_zeros_are_unspecified() {
        assert!(V4::is_unspecified(Be32(0)) && V6::is_unspecified([Be32(0); 4]));
        assert!(!V4::is_unspecified(Be32(1)));
        for set in 1..16u32 {
            let words = [0, 1, 2, 3].map(|word| Be32(set >> word & 1));
            assert!(!V6::is_unspecified(words), "{words:?}");
        }
    }

    #[test]
    fn spec_d14_identifications_and_directions_do_not_mix() {
        let (a, b) = (Be32(1), Be32(2));
        let mut seen: [Option<FragmentKeyV4>; 8] = [None; 8];
        for (place, id) in [0, 1, 2, 0xffff].into_iter().enumerate() {
            for direction in [Direction::Inbound, Direction::Outbound] {
                let key = V4::fragment_key(5, a, b, id, direction);
                assert!(!seen.contains(&Some(key)), "{key:?}");
                seen[place * 2 + direction as usize] = Some(key);
            }
        }
    }
}
