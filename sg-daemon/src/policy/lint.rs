//! Advice about a policy that loads (K19, K27): what is probably not meant, and what should be known.
//!
//! | advice | when |
//! |---|---|
//! | too many groups | three or more on an interface, and more than half of the quota `groups_per_interface` |
//! | open to the world | an inbound rule from 0.0.0.0/0 or ::/0 that lets TCP 22 or 3389 in |
//! | many ports | an inbound rule from a network for more than 1,000 ports, or from a group for such a range |
//! | no metadata | an enforced interface that cannot reach 169.254.169.254:80 |
//! | never matches | icmpv6 with an IPv4 network, ICMP number 1 with an IPv6 network |
//! | no members | `@group` of a group without a member |
//! | no address | a guest's interface without addresses: its groups gain no member, its source addresses are free |
//! | no hardware address (note) | a guest's interface without `mac`: its hardware address is free (section 6) |
//! | trunk (note) | `trunk` on an interface with role `host` |
//! | audit | an interface on which nothing is dropped, by its own word or a group's |
//! | not enforced | groups on bare metal (K3) |
//! | a peer at home | a peer's address that an interface of the same VPC has too |
//! | closes every device | the pattern `*` in `managed` |
//! | failsafe (note) | an interface with role `host`: what always passes (D26) |

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::diagnostic::{Fault, Findings, quote};
use super::model::{
    AuditBy, Failsafe, Group, GroupId, Interface, Kind, Match, Metadata, Model, Peer, PortRange, Protocol,
    Remote, Role, Rule, RuleList, Rules, Source, VpcId,
};
use super::peers::Peers;
use super::resolve::Resolved;
use super::source::{SourceFile, Span};

/// The metadata service's address and port (K27).
const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
const METADATA_PORT: u16 = 80;
/// A custom group reaches metadata only through a rule whose own network lies in here.
const LINK_LOCAL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16);
/// The rule that lets a custom group reach it.
pub const METADATA_RULE: &str = r#"{ "protocol": "TCP", "destination": "169.254.169.0/24", "port": "80" }"#;

const FEW_GROUPS: usize = 2;
const MANY_PORTS: usize = 1000;
const ADMIN_PORTS: [(u16, &str); 2] = [(22, "SSH"), (3389, "RDP")];

/// Whether the rules in force let this interface open a connection to the metadata service.
pub fn reaches_metadata(model: &Model, interface: &Interface) -> bool {
    MetadataReach::new(model).reaches(interface)
}

struct MetadataReach<'m> {
    model: &'m Model,
    /// Groups of which the service's own address is a member, however odd that is: looked for if a rule names a group.
    members: OnceCell<HashSet<(VpcId, GroupId)>>,
}

impl<'m> MetadataReach<'m> {
    fn new(model: &'m Model) -> Self {
        Self { model, members: OnceCell::new() }
    }

    fn is_member(&self, vpc: VpcId, group: GroupId) -> bool {
        let members = || {
            let interfaces = interface_memberships(self.model).filter(|(_, address)| *address == METADATA);
            let peers = self.model.peers.of_address(METADATA);
            let peers = peers.flat_map(|(_, peer)| peer.groups.iter().map(move |&id| (peer.vpc, id)));
            interfaces.map(|(key, _)| key).chain(peers).collect()
        };
        self.members.get_or_init(members).contains(&(vpc, group))
    }

    fn reaches(&self, interface: &Interface) -> bool {
        let settings = &self.model.settings;
        if settings.metadata == Metadata::Exempt || interface.kind == Kind::BareMetal {
            return true;
        }
        if let (Role::Host, Failsafe::Written { outbound, .. }) = (interface.role, &settings.failsafe)
            && outbound.iter().any(|rule| self.allows(rule, interface.vpc))
        {
            return true;
        }
        interface.groups.iter().filter_map(|id| self.model.groups.get(id.0)).any(|group| {
            let trusted = settings.metadata == Metadata::Cidr || group.is_default();
            match &group.outbound {
                // ALL 0.0.0.0/0 (K22, K26).
                Rules::Implied => trusted,
                Rules::Written(rules) => {
                    let trusted = |rule: &Rule| trusted || is_link_local(rule.remote);
                    let lets_in = |rule: &Rule| trusted(rule) && self.allows(rule, interface.vpc);
                    self.may_allow(rules, interface.vpc) && rules.iter().any(lets_in)
                }
            }
        })
    }

    /// If not, none of these rules [allows](Self::allows) it.
    fn may_allow(&self, rules: &RuleList, vpc: VpcId) -> bool {
        let about = rules.about();
        about.may_have(METADATA) || about.groups.iter().any(|group| self.is_member(vpc, *group))
    }

