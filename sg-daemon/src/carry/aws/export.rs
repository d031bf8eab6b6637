//! From a policy to what EC2 would answer about it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::shape::{
    Attachment, Document, GroupIdentifier, IpPermission, IpRange, Ipv6Address, Ipv6Range, NetworkInterface,
    PrivateIpAddress, ProtocolWord, SecurityGroup, Tag, UserIdGroupPair,
};
use crate::carry::export::files;
use crate::carry::family::{ICMP, Word, icmp_numbers, id_of};
use crate::carry::{DEVICE_TAG, File, Interface, Remote, Report, Rule};
use crate::policy::model::{Match, Metadata, Model, Protocol};

/// One document with the groups and the interfaces of all VPCs.
pub fn export(model: &Model) -> (Document, Report) {
    let mut report = Report::default();
    let mut groups = Vec::new();
    let mut interfaces = Vec::new();
    for file in &files(model, Metadata::Exempt, &mut report) {
        groups.extend(file.groups.iter().map(|group| SecurityGroup {
            group_id: group_id(file, &group.name),
            group_name: group.name.clone(),
            description: group.description.clone(),
            owner_id: file.project.clone(),
            vpc_id: Some(file.vpc.clone()),
            ip_permissions: permissions(file, &group.inbound),
            ip_permissions_egress: permissions(file, &group.outbound),
        }));
        for interface in &file.interfaces {
            lost(interface, &mut report);
            interfaces.push(local(file, interface));
        }
        for peer in &file.peers {
            let id = id_of(&[&file.project, &file.vpc, &peer.address.to_string()]);
            interfaces.push(NetworkInterface {
                network_interface_id: format!("eni-{}", id.get(..17).unwrap_or_default()),
                vpc_id: Some(file.vpc.clone()),
                groups: identifiers(file, &peer.groups),
                source_dest_check: Some(true),
                ..with_addresses(&[peer.address])
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
    format!("sg-{}", id_of(&[&file.project, &file.vpc, name]).get(..17).unwrap_or_default())
}

fn identifiers(file: &File, groups: &[String]) -> Vec<GroupIdentifier> {
    let identifier =
        |name: &String| GroupIdentifier { group_id: group_id(file, name), group_name: name.clone() };
    groups.iter().map(identifier).collect()
}

fn lost(interface: &Interface, report: &mut Report) {
    if !interface.allowed_addresses.is_empty() {
        let why =
            "AWS has no allowed addresses beside an interface's own; SourceDestCheck allows all or none";
        report.loss("", format!("{}.allowed_addresses", interface.name), why);
    }
    if interface.bare_metal {
        let why = "AWS enforces rules on every interface";
        report.loss("", format!("{}.kind", interface.name), why);
    }
}

fn local(file: &File, interface: &Interface) -> NetworkInterface {
    let id = id_of(&[&file.project, &file.vpc, "device", &interface.name]);
    NetworkInterface {
        network_interface_id: format!("eni-{}", id.get(..17).unwrap_or_default()),
        vpc_id: Some(file.vpc.clone()),
        groups: identifiers(file, &interface.groups),
        mac_address: interface.mac.clone(),
        attachment: (!interface.instance.is_empty())
            .then(|| Attachment { instance_id: Some(interface.instance.clone()) }),
        // Without addresses it may use any.
        source_dest_check: Some(!interface.addresses.is_empty()),
        tag_set: vec![Tag { key: DEVICE_TAG.to_owned(), value: interface.name.clone() }],
        ..with_addresses(&interface.addresses)
    }
}

fn with_addresses(addresses: &[IpAddr]) -> NetworkInterface {
    let v4 = addresses.iter().filter(|address| address.is_ipv4());
    let v6 = addresses.iter().filter(|address| address.is_ipv6());
    NetworkInterface {
        private_ip_addresses: v4
            .enumerate()
            .map(|(index, address)| PrivateIpAddress {
                private_ip_address: address.to_string(),
                primary: index == 0,
            })
            .collect(),
        ipv6_addresses: v6.map(|address| Ipv6Address { address: address.to_string() }).collect(),
        ..NetworkInterface::default()
    }
}

/// Neighbours of one protocol and port share a permission, as EC2 has it, if that keeps the order.
fn permissions(file: &File, rules: &[Rule]) -> Vec<IpPermission> {
    let mut permissions: Vec<IpPermission> = Vec::new();
    for rule in rules {
        for one in permission(file, rule) {
            match permissions.last_mut() {
                Some(last) if same_key(last, &one) && kind(last) <= kind(&one) => {
                    last.ip_ranges.extend(one.ip_ranges);
                    last.ipv6_ranges.extend(one.ipv6_ranges);
                    last.user_id_group_pairs.extend(one.user_id_group_pairs);
                }
                _ => permissions.push(one),
            }
        }
    }
    permissions
}

fn same_key(a: &IpPermission, b: &IpPermission) -> bool {
    (&a.ip_protocol, a.from_port, a.to_port) == (&b.ip_protocol, b.from_port, b.to_port)
}

/// The last list that has something.
fn kind(permission: &IpPermission) -> u8 {
    match (permission.user_id_group_pairs.is_empty(), permission.ipv6_ranges.is_empty()) {
        (false, _) => 2,
        (true, false) => 1,
        (true, true) => 0,
    }
}

fn permission(file: &File, rule: &Rule) -> Vec<IpPermission> {
    let (from, to) = match (&rule.matches, rule.protocol) {
        (Match::Ports(range), _) => (Some(i64::from(range.min)), Some(i64::from(range.max))),
        (Match::Icmp { kind, code }, _) => (Some(i64::from(*kind)), Some(code.map_or(-1, i64::from))),
        (Match::Any, Protocol::Tcp | Protocol::Udp) => (Some(0), Some(65535)),
        (Match::Any, Protocol::Icmp | Protocol::Number(1 | 58)) => (Some(-1), Some(-1)),
        (Match::Any, _) => (None, None),
    };
    let words = match rule.protocol {
        Protocol::All => vec!["-1".to_owned()],
        Protocol::Tcp => vec!["tcp".to_owned()],
        Protocol::Udp => vec!["udp".to_owned()],
        other => {
            let icmp = icmp_numbers(other, &rule.remote);
            match other {
                Protocol::Number(number) if icmp.is_empty() => vec![number.to_string()],
                _ => icmp
                    .into_iter()
                    .map(|number| if number == ICMP { "icmp".to_owned() } else { "icmpv6".to_owned() })
                    .collect(),
            }
        }
    };
    let one = |word: String| {
        let mut permission = IpPermission {
            ip_protocol: Some(ProtocolWord(Word::Text(word))),
            from_port: from,
            to_port: to,
            ..IpPermission::default()
        };
        let description = (!rule.description.is_empty()).then(|| rule.description.clone());
        match &rule.remote {
            Remote::Cidr(IpNet::V4(net)) => permission.ip_ranges.push(IpRange {
                cidr_ip: net.to_string(),
                description,
                ..IpRange::default()
            }),
            Remote::Cidr(IpNet::V6(net)) => permission.ipv6_ranges.push(Ipv6Range {
                cidr_ipv6: net.to_string(),
                description,
                ..Ipv6Range::default()
            }),
            Remote::Group(name) => permission.user_id_group_pairs.push(UserIdGroupPair {
                group_id: Some(group_id(file, name)),
                user_id: Some(file.project.clone()),
                description,
                ..UserIdGroupPair::default()
            }),
        }
        permission
    };
    words.into_iter().map(one).collect()
}
