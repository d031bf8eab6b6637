//! The same policy for nftables, as its own manuals would have it: what belongs to a connection passes, what
//! conntrack calls invalid does not, then the rules, and the rest is dropped.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::policy::{Policy, Remote, Rule, What};
use crate::wire::{INSIDE, OUTSIDE};

/// Mark of a packet from the guest, and of one for it. IP rules of a bridge see the bridge instead of its port.
const MARKS: [(&str, u8); 2] = [(INSIDE, 1), (OUTSIDE, 2)];

/// The whole ruleset. Connections of another `zone` are others, so a new one begins with none.
pub fn ruleset(policy: &Policy, zone: u16) -> String {
    let mut text = String::from("flush ruleset\ntable bridge ports {\nchain prerouting {\n");
    text.push_str("type filter hook prerouting priority -200;\n");
    for (port, mark) in MARKS {
        writeln!(text, "iifname \"{port}\" meta mark set {mark}").unwrap();
    }
    text.push_str("}\n}\ntable inet groups {\nchain zone {\ntype filter hook prerouting priority -300;\n");
    writeln!(text, "ct zone set {zone}").unwrap();
    text.push_str("}\nchain forward {\ntype filter hook forward priority 0; policy drop;\n");
    text.push_str("ct state established,related accept\nct state invalid drop\n");
    for (rules, remote, (_, mark)) in
        [(&policy.outbound, "daddr", MARKS[0]), (&policy.inbound, "saddr", MARKS[1])]
    {
        for rule in rules {
            for line in lines(rule, remote, &policy.friends) {
                writeln!(text, "meta mark {mark} {line} accept").unwrap();
            }
        }
    }
    text.push_str("}\n}\n");
    text
}

/// One line for each family that the rule is about.
fn lines(rule: &Rule, remote: &str, friends: &[IpAddr]) -> Vec<String> {
    let families: Vec<(bool, String)> = match rule.remote {
        Remote::Cidr(cidr) => vec![(cidr.contains(':'), cidr.to_owned())],
        Remote::Friends => [false, true]
            .into_iter()
            .filter_map(|v6| {
                let members: Vec<String> =
                    friends.iter().filter(|ip| ip.is_ipv6() == v6).map(ToString::to_string).collect();
                (!members.is_empty()).then(|| (v6, format!("{{ {} }}", members.join(", "))))
            })
            .collect(),
    };
    families.into_iter().map(|(v6, remotes)| line(v6, remote, &remotes, rule.what)).collect()
}

fn line(v6: bool, remote: &str, remotes: &str, what: What) -> String {
    let (family, header, icmp) = if v6 { ("ipv6", "ip6", "icmpv6") } else { ("ipv4", "ip", "icmp") };
    let mut line = format!("meta nfproto {family}");
    // nft leaves a network of all addresses out, and the family with it.
    if !remotes.ends_with("/0") {
        write!(line, " {header} {remote} {remotes}").unwrap();
    }
    match what {
        What::All => {}
        What::Tcp(low, high) => write!(line, " meta l4proto 6 th dport {low}-{high}").unwrap(),
        What::Udp(low, high) => write!(line, " meta l4proto 17 th dport {low}-{high}").unwrap(),
        What::Protocol(number) => write!(line, " meta l4proto {number}").unwrap(),
        What::Icmp { kind, code } => {
            write!(line, " meta l4proto {}", if v6 { 58 } else { 1 }).unwrap();
            for (field, number) in [("type", kind), ("code", code)] {
                if let Some(number) = number {
                    write!(line, " {icmp} {field} {number}").unwrap();
                }
            }
        }
    }
    line
}
