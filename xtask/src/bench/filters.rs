//! One policy, as each filter would have it, and how each is told of it.
//!
//! Inbound, each rule names a network and a port; outbound, everything is allowed. Replies pass, and what is no part of a connection
//! does not.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sg_tests::{Netns, Process};

use super::report::bars::{IPSET, NEUTRON, NFT, NFT_LINES};

/// The guest's device on the host.
pub const DEVICE: &str = "tap0";
pub const GUEST: &str = "10.0.0.5";
/// Who may use what the guest serves, and nobody may use anything else that is served here.
pub const CLIENTS: &str = "198.18.0.0/15";
pub const TCP_PORT: u16 = 80;
pub const UDP_PORT: u16 = 7000;
pub const DENIED_PORT: u16 = 81;

/// For a filter to be told of 10,000 rules on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rules in a group.
const A_GROUP: usize = 100;

/// Rules of TCP, of which the last is what traffic needs. Beside them there is one of UDP.
#[derive(Debug, Clone)]
pub struct Rules(pub Vec<(String, u16)>);

impl Rules {
    /// Those of another `variant` are others, but for the last.
    pub fn new(count: usize, variant: u16) -> Self {
        // Four ports a network.
        let prefixes = (0..count).map(|number| format!("172.{}.{}.0/24", 16 + number / 256, number % 256));
        let ports = [22, 443, 3306, 8000].map(|port| port + 10_000 * variant);
        let all = prefixes.flat_map(|prefix| ports.map(|port| (prefix.clone(), port)));
        let mut rules: Vec<_> = all.take(count.saturating_sub(1)).collect();
        rules.push((CLIENTS.to_owned(), TCP_PORT));
        Self(rules)
    }

    /// The policy for sgd, with another device whose guest may send everything to everybody, if the device is filtered too.
    pub fn sgd(&self, other: Option<Other<'_>>) -> Value {
        let mut groups: Vec<Value> = self
            .0
            .chunks(A_GROUP)
            .enumerate()
            .map(|(number, rules)| {
                let inbound: Vec<Value> = rules
                    .iter()
                    .map(|(source, port)| json!({ "protocol": "TCP", "source": source, "port": port }))
                    .collect();
                json!({ "name": format!("group{number}"), "inbound": inbound })
            })
            .collect();
        let udp = json!([{ "protocol": "UDP", "source": CLIENTS, "port": UDP_PORT }]);
        groups.push(json!({ "name": "datagrams", "inbound": udp }));
        let names: Vec<&Value> = groups.iter().filter_map(|group| group.get("name")).collect();
        let mut interfaces =
            vec![json!({ "name": DEVICE, "hook": "tc", "addresses": [GUEST], "security_groups": names })];
        let (groups, interfaces) = match other {
            None => (json!(groups), json!(interfaces)),
            Some(Other { device, fast_path }) => {
                let all = json!([{ "protocol": "ALL", "source": "0.0.0.0/0" }]);
                interfaces.push(json!({
                    "name": device, "hook": "tc", "security_groups": ["everything"], "fast_path": fast_path,
                }));
                let everything = json!({ "name": "everything", "inbound": all });
                (json!([groups, vec![everything]].concat()), json!(interfaces))
            }
        };
        json!({
            "version": 1, "project": "bench", "vpc": "main",
            "settings": {
                "quotas": { "rules_per_group": 1000, "groups_per_project": 1000, "groups_per_interface": 1000 },
                // Thousands of connections a second are closed.
                "timeouts": { "tcp_close": 1 },
            },
            "interfaces": interfaces,
            "security_groups": groups,
        })
    }
}

/// The sender's device on the host, when it is filtered too.
#[derive(Debug, Clone, Copy)]
pub struct Other<'a> {
    pub device: &'a str,
    pub fast_path: bool,
}

/// Somebody else's filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    NftSets,
    NftLines,
    Ipset,
    Neutron,
}