    fn allows(&self, rule: &Rule, vpc: VpcId) -> bool {
        let remote = match rule.remote {
            Remote::Cidr(net) => net.contains(&METADATA),
            Remote::Group(group) => self.is_member(vpc, group),
        };
        remote && tcp_ports(rule).is_some_and(|ports| ports.range().contains(&METADATA_PORT))
    }
}

fn is_link_local(remote: Remote) -> bool {
    matches!(remote, Remote::Cidr(IpNet::V4(net)) if LINK_LOCAL.contains(&net))
}

/// The TCP ports of a rule.
fn tcp_ports(rule: &Rule) -> Option<PortRange> {
    match (rule.protocol, &rule.matches) {
        (Protocol::Tcp, Match::Ports(ports)) => Some(*ports),
        (Protocol::Tcp | Protocol::All, Match::Any) => Some(PortRange { min: 1, max: u16::MAX }),
        _ => None,
    }
}

/// Every address that a group has by an interface (D1).
fn interface_memberships(model: &Model) -> impl Iterator<Item = ((VpcId, GroupId), IpAddr)> + '_ {
    model.interfaces.iter().flat_map(move |interface| {
        interface.groups.iter().flat_map(move |&id| {
            let extra = model.groups.get(id.0).is_some_and(|group| group.include_allowed_addresses);
            let allowed = if extra { interface.allowed_addresses.as_slice() } else { &[] };
            interface.addresses.iter().chain(allowed).map(move |&address| ((interface.vpc, id), address))
        })
    })
}

pub(crate) fn lint(resolved: &Resolved, sources: &[Arc<SourceFile>], findings: &mut Findings<'_>) {
    let members = Memberships::of(&resolved.model);
    let mut lint = Lint { resolved, model: &resolved.model, sources, findings, members };
    lint.settings();
    lint.groups();
    lint.interfaces();
    lint.peers();
}

/// Which groups have members.
struct Memberships<'m> {
    peers: &'m Peers,
    of_interfaces: HashSet<(VpcId, GroupId)>,
    /// Looked for if the first of them are not enough.
    of_peers: OnceCell<HashSet<(VpcId, GroupId)>>,
}

impl<'m> Memberships<'m> {
    fn of(model: &'m Model) -> Self {
        let of_interfaces = interface_memberships(model).map(|(key, _)| key).collect();
        Self { peers: &model.peers, of_interfaces, of_peers: OnceCell::new() }
    }

    fn has(&self, vpc: VpcId, group: GroupId) -> bool {
        const FIRST: usize = 16;
        let member = (vpc, group);
        self.of_interfaces.contains(&member)
            || self.peers.groups().take(FIRST).any(|first| first == member)
            || self.of_peers.get_or_init(|| self.peers.groups().collect()).contains(&member)
    }
}

struct Lint<'l, 's> {
    resolved: &'l Resolved,
    model: &'l Model,
    sources: &'l [Arc<SourceFile>],
    findings: &'l mut Findings<'s>,
    members: Memberships<'l>,
}

impl Lint<'_, '_> {
    fn report(&mut self, source: Source, field: &dyn fmt::Display, fault: Fault) {
        let Some(file) = self.sources.get(source.file.0) else { return };
        let start = file.offset_of(source.line, source.column);
        let span: Span = file.rest_of_line(source.file, start);
        self.findings.report(span, field, fault);
    }

    fn settings(&mut self) {
        let everything = |pattern: &String| pattern.chars().all(|c| c == '*');
        if let (Some(span), true) =
            (self.resolved.managed, self.model.settings.managed.iter().any(everything))
        {
            let fault = Fault::warning(
                "the managed pattern \"*\" closes every device without a policy, the host's own NICs too",
            )
            .suggest("name the guests' devices, such as \"tap*\"");
            self.findings.report(span, &"settings.managed", fault);
        }
    }

    fn groups(&mut self) {
        for (id, group) in self.model.groups.iter().enumerate() {
            let Some(index) = self.resolved.group_index.get(id).copied().flatten() else { continue };
            for (direction, rules) in [("inbound", &group.inbound), ("outbound", &group.outbound)] {
                let Rules::Written(rules) = rules else { continue };
                let (inbound, about) = (direction == "inbound", rules.about());
                let all_have_members = || about.groups.iter().all(|target| self.has_members(group, *target));
                if !about.has_advice(inbound) && all_have_members() {
                    continue;
                }
                for (at, rule) in rules.iter().enumerate() {
                    for fault in of_rule(rule, inbound).chain(self.no_members(group, rule)) {
                        let field = &format_args!("security_groups[{index}].{direction}[{at}]");
                        self.report(group.source_of(rule), field, fault);
                    }
                }
            }
        }
    }

