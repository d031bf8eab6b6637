//! New flows: which rule, if any, lets them in or out. A constant number of look-ups, whatever the number of rules:
//!
//! 1. the remote's class among the CIDRs of the policy (longest prefix) gives a [`Row`];
//! 2. the remote's membership set (exact address) and the policy give another, if any rule names a group;
//! 3. in each row the column of the protocol is a set of ports, types or protocol numbers.
//!
//! The rules only ever allow, so the order does not matter (SPEC K4, K8).

use crate::abi::{FLAG_NO_GROUPS_INBOUND, PairKey, PolicyDirection, PortSet, PortSetKind, Row};
use crate::family::Family;
use crate::judge::{At, Tables};
use crate::packet::{ReadIp, protocol};
use crate::verdict::AdmittedBy;

/// Whether any rule that may let a packet start a flow names a group.
#[inline(always)]
fn names_groups(at: &At<'_>) -> bool {
    at.half.flags >> at.direction() as u32 & FLAG_NO_GROUPS_INBOUND == 0
}

/// Looks where [`classify`] will look for `remote` among members.
#[inline(always)]
pub fn look_ahead_for_member<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, remote: F::Address) {
    if names_groups(at) {
        tables.look_ahead_for_member(&F::member_key(at.half.vpc, remote));
    }
}

/// Asks the policy in force on an interface whether it allows a new flow with `remote`.
#[inline(always)]
pub fn classify<F: ReadIp, T: Tables<F>>(
    tables: &T,
    at: &At<'_>,
    remote: F::Address,
    protocol: u8,
    number: u16,
) -> AdmittedBy {
    let (half, parity, direction) = (at.half, at.parity(), at.direction());
    let policy = PolicyDirection::new(half.policy, direction);
    if let Some(row) = tables.class(&F::class_key(policy, remote))
        && admits::<F, T>(tables, row, protocol, number)
    {
        return AdmittedBy::Cidr;
    }
    if names_groups(at) {
        let set = tables.member_set(&F::member_key(half.vpc, remote), parity);
        if set != 0
            && let Some(row) =
                tables.pair(&PairKey { policy_direction: policy.0, set_family: (set << 1) | F::BIT })
            && admits::<F, T>(tables, row, protocol, number)
        {
            return AdmittedBy::Group;
        }
    }
    AdmittedBy::Nothing
}

#[inline(always)]
fn admits<F: ReadIp, T: Tables<F>>(tables: &T, row: &Row, protocol: u8, number: u16) -> bool {
    contains::<F, T>(tables, column::<F>(row, protocol), number)
}

#[inline(always)]
fn column<F: Family>(row: &Row, protocol: u8) -> PortSet {
    if protocol == protocol::TCP {
        row.tcp
    } else if protocol == protocol::UDP {
        row.udp
    } else if protocol == F::ICMP {
        row.icmp
    } else {
        row.other
    }
}

#[inline(always)]
fn contains<F: ReadIp, T: Tables<F>>(tables: &T, set: PortSet, number: u16) -> bool {
    match set.kind() {
        PortSetKind::Empty => false,
        PortSetKind::Range(low, high) => low <= number && number <= high,
        PortSetKind::Table(index) => tables.port_table_contains(index, number),
    }
}

/// A later piece of an IPv6 datagram does not tell its protocol: any column will do.
#[inline(always)]
fn says_anything<F: Family>(row: &Row, protocol: u8) -> bool {
    let says = |set: PortSet| !matches!(set.kind(), PortSetKind::Empty);
    if F::BIT == 0 {
        says(column::<F>(row, protocol))
    } else {
        says(row.tcp) || says(row.udp) || says(row.icmp) || says(row.other)
    }
}

/// Whether any rule, of either direction, says anything of a protocol and a remote. That is less than allowing a packet:
/// it is asked about pieces of datagrams whose ports are not known yet.
#[inline(always)]
pub fn touches<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, remote: F::Address, protocol: u8) -> bool {
    let (half, parity) = (at.half, at.parity());
    let set = tables.member_set(&F::member_key(half.vpc, remote), parity);
    let mut number = 0;
    while number < 2 {
        let policy = PolicyDirection((half.policy << 1) | number);
        if let Some(row) = tables.class(&F::class_key(policy, remote))
            && says_anything::<F>(row, protocol)
        {
            return true;
        }
        if set != 0
            && let Some(row) =
                tables.pair(&PairKey { policy_direction: policy.0, set_family: (set << 1) | F::BIT })
            && says_anything::<F>(row, protocol)
        {
            return true;
        }
        number += 1;
    }
    false
}