impl Peer {
    pub const ALL: [Self; 4] = [Self::NftSets, Self::NftLines, Self::Ipset, Self::Neutron];

    pub fn name(self) -> &'static str {
        match self {
            Self::NftSets => NFT,
            Self::NftLines => NFT_LINES,
            Self::Ipset => IPSET,
            Self::Neutron => NEUTRON,
        }
    }

    pub fn is_bridged(self) -> bool {
        self == Self::Neutron
    }

    /// Puts rules in force, in the place of those that were; says how long the programs took that do so.
    pub fn apply(self, host: &Netns, rules: &Rules, directory: &Path) -> Result<Duration> {
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            Ok::<_, anyhow::Error>(path.to_string_lossy().into_owned())
        };
        match self {
            Self::NftSets => run(host, "nft", &["-f", &file("sets.nft", &nft_sets(rules))?]),
            Self::NftLines => run(host, "nft", &["-f", &file("lines.nft", &nft_lines(rules))?]),
            Self::Ipset => {
                // The new members in a set of their own, which then takes the place of the old one.
                let taken = run(host, "ipset", &["restore", "-file", &file("ipset", &ipset(rules))?])?;
                let rules = file("ipset-rules", &iptables_with_ipset())?;
                Ok(taken + run(host, "iptables-restore", &[&rules])?)
            }
            Self::Neutron => run(host, "iptables-restore", &[&file("chains", &chains(rules))?]),
        }
    }

    /// One rule more, for one network and port that had none.
    pub fn add(self, host: &Netns, rules: &mut Rules, number: usize, directory: &Path) -> Result<Duration> {
        let (network, port) = (format!("172.31.{}.0/24", number % 256), 22 + (number / 256) as u16);
        match self {
            Self::NftSets => {
                let element = format!("{{ {network} . {port} }}");
                run(host, "nft", &["add", "element", "inet", "filter", "allowed", &element])
            }
            Self::NftLines => {
                let rule =
                    format!("insert rule inet filter inbound ip saddr {network} tcp dport {port} accept");
                run(host, "nft", &[&rule])
            }
            Self::Ipset => run(host, "ipset", &["add", "allowed", &format!("{network},tcp:{port}")]),
            Self::Neutron => {
                // What Neutron does: the chains as a whole.
                rules.0.insert(0, (network, port));
                self.apply(host, rules, directory)
            }
        }
    }
}

fn run(host: &Netns, program: &str, arguments: &[&str]) -> Result<Duration> {
    let program = crate::setup::program(program)?;
    let mut command = host.command(&program);
    command.args(arguments);
    let began = Instant::now();
    Process::finish(command, PATIENCE)?.success(&program.to_string_lossy())?;
    Ok(began.elapsed())
}

/// As a person would who knows nftables: one look into one set for all rules.
fn nft_sets(rules: &Rules) -> String {
    let elements: Vec<String> = rules.0.iter().map(|(network, port)| format!("{network} . {port}")).collect();
    nft(&format!(
        "set allowed {{ type ipv4_addr . inet_service; flags interval; elements = {{ {} }} }}\n\
         chain inbound {{ ip saddr . tcp dport @allowed accept\nip saddr {CLIENTS} udp dport {UDP_PORT} accept\n}}\n",
        elements.join(", ")
    ))
}

fn nft_lines(rules: &Rules) -> String {
    let mut lines = String::new();
    for (network, port) in &rules.0 {
        let _ = writeln!(lines, "ip saddr {network} tcp dport {port} accept");
    }
    nft(&format!("chain inbound {{ {lines}ip saddr {CLIENTS} udp dport {UDP_PORT} accept\n}}\n"))
}

fn nft(inbound: &str) -> String {
    format!(
        "table inet filter\ndelete table inet filter\ntable inet filter {{\n{inbound}\
         chain forward {{ type filter hook forward priority 0; policy drop;\n\
         ct state established,related accept\nct state invalid drop\n\
         iifname \"{DEVICE}\" accept\noifname \"{DEVICE}\" jump inbound\n}}\n}}\n"
    )
}

