//! Rules as people write them.

use ipnet::IpNet;
use sg_common::abi::Direction;
use sg_common::packet::protocol;

use super::{Asked, Fit, groups_for_addition, host_net, place};
use crate::api::types::{Addition, RuleText};
use crate::compile::rules::{Effective, METADATA_RANGE, Origin};
use crate::policy::model::{GroupId, Interface, Match, Model, Protocol, Remote};

const fn list(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

const fn remote_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "source",
        Direction::Outbound => "destination",
    }
}

fn group_name(model: &Model, id: GroupId) -> String {
    model.groups.get(id.0).map_or_else(String::new, |group| group.name.clone())
}

/// A rule with its group and its place.
pub fn rule(model: &Model, rule: &Effective, direction: Direction) -> RuleText {
    let (group, id) = match rule.origin {
        Origin::Written { group, index, .. } => {
            (Some(group_name(model, group)), format!("{}[{index}]", list(direction)))
        }
        Origin::Implied { group } => {
            (Some(group_name(model, group)), format!("{} (not written: the standard rule)", list(direction)))
        }
        Origin::Failsafe => (None, "settings.failsafe".to_owned()),
        Origin::MetadataExempt => (None, "settings.metadata: \"exempt\"".to_owned()),
    };
    let place = place(model, &rule.origin);
    RuleText {
        group,
        rule: id,
        text: sentence(model, rule, direction),
        file: place.as_ref().map(|(file, _)| file.clone()),
        line: place.map(|(_, line)| line),
        because: None,
    }
}

/// A rule in one word: `web/inbound[0]`.
pub fn id(model: &Model, rule: &Effective, direction: Direction) -> String {
    match rule.origin {
        Origin::Written { group, index, .. } => {
            format!("{}/{}[{index}]", group_name(model, group), list(direction))
        }
        Origin::Implied { group } => format!("{}/{}[standard]", group_name(model, group), list(direction)),
        Origin::Failsafe => "settings.failsafe".to_owned(),
        Origin::MetadataExempt => "settings.metadata".to_owned(),
    }
}

fn sentence(model: &Model, rule: &Effective, direction: Direction) -> String {
    words(model, rule.protocol, rule.remote, &rule.matches, direction)
}

/// `TCP port 80 from 0.0.0.0/0`.
pub fn words(
    model: &Model,
    protocol: Protocol,
    remote: Remote,
    matches: &Match,
    direction: Direction,
) -> String {
    let remote = match remote {
        Remote::Cidr(net) => net.to_string(),
        Remote::Group(group) => format!("@{}", group_name(model, group)),
    };
    let from = if direction == Direction::Inbound { "from" } else { "to" };
    let what = match matches {
        Match::Any => String::new(),
        Match::Ports(ports) if ports.min == ports.max => format!(" port {}", ports.min),
        Match::Ports(ports) => format!(" ports {}-{}", ports.min, ports.max),
        Match::Icmp { kind, code: None } => format!(" type {kind}"),
        Match::Icmp { kind, code: Some(code) } => format!(" type {kind} code {code}"),
    };
    format!("{}{what} {from} {remote}", protocol_name(protocol))
}

fn protocol_name(protocol: Protocol) -> String {
    match protocol {
        Protocol::All => "ALL".to_owned(),
        Protocol::Tcp => "TCP".to_owned(),
        Protocol::Udp => "UDP".to_owned(),
        Protocol::Icmp => "ICMP".to_owned(),
        Protocol::Number(number) => format!("protocol {number}"),
    }
}

/// Why a rule does not allow the packet.
pub fn misfit(fit: Fit, rule: &Effective, asked: &Asked) -> String {
    let mut parts = Vec::new();
    if !fit.remote {
        parts.push(match rule.remote {
            Remote::Cidr(net) => format!("{} is not in {net}", asked.remote),
            Remote::Group(_) => format!("{} is not a member of the group", asked.remote),
        });
    }
    if !fit.protocol {
        parts.push(format!("the rule is for {}", protocol_name(rule.protocol)));
    }
    if !fit.matches && fit.protocol {
        parts.push(match asked.protocol {
            protocol::TCP | protocol::UDP => format!("port {} is not the rule's", asked.port),
            _ => format!("type {} code {} is not the rule's", asked.icmp.0, asked.icmp.1),
        });
    }
    if parts.is_empty() && !fit.reaches {
        parts.push("the metadata service is reserved".to_owned());
    }
    parts.join("; ")
}

/// The rule that would allow the packet, ready to be pasted.
pub fn rule_to_add(model: &Model, interface: &Interface, asked: &Asked) -> Option<Addition> {
    let group = groups_for_addition(model, interface)?.to_owned();
    let remote: IpNet = if asked.is_metadata() { IpNet::V4(METADATA_RANGE) } else { host_net(asked.remote) };
    let field = remote_field(asked.direction);
    let mut rule = serde_json::Map::new();
    let is_icmp = asked.protocol == super::icmp_of(asked.remote);
    let name = match asked.protocol {
        protocol::TCP => serde_json::json!("TCP"),
        protocol::UDP => serde_json::json!("UDP"),
        _ if is_icmp => serde_json::json!("ICMP"),
        number => serde_json::json!(number),
    };
    rule.insert("protocol".into(), name);
    rule.insert(field.into(), remote.to_string().into());
    if matches!(asked.protocol, protocol::TCP | protocol::UDP) {
        rule.insert("port".into(), asked.port.to_string().into());
    }
    if is_icmp {
        rule.insert("icmp_type".into(), asked.icmp.0.into());
    }
    Some(Addition { group, list: list(asked.direction).to_owned(), rule: rule.into() })
}
