//! What each cloud says of its own documents, written a second time from their documentation: loops over JSON, no types,
//! nothing shared with what is tested.

use std::net::IpAddr;

use serde_json::Value;
use sg_oracle::rules::{Direction, Question, Transport, in_cidr};

pub fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is(address: &Value, remote: IpAddr) -> bool {
    text(address).parse::<IpAddr>() == Ok(remote)
}

/// Type and code, or a port, of the packet that rules compare with.
fn numbers(transport: Transport) -> (i64, i64) {
    match transport {
        Transport::Tcp { port } | Transport::Udp { port } => (port.into(), port.into()),
        Transport::Icmp { kind, code } => (kind.into(), code.into()),
        Transport::Other(_) => (-1, -1),
    }
}

/// Amazon EC2: an interface's groups together allow what one of their permissions allows; the metadata service is
/// never filtered.
pub fn aws(document: &Value, interface: &Value, question: &Question) -> bool {
    let outbound = question.direction == Direction::Outbound;
    if outbound
        && in_cidr(question.remote, "169.254.169.0/24")
        && matches!(question.transport, Transport::Tcp { port: 80 })
    {
        return true;
    }
    let has =
        |interface: &Value, id: &Value| list(interface, "Groups").iter().any(|group| group["GroupId"] == *id);
    let permissions = list(document, "SecurityGroups")
        .iter()
        .filter(|group| has(interface, &group["GroupId"]))
        .flat_map(|group| list(group, if outbound { "IpPermissionsEgress" } else { "IpPermissions" }));
    let mut fitting = permissions.filter(|permission| {
        let wanted = match text(&permission["IpProtocol"]) {
            "-1" => return true,
            "tcp" => 6,
            "udp" => 17,
            "icmp" => 1,
            "icmpv6" => 58,
            number => number.parse::<u8>().unwrap(),
        };
        if wanted != question.protocol() {
            return false;
        }
        let (from, to) = (permission["FromPort"].as_i64(), permission["ToPort"].as_i64());
        let (first, second) = numbers(question.transport);
        match wanted {
            6 | 17 => from.is_none_or(|from| from <= first) && to.is_none_or(|to| first <= to),
            1 | 58 => {
                let any = |number: Option<i64>| number.is_none_or(|number| number == -1);
                (any(from) || from == Some(first)) && (any(to) || to == Some(second))
            }
            _ => true,
        }
    });
    fitting.any(|permission| {
        list(permission, "IpRanges").iter().any(|range| in_cidr(question.remote, text(&range["CidrIp"])))
            || list(permission, "Ipv6Ranges")
                .iter()
                .any(|range| in_cidr(question.remote, text(&range["CidrIpv6"])))
            || list(permission, "UserIdGroupPairs").iter().any(|pair| {
                list(document, "NetworkInterfaces").iter().filter(|other| has(other, &pair["GroupId"])).any(
                    |other| {
                        let v4 = list(other, "PrivateIpAddresses");
                        let v6 = list(other, "Ipv6Addresses");
                        v4.iter().any(|one| is(&one["PrivateIpAddress"], question.remote))
                            || v6.iter().any(|one| is(&one["Ipv6Address"], question.remote))
                    },
                )
            })
    })
}

/// Neutron: a rule is for one family; members of a group are its ports' fixed addresses and allowed address pairs.
pub fn neutron(document: &Value, port: &Value, question: &Question) -> bool {
    if port["port_security_enabled"] == false {
        return true;
    }
    let way = if question.direction == Direction::Outbound { "egress" } else { "ingress" };
    let has = |port: &Value, id: &Value| list(port, "security_groups").contains(id);
    let mut rules = list(document, "security_groups")
        .iter()
        .filter(|group| has(port, &group["id"]))
        .flat_map(|group| list(group, "security_group_rules"))
        .filter(|rule| rule["direction"] == way);
    rules.any(|rule| {
        let v6 = rule["ethertype"] == "IPv6";
        if v6 != question.remote.is_ipv6() {
            return false;
        }
        let wanted = match &rule["protocol"] {
            Value::Null => None,
            Value::String(name) => match name.as_str() {
                "tcp" => Some(6),
                "udp" => Some(17),
                "icmp" if v6 => Some(58),
                "icmp" => Some(1),
                "icmpv6" | "ipv6-icmp" => Some(58),
                "gre" => Some(47),
                number => Some(number.parse::<u8>().unwrap()),
            },
            number => Some(number.as_u64().unwrap() as u8),
        };
        if wanted.is_some_and(|wanted| wanted != question.protocol()) {
            return false;
        }
        let (min, max) = (rule["port_range_min"].as_i64(), rule["port_range_max"].as_i64());
        let (first, second) = numbers(question.transport);
        let fits = match wanted {
            None => true,
            Some(1 | 58) => min.is_none_or(|kind| kind == first) && max.is_none_or(|code| code == second),
            Some(_) => min.is_none_or(|min| min <= first) && max.is_none_or(|max| first <= max),
        };
        fits && match (&rule["remote_ip_prefix"], &rule["remote_group_id"]) {
            (Value::Null, Value::Null) => true,
            (Value::String(net), _) => in_cidr(question.remote, net),
            (_, group) => list(document, "ports").iter().filter(|other| has(other, group)).any(|other| {
                let fixed = list(other, "fixed_ips").iter();
                fixed
                    .chain(list(other, "allowed_address_pairs"))
                    .any(|one| is(&one["ip_address"], question.remote))
            }),
        }
    })
}

/// KakaoCloud: as SPEC sections 1 to 3 say, with the metadata service's rule of its own (K27).
pub fn kakao(document: &Value, interface: &Value, question: &Question) -> bool {
    let outbound = question.direction == Direction::Outbound;
    let way = if outbound { "egress" } else { "ingress" };
    let reserved = outbound
        && in_cidr(question.remote, "169.254.169.0/24")
        && matches!(question.transport, Transport::Tcp { port: 80 });
    let has = |interface: &Value, id: &Value| {
        list(interface, "security_groups").iter().any(|group| group["id"] == *id)
    };
    let port = |value: &Value, all: i64| match value {
        Value::Number(number) => number.as_i64().unwrap(),
        Value::String(text) if text != "ALL" => text.parse().unwrap(),
        _ => all,
    };
    list(document, "security_groups").iter().filter(|group| has(interface, &group["id"])).any(|group| {
        list(group, "rules").iter().filter(|rule| rule["direction"] == way).any(|rule| {
            let fits = match (text(&rule["protocol"]), question.transport) {
                ("ALL", _) | ("ICMP", Transport::Icmp { .. }) => true,
                ("TCP", Transport::Tcp { port: asked }) | ("UDP", Transport::Udp { port: asked }) => {
                    let asked = i64::from(asked);
                    port(&rule["port_range_min"], 0) <= asked && asked <= port(&rule["port_range_max"], 65535)
                }
                _ => false,
            };
            let remote = match &rule["remote_group_id"] {
                Value::Null => in_cidr(question.remote, text(&rule["remote_ip_prefix"])),
                id => list(document, "network_interfaces")
                    .iter()
                    .any(|other| has(other, id) && is(&other["private_ip"], question.remote)),
            };
            // A rule for the service lies inside of link-local; `default` needs none.
            let own = text(&rule["remote_ip_prefix"]).starts_with("169.254.");
            fits && remote && (!reserved || group["name"] == "default" || own)
        })
    })
}
