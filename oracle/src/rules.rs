//! The oracle: what SPEC.md sections 1 to 4 (and D26) say of the first packet of a flow, word for word.
//!
//! It reads the operator's JSON itself and shares no code with what it judges. Loops over everything, no tables, no
//! ranges, no tries: slow and plain on purpose. Whoever changes the compiler does not change this file.

use std::net::IpAddr;

use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(crate) fn rules(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    pub(crate) fn remote(self) -> &'static str {
        match self {
            Self::Inbound => "source",
            Self::Outbound => "destination",
        }
    }
}

/// What the transport header says, as far as rules ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp {
        port: u16,
    },
    Udp {
        port: u16,
    },
    /// The ICMP of the packet's family.
    Icmp {
        kind: u8,
        code: u8,
    },
    /// Every other protocol; 1 in an IPv6 packet and 58 in an IPv4 packet too.
    Other(u8),
}

/// The first packet of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pub interface: String,
    pub direction: Direction,
    pub remote: IpAddr,
    pub transport: Transport,
}

impl Question {
    pub fn protocol(&self) -> u8 {
        match (self.transport, self.remote) {
            (Transport::Tcp { .. }, _) => 6,
            (Transport::Udp { .. }, _) => 17,
            (Transport::Icmp { .. }, IpAddr::V4(_)) => 1,
            (Transport::Icmp { .. }, IpAddr::V6(_)) => 58,
            (Transport::Other(number), _) => number,
        }
    }
}

/// Whether the policy in `files` allows it.
pub fn allows(files: &[Value], question: &Question) -> bool {
    let (file, interface) = files
        .iter()
        .flat_map(|file| list(file, "interfaces").iter().map(move |interface| (file, interface)))
        .find(|(_, interface)| interface["name"] == question.interface.as_str())
        .expect("the question is about an interface of the policy");
    // K3
    if interface["kind"] == "bare_metal" {
        return true;
    }
    // K27
    let metadata = setting(files, "metadata");
    let reserved = question.direction == Direction::Outbound
        && in_cidr(question.remote, "169.254.169.0/24")
        && matches!(question.transport, Transport::Tcp { port: 80 });
    if reserved && metadata == "exempt" {
        return true;
    }
    let explicit = metadata.is_null() || metadata == "explicit";
    // D26
    if interface["role"] == "host"
        && failsafe(files, question.direction).iter().any(|rule| {
            in_cidr(question.remote, text(&rule[question.direction.remote()])) && covers(rule, question)
        })
    {
        return true;
    }
    // K8
    for name in list(interface, "security_groups").iter().map(text) {
        let home = home(files, file, name);
        for rule in rules(files, file, home, name, question.direction) {
            let remote = text(&rule[question.direction.remote()]);
            let hit = match remote.strip_prefix('@') {
                Some(group) => is_member(files, file, group, question.remote),
                None => in_cidr(question.remote, remote),
            };
            let barred = reserved && explicit && name != "default" && !inside(remote, "169.254.0.0/16");
            if hit && !barred && covers(&rule, question) {
                return true;
            }
        }
    }
    // K4
    false
}

/// The file that writes the group, if one does.
pub(crate) fn home<'f>(files: &'f [Value], of: &Value, name: &str) -> Option<&'f Value> {
    files.iter().find(|file| {
        // K24: custom names are a VPC's, `default` is the project's.
        file["project"] == of["project"]
            && (name == "default" || file["vpc"] == of["vpc"])
            && list(file, "security_groups").iter().any(|group| group["name"] == name)
    })
}

fn group<'f>(home: Option<&'f Value>, name: &str) -> Option<&'f Value> {
    list(home?, "security_groups").iter().find(|group| group["name"] == name)
}

/// The rules of one direction, those that nobody wrote included.
pub(crate) fn rules(
    files: &[Value],
    of: &Value,
    home: Option<&Value>,
    name: &str,
    direction: Direction,
) -> Vec<Value> {
    if let Some(written) = group(home, name).and_then(|group| group.get(direction.rules())) {
        return written.as_array().cloned().unwrap_or_default();
    }
    match (direction, name) {
        // K21
        (Direction::Inbound, "default") => {
            vec![json!({ "protocol": "TCP", "source": "@default", "port": "ALL" })]
        }
        // K25
        (Direction::Inbound, _) => Vec::new(),
        // K22, K26
        (Direction::Outbound, _) => {
            let mut rules = vec![json!({ "protocol": "ALL", "destination": "0.0.0.0/0", "port": "ALL" })];
            if files.iter().any(|file| same_vpc(file, of) && file["ipv6"] == true) {
                rules.push(json!({ "protocol": "ALL", "destination": "::/0", "port": "ALL" }));
            }
            rules
        }
    }
}

