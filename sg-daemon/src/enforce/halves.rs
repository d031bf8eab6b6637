//! What an interface is judged by: the half of its entry in the kernel that a policy makes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use sg_common::abi::{
    Be32, FLAG_AUDIT, FLAG_CLOSED, FLAG_DHCP_SERVERS_V4, FLAG_DHCP_SERVERS_V6, FLAG_NO_GROUPS_INBOUND,
    FLAG_NO_GROUPS_OUTBOUND, FLAG_ROLE_HOST, FLAG_STRICT_TCP, GUARD_DHCP_SERVER, GUARD_ETHER_TYPE,
    GUARD_REDIRECT, GUARD_ROUTER_ADVERTISEMENT, GUARD_SOURCE_ROUTE, GUARD_VLAN, InterfaceHalf,
};

use super::targets::Target;
use super::{Active, Enforcer};
use crate::compile::image::{DirectionImage, GuardImage, Image, InterfaceImage, VpcName};
use crate::kernel::Slot;
use crate::plan::Plan;
use crate::policy::model::{Role, Timeouts};

/// The kernel's ids of what an image names.
#[derive(Clone, Copy)]
pub(super) struct Ids<'a> {
    policies: &'a [u32],
    vpcs: &'a HashMap<VpcName, u32>,
    guards: &'a HashMap<Arc<GuardImage>, u32>,
}

impl<'a> From<&'a Plan> for Ids<'a> {
    fn from(plan: &'a Plan) -> Self {
        Self { policies: &plan.policy_ids, vpcs: &plan.vpc_ids, guards: &plan.guard_ids }
    }
}

impl<'a> From<&'a Active> for Ids<'a> {
    fn from(active: &'a Active) -> Self {
        Self { policies: &active.policy_ids, vpcs: &active.vpc_ids, guards: &active.guard_ids }
    }
}

impl Enforcer {
    /// What each filtered device is to be judged by after the swap.
    pub(super) fn halves(
        &self,
        targets: &[Target],
        image: &Image,
        plan: &Plan,
    ) -> Vec<(Slot, InterfaceHalf)> {
        let wanted = targets.iter().filter_map(|target| {
            let slot = self.devices.get(&target.name)?.slot;
            let half = match target.interface.and_then(|index| image.interfaces.get(index)) {
                Some(interface) => self.half_of(interface, image, plan.into()),
                None => self.closed_after(self.kernel.half(slot), target.role),
            };
            Some((slot, half))
        });
        // A device that is about to be detached keeps its policy until then.
        let leaving = self.devices.iter().filter_map(|(name, device)| {
            let stays = targets.iter().any(|target| target.name == *name);
            (!stays).then(|| self.kernel.half(device.slot).map(|half| (device.slot, half))).flatten()
        });
        wanted.chain(leaving).collect()
    }

    pub(super) fn half_in_force(&self, target: &Target) -> InterfaceHalf {
        let interface = self.active.as_ref().and_then(|active| {
            let interface = active.image.interfaces.get(target.interface?)?;
            Some(self.half_of(interface, &active.image, active.into()))
        });
        interface.unwrap_or_else(|| self.closed(target.role, &Timeouts::default()))
    }

    pub(super) fn half_of(&self, interface: &InterfaceImage, image: &Image, ids: Ids<'_>) -> InterfaceHalf {
        let policy = interface.policy.and_then(|index| ids.policies.get(index)).copied().unwrap_or(0);
        let first_v4 = interface.guard.own.iter().find_map(|own| match own {
            IpAddr::V4(address) => Some(Be32::from_host(address.to_bits())),
            IpAddr::V6(_) => None,
        });
        let first_v6 = interface.guard.own.iter().find_map(|own| match own {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(crate::kernel::words_of(*address)),
        });
        let strict = if interface.strict_tcp { FLAG_STRICT_TCP } else { 0 };
        let audit = if interface.audit { FLAG_AUDIT } else { 0 };
        let rules = interface.policy.and_then(|index| image.policies.get(index));
        let groups = rules.map_or(NO_GROUPS, |rules| {
            let unnamed = |rules: &DirectionImage, flag| if rules.groups.is_empty() { flag } else { 0 };
            unnamed(&rules.inbound, FLAG_NO_GROUPS_INBOUND)
                | unnamed(&rules.outbound, FLAG_NO_GROUPS_OUTBOUND)
        });
        let closed = self.closed(interface.role, &interface.timeouts);
        InterfaceHalf {
            policy,
            vpc: ids.vpcs.get(&interface.vpc).copied().unwrap_or(0),
            flags: (closed.flags & FLAG_ROLE_HOST) | strict | audit | groups | interface.guards,
            mac: interface.mac.unwrap_or_default(),
            guard: ids.guards.get(&interface.guard).copied().unwrap_or(0),
            own_v4: first_v4.unwrap_or_default(),
            own_v6: first_v6.unwrap_or_default(),
            ether_types: interface.ether_types,
            ..closed
        }
    }

    /// What a device is closed with that had a policy: its connections go on (SPEC K11), so its guest must still be able to
    /// announce the addresses that it had.
    pub(super) fn closed_after(&self, before: Option<InterfaceHalf>, role: Role) -> InterfaceHalf {
        let closed = self.closed(role, &Timeouts::default());
        match before {
            Some(InterfaceHalf { mac, own_v4, own_v6, flags, .. })
                if role == Role::Guest && (own_v4 != Be32(0) || own_v6 != [Be32(0); 4]) =>
            {
                // Further addresses, routers and DHCP servers went with the policy.
                // What is closed (SPEC D23) is closed, also if it was in audit.
                let gone = FLAG_STRICT_TCP | FLAG_AUDIT | FLAG_DHCP_SERVERS_V4 | FLAG_DHCP_SERVERS_V6;
                let flags = flags & !gone | NO_GROUPS;
                InterfaceHalf { mac, own_v4, own_v6, flags, ..closed }
            }
            _ => closed,
        }
    }

    /// No rule, no member: everything but the baseline is dropped.
    pub(super) fn closed(&self, role: Role, timeouts: &Timeouts) -> InterfaceHalf {
        let (timeouts, granularity) = self.kernel.timeouts(timeouts);
        InterfaceHalf {
            policy: 0,
            vpc: 0,
            flags: NO_GROUPS | if role == Role::Host { FLAG_ROLE_HOST } else { CLOSED_GUARDS },
            granularity,
            timeouts,
            mac: [0; 6],
            reserved: 0,
            guard: 0,
            own_v4: Be32(0),
            own_v6: [Be32(0); 4],
            ether_types: [0; 8],
            patience_v4: self.kernel.jiffies(PATIENCE_V4) as u32,
            patience_v6: self.kernel.jiffies(PATIENCE_V6) as u32,
            reserved_too: [0; 2],
        }
    }
}

const NO_GROUPS: u32 = FLAG_NO_GROUPS_INBOUND | FLAG_NO_GROUPS_OUTBOUND;

/// What a guest without a policy may not do. Its addresses are not known, so it may announce none.
const CLOSED_GUARDS: u32 = FLAG_CLOSED
    | GUARD_VLAN
    | GUARD_ETHER_TYPE
    | GUARD_DHCP_SERVER
    | GUARD_ROUTER_ADVERTISEMENT
    | GUARD_REDIRECT
    | GUARD_SOURCE_ROUTE;

/// How long the pieces of a datagram may take, in seconds: as long as Linux waits (net.ipv4.ipfrag_time).
const PATIENCE_V4: u32 = 30;
/// Likewise for IPv6 (net.ipv6.ip6frag_time; RFC 8200, section 4.5).
const PATIENCE_V6: u32 = 60;
