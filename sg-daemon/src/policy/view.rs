//! What a policy says, object by object: for `sgctl … list` and `show`, and the API.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sg_common::abi::Direction;
use sha2::{Digest as _, Sha256};

use super::edit::RuleDirection;
use super::find::{self, Missing, Scope};
use super::model::{
    Enforcement, Group, GroupId, HookChoice, Interface, Kind, Match, Model, Offset, Peer, Protocol, Remote,
    Role, Rule, RuleList, Rules, Source, VpcId,
};
use crate::explain;

/// A rule of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RuleView {
    /// From 0, as in the file.
    pub index: usize,
    /// The same as long as the rule says the same; guards a removal by index.
    pub tag: String,
    /// As it is written in a policy file.
    pub rule: Value,
    /// In words.
    pub text: String,
    /// It is not written: it holds because the list is not.
    pub implied: bool,
    /// In the group's file.
    pub line: Option<u32>,
}

/// A group, its rules and who is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupView {
    pub name: String,
    pub project: String,
    /// Absent for `default`, which every VPC of the project has.
    pub vpc: Option<String>,
    pub description: String,
    pub enforcement: EnforcementView,
    pub inbound: Vec<RuleView>,
    pub outbound: Vec<RuleView>,
    /// Interfaces of this host that it is attached to.
    pub interfaces: Vec<String>,
    /// Members on other hosts.
    pub peers: Vec<IpAddr>,
    /// Groups, other than itself, whose rules name it.
    pub named_by: Vec<String>,
    /// Absent for a `default` that no file writes.
    pub file: Option<String>,
    pub line: Option<u32>,
}

/// An interface as the policy has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    pub name: String,
    pub instance: String,
    pub project: String,
    pub vpc: String,
    pub kind: KindView,
    pub role: RoleView,
    pub hook: HookView,
    /// What the policy asks for; `GET /v1/status` says what has become of it.
    #[serde(default)]
    pub fast_path: bool,
    pub mac: Option<String>,
    pub addresses: Vec<IpAddr>,
    pub allowed_addresses: Vec<IpAddr>,
    pub security_groups: Vec<String>,
    pub enforcement: EnforcementView,
    pub file: String,
    pub line: u32,
}

