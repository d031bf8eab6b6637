//! Which rules allow a packet, and which nearly do: the model's answer, in terms of what was written. The kernel decides by
//! the image, which is the sum of the rules and does not know them any more.

use std::net::IpAddr;

use sg_common::abi::Direction;
use sg_common::packet::protocol;

use super::image::Image;
use super::rules::{self, Effective, METADATA_PORT, METADATA_RANGE};
use crate::policy::model::{GroupId, Interface, Match, Model, Protocol, Remote};

/// A policy as it was read and as it was compiled.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'p> {
    pub model: &'p Model,
    pub image: &'p Image,
}

/// What rules ask about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    pub direction: Direction,
    pub protocol: u8,
    /// The other side's address.
    pub remote: IpAddr,
    /// The destination port, of TCP and UDP (K16).
    pub port: Option<u16>,
    /// Type and code, of the family's ICMP.
    pub icmp: Option<(u8, u8)>,
}

impl Tuple {
    pub fn is_own_icmp(&self) -> bool {
        let own = if self.remote.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP };
        self.protocol == own
    }

    /// The tuple that K27 reserves.
    pub fn is_metadata(&self) -> bool {
        let in_range = matches!(self.remote, IpAddr::V4(address) if METADATA_RANGE.contains(&address));
        in_range
            && self.direction == Direction::Outbound
            && self.protocol == protocol::TCP
            && self.port == Some(METADATA_PORT)
    }
}

/// Which parts of a rule fit a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    pub protocol: bool,
    pub remote: bool,
    pub matches: bool,
    /// False if only the metadata reservation keeps the rule from allowing the packet.
    pub reaches: bool,
}

impl Fit {
    pub fn of(rule: &Effective, tuple: &Tuple, policy: Policy<'_>, interface: &Interface) -> Self {
        let number = tuple.protocol;
        let protocol = match rule.protocol {
            Protocol::All => true,
            Protocol::Tcp => number == protocol::TCP,
            Protocol::Udp => number == protocol::UDP,
            Protocol::Icmp => tuple.is_own_icmp(),
            Protocol::Number(of_rule) => number == of_rule,
        };
        let remote = match rule.remote {
            Remote::Cidr(net) => net.contains(&tuple.remote),
            Remote::Group(group) => is_member(policy, interface, group, tuple.remote),
        };
        let matches = match &rule.matches {
            Match::Any => true,
            Match::Ports(ports) => tuple.port.is_some_and(|port| ports.range().contains(&port)),
            Match::Icmp { kind, code } => {
                tuple.icmp.is_some_and(|icmp| icmp.0 == *kind && code.is_none_or(|code| icmp.1 == code))
            }
        };
        Self { protocol, remote, matches, reaches: rule.reaches_metadata || !tuple.is_metadata() }
    }

    pub fn allows(self) -> bool {
        self.protocol && self.remote && self.matches && self.reaches
    }

    /// How near the rule is to allowing the packet. The remote weighs most: who may connect is what operators think in.
    fn nearness(self) -> u32 {
        u32::from(self.remote) * 4 + u32::from(self.protocol) * 2 + u32::from(self.matches)
    }
}

fn is_member(policy: Policy<'_>, interface: &Interface, group: GroupId, remote: IpAddr) -> bool {
    let (Some(group), Some(image)) =
        (policy.model.groups.get(group.0), policy.image.interface(&interface.name))
    else {
        return false;
    };
    let set = policy.image.members.get(&image.vpc, remote);
    set.is_some_and(|set| set.groups.contains(group.name.as_str()))
}

/// The rules of an interface beside what they say of a packet.
pub struct Fits(Vec<(Effective, Fit)>);

impl Fits {
    pub fn new(policy: Policy<'_>, interface: &Interface, tuple: &Tuple) -> Self {
        let rules = rules::of_interface(policy.model, interface, tuple.direction);
        Self(
            rules
                .into_iter()
                .map(|rule| {
                    let fit = Fit::of(&rule, tuple, policy, interface);
                    (rule, fit)
                })
                .collect(),
        )
    }

    pub fn allowing(&self) -> impl Iterator<Item = &Effective> {
        self.0.iter().filter(|(_, fit)| fit.allows()).map(|(rule, _)| rule)
    }

    /// The rule that allows the packet but for the least.
    pub fn nearest(&self) -> Option<(&Effective, Fit)> {
        self.0
            .iter()
            .filter(|(_, fit)| fit.nearness() > 0 && !fit.allows())
            .max_by_key(|(_, fit)| fit.nearness())
            .map(|(rule, fit)| (rule, *fit))
    }
}
