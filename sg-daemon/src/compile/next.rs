//! The image of a policy that follows another one: what says the same as before is not compiled again.
//!
//! The result is what [`compile`](super::compile) makes of the model alone, and shares with the image before whatever is
//! equal. What is compared is what the compiler reads, so places in files and descriptions do not count.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sg_common::abi::Direction;

use super::classes::Classes;
use super::image::{Cells, Image, PolicyImage, VpcName};
use super::members::Members;
use super::rules::{self, Wanted};
use super::{Sets, direction_image, image, member_addresses, members, vpc_names};
use crate::policy::model::{GroupId, Interface, Model, Remote, Role, RuleList, VpcId};
use crate::policy::same::{same_names, same_rules};

/// Compiles a checked policy after `before`, which is another model and what was made of it.
pub fn compile_next(model: &Model, before: (&Model, &Image)) -> Image {
    let (old, made) = before;
    let vpcs = vpc_names(model);
    let same_names = same_names(old, model);
    let members = if same_names { next_members(model, &vpcs, old, made) } else { members(model, &vpcs) };
    let same = same_groups(old, model);
    // What all policies depend on, beside their groups.
    let same_ground = same_names
        && old.settings.metadata == model.settings.metadata
        && old.settings.failsafe == model.settings.failsafe
        && old.vpcs == model.vpcs;
    let policies = if same_ground { known_policies(old, made) } else { HashMap::new() };
    image(model, &vpcs, members, |interface| {
        let policy = policies.get(&key(interface))?;
        let other = |id: &GroupId| !same.get(id.0).is_some_and(|same| *same);
        let others: Vec<GroupId> = interface.groups.iter().copied().filter(other).collect();
        if others.is_empty() {
            return Some(Arc::clone(policy));
        }
        next_policy(model, old, interface, &others, policy).map(Arc::new)
    })
}

/// An interface's policy follows from these, and from what the groups say.
type Key = (VpcId, BTreeSet<GroupId>, Role);

fn key(interface: &Interface) -> Key {
    (interface.vpc, interface.groups.iter().copied().collect(), interface.role)
}

fn known_policies<'i>(old: &Model, made: &'i Image) -> HashMap<Key, &'i Arc<PolicyImage>> {
    let interfaces = old.interfaces.iter().zip(&made.interfaces);
    interfaces
        .filter(|(interface, image)| interface.name == image.name)
        .filter_map(|(interface, image)| Some((key(interface), made.policies.get(image.policy?)?)))
        .collect()
}

/// For each group of the new model whether its rules are those that the old one's group of that id has.
fn same_groups(old: &Model, new: &Model) -> Vec<bool> {
    let groups = old.groups.iter().zip(&new.groups);
    groups
        .map(|(group, other)| {
            same_rules(&group.inbound, &other.inbound) && same_rules(&group.outbound, &other.outbound)
        })
        .collect()
}

/// What rules that have changed speak of.
struct Touched<'m> {
    model: &'m Model,
    nets: BTreeSet<IpNet>,
    /// By name, as a policy has them: `default` is seen from several VPCs, each of which may have a group of that name.
    groups: BTreeSet<&'m str>,
}

impl<'m> Touched<'m> {
    /// Of so many networks at most it is worth a look at each.
    const MOST: usize = 16;

    /// By rules of these groups, which differ.
    fn by(
        groups: &[GroupId],
        vpc: VpcId,
        direction: Direction,
        (old, new): (&Model, &'m Model),
    ) -> Option<Self> {
        let mut touched = Self { model: new, nets: BTreeSet::new(), groups: BTreeSet::new() };
        for &group in groups {
            for remote in rules::other_remotes([old, new], group, vpc, direction) {
                match remote {
                    Remote::Cidr(net) => drop(touched.nets.insert(net)),
                    Remote::Group(group) => touched.groups.extend(touched.name(group)),
                }
            }
        }
        (touched.nets.len() <= Self::MOST).then_some(touched)
    }

    fn is_empty(&self) -> bool {
        self.nets.is_empty() && self.groups.is_empty()
    }

    fn name(&self, group: GroupId) -> Option<&'m str> {
        self.model.groups.get(group.0).map(|group| group.name.as_str())
    }

    fn has(&self, group: GroupId) -> bool {
        self.name(group).is_some_and(|name| self.groups.contains(name))
    }
}

/// Those that have a say in what is said of what is touched.
impl Wanted for Touched<'_> {
    fn may_be_in(&self, rules: &RuleList) -> bool {
        let about = rules.about();
        self.nets.iter().any(|net| about.may_meet(net)) || about.groups.iter().any(|group| self.has(*group))
    }

    fn is(&self, remote: &Remote) -> bool {
        match remote {
            Remote::Cidr(net) => {
                self.nets.iter().any(|touched| touched.contains(net) || net.contains(touched))
            }
            Remote::Group(group) => self.has(*group),
        }
    }
}

