//! Model to image: pure, and free of errors.
//!
//! CIDR rules of a policy become *classes*: the longest prefix that matches a remote tells everything that any rule says
//! of it, because each prefix carries the sum of the rules of all prefixes around it. `@group` rules become one row for
//! each group, and an address's row is the sum over its groups. The metadata reservation is one more class.

pub mod classes;
pub mod fit;
pub mod image;
pub mod members;
mod next;
#[cfg(test)]
mod next_tests;
pub mod ranges;
pub mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sg_common::abi::{self, Direction};

use self::classes::Classes;
use self::image::{
    Cells, DirectionImage, GroupCells, GuardImage, Image, InterfaceImage, PolicyImage, SetName, VpcName,
};
use self::members::Members;
pub use self::next::compile_next;
use self::ranges::Ranges;
use self::rules::{Effective, METADATA_PORT, METADATA_RANGE};
use crate::policy::model::{
    EtherTypes, GroupId, Interface, Kind, LinkLocal, Match, Model, Protocol, Remote, Role, Vpc, VpcId,
};

/// Compiles a checked policy.
pub fn compile(model: &Model) -> Image {
    let vpcs = vpc_names(model);
    let members = members(model, &vpcs);
    image(model, &vpcs, members, |_| None)
}

fn vpc_names(model: &Model) -> Vec<VpcName> {
    let name = |vpc: &Vpc| VpcName { project: vpc.project.as_str().into(), name: vpc.name.as_str().into() };
    model.vpcs.iter().map(name).collect()
}

/// All but the members; `known` may have an interface's policy already.
fn image(
    model: &Model,
    vpcs: &[VpcName],
    members: Members,
    known: impl Fn(&Interface) -> Option<Arc<PolicyImage>>,
) -> Image {
    let mut policies =
        Policies { model, by_groups: HashMap::new(), by_content: HashMap::new(), all: Vec::new() };
    let mut interfaces = Vec::with_capacity(model.interfaces.len());
    for interface in &model.interfaces {
        let Some(vpc) = vpcs.get(interface.vpc.0) else { continue };
        let policy = (interface.kind != Kind::BareMetal).then(|| policies.of(interface, vpc, &known));
        interfaces.push(InterfaceImage {
            name: interface.name.clone(),
            policy,
            vpc: vpc.clone(),
            role: interface.role,
            hook: interface.hook,
            strict_tcp: model.settings.strict_tcp,
            audit: model.audit(interface).is_some(),
            timeouts: interface.timeouts,
            mac: interface.mac,
            guard: Arc::new(guard_image(model, interface)),
            guards: guards(model, interface),
            ether_types: match &model.settings.guest_baseline.ether_types {
                EtherTypes::Any => [0; 8],
                EtherTypes::Listed(listed) => {
                    std::array::from_fn(|index| listed.get(index).copied().unwrap_or(0))
                }
            },
        });
    }
    Image { policies: policies.all, members, interfaces, on_rule_change: model.settings.on_rule_change }
}

fn guard_image(model: &Model, interface: &Interface) -> GuardImage {
    GuardImage {
        own: interface.addresses.iter().chain(&interface.allowed_addresses).copied().collect(),
        routers: model.settings.guest_baseline.routers.iter().copied().collect(),
        dhcp_servers: model.settings.guest_baseline.dhcp_servers.iter().copied().collect(),
    }
}

/// The flags of the guest baseline (SPEC section 6), which is for guests only (D26).
fn guards(model: &Model, interface: &Interface) -> u32 {
    if interface.role == Role::Host {
        return 0;
    }
    let baseline = &model.settings.guest_baseline;
    // A guest whose addresses nobody has told cannot be held to them. If they are told, they are all that it has: a guest
    // with addresses of one family has none of the other.
    let has_address = !interface.addresses.is_empty() || !interface.allowed_addresses.is_empty();
    let servers = |is: fn(&IpAddr) -> bool| baseline.dhcp_servers.iter().any(is);
    [
        (baseline.source_mac && interface.mac.is_some(), abi::GUARD_MAC),
        (baseline.source_address && has_address, abi::GUARD_IPV4),
        (baseline.source_address && has_address, abi::GUARD_IPV6),
        (baseline.arp && has_address, abi::GUARD_ARP),
        (baseline.neighbor_discovery, abi::GUARD_ND),
        (baseline.dhcp_server, abi::GUARD_DHCP_SERVER),
        (baseline.router_advertisements, abi::GUARD_ROUTER_ADVERTISEMENT),
        (!baseline.routers.is_empty(), abi::GUARD_ROUTERS),
        (baseline.redirects, abi::GUARD_REDIRECT),
        (baseline.vlan && !interface.trunk, abi::GUARD_VLAN),
        (baseline.ether_types != EtherTypes::Any, abi::GUARD_ETHER_TYPE),
        (baseline.source_routing, abi::GUARD_SOURCE_ROUTE),
        (servers(IpAddr::is_ipv4), abi::FLAG_DHCP_SERVERS_V4),
        (servers(IpAddr::is_ipv6), abi::FLAG_DHCP_SERVERS_V6),
        // Without a hardware address nothing follows from it.
        (baseline.link_local == LinkLocal::Any || interface.mac.is_none(), abi::FLAG_ANY_LINK_LOCAL),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |flags, (_, flag)| flags | flag)
}