/// A member of groups on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerView {
    pub address: IpAddr,
    pub project: String,
    pub vpc: String,
    pub security_groups: Vec<String>,
    pub file: String,
    pub line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnforcementView {
    Enforce,
    Audit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KindView {
    Vm,
    Container,
    BareMetal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoleView {
    Guest,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HookView {
    Auto,
    Xdp,
    Tc,
}

pub fn groups(model: &Model) -> Vec<GroupView> {
    let users = Users::of(model);
    let groups = model.groups.iter().enumerate();
    groups.map(|(index, group)| group_view(model, &users, GroupId(index), group)).collect()
}

/// What belongs to a VPC of a project.
pub trait Scoped {
    fn project(&self) -> &str;
    /// `None` for what every VPC of the project has.
    fn vpc(&self) -> Option<&str>;
}

impl Scoped for GroupView {
    fn project(&self) -> &str {
        &self.project
    }

    fn vpc(&self) -> Option<&str> {
        self.vpc.as_deref()
    }
}

impl Scoped for InterfaceView {
    fn project(&self) -> &str {
        &self.project
    }

    fn vpc(&self) -> Option<&str> {
        Some(&self.vpc)
    }
}

impl Scoped for PeerView {
    fn project(&self) -> &str {
        &self.project
    }

    fn vpc(&self) -> Option<&str> {
        Some(&self.vpc)
    }
}

/// Those of the project and VPC that were asked for.
pub fn in_scope<V: Scoped>(mut views: Vec<V>, scope: Scope<'_>) -> Vec<V> {
    views.retain(|view| {
        scope.project.is_none_or(|project| project == view.project())
            && scope.vpc.is_none_or(|wanted| view.vpc().is_none_or(|vpc| vpc == wanted))
    });
    views
}

/// The group of a name.
///
/// # Errors
///
/// If there is none, or several.
pub fn group(model: &Model, name: &str, scope: Scope<'_>) -> Result<GroupView, Missing> {
    let id = find::group(model, name, scope)?;
    let gone = || Missing::None("there is no such group".to_owned());
    let group = model.groups.get(id.0).ok_or_else(gone)?;
    Ok(group_view(model, &Users::of(model), id, group))
}

/// Who is in each group, and whose rules name it.
#[derive(Default)]
struct Users<'m> {
    interfaces: HashMap<GroupId, Vec<&'m str>>,
    peers: HashMap<GroupId, Vec<IpAddr>>,
    rules: HashMap<GroupId, BTreeSet<GroupId>>,
}

impl<'m> Users<'m> {
    fn of(model: &'m Model) -> Self {
        let mut users = Self::default();
        for interface in &model.interfaces {
            for id in &interface.groups {
                users.interfaces.entry(*id).or_default().push(&interface.name);
            }
        }
        for peer in &model.peers {
            for id in peer.groups.iter() {
                users.peers.entry(*id).or_default().push(peer.address);
            }
        }
        for (index, group) in model.groups.iter().enumerate() {
            for rules in [&group.inbound, &group.outbound] {
                let Rules::Written(rules) = rules else { continue };
                for rule in rules {
                    if let Remote::Group(named) = rule.remote
                        && named != GroupId(index)
                    {
                        users.rules.entry(named).or_default().insert(GroupId(index));
                    }
                }
            }
        }
        users
    }
}

pub fn interfaces(model: &Model) -> Vec<InterfaceView> {
    model.interfaces.iter().map(|interface| interface_view(model, interface)).collect()
}

pub fn peers(model: &Model) -> Vec<PeerView> {
    model.peers.iter().map(|peer| peer_view(model, peer)).collect()
}

fn group_view(model: &Model, users: &Users<'_>, id: GroupId, group: &Group) -> GroupView {
    let listed = |direction| rules(model, id, direction).unwrap_or_default();
    let owned = |names: &Vec<&str>| names.iter().map(|&name| name.to_owned()).collect();
    let named_by: Vec<GroupId> =
        users.rules.get(&id).map(|ids| ids.iter().copied().collect()).unwrap_or_default();
    GroupView {
        name: group.name.clone(),
        project: group.project.clone(),
        vpc: group.vpc.map(|vpc| vpc_name(model, vpc).1),
        description: group.description.clone(),
        enforcement: group.enforcement.into(),
        inbound: listed(RuleDirection::Inbound),
        outbound: listed(RuleDirection::Outbound),
        interfaces: users.interfaces.get(&id).map(owned).unwrap_or_default(),
        peers: users.peers.get(&id).cloned().unwrap_or_default(),
        named_by: group_names(model, &named_by),
        file: group.source.map(|source| file(model, source)),
        line: group.source.map(|source| source.line),
    }
}

fn interface_view(model: &Model, interface: &Interface) -> InterfaceView {
    let (project, vpc) = vpc_name(model, interface.vpc);
    InterfaceView {
        name: interface.name.clone(),
        instance: interface.instance.clone(),
        project,
        vpc,
        kind: match interface.kind {
            Kind::Vm => KindView::Vm,
            Kind::Container => KindView::Container,
            Kind::BareMetal => KindView::BareMetal,
        },
        role: match interface.role {
            Role::Guest => RoleView::Guest,
            Role::Host => RoleView::Host,
        },
        hook: match interface.hook {
            HookChoice::Auto => HookView::Auto,
            HookChoice::Xdp => HookView::Xdp,
            HookChoice::Tc => HookView::Tc,
        },
        fast_path: interface.fast_path,
        mac: interface.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")),
        addresses: interface.addresses.clone(),
        allowed_addresses: interface.allowed_addresses.clone(),
        security_groups: group_names(model, &interface.groups),
        enforcement: interface.enforcement.into(),
        file: file(model, interface.source),
        line: interface.source.line,
    }
}

fn peer_view(model: &Model, peer: &Peer) -> PeerView {
    let (project, vpc) = vpc_name(model, peer.vpc);
    PeerView {
        address: peer.address,
        project,
        vpc,
        security_groups: group_names(model, &peer.groups),
        file: file(model, peer.source),
        line: peer.source.line,
    }
}

impl From<Enforcement> for EnforcementView {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Enforce => Self::Enforce,
            Enforcement::Audit => Self::Audit,
        }
    }
}

fn group_names(model: &Model, ids: &[GroupId]) -> Vec<String> {
    ids.iter().filter_map(|id| model.groups.get(id.0)).map(|group| group.name.clone()).collect()
}

fn vpc_name(model: &Model, id: VpcId) -> (String, String) {
    model.vpcs.get(id.0).map_or_else(Default::default, |vpc| (vpc.project.clone(), vpc.name.clone()))
}

fn file(model: &Model, source: Source) -> String {
    model.files.get(source.file.0).map_or_else(String::new, |file| file.display().to_string())
}

