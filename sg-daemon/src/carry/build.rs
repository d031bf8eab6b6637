//! What all clouds have in common on the way in: names, references, members, quotas, and one file a VPC.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::{File, Group, Interface, Options, Peer, Remote, Report, names};
use crate::policy::model::{Metadata, Quotas};
use crate::policy::values::{self, DEFAULT_GROUP};

/// A group of no rules, for interfaces that have no group: K2 wants one.
const NOTHING_ALLOWED: &str = "nothing-allowed";

/// Where something stands in the documents.
#[derive(Debug, Clone)]
pub struct Place<'p> {
    pub file: &'p str,
    pub path: String,
}

/// Index of a group among all that are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupRef(usize);

/// An interface of the cloud.
#[derive(Debug, Clone, Default)]
pub struct Member {
    pub id: String,
    /// The device here; none: it is another host's.
    pub device: Option<String>,
    pub instance: String,
    pub mac: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub allowed_addresses: Vec<IpAddr>,
    pub groups: Vec<GroupRef>,
    /// It may send from any address.
    pub unguarded: bool,
    /// Its rules are not enforced.
    pub bare_metal: bool,
}

struct Registered {
    scope: usize,
    id: String,
    /// In the cloud.
    called: String,
    group: Group,
}

#[derive(Default)]
struct Scope {
    groups: Vec<GroupRef>,
    interfaces: Vec<Interface>,
    peers: BTreeMap<IpAddr, BTreeSet<GroupRef>>,
    owned: HashSet<IpAddr>,
    /// Addresses of members by group; true: one that is allowed only.
    members: HashMap<GroupRef, Vec<(bool, IpAddr)>>,
}

pub struct Builder<'o> {
    pub options: &'o Options,
    pub report: Report,
    /// By project and VPC.
    scopes: Vec<Scope>,
    scope_names: BTreeMap<(String, String), usize>,
    groups: Vec<Registered>,
    by_id: HashMap<String, GroupRef>,
}

impl<'o> Builder<'o> {
    pub fn new(options: &'o Options) -> Self {
        Self {
            options,
            report: Report::default(),
            scopes: Vec::new(),
            scope_names: BTreeMap::new(),
            groups: Vec::new(),
            by_id: HashMap::new(),
        }
    }

    pub fn loss(&mut self, place: &Place<'_>, why: impl Into<String>) {
        self.report.loss(place.file, place.path.as_str(), why);
    }

    /// Makes a group known. None if its id is known already: the same answer may be in two files.
    pub fn register(&mut self, project: &str, vpc: &str, id: &str, name: &str) -> Option<GroupRef> {
        if self.by_id.contains_key(id) {
            self.report.note(format!("group {id} is in the input twice; the first one counts"));
            return None;
        }
        let project = self.options.project.as_deref().unwrap_or(project);
        let vpc = self.options.vpc.as_deref().unwrap_or(vpc);
        let next = self.scopes.len();
        let scope = *self.scope_names.entry((project.to_owned(), vpc.to_owned())).or_insert(next);
        if scope == next {
            self.scopes.push(Scope::default());
        }
        let group = GroupRef(self.groups.len());
        self.groups.push(Registered {
            scope,
            id: id.to_owned(),
            called: name.to_owned(),
            group: Group::default(),
        });
        self.by_id.insert(id.to_owned(), group);
        if let Some(scope) = self.scopes.get_mut(scope) {
            scope.groups.push(group);
        }
        Some(group)
    }

    /// A group beside those of the cloud, with a name that nobody has, or the one of that id that was made before.
    pub fn add(&mut self, like: GroupRef, id: &str, name: &str, description: &str) -> Option<GroupRef> {
        if let Some(made) = self.by_id.get(id) {
            return Some(*made);
        }
        let scope = self.groups.get(like.0)?.scope;
        self.add_to(scope, id, name, description)
    }

