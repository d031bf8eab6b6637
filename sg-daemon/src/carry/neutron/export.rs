//! From a policy to what Neutron would answer about it.

use ipnet::IpNet;

use super::shape::{AddressPair, Document, FixedIp, Port, SecurityGroup, SecurityGroupRule};
use crate::carry::export::files;
use crate::carry::family::{ICMP, ICMPV6, Word, icmp_numbers, uuid_of};
use crate::carry::{DEVICE_TAG, File, Group, Interface, Remote, Report, Rule};
use crate::policy::model::{Match, Metadata, Model, Protocol};

/// One document with the groups and the ports of all VPCs.
pub fn export(model: &Model) -> (Document, Report) {
    let mut report = Report::default();
    let mut groups = Vec::new();
    let mut ports = Vec::new();
    for file in &files(model, Metadata::Cidr, &mut report) {
        if file.vpc != super::VPC {
            let why = "Neutron's groups belong to a project, not to a VPC";
            report.loss("", format!("vpc {}", file.vpc), why);
        }
        for group in &file.groups {
            groups.push(SecurityGroup {
                id: group_id(file, &group.name),
                name: group.name.clone(),
                description: Some(group.description.clone()),
                project_id: Some(file.project.clone()),
                stateful: Some(true),
                security_group_rules: rules(file, group, &mut report),
                ..SecurityGroup::default()
            });
        }
        for interface in &file.interfaces {
            ports.push(local(file, interface, &mut report));
        }
        for peer in &file.peers {
            ports.push(Port {
                id: uuid_of(&[&file.project, &file.vpc, &peer.address.to_string()]),
                project_id: Some(file.project.clone()),
                fixed_ips: vec![FixedIp { ip_address: peer.address.to_string() }],
                security_groups: peer.groups.iter().map(|name| group_id(file, name)).collect(),
                port_security_enabled: Some(true),
                ..Port::default()
            });
        }
    }
    let document = Document { security_groups: Some(groups), ports: Some(ports), ..Document::default() };
    (document, report)
}

fn group_id(file: &File, name: &str) -> String {
    uuid_of(&[&file.project, &file.vpc, "group", name])
}

fn local(file: &File, interface: &Interface, report: &mut Report) -> Port {
    let mut lose = |field: &str, why: &str| report.loss("", format!("{}.{field}", interface.name), why);
    if interface.bare_metal && !interface.groups.is_empty() {
        lose("security_groups", "a port without port security has no groups in Neutron");
    }
    if interface.addresses.is_empty() && !interface.bare_metal {
        lose("addresses", "an interface without addresses may use any here, and none in Neutron");
    }
    for name in &interface.groups {
        let own = file.groups.iter().find(|group| group.name == *name);
        if own.is_some_and(|group| !group.include_allowed_addresses)
            && !interface.allowed_addresses.is_empty()
        {
            lose("allowed_addresses", "in Neutron they are members of the port's groups too");
        }
    }
    Port {
        id: uuid_of(&[&file.project, &file.vpc, "device", &interface.name]),
        project_id: Some(file.project.clone()),
        mac_address: interface.mac.clone(),
        fixed_ips: interface
            .addresses
            .iter()
            .map(|address| FixedIp { ip_address: address.to_string() })
            .collect(),
        allowed_address_pairs: interface
            .allowed_addresses
            .iter()
            .map(|address| AddressPair {
                ip_address: address.to_string(),
                mac_address: interface.mac.clone(),
            })
            .collect(),
        security_groups: if interface.bare_metal {
            Vec::new()
        } else {
            interface.groups.iter().map(|name| group_id(file, name)).collect()
        },
        port_security_enabled: Some(!interface.bare_metal),
        device_owner: "compute:nova".to_owned(),
        device_id: interface.instance.clone(),
        tags: vec![format!("{DEVICE_TAG}={}", interface.name)],
        ..Port::default()
    }
}

fn rules(file: &File, group: &Group, report: &mut Report) -> Vec<SecurityGroupRule> {
    let mut all = Vec::new();
    for (direction, list, rules) in
        [("ingress", "inbound", &group.inbound), ("egress", "outbound", &group.outbound)]
    {
        for (index, one) in rules.iter().enumerate() {
            match rule(file, one, direction) {
                Ok(rules) => all.extend(rules),
                Err(why) => report.loss("", format!("{}.{list}[{index}]", group.name), why),
            }
        }
    }
    all
}

fn rule(file: &File, rule: &Rule, direction: &str) -> Result<Vec<SecurityGroupRule>, &'static str> {
    // Protocol and family of each.
    let mut forms: Vec<(Option<String>, bool)> = Vec::new();
    let families = match &rule.remote {
        Remote::Cidr(net) => vec![net.addr().is_ipv6()],
        Remote::Group(_) => vec![false, true],
    };
    match rule.protocol {
        Protocol::All => forms.extend(families.iter().map(|v6| (None, *v6))),
        Protocol::Tcp => forms.extend(families.iter().map(|v6| (Some("tcp".to_owned()), *v6))),
        Protocol::Udp => forms.extend(families.iter().map(|v6| (Some("udp".to_owned()), *v6))),
        Protocol::Number(0) => return Err("Neutron takes protocol 0 for all protocols"),
        Protocol::Number(ICMP) if matches!(rule.remote, Remote::Cidr(IpNet::V6(_))) => {
            return Err("Neutron takes ICMP in IPv6 for ICMPv6");
        }
        Protocol::Icmp | Protocol::Number(ICMP | ICMPV6) => {
            for number in icmp_numbers(rule.protocol, &rule.remote) {
                let v6 = match &rule.remote {
                    Remote::Cidr(net) => net.addr().is_ipv6(),
                    Remote::Group(_) => number == ICMPV6,
                };
                let name = match (number, v6) {
                    (ICMP, _) => "icmp",
                    (_, true) => "ipv6-icmp",
                    (_, false) => "58",
                };
                forms.push((Some(name.to_owned()), v6));
            }
        }
        Protocol::Number(number) => forms.extend(families.iter().map(|v6| (Some(number.to_string()), *v6))),
    }
    let (min, max) = match &rule.matches {
        Match::Any => (None, None),
        Match::Ports(range) => (Some(range.min.into()), Some(range.max.into())),
        Match::Icmp { kind, code } => (Some((*kind).into()), code.map(i64::from)),
    };
    let (prefix, group) = match &rule.remote {
        Remote::Cidr(net) => (Some(net.to_string()), None),
        Remote::Group(name) => (None, Some(group_id(file, name))),
    };
    let one = |(protocol, v6): (Option<String>, bool)| SecurityGroupRule {
        direction: direction.to_owned(),
        ethertype: Some(if v6 { "IPv6".to_owned() } else { "IPv4".to_owned() }),
        protocol: protocol.map(Word::Text),
        port_range_min: min,
        port_range_max: max,
        remote_ip_prefix: prefix.clone(),
        remote_group_id: group.clone(),
        description: Some(rule.description.clone()),
        ..SecurityGroupRule::default()
    };
    Ok(forms.into_iter().map(one).collect())
}
