//! The checked policy: what is left when every name is resolved, every field is valid and every quota holds.
//!
//! Nothing here can be wrong any more, so the compiler has no error to report except a table that is too small.
//! Ids are indexes into the vectors of [`Model`] and mean nothing outside of it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::peers::Peers;
pub use super::rules::RuleList;

/// Index into [`Model::files`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub usize);
/// Index into [`Model::vpcs`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VpcId(pub usize);
/// Index into [`Model::groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub usize);

/// Where an object stands in the operator's files. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    pub file: FileId,
    pub line: u32,
    pub column: u32,
}

/// Where something stands seen from the object that it is in: the same wherever in its file the object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset {
    /// How many lines further down.
    pub lines: u32,
    /// On the object's first line how many columns further on, else the column itself.
    pub columns: u32,
}

impl Offset {
    /// Of what stands there in an object.
    pub(crate) fn within(object: Source, at: Source) -> Self {
        let lines = at.line.saturating_sub(object.line);
        let columns = if lines == 0 { at.column.saturating_sub(object.column) } else { at.column };
        Self { lines, columns }
    }

    /// In the files, where the object is there.
    pub fn of(self, object: Source) -> Source {
        let column = if self.lines == 0 { object.column.saturating_add(self.columns) } else { self.columns };
        Source { file: object.file, line: object.line.saturating_add(self.lines), column }
    }
}

/// One checked policy, read from one file or from a directory of files.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The files in the order they were read (sorted by name).
    pub files: Vec<PathBuf>,
    pub settings: Settings,
    pub vpcs: Vec<Vpc>,
    /// Every group of every VPC; exactly one `default` for each project, written or not (K20).
    pub groups: Vec<Group>,
    pub interfaces: Vec<Interface>,
    pub peers: Peers,
}

/// Who says that an interface is in audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditBy {
    Interface,
    Group(GroupId),
}

impl Model {
    /// Whether nothing is dropped on an interface, and who says so. On bare metal there is nothing to audit (K3).
    pub fn audit(&self, interface: &Interface) -> Option<AuditBy> {
        if interface.kind == Kind::BareMetal {
            return None;
        }
        if interface.enforcement == Enforcement::Audit {
            return Some(AuditBy::Interface);
        }
        let audits =
            |id: &GroupId| self.groups.get(id.0).is_some_and(|group| group.enforcement == Enforcement::Audit);
        interface.groups.iter().copied().find(audits).map(AuditBy::Group)
    }

    /// [`Self::audit`] in words: `the interface says so`.
    pub fn audit_text(&self, by: AuditBy) -> String {
        match by {
            AuditBy::Interface => "the interface says so".to_owned(),
            AuditBy::Group(id) => {
                let name = self.groups.get(id.0).map_or("", |group| group.name.as_str());
                format!("its group {name:?} says so")
            }
        }
    }
}

/// A virtual private cloud: names are unique inside one (K24). Two projects may each have a VPC of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vpc {
    pub project: String,
    pub name: String,
    /// Whether implied outbound rules (K22, K26) also cover `::/0`.
    pub ipv6: bool,
}

#[derive(Debug, Clone)]
pub struct Group {
    pub name: String,
    pub project: String,
    /// `None` for `default`, which belongs to the project and is visible in each of its VPCs.
    pub vpc: Option<VpcId>,
    pub description: String,
    pub inbound: Rules,
    pub outbound: Rules,
    /// Whether `@group` also means the `allowed_addresses` of its interfaces (D1).
    pub include_allowed_addresses: bool,
    /// [`Enforcement::Audit`] holds for every interface that the group is attached to.
    pub enforcement: Enforcement,
    /// `None` for a `default` that no file writes.
    pub source: Option<Source>,
}

/// Where a file begins.
const START: Source = Source { file: FileId(0), line: 1, column: 1 };

impl Group {
    /// Where a rule of this group stands; one that is not written, where the group does.
    pub fn source_of(&self, rule: &Rule) -> Source {
        rule.at.of(self.source.unwrap_or(START))
    }

    /// `default` is told from custom groups by its scope; no custom group can bear its name.
    pub fn is_default(&self) -> bool {
        self.vpc.is_none()
    }
}

/// The rules of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// The field is absent: what SPEC K21, K22, K25 and K26 say for this group applies.
    Implied,
    /// The field is there, possibly empty.
    Written(RuleList),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub protocol: Protocol,
    pub remote: Remote,
    pub matches: Match,
    pub description: String,
    /// Seen from its group, see [`Group::source_of`]; of a failsafe rule, from the start of its file.
    pub at: Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    All,
    Tcp,
    Udp,
    /// ICMP for IPv4 packets, ICMPv6 for IPv6 packets.
    Icmp,
    /// Any other protocol by its IANA number; never 6 or 17 (those become `Tcp`, `Udp`). 1 and 58 stay numbers:
    /// they mean that protocol literally.
    Number(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    Cidr(IpNet),
    /// A group visible in the VPC of the rule's group; for `default`, in the VPC of the interface.
    Group(GroupId),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Match {
    Any,
    /// Destination ports, within 1–65535 (`"ALL"` on TCP/UDP is `Any`).
    Ports(PortRange),
    /// Type and, if given, code (`icmp_type` / `icmp_code`).
    Icmp {
        kind: u8,
        code: Option<u8>,
    },
}

/// `min..=max` with `1 <= min <= max`, ordered so that models can be compared and sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    pub min: u16,
    pub max: u16,
}