    fn add_to(&mut self, scope: usize, id: &str, name: &str, description: &str) -> Option<GroupRef> {
        let taken: HashSet<&str> = self.names_of(scope).collect();
        let mut chosen = name.to_owned();
        let mut number = 2;
        while taken.contains(chosen.as_str()) {
            chosen = format!("{name}-{number}");
            number += 1;
        }
        let group = GroupRef(self.groups.len());
        self.groups.push(Registered {
            scope,
            id: id.to_owned(),
            called: chosen.clone(),
            group: Group { name: chosen, description: description.to_owned(), ..Group::default() },
        });
        self.by_id.insert(id.to_owned(), group);
        self.scopes.get_mut(scope)?.groups.push(group);
        Some(group)
    }

    fn names_of(&self, scope: usize) -> impl Iterator<Item = &str> {
        let groups = self.scopes.get(scope).map_or(&[][..], |scope| &scope.groups);
        groups.iter().filter_map(|group| self.groups.get(group.0)).map(|group| group.group.name.as_str())
    }

    /// Gives all registered groups their names, and tells of those that are not the cloud's.
    pub fn name_groups(&mut self) {
        let mut named = Vec::new();
        for scope in &self.scopes {
            let groups = || scope.groups.iter().filter_map(|group| Some((*group, self.groups.get(group.0)?)));
            let called: Vec<(&str, &str)> =
                groups().map(|(_, group)| (group.id.as_str(), group.called.as_str())).collect();
            let mut names = names::assign(&called);
            named.extend(groups().filter_map(|(at, group)| Some((at, names.remove(group.id.as_str())?))));
        }
        for (at, name) in named {
            let Some(group) = self.groups.get_mut(at.0) else { continue };
            if group.called != name {
                self.report
                    .notes
                    .push(format!("group {} ({:?}) is called {name:?} here", group.id, group.called));
            }
            group.group.name = name;
        }
    }

    pub fn group(&self, id: &str) -> Option<GroupRef> {
        self.by_id.get(id).copied()
    }

    pub fn name(&self, group: GroupRef) -> &str {
        self.groups.get(group.0).map_or("", |group| group.group.name.as_str())
    }

    /// The group that a rule of `from` may refer to, or why it may not.
    pub fn reference(&self, from: GroupRef, id: &str) -> Result<GroupRef, String> {
        let Some(found) = self.group(id) else {
            return Err(format!("the rule refers to group {id}, which is not in the input"));
        };
        let scope = |group: GroupRef| self.groups.get(group.0).map(|group| group.scope);
        if scope(from) == scope(found) {
            Ok(found)
        } else {
            Err(format!(
                "the rule refers to group {id} of another VPC or project; groups do not reach across them"
            ))
        }
    }

    pub fn edit(&mut self, group: GroupRef) -> Option<&mut Group> {
        self.groups.get_mut(group.0).map(|group| &mut group.group)
    }

    /// A description that fits; what does not is lost.
    pub fn text(&mut self, place: &Place<'_>, text: Option<&str>, most: usize) -> String {
        let text = text.unwrap_or_default();
        let letters = text.chars().count();
        if letters <= most {
            return text.to_owned();
        }
        self.loss(
            place,
            format!("the description has {letters} characters, {most} fit; the rest is cut off"),
        );
        text.chars().take(most).collect::<String>().trim_end().to_owned()
    }

    pub fn group_text(&mut self, place: &Place<'_>, text: Option<&str>) -> String {
        self.text(place, text, values::GROUP_DESCRIPTION_CHARS)
    }

    pub fn rule_text(&mut self, place: &Place<'_>, text: Option<&str>) -> String {
        self.text(place, text, values::RULE_DESCRIPTION_CHARS)
    }

    /// An address that an interface can have.
    pub fn address(&mut self, place: &Place<'_>, text: &str) -> Option<IpAddr> {
        match values::address(text) {
            Ok(address) => Some(address),
            Err(fault) => {
                self.loss(place, fault.to_line());
                None
            }
        }
    }

