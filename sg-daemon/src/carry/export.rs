//! From the checked policy to files that say everything, which each cloud's module writes in its own words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{File, Group, Interface, Peer, Remote, Report, Rule};
use crate::policy::model::{
    self, Enforcement, Failsafe, FileId, GroupId, GuestBaseline, HookChoice, Kind, Match, Metadata, Model,
    OnRuleChange, Protocol, Quotas, Role, Rules, Timeouts, VpcId,
};
use crate::policy::values::DEFAULT_GROUP;

/// How a cloud treats the metadata service; another treatment is lost.
pub fn files(model: &Model, cloud: Metadata, report: &mut Report) -> Vec<File> {
    settings(model, cloud, report);
    let homes = homes(model);
    (0..model.vpcs.len()).filter_map(|vpc| file(model, VpcId(vpc), &homes, report)).collect()
}

/// Which VPC each file is for.
fn homes(model: &Model) -> BTreeMap<FileId, VpcId> {
    let groups = model.groups.iter().filter_map(|group| Some((group.source?.file, group.vpc?)));
    let interfaces = model.interfaces.iter().map(|interface| (interface.source.file, interface.vpc));
    let peers = model.peers.iter().map(|peer| (peer.source.file, peer.vpc));
    groups.chain(interfaces).chain(peers).collect()
}

fn settings(model: &Model, cloud: Metadata, report: &mut Report) {
    let settings = &model.settings;
    let mut lose = |field: &str, lost: bool, why: &str| {
        if lost {
            report.loss("", format!("settings.{field}"), why);
        }
    };
    let metadata = match cloud {
        Metadata::Exempt => "the cloud never filters the metadata service",
        Metadata::Cidr => "the cloud treats the metadata service like every other address",
        Metadata::Explicit => "the cloud wants a rule of its own for the metadata service",
    };
    lose("metadata", settings.metadata != cloud, metadata);
    let none = "the cloud has no such setting";
    lose("on_rule_change", settings.on_rule_change != OnRuleChange::Keep, none);
    lose("strict_tcp", settings.strict_tcp, none);
    lose("timeouts", settings.timeouts != Timeouts::default(), none);
    lose("managed", !settings.managed.is_empty(), none);
    lose("failsafe", settings.failsafe != Failsafe::Standard, none);
    lose("guest_baseline", settings.guest_baseline != GuestBaseline::default(), none);
}

fn file(model: &Model, id: VpcId, homes: &BTreeMap<FileId, VpcId>, report: &mut Report) -> Option<File> {
    let vpc = model.vpcs.get(id.0)?;
    let interfaces: Vec<&model::Interface> =
        model.interfaces.iter().filter(|interface| interface.vpc == id).collect();
    let peers: Vec<&model::Peer> = model.peers.iter().filter(|peer| peer.vpc == id).collect();
    let custom: BTreeSet<usize> = indexes(model, |group| group.vpc == Some(id));
    let default = model
        .groups
        .iter()
        .enumerate()
        .find(|(_, group)| group.is_default() && group.project == vpc.project)
        .filter(|(index, group)| {
            let home = group.source.is_some_and(|source| {
                let fallback = model.vpcs.iter().position(|other| other.project == vpc.project).map(VpcId);
                homes.get(&source.file).copied().or(fallback) == Some(id)
            });
            let named = |groups: &[GroupId]| groups.contains(&GroupId(*index));
            home || interfaces.iter().any(|interface| named(&interface.groups))
                || peers.iter().any(|peer| named(&peer.groups))
                || custom
                    .iter()
                    .filter_map(|at| model.groups.get(*at))
                    .any(|group| refers(group, GroupId(*index)))
        })
        .map(|(index, _)| index);
    let mut ids = custom;
    ids.extend(default);
    let groups: Vec<Group> = ids
        .iter()
        .filter_map(|at| model.groups.get(*at))
        .map(|group| self::group(model, vpc, group, &ids, report))
        .collect();
    let interfaces: Vec<Interface> =
        interfaces.iter().map(|interface| self::interface(model, interface, report)).collect();
    let peers = peers.iter().map(|peer| Peer { address: peer.address, groups: names(model, &peer.groups) });
    let peers: Vec<Peer> = peers.collect();
    Some(File {
        project: vpc.project.clone(),
        vpc: vpc.name.clone(),
        ipv6: vpc.ipv6,
        metadata: model.settings.metadata,
        quotas: Quotas::default(),
        groups,
        interfaces,
        peers,
    })
}

