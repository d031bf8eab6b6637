//! The rules that are in force on an interface, written or implied (SPEC K20–K26, D26).
//!
//! The compiler and `explain` both start here, so what is explained is what is compiled.

use ipnet::IpNet;
use sg_common::abi::Direction;

use crate::policy::model::{
    Failsafe, Group, GroupId, Interface, Match, Metadata, Model, PortRange, Protocol, Remote, Role, Rule,
    RuleList, Rules, Source, VpcId,
};
use crate::policy::same::{others, said};

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It stands in the policy, as the `index`th of its list.
    Written { group: GroupId, index: usize, source: Source },
    /// The group has it because its list is absent.
    Implied { group: GroupId },
    /// `settings.failsafe` of a host interface.
    Failsafe,
    /// `settings.metadata: "exempt"`.
    MetadataExempt,
}

/// A rule in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub origin: Origin,
    pub protocol: Protocol,
    pub remote: Remote,
    pub matches: Match,
    /// Whether the rule reaches the metadata tuple if its remote covers it (SPEC K27).
    pub reaches_metadata: bool,
}

impl Effective {
    /// Equal for rules that allow the same.
    fn says(&self) -> (Protocol, Remote, &Match, bool) {
        (self.protocol, self.remote, &self.matches, self.reaches_metadata)
    }
}

/// 169.254.169.0/24, the metadata service's range (SPEC K27).
pub const METADATA_RANGE: ipnet::Ipv4Net =
    ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 169, 0), 24);
/// The metadata service's port.
pub const METADATA_PORT: u16 = 80;
const LINK_LOCAL: ipnet::Ipv4Net = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(169, 254, 0, 0), 16);
const ANY_V4: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0));
const ANY_V6: IpNet = IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0));

/// Every rule in force on `interface` in one direction, in the order of its groups. The order means nothing (K8).
pub fn of_interface(model: &Model, interface: &Interface, direction: Direction) -> Vec<Effective> {
    on_remotes(model, interface, direction, &All)
}

/// Which rules are asked for.
pub(super) trait Wanted {
    /// Whether one of a list may be. If not, none is, and nobody looks at each.
    fn may_be_in(&self, rules: &RuleList) -> bool;

    /// Whether those on this remote are.
    fn is(&self, remote: &Remote) -> bool;
}

struct All;

impl Wanted for All {
    fn may_be_in(&self, _: &RuleList) -> bool {
        true
    }

    fn is(&self, _: &Remote) -> bool {
        true
    }
}

/// Those of [`of_interface`] that are wanted.
pub(super) fn on_remotes(
    model: &Model,
    interface: &Interface,
    direction: Direction,
    wanted: &impl Wanted,
) -> Vec<Effective> {
    let mut rules = Vec::new();
    for &group in &interface.groups {
        of_group(model, group, interface.vpc, direction, wanted, &mut rules);
    }
    let mut others = Vec::new();
    if interface.role == Role::Host {
        failsafe(&model.settings.failsafe, direction, &mut others);
    }
    metadata(model, direction, &mut others);
    rules.extend(others.into_iter().filter(|rule| wanted.is(&rule.remote)));
    rules
}

/// The rules that a group brings to an interface in `vpc`.
fn of_one_group(model: &Model, group: GroupId, vpc: VpcId, direction: Direction) -> Vec<Effective> {
    let mut rules = Vec::new();
    of_group(model, group, vpc, direction, &All, &mut rules);
    rules
}

/// The remotes of what a group brings by one of two models and not by the other, where ids, and what makes a rule reach the
/// metadata service, mean the same in both.
pub(super) fn other_remotes(
    models: [&Model; 2],
    group: GroupId,
    vpc: VpcId,
    direction: Direction,
) -> Vec<Remote> {
    let lists = models.map(|model| model.groups.get(group.0).map(|group| list(group, direction)));
    if let [Some(Rules::Written(before)), Some(Rules::Written(after))] = lists {
        if before.is_same(after) {
            return Vec::new();
        }
        let same = |one: &Rule, other: &Rule| said(one) == said(other);
        return others([before, after], same).into_iter().flatten().map(|rule| rule.remote).collect();
    }
    let [before, after] = models.map(|model| of_one_group(model, group, vpc, direction));
    let same = |one: &Effective, other: &Effective| one.says() == other.says();
    others([&before, &after], same).into_iter().flatten().map(|rule| rule.remote).collect()
}

