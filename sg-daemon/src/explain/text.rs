//! Rules as people write them.

use sg_common::abi::Direction;

use crate::api::explain::RuleText;
use crate::compile::fit::{Fit, Tuple};
use crate::compile::rules::{Effective, Origin};
use crate::policy::model::{GroupId, Match, Model, Protocol, Remote, Source};

pub const fn list(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

pub const fn remote_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "source",
        Direction::Outbound => "destination",
    }
}

fn group_name(model: &Model, id: GroupId) -> String {
    model.groups.get(id.0).map_or_else(String::new, |group| group.name.clone())
}

/// `file:line` of what stands in a policy.
pub fn place(model: &Model, source: Source) -> Option<(String, u32)> {
    Some((model.files.get(source.file.0)?.display().to_string(), source.line))
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
    let place = match rule.origin {
        Origin::Written { source, .. } => place(model, source),
        _ => None,
    };
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
        Protocol::Number(number) => match crate::protocols::name(number) {
            Some(name) => format!("protocol {number} ({name})"),
            None => format!("protocol {number}"),
        },
    }
}

/// Why a rule does not allow the packet.
pub fn misfit(fit: Fit, rule: &Effective, packet: &Tuple) -> String {
    let mut parts = Vec::new();
    if !fit.remote {
        parts.push(match rule.remote {
            Remote::Cidr(net) => format!("{} is not in {net}", packet.remote),
            Remote::Group(_) => format!("{} is not a member of the group", packet.remote),
        });
    }
    if !fit.protocol {
        parts.push(format!("the rule is for {}", protocol_name(rule.protocol)));
    }
    if !fit.matches && fit.protocol {
        parts.push(match (packet.port, packet.icmp) {
            (Some(port), _) => format!("port {port} is not the rule's"),
            (None, Some((kind, code))) => format!("type {kind} code {code} is not the rule's"),
            (None, None) => "the packet has no port or type that the rule could ask for".to_owned(),
        });
    }
    if parts.is_empty() && !fit.reaches {
        parts.push("the metadata service is reserved".to_owned());
    }
    parts.join("; ")
}