    fn no_members(&self, group: &Group, rule: &Rule) -> Option<Fault> {
        let Remote::Group(target) = rule.remote else { return None };
        if self.has_members(group, target) {
            return None;
        }
        let target = self.model.groups.get(target.0)?;
        let fault = Fault::warning(format!("\"@{}\" has no member: this rule matches nothing", target.name))
            .suggest("attach the group to an interface with an address, or list its members under \"peers\"");
        Some(fault)
    }

    /// Whether a rule of `group` on `target` has somebody to match.
    fn has_members(&self, group: &Group, target: GroupId) -> bool {
        match group.vpc {
            Some(vpc) => self.members.has(vpc, target),
            None => self
                .model
                .vpcs
                .iter()
                .enumerate()
                .any(|(id, vpc)| vpc.project == group.project && self.members.has(VpcId(id), target)),
        }
    }

    fn interfaces(&mut self) {
        let reach = MetadataReach::new(self.model);
        for (interface, index) in self.model.interfaces.iter().zip(&self.resolved.interface_index) {
            let field = format!("interfaces[{index}]");
            let name = quote(&interface.name);
            if interface.kind == Kind::BareMetal {
                if !interface.groups.is_empty() {
                    let fault =
                        Fault::warning(format!("interface {name}: rules are not enforced on bare metal"));
                    self.report(interface.source, &format!("{field}.security_groups"), fault);
                }
                continue;
            }
            self.audit(interface, &field);
            self.too_many_groups(interface, &field);
            if interface.addresses.is_empty() && interface.role == Role::Guest {
                let guarded = self.model.settings.guest_baseline.source_address;
                let unchecked = if guarded && interface.allowed_addresses.is_empty() {
                    " and its source addresses are not checked"
                } else {
                    ""
                };
                let fault = Fault::warning(format!(
                    "interface {name} has no address, so \"@group\" rules never mean it{unchecked}"
                ))
                .suggest("write its \"addresses\"");
                self.report(interface.source, &format!("{field}.addresses"), fault);
            }
            if !reach.reaches(interface) {
                let fault = Fault::warning(format!(
                    "interface {name} cannot reach the metadata service at 169.254.169.254:80"
                ))
                .expected("an outbound rule of one of its groups for exactly that")
                .suggest(format!("add the rule {METADATA_RULE}"));
                self.report(interface.source, &field, fault);
            }
            self.guest_baseline(interface, &field);
            if interface.role == Role::Host {
                let fault =
                    Fault::note(format!("failsafe of {name}: {}", failsafe(&self.model.settings.failsafe)));
                self.report(interface.source, &format!("{field}.role"), fault);
            }
        }
    }

    fn audit(&mut self, interface: &Interface, field: &str) {
        let Some(by) = self.model.audit(interface) else { return };
        let fault = Fault::warning(format!(
            "interface {} is in audit ({}): everything passes, what would be dropped is only counted",
            quote(&interface.name),
            self.model.audit_text(by)
        ))
        .suggest(
            "when `sgctl status` counts nothing more that should pass, write \"enforcement\": \"enforce\"",
        );
        let field = match by {
            AuditBy::Interface => format!("{field}.enforcement"),
            AuditBy::Group(_) => format!("{field}.security_groups"),
        };
        self.report(interface.source, &field, fault);
    }

    /// SPEC section 6.
    fn guest_baseline(&mut self, interface: &Interface, field: &str) {
        let name = quote(&interface.name);
        let guarded = self.model.settings.guest_baseline.source_mac;
        if guarded && interface.mac.is_none() && interface.role == Role::Guest {
            let fault = Fault::note(format!(
                "interface {name} has no \"mac\", so its hardware address is not checked"
            ))
            .suggest("write its \"mac\"");
            self.report(interface.source, &format!("{field}.mac"), fault);
        }
        if interface.trunk && interface.role == Role::Host {
            let fault = Fault::note(format!(
                "interface {name} has role \"host\", where \"trunk\" has no effect: only guests are held to have no VLAN tags"
            ));
            self.report(interface.source, &format!("{field}.trunk"), fault);
        }
    }

    fn too_many_groups(&mut self, interface: &Interface, field: &str) {
        let (count, quota) = (interface.groups.len(), self.model.settings.quotas.groups_per_interface);
        if count > FEW_GROUPS && count * 2 > quota as usize {
            let fault = Fault::warning(format!(
                "interface {} has {count} security groups (quota {quota})",
                quote(&interface.name)
            ))
            .suggest("fewer, broader groups are easier to follow: everything any of them allows is allowed");
            self.report(interface.source, &format!("{field}.security_groups"), fault);
        }
    }