    /// An interface here, or members elsewhere.
    pub fn member(&mut self, place: &Place<'_>, mut member: Member) {
        let Some(at) = self.member_scope(&member) else {
            if member.device.is_some() {
                self.loss(place, "the interface has no group that is in the input, so its VPC is not known");
            }
            return;
        };
        if let Some(mac) = &member.mac
            && let Err(fault) = values::mac(mac)
        {
            self.loss(place, format!("{}; nothing holds the interface to it", fault.to_line()));
            member.mac = None;
        }
        let device = match member.device.take().map(|device| (values::device_name(&device), device)) {
            Some((Err(fault), _)) => {
                self.loss(place, fault.to_line());
                None
            }
            Some((Ok(()), device)) => Some(device),
            None => None,
        };
        let mut groups = Vec::new();
        for group in &member.groups {
            let scope = self.groups.get(group.0).map(|group| group.scope);
            if scope != Some(at) {
                let why = format!(
                    "group {} is of another VPC or project than the interface's first one",
                    self.name(*group)
                );
                self.loss(place, why);
            } else if !groups.contains(group) {
                groups.push(*group);
            }
        }
        let Some(scope) = self.scopes.get_mut(at) else { return };
        // Elsewhere all of them are peers, and no flag is needed.
        let apart = device.is_some();
        for (allowed, addresses) in [(false, &member.addresses), (apart, &member.allowed_addresses)] {
            for address in addresses {
                for group in &groups {
                    scope.members.entry(*group).or_default().push((allowed, *address));
                }
            }
        }
        let Some(device) = device else {
            self.elsewhere(at, &member.addresses, &groups);
            self.elsewhere(at, &member.allowed_addresses, &groups);
            return;
        };
        self.here(place, at, device, member, groups);
    }

    /// Addresses of members of groups that are on other hosts.
    fn elsewhere(&mut self, scope: usize, addresses: &[IpAddr], groups: &[GroupRef]) {
        let Some(scope) = self.scopes.get_mut(scope) else { return };
        for address in addresses.iter().filter(|_| !groups.is_empty()) {
            scope.peers.entry(*address).or_default().extend(groups);
        }
    }

    fn here(
        &mut self,
        place: &Place<'_>,
        at: usize,
        device: String,
        member: Member,
        mut groups: Vec<GroupRef>,
    ) {
        if groups.is_empty() && !member.bare_metal {
            let id = format!("{NOTHING_ALLOWED}/{at}");
            let description = "For interfaces that have no group: nothing passes";
            let made = match self.by_id.get(&id) {
                Some(made) => Some(*made),
                None => self.add_to(at, &id, NOTHING_ALLOWED, description),
            };
            groups.extend(made);
            if let (Some(made), Some(scope)) = (made, self.scopes.get_mut(at)) {
                let addresses = member.allowed_addresses.iter().map(|address| (true, *address));
                scope.members.entry(made).or_default().extend(addresses);
            }
            self.report.note(format!("{device} has no group; it gets one that allows nothing"));
        }
        let mut interface = Interface {
            name: device,
            instance: member.instance.chars().take(values::NAME_CHARS).collect(),
            bare_metal: member.bare_metal,
            mac: member.mac,
            ..Interface::default()
        };
        if member.unguarded {
            // Without addresses it may use any (SPEC section 6); as a peer it is a member all the same.
            self.elsewhere(at, &member.addresses, &groups);
        } else {
            for address in member.addresses {
                let Some(scope) = self.scopes.get_mut(at) else { return };
                if scope.owned.insert(address) {
                    interface.addresses.push(address);
                } else {
                    let why = format!(
                        "{address} is also another interface's of this host; it is an allowed address here"
                    );
                    self.loss(place, why);
                    interface.allowed_addresses.push(address);
                }
            }
            for address in member.allowed_addresses {
                if !interface.addresses.contains(&address) && !interface.allowed_addresses.contains(&address)
                {
                    interface.allowed_addresses.push(address);
                }
            }
        }
        let open = interface.addresses.is_empty() && interface.allowed_addresses.is_empty();
        if open && !member.unguarded && !member.bare_metal {
            self.loss(place, "the interface has no address that can be carried, so here it may use any");
        }
        interface.groups = groups.iter().map(|group| group.0.to_string()).collect();
        if let Some(scope) = self.scopes.get_mut(at) {
            scope.interfaces.push(interface);
        }
    }