/// The rules of one direction, written or not.
///
/// # Errors
///
/// If it is not the same in each VPC what holds.
pub fn rules(model: &Model, id: GroupId, direction: RuleDirection) -> Result<Vec<RuleView>, String> {
    let Some(group) = model.groups.get(id.0) else { return Ok(Vec::new()) };
    let implied = *list(group, direction) == Rules::Implied;
    let rules = effective(model, id, direction)?;
    let views = rules.iter().enumerate().map(|(index, rule)| {
        let written = rule_json(model, rule, direction);
        RuleView {
            index,
            tag: tag(&written, direction),
            rule: written,
            text: words(model, rule, direction),
            implied,
            line: (!implied).then_some(group.source_of(rule).line),
        }
    });
    Ok(views.collect())
}

fn list(group: &Group, direction: RuleDirection) -> &Rules {
    match direction {
        RuleDirection::Inbound => &group.inbound,
        RuleDirection::Outbound => &group.outbound,
    }
}

/// The rules of one direction, with what holds if none are written (K21, K22, K25, K26).
///
/// # Errors
///
/// As [`rules`].
pub fn effective(model: &Model, id: GroupId, direction: RuleDirection) -> Result<RuleList, String> {
    let Some(group) = model.groups.get(id.0) else { return Ok(RuleList::default()) };
    if let Rules::Written(rules) = list(group, direction) {
        return Ok(rules.clone());
    }
    // A rule that is not written stands where its group does.
    let at = Offset::default();
    let rule =
        |protocol, remote| Rule { protocol, remote, matches: Match::Any, description: String::new(), at };
    if direction == RuleDirection::Inbound {
        let members = rule(Protocol::Tcp, Remote::Group(id));
        return Ok(if group.is_default() { vec![members].into() } else { RuleList::default() });
    }
    let everywhere = |net: IpNet| rule(Protocol::All, Remote::Cidr(net));
    let mut rules = vec![everywhere(Ipv4Net::default().into())];
    let vpcs = model.vpcs.iter().enumerate().filter(|(index, vpc)| match group.vpc {
        Some(id) => VpcId(*index) == id,
        None => vpc.project == group.project,
    });
    let ipv6: Vec<bool> = vpcs.map(|(_, vpc)| vpc.ipv6).collect();
    if ipv6.contains(&true) && ipv6.contains(&false) {
        return Err(format!(
            "what group {:?} of project {:?} lets out by itself differs between its VPCs, as only some of them have \
             \"ipv6\"; write its outbound rules into the file first",
            group.name, group.project
        ));
    }
    if ipv6.contains(&true) {
        rules.push(everywhere(Ipv6Net::default().into()));
    }
    Ok(rules.into())
}

/// In words: `TCP port 80 from 0.0.0.0/0`.
pub fn words(model: &Model, rule: &Rule, direction: RuleDirection) -> String {
    let direction = match direction {
        RuleDirection::Inbound => Direction::Inbound,
        RuleDirection::Outbound => Direction::Outbound,
    };
    explain::words(model, rule.protocol, rule.remote, &rule.matches, direction)
}

/// As a policy file has it.
fn rule_json(model: &Model, rule: &Rule, direction: RuleDirection) -> Value {
    let mut fields = Map::new();
    let protocol = match rule.protocol {
        Protocol::All => json!("ALL"),
        Protocol::Tcp => json!("TCP"),
        Protocol::Udp => json!("UDP"),
        Protocol::Icmp => json!("ICMP"),
        Protocol::Number(number) => json!(number),
    };
    fields.insert("protocol".to_owned(), protocol);
    let remote = match rule.remote {
        Remote::Cidr(net) => net.to_string(),
        Remote::Group(id) => {
            format!("@{}", model.groups.get(id.0).map_or("", |group| group.name.as_str()))
        }
    };
    fields.insert(direction.remote().to_owned(), json!(remote));
    match &rule.matches {
        Match::Any if matches!(rule.protocol, Protocol::Tcp | Protocol::Udp | Protocol::All) => {
            fields.insert("port".to_owned(), json!("ALL"));
        }
        Match::Any => {}
        Match::Ports(ports) if ports.min == ports.max => {
            fields.insert("port".to_owned(), json!(ports.min.to_string()));
        }
        Match::Ports(ports) => {
            fields.insert("port".to_owned(), json!(format!("{}-{}", ports.min, ports.max)));
        }
        Match::Icmp { kind, code } => {
            fields.insert("icmp_type".to_owned(), json!(kind));
            fields.extend(code.map(|code| ("icmp_code".to_owned(), json!(code))));
        }
    }
    if !rule.description.is_empty() {
        fields.insert("description".to_owned(), json!(rule.description));
    }
    fields.into()
}

/// Twelve hexadecimal digits of what a rule says, without its description.
fn tag(rule: &Value, direction: RuleDirection) -> String {
    let mut rule = rule.clone();
    if let Some(fields) = rule.as_object_mut() {
        fields.shift_remove("description");
    }
    let digest = Sha256::digest(format!("{} {rule}", direction.name()).as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
