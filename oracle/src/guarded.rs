//! Worlds in which guests are held to what is theirs: random settings of the guest baseline, hardware addresses, trunks,
//! timeouts, strict TCP.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use crate::expect::Limits;
use crate::world::{World, any_world};

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
const ROUTERS: [&str; 3] = ["fe80::1", "fe80::77", "2001:db8::1"];
const SERVERS: [&str; 4] = ["10.0.0.98", "10.0.0.1", "fe80::98", "2001:db8::1"];
const ETHER_TYPES: [&str; 4] = ["0x88cc", "0x9000", "0x0600", "0x1234"];
const TIMEOUTS: [&str; 12] = [
    "tcp_syn_sent",
    "tcp_syn_recv",
    "tcp_established",
    "tcp_fin_wait",
    "tcp_close_wait",
    "tcp_last_ack",
    "tcp_time_wait",
    "tcp_close",
    "udp",
    "udp_stream",
    "icmp",
    "other",
];
/// The first is that of [`crate::frame::MAC`].
const MACS: [&str; 3] = ["52:54:00:00:00:05", "52:54:00:00:00:05", "52:54:00:00:00:07"];

#[derive(Debug, Clone)]
pub struct GuardedWorld {
    pub world: World,
    pub strict_tcp: Option<bool>,
    pub baseline: Value,
    pub timeouts: Value,
    /// For the interfaces, in order and over again.
    pub extras: Vec<Extra>,
    /// `enforcement` of interfaces and of groups, in order and over again.
    pub enforcement: [Vec<Option<&'static str>>; 2],
}

/// What an interface has beside the rest.
#[derive(Debug, Clone)]
pub struct Extra {
    pub mac: Option<&'static str>,
    pub trunk: Option<bool>,
    pub timeouts: Option<Value>,
}

pub fn any_guarded_world() -> impl Strategy<Value = GuardedWorld> {
    (
        any_world().prop_map(filtered),
        option::weighted(0.2, any::<bool>()),
        baseline(),
        timeouts(),
        vec(any_extra(), 1..=4),
        // Last: what dice of old say of all the rest stays as it is.
        [any_enforcement(), any_enforcement()],
    )
        .prop_map(|(world, strict_tcp, baseline, timeouts, extras, enforcement)| GuardedWorld {
            world,
            strict_tcp,
            baseline,
            timeouts,
            extras,
            enforcement,
        })
}

/// Audit now and then: most traffic is to be held up.
fn any_enforcement() -> impl Strategy<Value = Vec<Option<&'static str>>> {
    let word = select(vec![None, None, None, None, None, Some("enforce"), Some("audit")]);
    vec(word, 1..=3)
}

/// Room enough, or hardly any.
pub fn any_limits() -> impl Strategy<Value = Limits> {
    let small = (1..=3u64, 1..=3u64, 1..=3u64, 1..=3u64);
    let small =
        small.prop_map(|(live, half_v4, half_v6, datagrams)| Limits { live, half_v4, half_v6, datagrams });
    prop_oneof![3 => Just(crate::trial::ROOM), 1 => small]
}

/// Bare metal is no place for traffic that is to be judged.
fn filtered(mut world: World) -> World {
    for interface in world.vpcs.iter_mut().flat_map(|vpc| &mut vpc.interfaces) {
        interface.bare_metal = false;
    }
    world
}

fn baseline() -> impl Strategy<Value = Value> {
    let guards = vec(option::weighted(0.25, prop::bool::weighted(0.3)), GUARDS.len());
    let ether_types = prop_oneof![
        4 => Just(Value::Null),
        1 => Just(json!("any")),
        3 => subsequence(ETHER_TYPES.to_vec(), 0..=3).prop_map(|types| json!(types)),
        1 => Just(json!([0x88cc, 0x1234])),
    ];
    let link_local = select(vec![None, Some("any"), Some("derived"), Some("derived")]);
    let routers = option::weighted(0.4, subsequence(ROUTERS.to_vec(), 0..=2));
    let servers = option::weighted(0.5, subsequence(SERVERS.to_vec(), 0..=3));
    (guards, ether_types, link_local, routers, servers).prop_map(
        |(guards, ether_types, link_local, routers, servers)| {
            let mut baseline = Map::new();
            for (name, on) in GUARDS.iter().zip(guards) {
                baseline.extend(on.map(|on| ((*name).to_owned(), on.into())));
            }
            let lists = [
                ("ether_types", ether_types),
                ("link_local", json!(link_local)),
                ("routers", json!(routers)),
                ("dhcp_servers", json!(servers)),
            ];
            baseline.extend(
                lists
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .map(|(name, value)| (name.to_owned(), value)),
            );
            baseline.into()
        },
    )
}

fn timeouts() -> impl Strategy<Value = Value> {
    subsequence(TIMEOUTS.to_vec(), 0..=4).prop_flat_map(|names| {
        let seconds = vec(select(vec![1u32, 2, 10, 45, 100]), names.len());
        seconds.prop_map(move |seconds| {
            // An established connection lasts a minute at least.
            let least =
                |name: &str, seconds: u32| if name == "tcp_established" { seconds + 60 } else { seconds };
            let pairs = names.iter().zip(seconds);
            pairs
                .map(|(name, seconds)| ((*name).to_owned(), least(name, seconds).into()))
                .collect::<Map<_, _>>()
                .into()
        })
    })
}

fn any_extra() -> impl Strategy<Value = Extra> {
    let mac = option::weighted(0.6, select(MACS.to_vec()));
    (mac, option::weighted(0.3, any::<bool>()), option::weighted(0.3, timeouts()))
        .prop_map(|(mac, trunk, timeouts)| Extra { mac, trunk, timeouts })
}

impl GuardedWorld {
    /// The files as an operator would write them.
    pub fn files(&self) -> Vec<Value> {
        let mut files = self.world.files();
        let mut extras = self.extras.iter().cycle();
        let [mut of_interfaces, mut of_groups] = [0, 1].map(|list| self.enforcement[list].iter().cycle());
        for file in &mut files {
            if let Some(settings) = file.get_mut("settings") {
                settings["guest_baseline"] = self.baseline.clone();
                settings["timeouts"] = self.timeouts.clone();
                if let Some(strict) = self.strict_tcp {
                    settings["strict_tcp"] = strict.into();
                }
            }
            let interfaces = file.get_mut("interfaces").and_then(Value::as_array_mut);
            for (interface, extra) in interfaces.into_iter().flatten().zip(&mut extras) {
                extra.write(interface);
            }
            for (list, words) in [("interfaces", &mut of_interfaces), ("security_groups", &mut of_groups)] {
                let objects = file.get_mut(list).and_then(Value::as_array_mut);
                for (object, word) in objects.into_iter().flatten().zip(words) {
                    if let Some(word) = word {
                        object["enforcement"] = (*word).into();
                    }
                }
            }
        }
        files
    }
}

impl Extra {
    fn write(&self, interface: &mut Value) {
        let pairs = [
            ("mac", self.mac.map(Value::from)),
            ("trunk", self.trunk.map(Value::from)),
            ("timeouts", self.timeouts.clone()),
        ];
        for (name, value) in pairs {
            if let Some(value) = value {
                interface[name] = value;
            }
        }
    }
}