    fn member_scope(&self, member: &Member) -> Option<usize> {
        let Some(group) = member.groups.first() else {
            // It belongs to the only VPC there is.
            return (self.scopes.len() == 1).then_some(0);
        };
        self.groups.get(group.0).map(|group| group.scope)
    }

    /// The addresses of a group's members; `allowed`: also those that its interfaces may use beside their own.
    pub fn addresses(&self, group: GroupRef, allowed: bool) -> Vec<IpAddr> {
        let scope = self.groups.get(group.0).and_then(|group| self.scopes.get(group.scope));
        let members = scope.and_then(|scope| scope.members.get(&group)).map_or(&[][..], Vec::as_slice);
        let addresses: BTreeSet<IpAddr> = members
            .iter()
            .filter(|(is_allowed, _)| allowed || !is_allowed)
            .map(|(_, address)| *address)
            .collect();
        addresses.into_iter().collect()
    }

    /// More members of a group, by address.
    pub fn add_peers(&mut self, group: GroupRef, addresses: &[IpAddr]) {
        if let Some(scope) = self.groups.get(group.0).map(|group| group.scope) {
            self.elsewhere(scope, addresses, &[group]);
        }
    }

    /// Groups that have members by allowed addresses.
    pub fn groups_with_allowed(&self) -> BTreeSet<GroupRef> {
        let members = self.scopes.iter().flat_map(|scope| &scope.members);
        members.filter(|(_, all)| all.iter().any(|(allowed, _)| *allowed)).map(|(group, _)| *group).collect()
    }

    /// The files, one a VPC.
    pub fn finish(mut self, metadata: Metadata) -> (Vec<File>, Report) {
        let names: Vec<String> = self.groups.iter().map(|group| group.group.name.clone()).collect();
        let name = |group: &GroupRef| names.get(group.0).cloned().unwrap_or_default();
        let mut files = Vec::new();
        for ((project, vpc), at) in std::mem::take(&mut self.scope_names) {
            let Some(scope) = self.scopes.get_mut(at).map(std::mem::take) else { continue };
            let groups: Vec<Group> = scope
                .groups
                .iter()
                .filter_map(|group| Some(std::mem::take(&mut self.groups.get_mut(group.0)?.group)))
                .collect();
            let mut interfaces = scope.interfaces;
            for interface in &mut interfaces {
                for group in &mut interface.groups {
                    *group = group.parse().map(|index| name(&GroupRef(index))).unwrap_or_default();
                }
            }
            let peers = scope.peers.iter().map(|(address, groups)| Peer {
                address: *address,
                groups: groups.iter().map(name).collect(),
            });
            let mut file = File {
                project,
                vpc,
                ipv6: false,
                metadata,
                quotas: Quotas::default(),
                groups,
                interfaces,
                peers: peers.collect(),
            };
            file.ipv6 = has_ipv6(&file);
            files.push(file);
        }
        let none_here = files.iter().all(|file| file.interfaces.is_empty());
        if none_here && files.iter().any(|file| !file.peers.is_empty()) {
            self.report.note(
                "no interface of this host is named (--interface-map, or --host for Neutron): all of them are peers",
            );
        }
        one_default(&mut files, &mut self.report);
        quotas(&mut files, &mut self.report);
        (files, self.report)
    }
}

