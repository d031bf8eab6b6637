//! The policies under which packets are measured.

use serde_json::{Value, json};

/// The guest behind each device.
pub const GUESTS: [[&str; 2]; 2] = [["10.0.0.5", "fd00::5"], ["10.0.0.6", "fd00::6"]];
/// Its devices, by the hook of what the guest sends.
pub const HOOKS: [&str; 2] = ["xdp", "tc"];

/// What the guest serves and what it asks for. Nothing else is allowed to anybody.
pub const SERVED: u16 = 80;
pub const ASKED: u16 = 443;
pub const DENIED: u16 = 81;

/// Who sends and answers: the first address of IPv4 from which flows are counted, and all of them as a prefix.
pub const REMOTES_V4: (u32, &str) = (0xc612_0000, "198.18.0.0/15");
pub const REMOTES_V6: ([u16; 6], &str) = ([0x2001, 0xdb8, 1, 0, 0, 0], "2001:db8:1::/64");

/// Rules in a group.
const A_GROUP: usize = 100;

#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Of one direction; the other has as many.
    pub rules: usize,
    /// Members of a group that a rule names.
    pub members: usize,
}

/// A policy file in which the rules that allow the traffic come last.
pub fn policy(size: Size, devices: &[String; 2]) -> Value {
    let mut inbound = rules(size.rules, "source", SERVED);
    let mut outbound = rules(size.rules, "destination", ASKED);
    if size.members > 0 {
        // In the place of the rules for prefixes, so that the number stays what it is.
        for (rules, remote, port) in [(&mut inbound, "source", SERVED), (&mut outbound, "destination", ASKED)]
        {
            rules.truncate(rules.len() - 2);
            rules.extend(
                ["TCP", "UDP"]
                    .map(|protocol| json!({ "protocol": protocol, remote: "@members", "port": port })),
            );
        }
    }
    let groups = inbound.chunks(A_GROUP).zip(outbound.chunks(A_GROUP)).enumerate();
    let mut security_groups: Vec<Value> = groups
        .map(|(number, (inbound, outbound))| {
            json!({ "name": format!("group{number}"), "inbound": inbound, "outbound": outbound })
        })
        .collect();
    let attached: Vec<Value> = security_groups.iter().map(|group| group["name"].clone()).collect();
    security_groups.push(json!({ "name": "members" }));
    let interfaces: Vec<Value> = (0..2)
        .map(|index| {
            json!({ "name": devices[index], "hook": HOOKS[index], "addresses": GUESTS[index], "security_groups": attached })
        })
        .collect();
    let (v4, v6) = (REMOTES_V4.0, REMOTES_V6.0);
    let members = (0..size.members).map(|number| {
        // Every other one is of IPv6.
        let low = number as u32 / 2;
        let address = if number % 2 == 0 {
            std::net::Ipv4Addr::from(v4 + low).to_string()
        } else {
            let low = v4 + low;
            let [a, b, c, d, e, f] = v6;
            std::net::Ipv6Addr::new(a, b, c, d, e, f, (low >> 16) as u16, low as u16).to_string()
        };
        json!({ "address": address, "security_groups": ["members"] })
    });
    json!({
        "version": 1, "project": "bench", "vpc": "main", "ipv6": true,
        "settings": { "quotas": { "rules_per_group": 1000, "groups_per_project": 1000, "groups_per_interface": 1000 } },
        "security_groups": security_groups, "interfaces": interfaces, "peers": members.collect::<Vec<_>>(),
    })
}

/// Four rules for each of many prefixes, half of them of IPv6, and at the end the two that everything needs.
fn rules(count: usize, remote: &str, port: u16) -> Vec<Value> {
    let ports = ["22".to_owned(), "443".to_owned(), "3306".to_owned(), "8000-8999".to_owned()];
    let mut rules: Vec<Value> = (0..count.saturating_sub(2))
        .map(|number| {
            let prefix = number / 4;
            let (high, low) = (prefix / 2 / 256, prefix / 2 % 256);
            let prefix = if prefix.is_multiple_of(2) {
                format!("172.{}.{low}.0/24", 16 + high)
            } else {
                format!("2001:db8:2:{:x}::/64", prefix / 2)
            };
            json!({ "protocol": if number % 8 < 6 { "TCP" } else { "UDP" }, remote: prefix, "port": ports[number % 4] })
        })
        .collect();
    rules.push(json!({ "protocol": "TCP", remote: REMOTES_V6.1, "port": port }));
    rules.push(json!({ "protocol": "TCP", remote: REMOTES_V4.1, "port": port }));
    rules
}