    fn peers(&mut self) {
        let mut local: HashMap<(VpcId, IpAddr), &str> = HashMap::new();
        for interface in &self.model.interfaces {
            local.extend(interface.addresses.iter().map(|&a| ((interface.vpc, a), interface.name.as_str())));
        }
        let mut at_home: Vec<(usize, &Peer, &str)> = Vec::new();
        for (&(vpc, address), &name) in &local {
            let peers = self.model.peers.of_address(address).filter(|(_, peer)| peer.vpc == vpc);
            at_home.extend(peers.map(|(place, peer)| (place, peer, name)));
        }
        at_home.sort_unstable_by_key(|(place, ..)| *place);
        for (place, peer, name) in at_home {
            let fault = Fault::warning(format!(
                "peer {} is the address of interface {} here",
                peer.address,
                quote(name)
            ))
            .suggest("peers are members on other hosts; remove it if the instance lives on this one");
            let index = self.resolved.peer_index(place);
            self.report(peer.source, &format!("peers[{index}].address"), fault);
        }
    }
}

/// Advice about a rule by itself.
pub(super) fn of_rule(rule: &Rule, inbound: bool) -> impl Iterator<Item = Fault> {
    let open = inbound.then(|| open_to_the_world(rule).chain(many_ports(rule)));
    open.into_iter().flatten().chain(never_matches(rule))
}

fn open_to_the_world(rule: &Rule) -> impl Iterator<Item = Fault> {
    let everybody = match rule.remote {
        Remote::Cidr(net) if net.prefix_len() == 0 => Some(net),
        _ => None,
    };
    let open = everybody.zip(tcp_ports(rule)).into_iter();
    open.flat_map(|(net, ports)| {
        let open = ADMIN_PORTS.into_iter().filter(move |(port, _)| ports.range().contains(port));
        open.map(move |(port, name)| {
            Fault::warning(format!("{name} (TCP {port}) is open to the whole internet ({net})"))
                .suggest("name the networks that administer this group")
        })
    })
}

fn many_ports(rule: &Rule) -> Option<Fault> {
    let message = match (rule.protocol, &rule.matches, rule.remote) {
        (_, Match::Ports(ports), _) if ports.range().len() > MANY_PORTS => {
            format!("the range {}-{} opens {} ports", ports.min, ports.max, ports.range().len())
        }
        (Protocol::Tcp | Protocol::Udp, Match::Any, Remote::Cidr(net)) => {
            format!("every port is open to {net}")
        }
        (Protocol::All, Match::Any, Remote::Cidr(net)) => {
            format!("every protocol and every port is open to {net}")
        }
        _ => return None,
    };
    Some(Fault::warning(message).suggest("open only the ports that are served"))
}

fn never_matches(rule: &Rule) -> Option<Fault> {
    let message = match (rule.protocol, rule.remote) {
        (Protocol::Number(58), Remote::Cidr(net @ IpNet::V4(_))) => {
            format!("ICMPv6 travels in IPv6 only and {net} is IPv4: this rule never matches")
        }
        (Protocol::Number(1), Remote::Cidr(net @ IpNet::V6(_))) => {
            format!("protocol 1 is ICMP for IPv4 and {net} is IPv6: this rule never matches")
        }
        _ => return None,
    };
    Some(Fault::warning(message).suggest("\"ICMP\" means the one of the network's own family"))
}

/// What always passes, in words.
fn failsafe(failsafe: &Failsafe) -> String {
    let Failsafe::Written { inbound, outbound } = failsafe else {
        return "inbound TCP 22 and outbound TCP and UDP 53 always pass, from and to anywhere".to_owned();
    };
    let list = |rules: &[Rule], to: &str| match rules {
        [] => "nothing".to_owned(),
        rules => rules.iter().map(|rule| in_words(rule, to)).collect::<Vec<_>>().join(", "),
    };
    format!("inbound {} and outbound {} always passes", list(inbound, "from"), list(outbound, "to"))
}

fn in_words(rule: &Rule, to: &str) -> String {
    let protocol = match rule.protocol {
        Protocol::All => "ALL".to_owned(),
        Protocol::Tcp => "TCP".to_owned(),
        Protocol::Udp => "UDP".to_owned(),
        Protocol::Icmp => "ICMP".to_owned(),
        Protocol::Number(number) => format!("protocol {number}"),
    };
    let matches = match &rule.matches {
        Match::Any => String::new(),
        Match::Ports(PortRange { min, max }) if min == max => format!(" {min}"),
        Match::Ports(PortRange { min, max }) => format!(" {min}-{max}"),
        Match::Icmp { kind, code: None } => format!(" type {kind}"),
        Match::Icmp { kind, code: Some(code) } => format!(" type {kind} code {code}"),
    };
    match rule.remote {
        Remote::Cidr(net) => format!("{protocol}{matches} {to} {net}"),
        Remote::Group(_) => format!("{protocol}{matches}"),
    }
}