/// D1: whether `remote` is a member of `@name`, as the VPC of the file `of` sees it. A custom group that a rule of `default`
/// names is the group of that name in the VPC of the interface, as `default` itself is.
pub(crate) fn is_member(files: &[Value], of: &Value, name: &str, remote: IpAddr) -> bool {
    let allowed_too =
        group(home(files, of, name), name).is_some_and(|group| group["include_allowed_addresses"] == true);
    for file in files.iter().filter(|file| same_vpc(file, of)) {
        for interface in list(file, "interfaces").iter().filter(|interface| attached(interface, name)) {
            let is_remote = |address: &Value| self::address(text(address)) == remote;
            if list(interface, "addresses").iter().any(is_remote)
                || (allowed_too && list(interface, "allowed_addresses").iter().any(is_remote))
            {
                return true;
            }
        }
        for peer in list(file, "peers") {
            if attached(peer, name) && address(text(&peer["address"])) == remote {
                return true;
            }
        }
    }
    false
}

pub(crate) fn attached(member: &Value, name: &str) -> bool {
    list(member, "security_groups").iter().any(|group| group == name)
}

pub(crate) fn same_vpc(a: &Value, b: &Value) -> bool {
    a["project"] == b["project"] && a["vpc"] == b["vpc"]
}

/// K14, K16: protocol, ports and ICMP types; the remote is somebody else's question.
fn covers(rule: &Value, question: &Question) -> bool {
    let written = match &rule["protocol"] {
        Value::String(name) => name.to_ascii_lowercase(),
        number => number.to_string(),
    };
    let wanted: u8 = match written.as_str() {
        "all" => return true,
        "tcp" => 6,
        "udp" => 17,
        "icmp" if question.remote.is_ipv4() => 1,
        "icmp" | "icmpv6" | "ipv6-icmp" => 58,
        // IANA, "Protocol Numbers".
        "igmp" => 2,
        "ipip" => 4,
        "egp" => 8,
        "ipv6" => 41,
        "rsvp" => 46,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ospf" => 89,
        "pim" => 103,
        "vrrp" => 112,
        "l2tp" => 115,
        "sctp" => 132,
        "udplite" => 136,
        number => number.parse().expect("a protocol"),
    };
    if wanted != question.protocol() {
        return false;
    }
    match question.transport {
        Transport::Tcp { port } | Transport::Udp { port } => match &rule["port"] {
            Value::Number(number) => number.as_u64() == Some(port.into()),
            ports => match text(ports) {
                all if all.eq_ignore_ascii_case("all") => true,
                ports => {
                    let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
                    let (low, high): (u16, u16) =
                        (low.parse().expect("a port"), high.parse().expect("a port"));
                    low <= port && port <= high
                }
            },
        },
        Transport::Icmp { kind, code } => {
            let is = |field: &Value, number: u8| field.is_null() || field.as_u64() == Some(number.into());
            is(&rule["icmp_type"], kind) && is(&rule["icmp_code"], code)
        }
        // A packet that is not its family's ICMP has no type.
        Transport::Other(_) => rule["icmp_type"].is_null(),
    }
}

/// D26
pub(crate) fn failsafe(files: &[Value], direction: Direction) -> Vec<Value> {
    let written = setting(files, "failsafe");
    if !written.is_null() {
        return list(&written, direction.rules()).to_vec();
    }
    let rule = |protocol: &str, net: &str, port: u16| json!({ "protocol": protocol, direction.remote(): net, "port": port });
    match direction {
        Direction::Inbound => vec![rule("TCP", "0.0.0.0/0", 22), rule("TCP", "::/0", 22)],
        Direction::Outbound => vec![
            rule("TCP", "0.0.0.0/0", 53),
            rule("TCP", "::/0", 53),
            rule("UDP", "0.0.0.0/0", 53),
            rule("UDP", "::/0", 53),
        ],
    }
}

/// A daemon-wide setting: whichever file says it.
pub(crate) fn setting(files: &[Value], name: &str) -> Value {
    files
        .iter()
        .map(|file| &file["settings"][name])
        .find(|value| !value.is_null())
        .cloned()
        .unwrap_or_default()
}

pub fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Family, bits from the left.
fn bits(address: IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
}

fn split(cidr: &str) -> (IpAddr, usize) {
    let (address, length) = cidr.split_once('/').expect("a network");
    (self::address(address), length.parse().expect("a prefix length"))
}

/// K15: an IPv4 network holds no IPv6 address, and the other way round.
pub fn in_cidr(address: IpAddr, cidr: &str) -> bool {
    let (net, length) = split(cidr);
    net.is_ipv4() == address.is_ipv4() && bits(net)[..length] == bits(address)[..length]
}