/// Policies made so far, each once.
struct Policies<'a> {
    model: &'a Model,
    by_groups: HashMap<(VpcId, BTreeSet<GroupId>, Role), usize>,
    by_content: HashMap<Arc<PolicyImage>, usize>,
    all: Vec<Arc<PolicyImage>>,
}

impl Policies<'_> {
    fn of(
        &mut self,
        interface: &Interface,
        vpc: &VpcName,
        known: impl Fn(&Interface) -> Option<Arc<PolicyImage>>,
    ) -> usize {
        let key = (interface.vpc, interface.groups.iter().copied().collect(), interface.role);
        if let Some(&index) = self.by_groups.get(&key) {
            return index;
        }
        let direction = |direction| {
            direction_image(self.model, &rules::of_interface(self.model, interface, direction), direction)
        };
        let policy = known(interface).unwrap_or_else(|| {
            let [inbound, outbound] = [Direction::Inbound, Direction::Outbound].map(direction);
            Arc::new(PolicyImage::new(vpc.clone(), inbound, outbound))
        });
        let index = *self.by_content.entry(Arc::clone(&policy)).or_insert_with(|| {
            self.all.push(policy);
            self.all.len() - 1
        });
        self.by_groups.insert(key, index);
        index
    }
}

/// Rules on one remote: what they allow outside of the metadata range and inside of it.
#[derive(Clone, Default)]
struct Sum {
    open: Cells,
    metadata: Cells,
}

impl Sum {
    fn add(&mut self, rule: &Effective, ipv6: bool) {
        let open = cells(rule, ipv6);
        let mut metadata = open.clone();
        if !rule.reaches_metadata {
            metadata.tcp = metadata.tcp.without(METADATA_PORT);
        }
        self.open = self.open.union(&open);
        self.metadata = self.metadata.union(&metadata);
    }
}

fn direction_image(model: &Model, rules: &[Effective], direction: Direction) -> DirectionImage {
    let mut v4: BTreeMap<Ipv4Net, Sum> = BTreeMap::new();
    let mut v6: BTreeMap<Ipv6Net, Sum> = BTreeMap::new();
    let mut groups: BTreeMap<Arc<str>, GroupCells> = BTreeMap::new();
    for rule in rules {
        match rule.remote {
            Remote::Cidr(IpNet::V4(net)) => v4.entry(net).or_default().add(rule, false),
            Remote::Cidr(IpNet::V6(net)) => v6.entry(net).or_default().add(rule, true),
            Remote::Group(id) => {
                let Some(group) = model.groups.get(id.0) else { continue };
                let entry = groups.entry(group.name.as_str().into()).or_default();
                let (mut four, mut six) = (Sum::default(), Sum::default());
                four.add(rule, false);
                six.add(rule, true);
                entry.v4 = entry.v4.union(&four.open);
                entry.v6 = entry.v6.union(&six.open);
                // The reservation is about what an instance asks for, not about what it serves.
                let metadata = if direction == Direction::Outbound { &four.metadata } else { &four.open };
                entry.v4_metadata = entry.v4_metadata.union(metadata);
            }
        }
    }
    let reserved = (direction == Direction::Outbound).then_some(METADATA_RANGE);
    if let Some(range) = reserved {
        v4.entry(range).or_default();
    }
    DirectionImage {
        v4: classes(
            &v4,
            |outer, inner| outer.contains(inner),
            |net| reserved.is_some_and(|r| r.contains(net)),
        ),
        v6: classes(&v6, |outer, inner| outer.contains(inner), |_| false),
        groups,
    }
}

