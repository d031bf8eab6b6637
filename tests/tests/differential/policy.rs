//! Small policies for one interface: dense enough that rules and traffic meet.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

/// The instance behind the filtered device.
pub const GUEST: [&str; 2] = ["10.0.0.5", "fd00::5"];
/// Whom it talks with.
pub const REMOTES: [[&str; 3]; 2] =
    [["198.51.100.7", "198.51.100.9", "10.0.9.9"], ["2001:db8:bad::7", "2001:db8:bad::9", "fd00:9::9"]];
/// What is served at either end.
pub const SERVICES: [u16; 4] = [22, 80, 443, 5000];
/// Protocols without ports of their own in a rule: GRE, and one that nobody tracks.
pub const OTHERS: [u8; 2] = [47, 99];

const CIDRS: [&str; 12] = [
    "0.0.0.0/0",
    "0.0.0.0/0",
    "198.51.100.0/24",
    "198.51.100.0/29",
    "198.51.100.9/32",
    "10.0.0.0/8",
    "::/0",
    "::/0",
    "2001:db8::/32",
    "2001:db8:bad::/125",
    "2001:db8:bad::9/128",
    "fd00::/8",
];

#[derive(Debug, Clone)]
pub struct Policy {
    pub inbound: Vec<Rule>,
    pub outbound: Vec<Rule>,
    /// The members of the group that rules refer to.
    pub friends: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub remote: Remote,
    pub what: What,
}

#[derive(Debug, Clone, Copy)]
pub enum Remote {
    Cidr(&'static str),
    Friends,
}

#[derive(Debug, Clone, Copy)]
pub enum What {
    All,
    Tcp(u16, u16),
    Udp(u16, u16),
    Icmp { kind: Option<u8>, code: Option<u8> },
    Protocol(u8),
}

pub fn any_policy() -> impl Strategy<Value = Policy> {
    let rules = || vec(any_rule(), 0..=4);
    let remotes: Vec<IpAddr> = REMOTES.iter().flatten().map(|text| text.parse().unwrap()).collect();
    (rules(), rules(), subsequence(remotes, 0..=6)).prop_map(|(inbound, outbound, friends)| Policy {
        inbound,
        outbound,
        friends,
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let remote = prop_oneof![4 => select(CIDRS.to_vec()).prop_map(Remote::Cidr), 1 => Just(Remote::Friends)];
    (remote, any_what()).prop_map(|(remote, what)| Rule { remote, what })
}

fn any_what() -> impl Strategy<Value = What> {
    let ports = || {
        let pairs = vec![(1, 65535), (80, 80), (22, 80), (81, 442), (443, 443), (80, 5000), (40000, 40003)];
        select(pairs)
    };
    let kinds = vec![None, Some(0), Some(1), Some(3), Some(8), Some(11), Some(128), Some(129)];
    let icmp = (select(kinds), any::<bool>())
        .prop_map(|(kind, code)| What::Icmp { kind, code: kind.and(code.then_some(0)) });
    prop_oneof![
        3 => Just(What::All),
        4 => ports().prop_map(|(low, high)| What::Tcp(low, high)),
        2 => ports().prop_map(|(low, high)| What::Udp(low, high)),
        2 => icmp,
        1 => select(OTHERS.to_vec()).prop_map(What::Protocol),
    ]
}

impl Policy {
    /// The file for sgd.
    pub fn file(&self, hook: &str) -> Value {
        let rules =
            |rules: &[Rule], side: &str| -> Vec<Value> { rules.iter().map(|rule| rule.json(side)).collect() };
        let peers: Vec<Value> = self
            .friends
            .iter()
            .map(|address| json!({ "address": address, "security_groups": ["friends"] }))
            .collect();
        json!({
            "version": 1, "project": "shop", "vpc": "main", "ipv6": true,
            "security_groups": [
                { "name": "test", "inbound": rules(&self.inbound, "source"),
                  "outbound": rules(&self.outbound, "destination") },
                { "name": "friends" },
            ],
            "interfaces": [{ "name": "sg0", "hook": hook, "addresses": GUEST, "security_groups": ["test"] }],
            "peers": peers,
        })
    }
}

impl Rule {
    pub fn new(cidr: &'static str, what: What) -> Self {
        Self { remote: Remote::Cidr(cidr), what }
    }

    fn json(&self, side: &str) -> Value {
        let remote = match self.remote {
            Remote::Cidr(cidr) => cidr,
            Remote::Friends => "@friends",
        };
        let range =
            |low: u16, high: u16| if low == high { json!(low) } else { json!(format!("{low}-{high}")) };
        let mut rule = match self.what {
            What::All => json!({ "protocol": "ALL" }),
            What::Tcp(low, high) => json!({ "protocol": "TCP", "port": range(low, high) }),
            What::Udp(low, high) => json!({ "protocol": "UDP", "port": range(low, high) }),
            What::Protocol(number) => json!({ "protocol": number }),
            What::Icmp { kind, code } => {
                let mut rule = json!({ "protocol": "ICMP" });
                for (field, number) in [("icmp_type", kind), ("icmp_code", code)] {
                    if let Some(number) = number {
                        rule[field] = number.into();
                    }
                }
                rule
            }
        };
        rule[side] = remote.into();
        rule
    }
}
