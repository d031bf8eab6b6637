//! Where traffic flows: what a policy's files say that frames can aim at. Read once, so that frames are cheap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::dice::Dice;
use crate::rules::in_cidr;

/// Addresses that are in many worlds' networks.
const POOL: [&str; 16] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.127",
    "10.0.1.0",
    "10.255.255.255",
    "169.254.169.254",
    "169.254.0.1",
    "128.0.0.1",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8::3",
    "2001:db8:0:1::1",
    "fe80::1",
    "fd00::5",
    "8000::1",
];

/// Something that a rule may allow.
#[derive(Debug, Clone)]
pub struct Aim {
    pub outbound: bool,
    pub remotes: Vec<IpAddr>,
    /// None: all.
    pub protocol: Option<u8>,
    pub ports: (u16, u16),
    pub message: (Option<u8>, u8),
}

/// One interface.
#[derive(Debug, Clone)]
pub struct Spot {
    pub device: String,
    pub host: bool,
    pub trunk: bool,
    pub own: Vec<IpAddr>,
    pub aims: Vec<Aim>,
    /// Seconds after which something is over.
    pub times: Vec<u32>,
    pub routers: Vec<IpAddr>,
    pub servers: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
pub struct Ground {
    /// All but those that are not filtered.
    pub spots: Vec<Spot>,
    pub pool: Vec<IpAddr>,
}

impl Ground {
    pub fn new(files: &[Value]) -> Self {
        let pool: Vec<IpAddr> = POOL.iter().map(|text| text.parse().unwrap()).collect();
        let spots = all(files, "interfaces")
            .filter(|interface| interface["kind"] != "bare_metal")
            .map(|interface| spot(files, interface, &pool))
            .collect();
        Self { spots, pool }
    }
}

impl Spot {
    /// One of the instance's addresses, of the family of `remote`.
    pub fn local(&self, remote: IpAddr, dice: &mut Dice) -> IpAddr {
        let own: Vec<IpAddr> =
            self.own.iter().copied().filter(|own| own.is_ipv4() == remote.is_ipv4()).collect();
        if !own.is_empty() {
            return dice.pick(&own);
        }
        if remote.is_ipv4() { Ipv4Addr::new(10, 0, 0, 5).into() } else { link_local() }
    }
}

/// The link-local address of [`crate::frame::MAC`].
pub fn link_local() -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0x00ff, 0xfe00, 0x0005))
}

fn all<'f>(files: &'f [Value], field: &'static str) -> impl Iterator<Item = &'f Value> {
    files.iter().filter_map(move |file| file[field].as_array()).flatten()
}

fn addresses(value: &Value) -> impl Iterator<Item = IpAddr> {
    value.as_array().into_iter().flatten().map(|address| address.as_str().unwrap().parse().unwrap())
}

fn spot(files: &[Value], interface: &Value, pool: &[IpAddr]) -> Spot {
    let host = interface["role"] == "host";
    let mut aims = Vec::new();
    for name in interface["security_groups"].as_array().into_iter().flatten() {
        let groups = all(files, "security_groups").filter(|group| group["name"] == *name);
        let written: Vec<&Value> = groups.collect();
        for group in &written {
            for (list, outbound) in [("inbound", false), ("outbound", true)] {
                for rule in group[list].as_array().into_iter().flatten() {
                    aims.extend(aim(files, rule, outbound, pool));
                }
            }
        }
        if written.iter().all(|group| group["outbound"].is_null()) {
            aims.push(Aim {
                outbound: true,
                remotes: pool.iter().copied().filter(IpAddr::is_ipv4).collect(),
                protocol: None,
                ports: (1, 65535),
                message: (None, 0),
            });
        }
    }
    for file in files {
        for (list, outbound) in [("inbound", false), ("outbound", true)] {
            for rule in file["settings"]["failsafe"][list].as_array().into_iter().flatten().filter(|_| host) {
                aims.extend(aim(files, rule, outbound, pool));
            }
        }
    }
    let baseline = |name: &str| {
        files
            .iter()
            .map(|file| &file["settings"]["guest_baseline"][name])
            .find(|value| !value.is_null())
            .unwrap_or(&Value::Null)
    };
    let mut times = vec![10, 30, 30, 60, 120, 180, 600, 432_000];
    for value in files.iter().map(|file| &file["settings"]["timeouts"]).chain([&interface["timeouts"]]) {
        let seconds = value.as_object().into_iter().flat_map(|object| object.values());
        times.extend(seconds.filter_map(Value::as_u64).map(|seconds| seconds as u32));
    }
    Spot {
        device: interface["name"].as_str().unwrap().to_owned(),
        host,
        trunk: interface["trunk"] == true,
        own: addresses(&interface["addresses"]).chain(addresses(&interface["allowed_addresses"])).collect(),
        aims,
        times,
        routers: addresses(baseline("routers")).collect(),
        servers: addresses(baseline("dhcp_servers")).collect(),
    }
}

fn aim(files: &[Value], rule: &Value, outbound: bool, pool: &[IpAddr]) -> Option<Aim> {
    let remote = rule[if outbound { "destination" } else { "source" }].as_str().unwrap();
    let remotes: Vec<IpAddr> = match remote.strip_prefix('@') {
        Some(name) => {
            let attached = |member: &&Value| {
                member["security_groups"].as_array().is_some_and(|g| g.iter().any(|g| g == name))
            };
            let members = all(files, "interfaces").filter(attached).flat_map(|m| addresses(&m["addresses"]));
            let peers = all(files, "peers").filter(attached);
            members.chain(peers.map(|peer| peer["address"].as_str().unwrap().parse().unwrap())).collect()
        }
        None => {
            let first = remote.split_once('/').unwrap().0.parse().unwrap();
            let inside = pool.iter().copied().filter(|address| in_cidr(*address, remote));
            inside.chain([first]).collect()
        }
    };
    if remotes.is_empty() {
        return None;
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_ascii_lowercase);
    let protocol = match text(&rule["protocol"]).as_str() {
        "all" => None,
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" if remotes[0].is_ipv4() => Some(1),
        "icmp" | "icmpv6" => Some(58),
        "gre" => Some(47),
        "esp" => Some(50),
        "ah" => Some(51),
        "sctp" => Some(132),
        "ipip" => Some(4),
        number => number.parse().ok(),
    };
    let port = text(&rule["port"]);
    let (low, high) = port.split_once('-').unwrap_or((&port, &port));
    let ports = (low.parse().unwrap_or(1), high.parse().unwrap_or(65535));
    let number = |field: &str| rule[field].as_u64().map(|number| number as u8);
    Some(Aim {
        outbound,
        remotes,
        protocol,
        ports,
        message: (number("icmp_type"), number("icmp_code").unwrap_or(0)),
    })
}