/// The policy of an interface after `before`, which it had when the rules of some of its groups were others. What a rule says is
/// seen in the networks inside of its own, so of these alone rows are made, by the rules on them and on what is around them.
fn next_policy(
    model: &Model,
    old: &Model,
    interface: &Interface,
    others: &[GroupId],
    before: &PolicyImage,
) -> Option<PolicyImage> {
    let direction = |direction| {
        let touched = Touched::by(others, interface.vpc, direction, (old, model))?;
        let mut next = before.direction(direction).clone();
        if touched.is_empty() {
            return Some(next);
        }
        let rules = rules::on_remotes(model, interface, direction, &touched);
        let part = direction_image(model, &rules, direction);
        for net in &touched.nets {
            match net {
                IpNet::V4(net) => take_over(&mut next.v4, &part.v4, net, |inner| net.contains(inner)),
                IpNet::V6(net) => take_over(&mut next.v6, &part.v6, net, |inner| net.contains(inner)),
            }
        }
        for group in &touched.groups {
            match part.groups.get_key_value(*group) {
                Some((name, cells)) => drop(next.groups.insert(Arc::clone(name), cells.clone())),
                None => drop(next.groups.remove(*group)),
            }
        }
        Some(next)
    };
    let [inbound, outbound] = [Direction::Inbound, Direction::Outbound].map(direction);
    Some(PolicyImage::new(before.vpc.clone(), inbound?, outbound?))
}

/// Says of `net` and all networks inside of it what `part` says.
fn take_over<N: Copy + Ord + Hash>(
    next: &mut Classes<N>,
    part: &Classes<N>,
    net: &N,
    is_inside: impl Fn(&N) -> bool,
) {
    let inside = |classes: &Classes<N>| -> Vec<(N, Cells)> {
        let inside = classes.from(net).take_while(|(inner, _)| is_inside(inner));
        inside.map(|(inner, cells)| (*inner, cells.clone())).collect()
    };
    let (before, after) = (inside(next), inside(part));
    for (gone, _) in before.iter().filter(|(inner, _)| !part.contains_key(inner)) {
        next.remove(gone);
    }
    for (inner, cells) in after {
        if next.get(&inner) != Some(&cells) {
            next.insert(inner, cells);
        }
    }
}

/// The members after those of `made`, where ids mean the same in both models.
fn next_members(model: &Model, vpcs: &[VpcName], old: &Model, made: &Image) -> Members {
    let allowed = |model: &Model| -> Vec<bool> {
        model.groups.iter().map(|group| group.include_allowed_addresses).collect()
    };
    let mut touched: BTreeSet<(VpcId, IpAddr)> = BTreeSet::new();
    if allowed(old) == allowed(model) {
        touched.extend(other_interfaces(old, model).flat_map(addresses));
    } else {
        touched.extend(old.interfaces.iter().chain(&model.interfaces).flat_map(addresses));
    }
    // A peer that stays may have an address that an interface has, too.
    let by_interface = !touched.is_empty();
    let [gone, come] = old.peers.others(&model.peers);
    touched.extend(gone.iter().chain(&come).map(|peer| (peer.vpc, peer.address)));
    let mut members = made.members.clone();
    if touched.is_empty() {
        return members;
    }
    let mut groups_of: HashMap<(VpcId, IpAddr), BTreeSet<GroupId>> = HashMap::new();
    for interface in &model.interfaces {
        for (group, address) in member_addresses(model, interface) {
            let at = (interface.vpc, address);
            if touched.contains(&at) {
                groups_of.entry(at).or_default().insert(group);
            }
        }
    }
    let of_interfaces = touched.iter().filter(|_| by_interface);
    let of_interfaces = of_interfaces.flat_map(|(_, address)| model.peers.of_address(*address));
    for peer in come.into_iter().chain(of_interfaces.map(|(_, peer)| peer)) {
        let at = (peer.vpc, peer.address);
        if touched.contains(&at) {
            groups_of.entry(at).or_default().extend(peer.groups.iter());
        }
    }
    let mut sets = Sets::new(model, vpcs);
    for (vpc, address) in touched {
        let groups = groups_of.remove(&(vpc, address)).unwrap_or_default();
        let found = if groups.is_empty() { None } else { sets.of(vpc, address, groups) };
        match found {
            Some((name, set)) if members.get(&name, address) != Some(&set) => {
                members.insert(name, address, set);
            }
            Some(_) => {}
            None => vpcs.get(vpc.0).into_iter().for_each(|name| members.remove(name, address)),
        }
    }
    members
}

fn addresses(interface: &Interface) -> impl Iterator<Item = (VpcId, IpAddr)> + '_ {
    let all = interface.addresses.iter().chain(&interface.allowed_addresses);
    all.map(|address| (interface.vpc, *address))
}

/// The interfaces of either model that have no like in the other one.
fn other_interfaces<'m>(old: &'m Model, new: &'m Model) -> impl Iterator<Item = &'m Interface> {
    fn by_name(model: &Model) -> HashMap<&str, &Interface> {
        model.interfaces.iter().map(|interface| (interface.name.as_str(), interface)).collect()
    }
    fn same(one: &Interface, other: &Interface) -> bool {
        one.vpc == other.vpc
            && one.groups == other.groups
            && one.addresses == other.addresses
            && one.allowed_addresses == other.allowed_addresses
    }
    let (before, after) = (by_name(old), by_name(new));
    let gone = move |interface: &&'m Interface| {
        after.get(interface.name.as_str()).is_none_or(|other| !same(interface, other))
    };
    let come = move |interface: &&'m Interface| {
        before.get(interface.name.as_str()).is_none_or(|other| !same(interface, other))
    };
    old.interfaces.iter().filter(gone).chain(new.interfaces.iter().filter(come))
}