impl PortRange {
    pub fn range(self) -> RangeInclusive<u16> {
        self.min..=self.max
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The host's device.
    pub name: String,
    pub instance: String,
    pub kind: Kind,
    pub role: Role,
    pub hook: HookChoice,
    pub mac: Option<[u8; 6]>,
    /// Frames may carry VLAN tags; what is inside is judged all the same.
    pub trunk: bool,
    /// What it may send to another port of its bridge is handed to that port without going through the bridge.
    pub fast_path: bool,
    pub addresses: Vec<IpAddr>,
    pub allowed_addresses: Vec<IpAddr>,
    /// In the order written, each once. Empty only for [`Kind::BareMetal`] (K3).
    pub groups: Vec<GroupId>,
    pub vpc: VpcId,
    /// Overrides of [`Settings::timeouts`] for this interface, already merged: the values in force.
    pub timeouts: Timeouts,
    /// What the interface itself says; see [`Model::audit`].
    pub enforcement: Enforcement,
    pub source: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Vm,
    Container,
    BareMetal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The host side of a guest's device: device ingress is what the guest sends.
    Guest,
    /// The host's own NIC: device ingress is what the host receives.
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    Enforce,
    /// Everything passes; what would have been dropped is counted.
    Audit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HookChoice {
    Auto,
    Xdp,
    Tc,
}

/// A member of groups that lives on another host (D1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    pub groups: Arc<[GroupId]>,
    pub vpc: VpcId,
    pub source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub metadata: Metadata,
    pub on_rule_change: OnRuleChange,
    pub strict_tcp: bool,
    pub quotas: Quotas,
    pub timeouts: Timeouts,
    /// Shell patterns of device names that are closed when no policy names them (D23).
    pub managed: Vec<String>,
    /// Rules that always hold on `role: host` interfaces (D26).
    pub failsafe: Failsafe,
    pub guest_baseline: GuestBaseline,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            metadata: Metadata::Explicit,
            on_rule_change: OnRuleChange::Keep,
            strict_tcp: false,
            quotas: Quotas::default(),
            timeouts: Timeouts::default(),
            managed: Vec::new(),
            failsafe: Failsafe::Standard,
            guest_baseline: GuestBaseline::default(),
        }
    }
}

/// What a guest may not do whatever its rules say (SPEC section 6). Each guard can be switched off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestBaseline {
    /// Only the interface's `mac`, where the policy gives it.
    pub source_mac: bool,
    /// Only the interface's `addresses` and `allowed_addresses`, if it has any.
    pub source_address: bool,
    /// ARP only about its own addresses.
    pub arp: bool,
    /// Neighbour discovery only about its own addresses, from the link itself, in one piece.
    pub neighbor_discovery: bool,
    /// No DHCP server.
    pub dhcp_server: bool,
    /// No router advertisements from the guest.
    pub router_advertisements: bool,
    /// No ICMP redirects, either way.
    pub redirects: bool,
    /// No VLAN tags, but on trunks.
    pub vlan: bool,
    /// No source routes.
    pub source_routing: bool,
    /// EtherTypes that pass beside IPv4, IPv6 and ARP.
    pub ether_types: EtherTypes,
    /// Which link-local addresses are a guest's own.
    pub link_local: LinkLocal,
    /// Whose router advertisements reach a guest by themselves; empty: the rules decide.
    pub routers: Vec<std::net::Ipv6Addr>,
    /// Which DHCP servers a guest may write to, and that alone may answer it; of a family in which there is none: it may ask everybody
    /// on its link, and anybody may answer, or write to it unasked.
    pub dhcp_servers: Vec<IpAddr>,
}

impl Default for GuestBaseline {
    fn default() -> Self {
        Self {
            source_mac: true,
            source_address: true,
            arp: true,
            neighbor_discovery: true,
            dhcp_server: true,
            router_advertisements: true,
            redirects: true,
            vlan: true,
            source_routing: true,
            ether_types: EtherTypes::Listed(Vec::new()),
            link_local: LinkLocal::Any,
            routers: Vec::new(),
            dhcp_servers: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtherTypes {
    Any,
    /// At most eight, each at least 0x0600.
    Listed(Vec<u16>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkLocal {
    /// The one that follows from the hardware address (RFC 4291, appendix A), and those listed as its addresses.
    Derived,
    /// Any: guests make private ones (RFC 7217) that nobody else knows.
    Any,
}

/// What the tuple (169.254.169.0/24, TCP, 80) means (K27).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metadata {
    Explicit,
    Cidr,
    Exempt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRuleChange {
    Keep,
    Revoke,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failsafe {
    /// Inbound TCP 22; outbound TCP and UDP 53; both families. (DHCP passes by the baseline.)
    Standard,
    /// What the file says; both lists empty switches it off.
    Written { inbound: Vec<Rule>, outbound: Vec<Rule> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Custom groups a project may have; `default` is not counted.
    pub groups_per_project: u32,
    /// Written rules of one group, both directions together.
    pub rules_per_group: u32,
    pub groups_per_interface: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self { groups_per_project: 100, rules_per_group: 100, groups_per_interface: 5 }
    }
}

/// Idle times in seconds after which a flow is gone (D11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    pub tcp_syn_sent: u32,
    pub tcp_syn_recv: u32,
    /// 60–432000.
    pub tcp_established: u32,
    pub tcp_fin_wait: u32,
    pub tcp_close_wait: u32,
    pub tcp_last_ack: u32,
    pub tcp_time_wait: u32,
    pub tcp_close: u32,
    pub udp: u32,
    pub udp_stream: u32,
    pub icmp: u32,
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 30,
            tcp_syn_recv: 60,
            tcp_established: 432_000,
            tcp_fin_wait: 120,
            tcp_close_wait: 60,
            tcp_last_ack: 30,
            tcp_time_wait: 120,
            tcp_close: 10,
            udp: 30,
            udp_stream: 180,
            icmp: 30,
            other: 600,
        }
    }
}
