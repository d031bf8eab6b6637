//! What the compiler makes: policies by content, without ids. Two equal policies are one value, whatever files and
//! interfaces they come from, and a policy that did not change is recognised and left alone by the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sg_common::abi::Direction;

use super::classes::Classes;
use super::members::Members;
use super::ranges::Ranges;
use crate::kernel::FlowEntry;
use crate::policy::model::{HookChoice, OnRuleChange, Role, Timeouts};

/// A VPC's identity over reloads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VpcName {
    pub project: Arc<str>,
    pub name: Arc<str>,
}

/// Everything the kernel has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub policies: Vec<Arc<PolicyImage>>,
    pub members: Members,
    pub interfaces: Vec<InterfaceImage>,
    pub on_rule_change: OnRuleChange,
}

impl Image {
    /// The interface of that name.
    pub fn interface(&self, name: &str) -> Option<&InterfaceImage> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// Whether the rules would admit a flow's first packet.
    pub fn admits(&self, interface: &InterfaceImage, flow: &FlowEntry) -> bool {
        let Some(policy) = interface.policy.and_then(|index| self.policies.get(index)) else {
            return true;
        };
        let set = self.members.get(&interface.vpc, flow.remote).map(Arc::as_ref);
        policy.admits(flow.origin, flow.remote, set, flow.protocol, flow.number())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceImage {
    pub name: String,
    /// Index into [`Image::policies`]; `None` where nothing is enforced (K3).
    pub policy: Option<usize>,
    pub vpc: VpcName,
    pub role: Role,
    pub hook: HookChoice,
    pub strict_tcp: bool,
    /// Nothing is dropped.
    pub audit: bool,
    pub timeouts: Timeouts,
    pub mac: Option<[u8; 6]>,
    pub guard: Arc<GuardImage>,
    /// What is switched on of the guest baseline: `GUARD_*` and `FLAG_*` of `sg_common::abi`.
    pub guards: u32,
    /// EtherTypes that pass beside IP and ARP, zeros behind them.
    pub ether_types: [u16; 8],
}

/// Which addresses a guest may use, and who its routers and DHCP servers are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GuardImage {
    pub own: BTreeSet<IpAddr>,
    pub routers: BTreeSet<std::net::Ipv6Addr>,
    pub dhcp_servers: BTreeSet<IpAddr>,
}

/// The rules that interfaces with the same groups share.
#[derive(Debug, Clone)]
pub struct PolicyImage {
    pub vpc: VpcName,
    pub inbound: DirectionImage,
    pub outbound: DirectionImage,
    /// Policies are looked up by all that they say, which may be ten thousand rows: that is hashed once.
    digest: u64,
}

impl PartialEq for PolicyImage {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
            && self.vpc == other.vpc
            && self.inbound == other.inbound
            && self.outbound == other.outbound
    }
}

impl Eq for PolicyImage {}

impl Hash for PolicyImage {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

impl PolicyImage {
    pub fn new(vpc: VpcName, inbound: DirectionImage, outbound: DirectionImage) -> Self {
        let mut hasher = DefaultHasher::new();
        (&vpc, &inbound, &outbound).hash(&mut hasher);
        Self { vpc, inbound, outbound, digest: hasher.finish() }
    }

    pub fn direction(&self, direction: Direction) -> &DirectionImage {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }
}

impl PolicyImage {
    /// Whether a rule allows a new flow, as the kernel would say: `set` is the remote's membership set, and `number` the
    /// destination port, the ICMP `type << 8 | code`, or the protocol.
    pub fn admits(
        &self,
        direction: Direction,
        remote: IpAddr,
        set: Option<&SetName>,
        protocol: u8,
        number: u16,
    ) -> bool {
        let class = self.direction(direction).class(remote);
        self.admits_class(direction, class, || set, (remote.is_ipv6(), protocol, number))
    }

    /// The same, of a remote whose class is known already. `what` is the family, protocol and number.
    pub fn admits_class<'s>(
        &self,
        direction: Direction,
        class: Option<&Cells>,
        set: impl FnOnce() -> Option<&'s SetName>,
        (ipv6, protocol, number): (bool, u8, u16),
    ) -> bool {
        let holds = |cells: &Cells| cells.column(protocol, ipv6).contains(number);
        let rules = self.direction(direction);
        class.is_some_and(holds)
            || (!rules.groups.is_empty()
                && set().and_then(|set| set.cells(rules, ipv6)).is_some_and(|cells| holds(&cells)))
    }
}

impl DirectionImage {
    /// Whether there is a class of exactly this network.
    pub fn has(&self, net: IpNet) -> bool {
        match net {
            IpNet::V4(net) => self.v4.contains_key(&net),
            IpNet::V6(net) => self.v6.contains_key(&net),
        }
    }

    /// The row of the longest prefix that holds `remote`.
    pub fn class(&self, remote: IpAddr) -> Option<&Cells> {
        match remote {
            IpAddr::V4(address) => {
                (0..=32).rev().find_map(|length| self.v4.get(&Ipv4Net::new(address, length).ok()?.trunc()))
            }
            IpAddr::V6(address) => {
                (0..=128).rev().find_map(|length| self.v6.get(&Ipv6Net::new(address, length).ok()?.trunc()))
            }
        }
    }
}

/// What each class of remotes, and the members of each group, may reach.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DirectionImage {
    pub v4: Classes<Ipv4Net>,
    pub v6: Classes<Ipv6Net>,
    /// By group name; names are unique in a VPC.
    pub groups: BTreeMap<Arc<str>, GroupCells>,
}

/// One row: a set of numbers for each protocol column (see `sg_common::abi::Row`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Cells {
    pub tcp: Ranges,
    pub udp: Ranges,
    pub icmp: Ranges,
    pub other: Ranges,
}

impl Cells {
    pub fn is_empty(&self) -> bool {
        self.columns().iter().all(|column| column.is_empty())
    }

    /// The column that a packet of `protocol` is looked up in.
    pub fn column(&self, protocol: u8, ipv6: bool) -> &Ranges {
        match protocol {
            6 => &self.tcp,
            17 => &self.udp,
            1 if !ipv6 => &self.icmp,
            58 if ipv6 => &self.icmp,
            _ => &self.other,
        }
    }

    pub fn columns(&self) -> [&Ranges; 4] {
        [&self.tcp, &self.udp, &self.icmp, &self.other]
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            tcp: self.tcp.union(&other.tcp),
            udp: self.udp.union(&other.udp),
            icmp: self.icmp.union(&other.icmp),
            other: self.other.union(&other.other),
        }
    }
}

/// What `@group` rules allow towards the group's members.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GroupCells {
    pub v4: Cells,
    pub v6: Cells,
    /// For members whose address lies in the metadata range.
    pub v4_metadata: Cells,
}

/// The groups an address is a member of: the identity of a membership set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetName {
    pub vpc: VpcName,
    pub groups: BTreeSet<Arc<str>>,
    /// Whether the set's addresses lie in the metadata range.
    pub metadata: bool,
}

impl SetName {
    /// What the policy's `@group` rules allow towards members of this set; `None` if nothing.
    pub fn cells(&self, rules: &DirectionImage, ipv6: bool) -> Option<Cells> {
        let cells = self
            .groups
            .iter()
            .filter_map(|group| rules.groups.get(group))
            .map(|cells| match (ipv6, self.metadata) {
                (true, _) => &cells.v6,
                (false, true) => &cells.v4_metadata,
                (false, false) => &cells.v4,
            })
            .fold(Cells::default(), |sum, cells| sum.union(cells));
        (!cells.is_empty()).then_some(cells)
    }
}