/// Whether a rule's remote is a network that lies inside of `outer`.
pub(crate) fn inside(remote: &str, outer: &str) -> bool {
    !remote.starts_with('@') && in_cidr(split(remote).0, outer) && split(remote).1 >= split(outer).1
}

#[cfg(test)]
mod tests {
    //! The oracle itself, against the sentences that need no thinking.

    use super::*;

    fn question(direction: Direction, remote: &str, transport: Transport) -> Question {
        Question { interface: "tap0".to_owned(), direction, remote: address(remote), transport }
    }

    fn policy(groups: &Value, attached: &[&str]) -> Vec<Value> {
        vec![json!({
            "version": 1, "project": "shop", "vpc": "main", "security_groups": groups,
            "interfaces": [{ "name": "tap0", "addresses": ["10.0.0.5"], "security_groups": attached }],
            "peers": [{ "address": "10.0.1.7", "security_groups": ["default"] }],
        })]
    }

    const WEB: Transport = Transport::Tcp { port: 80 };
    const SERVICE: &str = "169.254.169.254";

    #[test]
    fn spec_k18_golden_example() {
        let groups = json!([{ "name": "web-server",
            "inbound": [
                { "protocol": "TCP", "source": "0.0.0.0/0", "port": "80" },
                { "protocol": "TCP", "source": "203.0.113.0/24", "port": "22" } ],
            "outbound": [ { "protocol": "TCP", "destination": "10.0.9.0/24", "port": "3306" } ] }]);
        let files = policy(&groups, &["web-server"]);
        let ask = |direction, remote, transport| allows(&files, &question(direction, remote, transport));
        assert!(ask(Direction::Inbound, "8.8.8.8", WEB));
        assert!(ask(Direction::Inbound, "203.0.113.255", Transport::Tcp { port: 22 }));
        assert!(!ask(Direction::Inbound, "203.0.114.0", Transport::Tcp { port: 22 }));
        assert!(ask(Direction::Outbound, "10.0.9.0", Transport::Tcp { port: 3306 }));
        assert!(!ask(Direction::Outbound, "8.8.8.8", Transport::Udp { port: 53 }));
        assert!(!ask(Direction::Outbound, SERVICE, WEB));
        assert!(!ask(Direction::Outbound, "8.8.8.8", Transport::Icmp { kind: 8, code: 0 }));
    }

    #[test]
    fn spec_k21_default_lets_in_tcp_of_members_only() {
        let files = policy(&json!([]), &["default"]);
        let ask = |remote, transport| allows(&files, &question(Direction::Inbound, remote, transport));
        assert!(ask("10.0.1.7", WEB));
        assert!(!ask("10.0.1.8", WEB));
        assert!(!ask("10.0.1.7", Transport::Udp { port: 80 }));
        assert!(!ask("10.0.1.7", Transport::Icmp { kind: 8, code: 0 }));
    }

    #[test]
    fn spec_k27_metadata() {
        let custom = json!([{ "name": "open" }, { "name": "open2" },
            { "name": "service", "outbound":
                [{ "protocol": "TCP", "destination": "169.254.169.0/24", "port": "80" }] },
            { "name": "default", "outbound": [] }]);
        let reach = |attached: &[&str], remote, transport| {
            allows(&policy(&custom, attached), &question(Direction::Outbound, remote, transport))
        };
        assert!(!reach(&["open"], SERVICE, WEB), "M1");
        assert!(reach(&["open", "service"], SERVICE, WEB), "M2");
        assert!(
            allows(&policy(&json!([]), &["default"]), &question(Direction::Outbound, SERVICE, WEB)),
            "M3"
        );
        assert!(reach(&["open"], "8.8.8.8", WEB), "M4");
        assert!(!reach(&["default"], SERVICE, WEB), "M5");
        assert!(reach(&["open"], SERVICE, Transport::Tcp { port: 81 }), "M6");
        assert!(reach(&["open"], SERVICE, Transport::Udp { port: 80 }), "M6");
        assert!(!reach(&["open", "open2"], SERVICE, WEB), "M7");
    }

    #[test]
    fn spec_k15_networks_end_where_they_end() {
        for (inside, outside, cidr) in [
            ("10.0.0.255", "10.0.1.0", "10.0.0.0/24"),
            ("255.255.255.255", "::", "0.0.0.0/0"),
            ("::1", "1.1.1.1", "::/0"),
            ("10.0.0.1", "10.0.0.0", "10.0.0.1/32"),
            ("2001:db8::7fff:ffff:ffff:ffff", "2001:db8::8000:0:0:0", "2001:db8::/65"),
        ] {
            assert!(in_cidr(address(inside), cidr), "{inside} in {cidr}");
            assert!(!in_cidr(address(outside), cidr), "{outside} in {cidr}");
        }
    }
}