fn ipset(rules: &Rules) -> String {
    let size = "hashsize 16384 maxelem 1000000";
    let mut text = format!("create allowed hash:net,port {size} -exist\ncreate next hash:net,port {size}\n");
    for (network, port) in &rules.0 {
        // A set has no network of all addresses but knows any other.
        let _ = writeln!(text, "add next {network},tcp:{port}");
    }
    let _ = writeln!(text, "add next {CLIENTS},udp:{UDP_PORT}\nswap allowed next\ndestroy next");
    text
}

fn iptables_with_ipset() -> String {
    format!(
        "*filter\n:FORWARD DROP [0:0]\n\
         -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
         -A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A FORWARD -i {DEVICE} -j ACCEPT\n\
         -A FORWARD -o {DEVICE} -m set --match-set allowed src,dst -j ACCEPT\nCOMMIT\n"
    )
}

/// As Neutron's iptables driver lays them out: chains for each port of the bridge, one rule a line.
fn chains(rules: &Rules) -> String {
    let mut text = format!(
        "*filter\n:FORWARD ACCEPT [0:0]\n:sg-chain - [0:0]\n:i-{DEVICE} - [0:0]\n:o-{DEVICE} - [0:0]\n:fallback - [0:0]\n\
         -A FORWARD -m physdev --physdev-out {DEVICE} --physdev-is-bridged -j sg-chain\n\
         -A FORWARD -m physdev --physdev-in {DEVICE} --physdev-is-bridged -j sg-chain\n\
         -A sg-chain -m physdev --physdev-out {DEVICE} --physdev-is-bridged -j i-{DEVICE}\n\
         -A sg-chain -m physdev --physdev-in {DEVICE} --physdev-is-bridged -j o-{DEVICE}\n\
         -A sg-chain -j ACCEPT\n-A fallback -j DROP\n\
         -A o-{DEVICE} -m state --state RELATED,ESTABLISHED -j RETURN\n-A o-{DEVICE} -j RETURN\n\
         -A i-{DEVICE} -m state --state RELATED,ESTABLISHED -j RETURN\n"
    );
    for (network, port) in &rules.0 {
        let _ = writeln!(text, "-A i-{DEVICE} -s {network} -p tcp -m tcp --dport {port} -j RETURN");
    }
    let _ = writeln!(
        text,
        "-A i-{DEVICE} -s {CLIENTS} -p udp -m udp --dport {UDP_PORT} -j RETURN\n\
         -A i-{DEVICE} -m state --state INVALID -j DROP\n-A i-{DEVICE} -j fallback\nCOMMIT"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::{CLIENTS, Rules, chains, ipset, nft_lines, nft_sets};

    #[test]
    fn every_filter_is_told_of_every_rule() {
        let rules = Rules::new(1000, 1);
        assert_eq!(rules.0.iter().collect::<std::collections::BTreeSet<_>>().len(), 1000);
        for (network, port) in &rules.0 {
            assert!(nft_sets(&rules).contains(&format!("{network} . {port}")));
            assert!(nft_lines(&rules).contains(&format!("ip saddr {network} tcp dport {port} accept")));
            assert!(ipset(&rules).contains(&format!("add next {network},tcp:{port}\n")));
            assert!(chains(&rules).contains(&format!("-s {network} -p tcp -m tcp --dport {port} -j")));
            assert!(
                rules.sgd(None).to_string().contains(&format!("\"source\":\"{network}\",\"port\":{port}"))
            );
        }
        let shared: Vec<_> =
            Rules::new(1000, 0).0.into_iter().filter(|rule| rules.0.contains(rule)).collect();
        assert_eq!(shared, [(CLIENTS.to_owned(), 80)]);
    }
}