fn has_ipv6(file: &File) -> bool {
    let rules = file.groups.iter().flat_map(|group| group.inbound.iter().chain(&group.outbound));
    let mut nets = rules.filter_map(|rule| match &rule.remote {
        Remote::Cidr(net) => Some(net.addr()),
        Remote::Group(_) => None,
    });
    let own = file.interfaces.iter().flat_map(|one| one.addresses.iter().chain(&one.allowed_addresses));
    nets.any(|net| net.is_ipv6())
        || own.chain(file.peers.iter().map(|peer| &peer.address)).any(IpAddr::is_ipv6)
}

/// `default` is the project's (K20): of VPCs that say the same of it the first one keeps it for all, and what another
/// one says is a group of another name.
fn one_default(files: &mut [File], report: &mut Report) {
    let mut kept: HashMap<String, Group> = HashMap::new();
    for file in files {
        let Some(at) = file.groups.iter().position(|group| group.name == DEFAULT_GROUP) else { continue };
        let Some(own) = file.groups.get(at) else { continue };
        let Some(first) = kept.get(&file.project) else {
            kept.insert(file.project.clone(), own.clone());
            continue;
        };
        let rules = || own.inbound.iter().chain(&own.outbound);
        let abroad = rules().any(|rule| matches!(&rule.remote, Remote::Group(name) if name != DEFAULT_GROUP));
        if !abroad && own.inbound == first.inbound && own.outbound == first.outbound {
            file.groups.remove(at);
            continue;
        }
        let taken = |name: &str| file.groups.iter().any(|group| group.name == name);
        let base = names::assign(&[(file.vpc.as_str(), &format!("default {}", file.vpc))])
            .remove(file.vpc.as_str())
            .unwrap_or_default();
        let mut name = base.clone();
        let mut number = 2;
        while taken(&name) {
            name = format!("{base}-{number}");
            number += 1;
        }
        report.note(format!(
            "\"default\" of VPC {} has other rules than that of another VPC of the project; it is called {name:?} here",
            file.vpc
        ));
        rename(file, DEFAULT_GROUP, &name);
    }
}

fn rename(file: &mut File, old: &str, new: &str) {
    for group in &mut file.groups {
        if group.name == old {
            new.clone_into(&mut group.name);
        }
        for rule in group.inbound.iter_mut().chain(&mut group.outbound) {
            if let Remote::Group(name) = &mut rule.remote
                && name == old
            {
                new.clone_into(name);
            }
        }
    }
    let lists = file.interfaces.iter_mut().map(|interface| &mut interface.groups);
    for name in lists.chain(file.peers.iter_mut().map(|peer| &mut peer.groups)).flatten() {
        if name == old {
            new.clone_into(name);
        }
    }
}

/// Quotas hold for the daemon as a whole: each file says the same.
fn quotas(files: &mut [File], report: &mut Report) {
    let usual = Quotas::default();
    let mut quotas = usual;
    let mut custom: HashMap<&str, usize> = HashMap::new();
    for file in &*files {
        let own = file.groups.iter().filter(|group| group.name != DEFAULT_GROUP).count();
        *custom.entry(&file.project).or_default() += own;
        for group in &file.groups {
            let rules = (group.inbound.len() + group.outbound.len()) as u32;
            quotas.rules_per_group = quotas.rules_per_group.max(rules);
        }
        for interface in &file.interfaces {
            quotas.groups_per_interface = quotas.groups_per_interface.max(interface.groups.len() as u32);
        }
    }
    let most = custom.values().max().copied().unwrap_or(0);
    quotas.groups_per_project = quotas.groups_per_project.max(most as u32);
    for (name, value, usual) in [
        ("groups_per_project", quotas.groups_per_project, usual.groups_per_project),
        ("rules_per_group", quotas.rules_per_group, usual.rules_per_group),
        ("groups_per_interface", quotas.groups_per_interface, usual.groups_per_interface),
    ] {
        if value != usual {
            report.note(format!(
                "settings.quotas.{name} is raised from {usual} to {value}, as there are so many"
            ));
        }
    }
    for file in files {
        file.quotas = quotas;
    }
}
