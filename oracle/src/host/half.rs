//! What is in force on an interface, from the operator's JSON.

use std::net::IpAddr;

use serde_json::Value;
use sg_common::abi::{
    self, Be32, FLAG_ANY_LINK_LOCAL, FLAG_AUDIT, FLAG_DHCP_SERVERS_V4, FLAG_DHCP_SERVERS_V6, FLAG_ROLE_HOST,
    FLAG_STRICT_TCP, InterfaceHalf,
};

use super::{HZ, v4_words, v6_words};
use crate::rules::{home, list, setting, text};

/// SPEC D11, by [`sg_common::conntrack::State`].
const TIMEOUTS: [(&str, u64); 12] = [
    ("tcp_syn_sent", 30),
    ("tcp_syn_recv", 60),
    ("tcp_established", 432_000),
    ("tcp_fin_wait", 120),
    ("tcp_close_wait", 60),
    ("tcp_last_ack", 30),
    ("tcp_time_wait", 120),
    ("tcp_close", 10),
    ("udp", 30),
    ("udp_stream", 180),
    ("icmp", 30),
    ("other", 600),
];

/// The guards that settings switch.
const GUARDS: [(&str, u32); 9] = [
    ("source_mac", abi::GUARD_MAC),
    ("source_address", abi::GUARD_IPV4 | abi::GUARD_IPV6),
    ("arp", abi::GUARD_ARP),
    ("neighbor_discovery", abi::GUARD_ND),
    ("dhcp_server", abi::GUARD_DHCP_SERVER),
    ("router_advertisements", abi::GUARD_ROUTER_ADVERTISEMENT),
    ("redirects", abi::GUARD_REDIRECT),
    ("vlan", abi::GUARD_VLAN),
    ("source_routing", abi::GUARD_SOURCE_ROUTE),
];

/// `number` is the interface's policy, VPC of members, and guard.
pub(super) fn of(files: &[Value], file: &Value, interface: &Value, number: u32) -> InterfaceHalf {
    let written = setting(files, "timeouts");
    let timeouts = TIMEOUTS.map(|(name, default)| {
        let seconds = [&interface["timeouts"][name], &written[name]].into_iter().find_map(Value::as_u64);
        (seconds.unwrap_or(default) * HZ) as u32
    });
    let own = own(interface);
    InterfaceHalf {
        policy: number,
        vpc: number,
        flags: flags(files, interface, &own) | audit(files, file, interface),
        granularity: (HZ / 16) as u32,
        timeouts,
        mac: mac(interface).unwrap_or_default(),
        reserved: 0,
        guard: number,
        own_v4: own
            .iter()
            .find_map(|own| if let IpAddr::V4(v4) = own { Some(v4_words(*v4)) } else { None })
            .unwrap_or_default(),
        own_v6: own
            .iter()
            .find_map(|own| if let IpAddr::V6(v6) = own { Some(v6_words(*v6)) } else { None })
            .unwrap_or([Be32(0); 4]),
        ether_types: ether_types(files),
        patience_v4: 30 * HZ as u32,
        patience_v6: 60 * HZ as u32,
        reserved_too: [0; 2],
    }
}

/// Addresses and allowed addresses.
pub(super) fn own(interface: &Value) -> Vec<IpAddr> {
    let both = ["addresses", "allowed_addresses"].into_iter().flat_map(|name| list(interface, name));
    both.map(|address| text(address).parse().unwrap()).collect()
}

/// Routers or DHCP servers.
pub(super) fn hosts(files: &[Value], name: &str) -> Vec<IpAddr> {
    let baseline = setting(files, "guest_baseline");
    list(&baseline, name).iter().map(|address| text(address).parse().unwrap()).collect()
}

fn mac(interface: &Value) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    for (byte, digits) in mac.iter_mut().zip(interface["mac"].as_str()?.split(':')) {
        *byte = u8::from_str_radix(digits, 16).unwrap();
    }
    Some(mac)
}

fn ether_types(files: &[Value]) -> [u16; 8] {
    let baseline = setting(files, "guest_baseline");
    let mut types = [0; 8];
    for (slot, value) in types.iter_mut().zip(list(&baseline, "ether_types")) {
        *slot = match value {
            Value::String(digits) => u16::from_str_radix(&digits[2..], 16).unwrap(),
            number => number.as_u64().unwrap() as u16,
        };
    }
    types
}

/// By the interface's own word, or that of a group.
fn audit(files: &[Value], file: &Value, interface: &Value) -> u32 {
    let by_group = list(interface, "security_groups").iter().map(text).any(|name| {
        let group = home(files, file, name)
            .and_then(|home| list(home, "security_groups").iter().find(|group| group["name"] == name));
        group.is_some_and(|group| group["enforcement"] == "audit")
    });
    if by_group || interface["enforcement"] == "audit" { FLAG_AUDIT } else { 0 }
}

fn flags(files: &[Value], interface: &Value, own: &[IpAddr]) -> u32 {
    let strict = if setting(files, "strict_tcp") == true { FLAG_STRICT_TCP } else { 0 };
    if interface["role"] == "host" {
        return FLAG_ROLE_HOST | strict;
    }
    let baseline = setting(files, "guest_baseline");
    let mut flags = strict;
    for (name, guard) in GUARDS {
        let possible = match name {
            "source_mac" => interface["mac"].is_string(),
            "source_address" | "arp" => !own.is_empty(),
            "vlan" => interface["trunk"] != true,
            _ => true,
        };
        if possible && baseline[name] != false {
            flags |= guard;
        }
    }
    if baseline["ether_types"] != "any" {
        flags |= abi::GUARD_ETHER_TYPE;
    }
    if !hosts(files, "routers").is_empty() {
        flags |= abi::GUARD_ROUTERS;
    }
    if baseline["link_local"] != "derived" || !interface["mac"].is_string() {
        flags |= FLAG_ANY_LINK_LOCAL;
    }
    for server in hosts(files, "dhcp_servers") {
        flags |= if server.is_ipv4() { FLAG_DHCP_SERVERS_V4 } else { FLAG_DHCP_SERVERS_V6 };
    }
    flags
}