/// Every rule of a policy in one direction, whether an interface has it or not. A rule of `default` may come once for each
/// VPC of its project.
pub fn of_model(model: &Model, direction: Direction) -> Vec<Effective> {
    let mut rules = Vec::new();
    for (index, group) in model.groups.iter().enumerate() {
        for (number, vpc) in model.vpcs.iter().enumerate() {
            let visible = group.vpc.map_or(vpc.project == group.project, |id| id.0 == number);
            if visible {
                rules.extend(of_one_group(model, GroupId(index), VpcId(number), direction));
            }
        }
    }
    if model.interfaces.iter().any(|interface| interface.role == Role::Host) {
        failsafe(&model.settings.failsafe, direction, &mut rules);
    }
    metadata(model, direction, &mut rules);
    rules
}

fn metadata(model: &Model, direction: Direction, out: &mut Vec<Effective>) {
    if direction == Direction::Outbound && model.settings.metadata == Metadata::Exempt {
        out.push(Effective {
            origin: Origin::MetadataExempt,
            protocol: Protocol::Tcp,
            remote: Remote::Cidr(IpNet::V4(METADATA_RANGE)),
            matches: Match::Ports(PortRange { min: METADATA_PORT, max: METADATA_PORT }),
            reaches_metadata: true,
        });
    }
}

fn of_group(
    model: &Model,
    id: GroupId,
    vpc: VpcId,
    direction: Direction,
    wanted: &impl Wanted,
    out: &mut Vec<Effective>,
) {
    let Some(group) = model.groups.get(id.0) else { return };
    let explicit = model.settings.metadata == Metadata::Explicit;
    match list(group, direction) {
        Rules::Written(rules) => {
            if !wanted.may_be_in(rules) {
                return;
            }
            let rules = rules.iter().enumerate().filter(|(_, rule)| wanted.is(&rule.remote));
            out.extend(rules.map(|(index, rule)| Effective {
                origin: Origin::Written { group: id, index, source: group.source_of(rule) },
                protocol: rule.protocol,
                remote: rule.remote,
                matches: rule.matches.clone(),
                reaches_metadata: !explicit || group.is_default() || is_link_local(&rule.remote),
            }));
        }
        Rules::Implied => {
            let ipv6 = model.vpcs.get(vpc.0).is_some_and(|vpc| vpc.ipv6);
            let rules = implied(group, id, direction, ipv6).into_iter();
            let rules = rules.filter(|(_, remote)| wanted.is(remote));
            out.extend(rules.map(|(protocol, remote)| Effective {
                origin: Origin::Implied { group: id },
                protocol,
                remote,
                matches: Match::Any,
                reaches_metadata: !explicit || group.is_default(),
            }));
        }
    }
}

/// The rules of a group, written or implied.
pub fn list(group: &Group, direction: Direction) -> &Rules {
    match direction {
        Direction::Inbound => &group.inbound,
        Direction::Outbound => &group.outbound,
    }
}

/// K21 and K22 for `default`, K25 and K26 for the others.
pub fn implied(group: &Group, id: GroupId, direction: Direction, ipv6: bool) -> Vec<(Protocol, Remote)> {
    match direction {
        Direction::Inbound if group.is_default() => vec![(Protocol::Tcp, Remote::Group(id))],
        Direction::Inbound => Vec::new(),
        Direction::Outbound => {
            let mut rules = vec![(Protocol::All, Remote::Cidr(ANY_V4))];
            if ipv6 {
                rules.push((Protocol::All, Remote::Cidr(ANY_V6)));
            }
            rules
        }
    }
}

fn is_link_local(remote: &Remote) -> bool {
    matches!(remote, Remote::Cidr(IpNet::V4(net)) if LINK_LOCAL.contains(net))
}

fn failsafe(failsafe: &Failsafe, direction: Direction, out: &mut Vec<Effective>) {
    let mut push = |protocol, remote, matches| {
        out.push(Effective { origin: Origin::Failsafe, protocol, remote, matches, reaches_metadata: true });
    };
    match failsafe {
        Failsafe::Standard => {
            let (protocols, port): (&[Protocol], u16) = match direction {
                Direction::Inbound => (&[Protocol::Tcp], 22),
                Direction::Outbound => (&[Protocol::Tcp, Protocol::Udp], 53),
            };
            for &protocol in protocols {
                for any in [ANY_V4, ANY_V6] {
                    push(protocol, Remote::Cidr(any), Match::Ports(PortRange { min: port, max: port }));
                }
            }
        }
        Failsafe::Written { inbound, outbound } => {
            let rules: &[Rule] = match direction {
                Direction::Inbound => inbound,
                Direction::Outbound => outbound,
            };
            for rule in rules {
                push(rule.protocol, rule.remote, rule.matches.clone());
            }
        }
    }
}
