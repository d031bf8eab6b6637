//! Small worlds: random policies that are always valid, dense enough that rules, members and questions meet.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

use crate::rules::{Direction, Question, Transport};

/// The devices that interfaces of a world are named after.
pub const DEVICES: [&str; 6] = ["sg0", "sg1", "sg2", "sg3", "sg4", "sg5"];

/// Where borders meet: ends of the networks below and their neighbours, the metadata service and its surroundings.
const V4: [&str; 20] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.127",
    "10.0.0.128",
    "10.0.0.255",
    "10.0.1.0",
    "10.0.1.1",
    "10.255.255.255",
    "11.0.0.0",
    "9.255.255.255",
    "169.254.169.254",
    "169.254.169.0",
    "169.254.169.255",
    "169.254.168.255",
    "169.254.170.0",
    "169.254.0.1",
    "169.253.255.255",
    "127.255.255.254",
    "128.0.0.1",
];
const V6: [&str; 12] = [
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8::3",
    "2001:db8::ffff:ffff:ffff:ffff",
    "2001:db8:0:1::",
    "2001:db8:0:1::1",
    "2001:db8:8000::1",
    "2001:db9::1",
    "fe80::1",
    "fd00::5",
    "7fff:ffff::1",
    "8000::1",
];
const V4_LENGTHS: [u8; 15] = [0, 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 29, 30, 31, 32];
const V6_LENGTHS: [u8; 15] = [0, 1, 2, 16, 31, 32, 33, 48, 63, 64, 65, 96, 126, 127, 128];
const LINK_LOCAL: [&str; 9] = [
    "169.254.169.0/24",
    "169.254.169.254/32",
    "169.254.169.128/25",
    "169.254.168.0/23",
    "169.254.0.0/16",
    "169.254.128.0/17",
    "169.254.0.0/15",
    "169.254.169.0/31",
    "169.254.0.0/17",
];
const PORTS: [u16; 16] = [1, 2, 21, 22, 23, 53, 79, 80, 81, 443, 1023, 1024, 3306, 65533, 65534, 65535];
const PROTOCOLS: [(&str, u8); 14] = [
    ("gre", 47),
    ("GRE", 47),
    ("esp", 50),
    ("ah", 51),
    ("sctp", 132),
    ("ipip", 4),
    ("0", 0),
    ("255", 255),
    ("47", 47),
    ("2", 2),
    ("59", 59),
    ("1", 1),
    ("58", 58),
    ("icmpv6", 58),
];

#[derive(Debug, Clone)]
pub struct World {
    pub metadata: Option<&'static str>,
    pub failsafe: Option<(Vec<Rule>, Vec<Rule>)>,
    pub vpcs: Vec<Vpc>,
    /// Whether the second VPC is another project's.
    pub two_projects: bool,
}

#[derive(Debug, Clone)]
pub struct Vpc {
    pub ipv6: Option<bool>,
    /// Written in two files instead of one.
    pub split: bool,
    /// At least one; references count modulo.
    pub groups: Vec<Group>,
    /// `default`, where it is written.
    pub default: Option<Group>,
    pub interfaces: Vec<Interface>,
    pub peers: Vec<Peer>,
}

