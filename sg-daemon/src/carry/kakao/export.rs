//! From a policy to what KakaoCloud would answer about it.

use super::shape::{
    AddressPair, Attached, Document, NetworkInterface, Port, SecurityGroup, SecurityGroupRule,
};
use crate::carry::export::files;
use crate::carry::family::{Word, uuid_of};
use crate::carry::{DEVICE_TAG, File, Group, Remote, Report, Rule};
use crate::policy::model::{Match, Metadata, Model, Protocol};

/// One document with the groups and the interfaces of all VPCs.
pub fn export(model: &Model) -> (Document, Report) {
    let mut report = Report::default();
    let mut groups = Vec::new();
    let mut interfaces = Vec::new();
    for file in &files(model, Metadata::Explicit, &mut report) {
        let attached = |names: &[String]| {
            names.iter().map(|name| Attached::Group { id: group_id(file, name) }).collect()
        };
        for group in &file.groups {
            groups.push(SecurityGroup {
                id: group_id(file, &group.name),
                name: group.name.clone(),
                description: Some(group.description.clone()),
                project_id: Some(file.project.clone()),
                vpc_id: Some(file.vpc.clone()),
                rules: rules(file, group, &mut report),
            });
            if group.include_allowed_addresses {
                let why = "KakaoCloud has no such field";
                report.loss("", format!("{}.include_allowed_addresses", group.name), why);
            }
        }
        for interface in &file.interfaces {
            let mut addresses = interface.addresses.iter().map(ToString::to_string);
            if interface.addresses.is_empty() && !interface.bare_metal {
                let why = "an interface without addresses may use any here, and none in KakaoCloud";
                report.loss("", format!("{}.addresses", interface.name), why);
            }
            interfaces.push(NetworkInterface {
                id: uuid_of(&[&file.project, &file.vpc, "device", &interface.name]),
                name: Some(interface.name.clone()),
                security_groups: attached(&interface.groups),
                mac_address: interface.mac.clone(),
                private_ip: addresses.next(),
                secondary_ips: addresses.collect(),
                allowed_address_pairs: interface
                    .allowed_addresses
                    .iter()
                    .map(|address| AddressPair { ip_address: address.to_string(), mac_address: None })
                    .collect(),
                instance_id: Some(interface.instance.clone()),
                is_bare_metal: interface.bare_metal.then_some(true),
                tags: vec![format!("{DEVICE_TAG}={}", interface.name)],
            });
        }
        for peer in &file.peers {
            interfaces.push(NetworkInterface {
                id: uuid_of(&[&file.project, &file.vpc, &peer.address.to_string()]),
                security_groups: attached(&peer.groups),
                private_ip: Some(peer.address.to_string()),
                ..NetworkInterface::default()
            });
        }
    }
    let document = Document {
        security_groups: Some(groups),
        network_interfaces: Some(interfaces),
        ..Document::default()
    };
    (document, report)
}

fn group_id(file: &File, name: &str) -> String {
    uuid_of(&[&file.project, &file.vpc, "group", name])
}

fn rules(file: &File, group: &Group, report: &mut Report) -> Vec<SecurityGroupRule> {
    let mut all = Vec::new();
    for (direction, list, rules) in
        [("ingress", "inbound", &group.inbound), ("egress", "outbound", &group.outbound)]
    {
        for (index, one) in rules.iter().enumerate() {
            match rule(file, one, direction) {
                Ok(rule) => all.push(rule),
                Err(why) => report.loss("", format!("{}.{list}[{index}]", group.name), why),
            }
        }
    }
    all
}

fn rule(file: &File, rule: &Rule, direction: &str) -> Result<SecurityGroupRule, &'static str> {
    let protocol = match rule.protocol {
        Protocol::All => "ALL",
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Icmp => "ICMP",
        Protocol::Number(_) => return Err("KakaoCloud has rules for TCP, UDP, ICMP and ALL only"),
    };
    let word = |number: u16| Some(Port(Word::Number(number.into())));
    let all = || Some(Port(Word::Text("ALL".to_owned())));
    let (min, max) = match (&rule.matches, rule.protocol) {
        (Match::Ports(range), _) => (word(range.min), word(range.max)),
        (Match::Icmp { .. }, _) => return Err("KakaoCloud's ICMP rules have no type and code"),
        (Match::Any, Protocol::Tcp | Protocol::Udp) => (all(), all()),
        (Match::Any, _) => (None, None),
    };
    let (prefix, group) = match &rule.remote {
        Remote::Cidr(net) => (Some(net.to_string()), None),
        Remote::Group(name) => (None, Some(group_id(file, name))),
    };
    Ok(SecurityGroupRule {
        direction: direction.to_owned(),
        protocol: Some(protocol.to_owned()),
        port_range_min: min,
        port_range_max: max,
        remote_ip_prefix: prefix,
        remote_group_id: group,
        description: Some(rule.description.clone()),
        ..SecurityGroupRule::default()
    })
}