/// Gives each prefix the sum of the prefixes around it, and leaves out those that then say nothing new.
///
/// Prefixes come sorted by address, shorter ones first, so those around the current one are a stack.
fn classes<N: Copy + Ord + Hash>(
    rules: &BTreeMap<N, Sum>,
    contains: impl Fn(&N, &N) -> bool,
    in_metadata_range: impl Fn(&N) -> bool,
) -> Classes<N> {
    let mut around: Vec<(N, Sum, Cells)> = Vec::new();
    let mut classes = Vec::new();
    for (net, own) in rules {
        while around.last().is_some_and(|(outer, ..)| !contains(outer, net)) {
            around.pop();
        }
        let nothing = (Sum::default(), Cells::default());
        let (outer_sum, outer_row) =
            around.last().map_or((&nothing.0, &nothing.1), |(_, sum, row)| (sum, row));
        let sum =
            Sum { open: outer_sum.open.union(&own.open), metadata: outer_sum.metadata.union(&own.metadata) };
        let row = if in_metadata_range(net) { sum.metadata.clone() } else { sum.open.clone() };
        if row != *outer_row {
            classes.push((*net, row.clone()));
        }
        around.push((*net, sum, row));
    }
    classes.into_iter().collect()
}

/// The columns that one rule fills for packets of one family.
fn cells(rule: &Effective, ipv6: bool) -> Cells {
    let numbers = match rule.matches {
        Match::Any => Ranges::all(),
        Match::Ports(ports) => Ranges::range(ports.min, ports.max),
        Match::Icmp { kind, code: None } => {
            Ranges::range(u16::from_be_bytes([kind, 0]), u16::from_be_bytes([kind, 255]))
        }
        Match::Icmp { kind, code: Some(code) } => {
            let number = u16::from_be_bytes([kind, code]);
            Ranges::range(number, number)
        }
    };
    let own_icmp = if ipv6 { 58 } else { 1 };
    let mut cells = Cells::default();
    match rule.protocol {
        Protocol::All => {
            cells =
                Cells { tcp: Ranges::all(), udp: Ranges::all(), icmp: Ranges::all(), other: Ranges::all() };
        }
        Protocol::Tcp => cells.tcp = numbers,
        Protocol::Udp => cells.udp = numbers,
        Protocol::Icmp => cells.icmp = numbers,
        Protocol::Number(number) if number == own_icmp => cells.icmp = numbers,
        // The other family's ICMP: such a packet has no type that a rule could ask for.
        Protocol::Number(_) if matches!(rule.matches, Match::Icmp { .. }) => {}
        Protocol::Number(number) => cells.other = Ranges::range(number.into(), number.into()),
    }
    cells
}

/// Whose address is a member of which groups (D1).
fn members(model: &Model, vpcs: &[VpcName]) -> Members {
    let mut groups_of: BTreeMap<(VpcId, IpAddr), BTreeSet<GroupId>> = BTreeMap::new();
    for interface in &model.interfaces {
        for address in member_addresses(model, interface) {
            groups_of.entry((interface.vpc, address.1)).or_default().insert(address.0);
        }
    }
    for peer in &model.peers {
        groups_of.entry((peer.vpc, peer.address)).or_default().extend(peer.groups.iter());
    }
    let mut sets = Sets::new(model, vpcs);
    let mut members = Members::default();
    for ((vpc, address), groups) in groups_of {
        if let Some((vpc, set)) = sets.of(vpc, address, groups) {
            members.insert(vpc, address, set);
        }
    }
    members
}

/// The groups that an interface's addresses are members of, and which.
fn member_addresses<'m>(
    model: &'m Model,
    interface: &'m Interface,
) -> impl Iterator<Item = (GroupId, IpAddr)> + 'm {
    interface.groups.iter().flat_map(move |&group| {
        let allowed = model.groups.get(group.0).is_some_and(|group| group.include_allowed_addresses);
        let also = if allowed { interface.allowed_addresses.as_slice() } else { &[] };
        interface.addresses.iter().chain(also).map(move |&address| (group, address))
    })
}

/// Membership sets made so far, each once.
struct Sets<'a> {
    model: &'a Model,
    vpcs: &'a [VpcName],
    made: HashMap<(VpcId, BTreeSet<GroupId>, bool), Arc<SetName>>,
}

impl<'a> Sets<'a> {
    fn new(model: &'a Model, vpcs: &'a [VpcName]) -> Self {
        Self { model, vpcs, made: HashMap::new() }
    }

    /// The set of an address in these groups, with the name of its VPC.
    fn of(
        &mut self,
        vpc: VpcId,
        address: IpAddr,
        groups: BTreeSet<GroupId>,
    ) -> Option<(VpcName, Arc<SetName>)> {
        let name = self.vpcs.get(vpc.0)?;
        let metadata = matches!(address, IpAddr::V4(address) if METADATA_RANGE.contains(&address));
        let model = self.model;
        let set = self.made.entry((vpc, groups, metadata)).or_insert_with_key(|(_, groups, _)| {
            let names = groups.iter().filter_map(|id| model.groups.get(id.0));
            let groups = names.map(|group| group.name.as_str().into()).collect();
            Arc::new(SetName { vpc: name.clone(), groups, metadata })
        });
        Some((name.clone(), Arc::clone(set)))
    }
}