#[derive(Debug, Clone)]
pub struct Group {
    pub inbound: Option<Vec<Rule>>,
    pub outbound: Option<Vec<Rule>>,
    pub include_allowed_addresses: Option<bool>,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub remote: Remote,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum Remote {
    Cidr(String),
    /// 0 is `default`.
    Group(usize),
}

#[derive(Debug, Clone)]
pub enum What {
    All { port: bool },
    Ports { protocol: &'static str, ports: Ports },
    Icmp { protocol: &'static str, kind: Option<u8>, code: Option<u8> },
    Named(&'static str),
    Number(u8),
}

#[derive(Debug, Clone)]
pub enum Ports {
    All,
    One(u16),
    Text(u16),
    Range(u16, u16),
}

#[derive(Debug, Clone)]
pub struct Interface {
    pub host: bool,
    pub bare_metal: bool,
    pub hook: Option<&'static str>,
    pub addresses: Vec<IpAddr>,
    pub allowed_addresses: Vec<IpAddr>,
    /// 0 is `default`.
    pub groups: Vec<usize>,
}

#[derive(Debug, Clone)]
pub struct Peer {
    pub address: IpAddr,
    pub groups: Vec<usize>,
}

pub fn any_world() -> impl Strategy<Value = World> {
    (metadata(), failsafe(), vec(any_vpc(), 1..=2), any::<bool>())
        .prop_map(|(metadata, failsafe, vpcs, two_projects)| World { metadata, failsafe, vpcs, two_projects })
}

fn metadata() -> impl Strategy<Value = Option<&'static str>> {
    select(vec![None, Some("explicit"), Some("explicit"), Some("cidr"), Some("exempt")])
}

fn failsafe() -> impl Strategy<Value = Option<(Vec<Rule>, Vec<Rule>)>> {
    let rules =
        || vec((cidr(), what()).prop_map(|(cidr, what)| Rule { remote: Remote::Cidr(cidr), what }), 0..=2);
    option::weighted(0.4, (rules(), rules()))
}

fn any_vpc() -> impl Strategy<Value = Vpc> {
    (
        option::of(any::<bool>()),
        any::<bool>(),
        vec(any_group(), 1..=4),
        option::weighted(0.5, any_group()),
        vec(any_interface(), 1..=3),
        vec(any_peer(), 0..=4),
    )
        .prop_map(|(ipv6, split, groups, default, interfaces, peers)| Vpc {
            ipv6,
            split,
            groups,
            default,
            interfaces,
            peers,
        })
}

pub fn any_group() -> impl Strategy<Value = Group> {
    let rules = || option::weighted(0.75, vec(any_rule(), 0..=4));
    (rules(), rules(), option::of(any::<bool>())).prop_map(
        |(inbound, outbound, include_allowed_addresses)| Group {
            inbound,
            outbound,
            include_allowed_addresses,
        },
    )
}

pub fn any_rule() -> impl Strategy<Value = Rule> {
    let remote = prop_oneof![5 => cidr().prop_map(Remote::Cidr), 4 => (0..=4usize).prop_map(Remote::Group)];
    (remote, what()).prop_map(|(remote, what)| Rule { remote, what })
}

fn cidr() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => select(LINK_LOCAL.to_vec()).prop_map(str::to_owned),
        5 => (select(V4.to_vec()), select(V4_LENGTHS.to_vec())).prop_map(|(a, length)| network(a, length)),
        4 => (select(V6.to_vec()), select(V6_LENGTHS.to_vec())).prop_map(|(a, length)| network(a, length)),
    ]
}

/// The network of that length that holds the address.
fn network(address: &str, length: u8) -> String {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            format!("{}/{length}", Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            format!("{}/{length}", Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

fn what() -> impl Strategy<Value = What> {
    let small = || select(vec![0u8, 1, 3, 8, 13, 128, 129, 255]);
    prop_oneof![
        2 => any::<bool>().prop_map(|port| What::All { port }),
        6 => (select(vec!["TCP", "tcp", "UDP", "Udp", "6", "17"]), ports())
            .prop_map(|(protocol, ports)| What::Ports { protocol, ports }),
        3 => (select(vec!["ICMP", "icmp", "icmpv6", "1", "58"]), option::of(small()), option::of(small()))
            // A code needs a type.
            .prop_map(|(protocol, kind, code)| What::Icmp { protocol, kind, code: kind.and(code) }),
        2 => select(PROTOCOLS.to_vec()).prop_map(|(name, _)| What::Named(name)),
        1 => select(vec![0u8, 1, 2, 4, 47, 58, 132, 255]).prop_map(What::Number),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = || prop_oneof![4 => select(PORTS.to_vec()), 1 => 1..=u16::MAX];
    prop_oneof![
        1 => Just(Ports::All),
        2 => port().prop_map(Ports::One),
        2 => port().prop_map(Ports::Text),
        3 => (port(), port()).prop_map(|(a, b)| Ports::Range(a.min(b), a.max(b))),
    ]
}

pub fn any_interface() -> impl Strategy<Value = Interface> {
    (
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.08),
        select(vec![None, Some("auto"), Some("tc"), Some("xdp")]),
        vec(any_address(), 0..=3),
        vec(any_address(), 0..=2),
        vec(0..=4usize, 0..=3),
    )
        .prop_map(|(host, bare_metal, hook, addresses, allowed_addresses, groups)| Interface {
            host,
            bare_metal,
            hook,
            addresses,
            allowed_addresses,
            groups,
        })
}

pub fn any_peer() -> impl Strategy<Value = Peer> {
    (any_address(), vec(0..=4usize, 1..=3)).prop_map(|(address, groups)| Peer { address, groups })
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![3 => select(V4.to_vec()), 2 => select(V6.to_vec())].prop_map(|text| text.parse().unwrap())
}

/// One operator's change; places count modulo.
#[derive(Debug, Clone)]
pub enum Edit {
    Everything(World),
    Group(usize, usize, Group),
    Default(usize, Option<Group>),
    DropRule(usize, usize, Index),
    Attach(usize, usize, Vec<usize>),
    Interface(usize, usize, Interface),
    AddPeer(usize, Peer),
    DropPeer(usize, Index),
    Ipv6(usize, bool),
    Metadata(Option<&'static str>),
    Failsafe(Option<(Vec<Rule>, Vec<Rule>)>),
}

pub fn any_edit() -> impl Strategy<Value = Edit> {
    let place = || 0..8usize;
    prop_oneof![
        2 => any_world().prop_map(Edit::Everything),
        3 => (place(), place(), any_group()).prop_map(|(v, g, group)| Edit::Group(v, g, group)),
        1 => (place(), option::of(any_group())).prop_map(|(v, group)| Edit::Default(v, group)),
        2 => (place(), place(), any::<Index>()).prop_map(|(v, g, rule)| Edit::DropRule(v, g, rule)),
        3 => (place(), place(), vec(0..=4usize, 1..=3)).prop_map(|(v, i, groups)| Edit::Attach(v, i, groups)),
        1 => (place(), place(), any_interface()).prop_map(|(v, i, interface)| Edit::Interface(v, i, interface)),
        3 => (place(), any_peer()).prop_map(|(v, peer)| Edit::AddPeer(v, peer)),
        2 => (place(), any::<Index>()).prop_map(|(v, peer)| Edit::DropPeer(v, peer)),
        1 => (place(), any::<bool>()).prop_map(|(v, ipv6)| Edit::Ipv6(v, ipv6)),
        1 => metadata().prop_map(Edit::Metadata),
        1 => failsafe().prop_map(Edit::Failsafe),
    ]
}

fn at<T>(items: &mut [T], place: usize) -> &mut T {
    let place = place % items.len();
    &mut items[place]
}

impl World {
    pub fn edit(&mut self, edit: &Edit) {
        match edit.clone() {
            Edit::Everything(world) => *self = world,
            Edit::Group(vpc, place, group) => *at(&mut at(&mut self.vpcs, vpc).groups, place) = group,
            Edit::Default(vpc, group) => at(&mut self.vpcs, vpc).default = group,
            Edit::DropRule(vpc, place, rule) => {
                let group = at(&mut at(&mut self.vpcs, vpc).groups, place);
                for rules in [&mut group.inbound, &mut group.outbound].into_iter().flatten() {
                    if !rules.is_empty() {
                        rules.remove(rule.index(rules.len()));
                    }
                }
            }
            Edit::Attach(vpc, place, groups) => {
                at(&mut at(&mut self.vpcs, vpc).interfaces, place).groups = groups;
            }
            Edit::Interface(vpc, place, interface) => {
                *at(&mut at(&mut self.vpcs, vpc).interfaces, place) = interface;
            }
            Edit::AddPeer(vpc, peer) => at(&mut self.vpcs, vpc).peers.push(peer),
            Edit::DropPeer(vpc, peer) => {
                let peers = &mut at(&mut self.vpcs, vpc).peers;
                if !peers.is_empty() {
                    peers.remove(peer.index(peers.len()));
                }
            }
            Edit::Ipv6(vpc, ipv6) => at(&mut self.vpcs, vpc).ipv6 = Some(ipv6),
            Edit::Metadata(metadata) => self.metadata = metadata,
            Edit::Failsafe(failsafe) => self.failsafe = failsafe,
        }
    }

    /// The files as an operator would write them.
    pub fn files(&self) -> Vec<Value> {
        let mut devices = DEVICES.iter();
        let mut files = Vec::new();
        for (index, vpc) in self.vpcs.iter().enumerate() {
            let (project, name) = match (index, self.two_projects) {
                (0, _) => ("shop", "main"),
                (_, false) => ("shop", "test"),
                (_, true) => ("bank", "main"),
            };
            let mut groups: Vec<Value> = vpc
                .groups
                .iter()
                .enumerate()
                .map(|(index, group)| group.json(&format!("grp{}", index + 1), vpc.groups.len()))
                .collect();
            // A project has one `default`.
            if let Some(default) = vpc.default.as_ref().filter(|_| index == 0 || self.two_projects) {
                groups.insert(0, default.json("default", vpc.groups.len()));
            }
            let mut taken = BTreeSet::new();
            let interfaces: Vec<Value> = vpc
                .interfaces
                .iter()
                .zip(&mut devices)
                .map(|(interface, device)| interface.json(device, vpc.groups.len(), &mut taken))
                .collect();
            let mut taken = BTreeSet::new();
            let peers: Vec<Value> = vpc
                .peers
                .iter()
                .filter(|peer| taken.insert(peer.address))
                .map(|peer| json!({ "address": peer.address, "security_groups": names(&peer.groups, vpc.groups.len()) }))
                .collect();
            let mut file = json!({ "version": 1, "project": project, "vpc": name });
            if let Some(ipv6) = vpc.ipv6 {
                file["ipv6"] = ipv6.into();
            }
            let mut second = vpc.split.then(|| json!({ "version": 1, "project": project, "vpc": name }));
            file["security_groups"] = groups.into();
            // The settings stand in the last file of all, the groups in another than their members.
            let members = second.as_mut().unwrap_or(&mut file);
            members["interfaces"] = interfaces.into();
            members["peers"] = peers.into();
            members["settings"] = self.settings();
            files.push(file);
            files.extend(second);
        }
        files
    }

    fn settings(&self) -> Value {
        let mut settings = Map::new();
        if let Some(metadata) = self.metadata {
            settings.insert("metadata".to_owned(), metadata.into());
        }
        if let Some((inbound, outbound)) = &self.failsafe {
            let failsafe = json!({
                "inbound": rules(inbound, "source", 1), "outbound": rules(outbound, "destination", 1) });
            settings.insert("failsafe".to_owned(), failsafe);
        }
        settings.into()
    }
}

fn name(group: usize, count: usize) -> String {
    match group {
        0 => "default".to_owned(),
        group => format!("grp{}", (group - 1) % count + 1),
    }
}

/// Each once.
fn names(groups: &[usize], count: usize) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for group in groups {
        let name = name(*group, count);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn rules(rules: &[Rule], field: &str, count: usize) -> Value {
    rules.iter().map(|rule| rule.json(field, count)).collect()
}

impl Group {
    fn json(&self, name: &str, count: usize) -> Value {
        let mut group = json!({ "name": name });
        if let Some(inbound) = &self.inbound {
            group["inbound"] = rules(inbound, "source", count);
        }
        if let Some(outbound) = &self.outbound {
            group["outbound"] = rules(outbound, "destination", count);
        }
        if let Some(include) = self.include_allowed_addresses {
            group["include_allowed_addresses"] = include.into();
        }
        group
    }
}

impl Rule {
    fn json(&self, field: &str, count: usize) -> Value {
        let remote = match &self.remote {
            Remote::Cidr(cidr) => cidr.clone(),
            Remote::Group(group) => format!("@{}", name(*group, count)),
        };
        let mut rule = json!({ field: remote });
        match &self.what {
            What::All { port } => {
                rule["protocol"] = "ALL".into();
                if *port {
                    rule["port"] = "ALL".into();
                }
            }
            What::Ports { protocol, ports } => {
                rule["protocol"] = (*protocol).into();
                rule["port"] = match ports {
                    Ports::All => "all".into(),
                    Ports::One(port) => (*port).into(),
                    Ports::Text(port) => port.to_string().into(),
                    Ports::Range(low, high) => format!("{low}-{high}").into(),
                };
            }
            What::Icmp { protocol, kind, code } => {
                rule["protocol"] = (*protocol).into();
                for (field, number) in [("icmp_type", kind), ("icmp_code", code)] {
                    if let Some(number) = number {
                        rule[field] = (*number).into();
                    }
                }
            }
            What::Named(name) => rule["protocol"] = (*name).into(),
            What::Number(number) => rule["protocol"] = (*number).into(),
        }
        rule
    }
}

impl Interface {
    fn json(&self, device: &str, count: usize, taken: &mut BTreeSet<IpAddr>) -> Value {
        let addresses: Vec<IpAddr> = self.addresses.iter().copied().filter(|a| taken.insert(*a)).collect();
        let mut seen: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let allowed: Vec<IpAddr> =
            self.allowed_addresses.iter().copied().filter(|a| seen.insert(*a)).collect();
        // K2: only bare metal may have none.
        let groups = if self.groups.is_empty() && !self.bare_metal { &[0][..] } else { &self.groups };
        let mut interface = json!({
            "name": device,
            "addresses": addresses,
            "allowed_addresses": allowed,
            "role": if self.host { "host" } else { "guest" },
            "kind": if self.bare_metal { "bare_metal" } else { "vm" },
            "security_groups": names(groups, count),
        });
        if let Some(hook) = self.hook {
            interface["hook"] = hook.into();
        }
        interface
    }
}

/// The raw material of a question.
#[derive(Debug, Clone)]
pub struct Seed {
    interface: Index,
    outbound: bool,
    /// Which rule to aim at, if any.
    rule: Option<Index>,
    remote: Index,
    port: Index,
    protocol: Index,
    free_transport: bool,
    free_remote: bool,
}

pub fn any_seed() -> impl Strategy<Value = Seed> {
    (
        any::<Index>(),
        any::<bool>(),
        option::weighted(0.8, any::<Index>()),
        any::<Index>(),
        any::<Index>(),
        any::<Index>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(interface, outbound, rule, remote, port, protocol, free_transport, free_remote)| {
            Seed { interface, outbound, rule, remote, port, protocol, free_transport, free_remote }
        })
}

impl Seed {
    /// A question about a policy, aimed at the edges of one of its rules.
    pub fn question(&self, files: &[Value]) -> Question {
        let all = |field: &'static str| {
            files.iter().filter_map(move |file| file[field].as_array()).flatten().collect::<Vec<_>>()
        };
        let interfaces = all("interfaces");
        let interface = self.interface.get(&interfaces);
        let (direction, list, field) = if self.outbound {
            (Direction::Outbound, "outbound", "destination")
        } else {
            (Direction::Inbound, "inbound", "source")
        };
        // Rules of the interface's own groups; groups of the same name elsewhere add some that are not.
        let mut rules: Vec<&Value> = all("security_groups")
            .into_iter()
            // Bare metal may have no list at all.
            .filter(|group| {
                interface["security_groups"].as_array().is_some_and(|names| names.contains(&group["name"]))
            })
            .filter_map(|group| group[list].as_array())
            .flatten()
            .collect();
        if interface["role"] == "host" {
            rules.extend(
                files.iter().filter_map(|file| file["settings"]["failsafe"][list].as_array()).flatten(),
            );
        }
        let rule = self.rule.filter(|_| !rules.is_empty()).map(|index| *index.get(&rules));
        let remotes: Vec<IpAddr> =
            match rule.filter(|_| !self.free_remote).map(|rule| rule[field].as_str().unwrap()) {
                Some(remote) if !remote.starts_with('@') => borders(remote),
                // Members, and who is none.
                Some(_) => all("interfaces")
                    .into_iter()
                    .flat_map(|interface| [&interface["addresses"], &interface["allowed_addresses"]])
                    .filter_map(Value::as_array)
                    .flatten()
                    .chain(all("peers").into_iter().map(|peer| &peer["address"]))
                    .map(|address| address.as_str().unwrap().parse().unwrap())
                    .collect(),
                None => Vec::new(),
            };
        let pool: Vec<IpAddr> = V4.iter().chain(&V6).map(|text| text.parse().unwrap()).collect();
        let remote = *self.remote.get(if remotes.is_empty() { &pool } else { &remotes });
        let transport = match rule.filter(|_| !self.free_transport) {
            Some(rule) => self.aimed(rule, remote),
            None => self.free(remote),
        };
        let interface = interface["name"].as_str().unwrap().to_owned();
        Question { interface, direction, remote, transport }
    }

    fn aimed(&self, rule: &Value, remote: IpAddr) -> Transport {
        let protocol = match &rule["protocol"] {
            Value::String(name) => name.to_ascii_lowercase(),
            number => number.to_string(),
        };
        match protocol.as_str() {
            "tcp" | "6" => Transport::Tcp { port: self.aimed_port(&rule["port"]) },
            "udp" | "17" => Transport::Udp { port: self.aimed_port(&rule["port"]) },
            "icmp" | "icmpv6" | "1" | "58" => {
                let near = |number: &Value, index: &Index| {
                    let number = number.as_u64().map_or(8, |number| number as u8);
                    *index.get(&[number, number, number.wrapping_add(1), number.wrapping_sub(1)])
                };
                let icmp = Transport::Icmp {
                    kind: near(&rule["icmp_type"], &self.port),
                    code: near(&rule["icmp_code"], &self.protocol),
                };
                let literal: u8 = if remote.is_ipv4() { 58 } else { 1 };
                *self.protocol.get(&[icmp, icmp, icmp, Transport::Other(literal)])
            }
            "all" => self.free(remote),
            name => match PROTOCOLS.iter().find(|(known, _)| *known == name) {
                Some((_, number)) => other(*number, remote),
                None => name.parse().map_or(Transport::Other(4), |number| other(number, remote)),
            },
        }
    }

    fn aimed_port(&self, port: &Value) -> u16 {
        let text = match port {
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        let (low, high) = text.split_once('-').unwrap_or((&text, &text));
        let (Ok(low), Ok(high)) = (low.parse::<u16>(), high.parse::<u16>()) else { return self.free_port() };
        let near = [low, high, low.saturating_sub(1), high.saturating_add(1), low / 2 + high / 2, low, high];
        (*self.port.get(&near)).max(1)
    }

    fn free_port(&self) -> u16 {
        *self.port.get(&PORTS)
    }

    fn free(&self, remote: IpAddr) -> Transport {
        let port = self.free_port();
        let kind = *self.port.get(&[0u8, 3, 8, 13, 128, 129, 255]);
        let number = *self.port.get(&[0u8, 1, 2, 4, 47, 50, 51, 58, 59, 132, 255]);
        let tcp = Transport::Tcp { port };
        *self.protocol.get(&[
            tcp,
            tcp,
            // The metadata service's own tuple, whatever the address.
            Transport::Tcp { port: 80 },
            Transport::Udp { port },
            Transport::Icmp { kind, code: 0 },
            Transport::Icmp { kind: if remote.is_ipv4() { 8 } else { 128 }, code: 0 },
            other(number, remote),
        ])
    }
}

/// A protocol by number, under the name that the packet's family gives it.
fn other(number: u8, remote: IpAddr) -> Transport {
    match (number, remote) {
        (6, _) => Transport::Tcp { port: 80 },
        (17, _) => Transport::Udp { port: 80 },
        (1, IpAddr::V4(_)) => Transport::Icmp { kind: 8, code: 0 },
        (58, IpAddr::V6(_)) => Transport::Icmp { kind: 128, code: 0 },
        (number, _) => Transport::Other(number),
    }
}

/// First and last address of a network, and their neighbours outside.
fn borders(cidr: &str) -> Vec<IpAddr> {
    let (address, length) = cidr.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    match address.parse().unwrap() {
        IpAddr::V4(first) => {
            let first = first.to_bits();
            let last = first | u32::MAX.checked_shr(length).unwrap_or(0);
            [first, last, first.wrapping_sub(1), last.wrapping_add(1), first / 2 + last / 2, last]
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
                .to_vec()
        }
        IpAddr::V6(first) => {
            let first = first.to_bits();
            let last = first | u128::MAX.checked_shr(length).unwrap_or(0);
            [first, last, first.wrapping_sub(1), last.wrapping_add(1), first / 2 + last / 2, last]
                .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
                .to_vec()
        }
    }
}
