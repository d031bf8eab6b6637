//! The rule that would allow a packet: exactly this one, and ready to be pasted.

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sg_common::abi::Direction;
use sg_common::packet::protocol;

use super::text::{list, remote_field};
use crate::api::explain::Addition;
use crate::compile::fit::Tuple;
use crate::compile::rules::{METADATA_RANGE, implied};
use crate::policy::model::{Group, GroupId, Interface, Model, Protocol, Remote, Rules};

/// The rule to add, and to which group; `None` if the packet cannot be allowed by a rule, or no group has room for one more.
pub fn addition(model: &Model, interface: &Interface, packet: &Tuple) -> Option<Addition> {
    let rule = rule(packet);
    let (id, group, keep) = home(model, interface, packet.direction)?;
    let vpc = group.vpc.and_then(|id| model.vpcs.get(id.0)).map(|vpc| vpc.name.clone());
    let also = model
        .interfaces
        .iter()
        .filter(|other| other.groups.contains(&id) && other.name != interface.name)
        .map(|other| other.name.clone())
        .collect();
    let mut addition = Addition {
        group: group.name.clone(),
        project: group.project.clone(),
        vpc,
        list: list(packet.direction).to_owned(),
        rule: Value::Object(rule),
        keep,
        command: String::new(),
        also,
    };
    addition.command = command(model, &addition);
    Some(addition)
}

fn rule(packet: &Tuple) -> Map<String, Value> {
    let remote = if packet.is_metadata() { IpNet::V4(METADATA_RANGE) } else { IpNet::from(packet.remote) };
    let mut rule = Map::new();
    let name = match packet.protocol {
        protocol::TCP => json!("TCP"),
        protocol::UDP => json!("UDP"),
        _ if packet.is_own_icmp() => json!("ICMP"),
        number => json!(number),
    };
    rule.insert("protocol".to_owned(), name);
    rule.insert(remote_field(packet.direction).to_owned(), remote.to_string().into());
    if let Some(port) = packet.port {
        // Port 0 is in no range of ports.
        let port = if port == 0 { "ALL".to_owned() } else { port.to_string() };
        rule.insert("port".to_owned(), port.into());
    }
    if let Some((kind, code)) = packet.icmp {
        rule.insert("icmp_type".to_owned(), kind.into());
        if code != 0 {
            rule.insert("icmp_code".to_owned(), code.into());
        }
    }
    rule
}

/// The group that takes the rule with the least loss, and the rules that an absent list of it stood for. Custom groups come
/// before `default`, as that is on every interface that nobody thought of.
fn home<'m>(
    model: &'m Model,
    interface: &Interface,
    direction: Direction,
) -> Option<(GroupId, &'m Group, Vec<Value>)> {
    let room = model.settings.quotas.rules_per_group as usize;
    interface
        .groups
        .iter()
        .filter_map(|&id| {
            let group = model.groups.get(id.0)?;
            let keep = kept(model, interface, id, group, direction);
            let written = |rules: &Rules| match rules {
                Rules::Written(rules) => rules.len(),
                Rules::Implied => 0,
            };
            let needed = written(&group.inbound) + written(&group.outbound) + keep.len() + 1;
            (needed <= room).then_some((id, group, keep))
        })
        .min_by_key(|(_, group, keep)| (group.is_default(), !keep.is_empty()))
}

/// What the group's list stands for while it is absent.
fn kept(
    model: &Model,
    interface: &Interface,
    id: GroupId,
    group: &Group,
    direction: Direction,
) -> Vec<Value> {
    let rules = match direction {
        Direction::Inbound => &group.inbound,
        Direction::Outbound => &group.outbound,
    };
    if matches!(rules, Rules::Written(_)) {
        return Vec::new();
    }
    // What `default` stands for differs between the VPCs of its project, and once written it does not: none of them loses any.
    let ipv6 = model.vpcs.iter().enumerate().any(|(id, vpc)| {
        vpc.ipv6 && (id == interface.vpc.0 || (group.is_default() && vpc.project == group.project))
    });
    implied(group, id, direction, ipv6)
        .into_iter()
        .map(|(protocol, remote)| {
            let protocol = if protocol == Protocol::Tcp { "TCP" } else { "ALL" };
            let remote = match remote {
                Remote::Cidr(net) => net.to_string(),
                Remote::Group(_) => format!("@{}", group.name),
            };
            json!({ "protocol": protocol, remote_field(direction): remote, "port": "ALL" })
        })
        .collect()
}

/// `sgctl rule add`, with the rule as options.
fn command(model: &Model, addition: &Addition) -> String {
    let Addition { group, project, vpc, list, rule, .. } = addition;
    let mut command = format!("sgctl rule add {group} {list}");
    for (field, value) in rule.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        command += &format!(" --{} {value}", field.replace('_', "-"));
    }
    let namesakes = model.groups.iter().filter(|other| other.name == *group);
    if namesakes.count() > 1 {
        command += &format!(" --project {project}");
        if let Some(vpc) = vpc {
            command += &format!(" --vpc {vpc}");
        }
    }
    command
}