fn indexes(model: &Model, fits: impl Fn(&model::Group) -> bool) -> BTreeSet<usize> {
    model.groups.iter().enumerate().filter(|(_, group)| fits(group)).map(|(index, _)| index).collect()
}

fn refers(group: &model::Group, to: GroupId) -> bool {
    [&group.inbound, &group.outbound].into_iter().any(|rules| match rules {
        Rules::Implied => false,
        Rules::Written(rules) => rules.iter().any(|rule| rule.remote == model::Remote::Group(to)),
    })
}

fn names(model: &Model, groups: &[GroupId]) -> Vec<String> {
    groups.iter().filter_map(|id| model.groups.get(id.0)).map(|group| group.name.clone()).collect()
}

fn group(
    model: &Model,
    vpc: &model::Vpc,
    group: &model::Group,
    here: &BTreeSet<usize>,
    report: &mut Report,
) -> Group {
    if group.enforcement == Enforcement::Audit {
        report.loss("", format!("{}.enforcement", group.name), "the cloud has no audit: it would enforce");
    }
    let mut list = |name: &str, rules: &Rules| match rules {
        Rules::Implied => implied(name, group, vpc.ipv6),
        Rules::Written(rules) => rules
            .iter()
            .enumerate()
            .filter_map(|(index, rule)| {
                let remote = match rule.remote {
                    model::Remote::Cidr(net) => Remote::Cidr(net),
                    // A rule of `default` means the group of that name of the interface's VPC.
                    model::Remote::Group(id) => {
                        let name_of = |at: usize| model.groups.get(at).map(|group| group.name.as_str());
                        let wanted = name_of(id.0)?;
                        let found = here.iter().any(|at| name_of(*at) == Some(wanted));
                        if !found {
                            let path = format!("{}.{name}[{index}]", group.name);
                            report.loss("", path, format!("VPC {} has no group {wanted:?}", vpc.name));
                            return None;
                        }
                        Remote::Group(wanted.to_owned())
                    }
                };
                Some(Rule {
                    protocol: rule.protocol,
                    remote,
                    matches: rule.matches.clone(),
                    description: rule.description.clone(),
                })
            })
            .collect(),
    };
    Group {
        name: group.name.clone(),
        description: group.description.clone(),
        include_allowed_addresses: group.include_allowed_addresses,
        inbound: list("inbound", &group.inbound),
        outbound: list("outbound", &group.outbound),
    }
}

/// K21, K22, K25, K26.
fn implied(list: &str, group: &model::Group, ipv6: bool) -> Vec<Rule> {
    let rule = |protocol: Protocol, remote: Remote| Rule {
        protocol,
        remote,
        matches: Match::Any,
        description: String::new(),
    };
    if list == "inbound" {
        let from_default = rule(Protocol::Tcp, Remote::Group(DEFAULT_GROUP.to_owned()));
        return if group.is_default() { vec![from_default] } else { Vec::new() };
    }
    let any = IpNet::V4(Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).unwrap_or_default());
    let mut rules = vec![rule(Protocol::All, Remote::Cidr(any))];
    if ipv6 {
        rules.push(rule(Protocol::All, Remote::Cidr(IpNet::V6(Ipv6Net::default()))));
    }
    rules
}

fn interface(model: &Model, interface: &model::Interface, report: &mut Report) -> Interface {
    let mut lose = |field: &str, lost: bool| {
        if lost {
            report.loss("", format!("{}.{field}", interface.name), "the cloud has no such field");
        }
    };
    lose("enforcement", interface.enforcement == Enforcement::Audit);
    lose("role", interface.role == Role::Host);
    lose("hook", interface.hook != HookChoice::Auto);
    lose("trunk", interface.trunk);
    lose("fast_path", interface.fast_path);
    lose("timeouts", interface.timeouts != model.settings.timeouts);
    lose("kind", interface.kind == Kind::Container);
    Interface {
        name: interface.name.clone(),
        instance: interface.instance.clone(),
        bare_metal: interface.kind == Kind::BareMetal,
        mac: interface.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":")),
        addresses: interface.addresses.clone(),
        allowed_addresses: interface.allowed_addresses.clone(),
        groups: names(model, &interface.groups),
    }
}
