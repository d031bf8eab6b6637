//! What the operator's JSON says about one interface, beside its rules.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use serde_json::Value;

/// D11: the states, the settings that give their times, and the defaults.
const TIMEOUTS: [(&str, &str, u64); 12] = [
    ("syn_sent", "tcp_syn_sent", 30),
    ("syn_recv", "tcp_syn_recv", 60),
    ("established", "tcp_established", 432_000),
    ("fin_wait", "tcp_fin_wait", 120),
    ("close_wait", "tcp_close_wait", 60),
    ("last_ack", "tcp_last_ack", 30),
    ("time_wait", "tcp_time_wait", 120),
    ("close", "tcp_close", 10),
    ("udp", "udp", 30),
    ("udp_stream", "udp_stream", 180),
    ("icmp", "icmp", 30),
    ("other", "other", 600),
];

/// The switches of section 6.
const GUARDS: [&str; 9] = [
    "source_mac",
    "source_address",
    "arp",
    "neighbor_discovery",
    "dhcp_server",
    "router_advertisements",
    "redirects",
    "vlan",
    "source_routing",
];

#[derive(Debug, Clone)]
pub struct Interface {
    pub host: bool,
    pub bare_metal: bool,
    /// It says so, or one of its groups does.
    pub audit: bool,
    pub trunk: bool,
    pub mac: Option<[u8; 6]>,
    /// `addresses` and `allowed_addresses`.
    pub listed: Vec<IpAddr>,
    pub strict_tcp: bool,
    pub routers: Vec<Ipv6Addr>,
    pub dhcp_servers: Vec<IpAddr>,
    /// None: any.
    pub ether_types: Option<Vec<u16>>,
    derived_link_local: bool,
    guards: BTreeMap<&'static str, bool>,
    timeouts: BTreeMap<&'static str, u64>,
}

/// All interfaces by the names of their devices.
pub fn interfaces(files: &[Value]) -> BTreeMap<String, Interface> {
    let mut interfaces = BTreeMap::new();
    for file in files {
        for value in file["interfaces"].as_array().into_iter().flatten() {
            let name = value["name"].as_str().unwrap().to_owned();
            interfaces.insert(name, Interface::read(files, file, value));
        }
    }
    interfaces
}

/// Docs/packets.md, section 10. K24: a name is a VPC's, `default` is the project's.
fn is_audit(files: &[Value], home: &Value, interface: &Value) -> bool {
    let named =
        |name: &Value| interface["security_groups"].as_array().is_some_and(|names| names.contains(name));
    let visible = |file: &Value, group: &Value| {
        file["project"] == home["project"] && (group["name"] == "default" || file["vpc"] == home["vpc"])
    };
    let mut groups = files.iter().flat_map(|file| {
        file["security_groups"].as_array().into_iter().flatten().map(move |group| (file, group))
    });
    interface["enforcement"] == "audit"
        || groups.any(|(file, group)| {
            group["enforcement"] == "audit" && named(&group["name"]) && visible(file, group)
        })
}

impl Interface {
    fn read(files: &[Value], file: &Value, written: &Value) -> Self {
        let host = written["role"] == "host";
        let baseline = |name: &str| setting(files, &["guest_baseline", name]);
        let timeout = |name: &str, default: u64| {
            let own = written["timeouts"][name].as_u64();
            own.or_else(|| setting(files, &["timeouts", name]).as_u64()).unwrap_or(default)
        };
        Self {
            host,
            bare_metal: written["kind"] == "bare_metal",
            audit: is_audit(files, file, written),
            trunk: written["trunk"] == true,
            mac: written["mac"].as_str().map(mac),
            listed: [addresses(&written["addresses"]), addresses(&written["allowed_addresses"])].concat(),
            strict_tcp: setting(files, &["strict_tcp"]) == &Value::Bool(true),
            routers: addresses(baseline("routers"))
                .into_iter()
                .filter_map(|router| match router {
                    IpAddr::V6(v6) => Some(v6),
                    IpAddr::V4(_) => None,
                })
                .collect(),
            dhcp_servers: addresses(baseline("dhcp_servers")),
            ether_types: match baseline("ether_types") {
                Value::String(_) => None,
                listed => Some(listed.as_array().into_iter().flatten().map(ether_type).collect()),
            },
            derived_link_local: baseline("link_local") == "derived",
            guards: GUARDS
                .into_iter()
                .map(|name| (name, !host && baseline(name).as_bool().unwrap_or(true)))
                .collect(),
            timeouts: TIMEOUTS
                .into_iter()
                .map(|(state, name, default)| (state, timeout(name, default)))
                .collect(),
        }
    }

    /// D26: none of a host's is on.
    pub fn guard(&self, name: &str) -> bool {
        self.guards[name]
    }

    pub fn timeout(&self, state: &str) -> u64 {
        self.timeouts[state]
    }

    /// Whether the instance may use the address as its own.
    pub fn owns(&self, address: IpAddr) -> bool {
        if self.listed.is_empty() || self.listed.contains(&address) {
            return true;
        }
        let IpAddr::V6(v6) = address else { return false };
        let link_local = v6.segments()[0] & 0xffc0 == 0xfe80;
        if !link_local || self.routers.contains(&v6) {
            return false;
        }
        match self.mac {
            Some(mac) if self.derived_link_local => v6 == link_local_of(mac),
            _ => true,
        }
    }

    /// The guard `source_address`: whether a packet from there may pass.
    pub fn may_send(&self, outbound: bool, source: IpAddr) -> bool {
        !outbound || !self.guard("source_address") || self.owns(source)
    }
}

/// RFC 4291, appendix A: the bit for "unique in the world" turned over, ff:fe in the middle.
fn link_local_of(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// A daemon-wide setting: whichever file says it.
fn setting<'f>(files: &'f [Value], path: &[&str]) -> &'f Value {
    files
        .iter()
        .map(|file| path.iter().fold(&file["settings"], |value, name| &value[*name]))
        .find(|value| !value.is_null())
        .unwrap_or(&Value::Null)
}

fn addresses(list: &Value) -> Vec<IpAddr> {
    let list = list.as_array().into_iter().flatten();
    list.map(|address| address.as_str().unwrap().parse().unwrap()).collect()
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn ether_type(value: &Value) -> u16 {
    match value.as_str() {
        Some(text) => u16::from_str_radix(text.trim_start_matches("0x"), 16).unwrap(),
        None => value.as_u64().unwrap() as u16,
    }
}
