//! What a change of the policy costs in the kernel, as a count of writes, and that what was changed bit by bit is what would
//! have been made anew.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use sg_common::verdict::Reason::{NewFlow, NoRule};
use sg_daemon::compile::compile;
use sg_daemon::kernel::MapWrites;

use crate::bench::{Bench, DEVICES, Ingress};
use crate::frame::{Packet, SYN};
use crate::{OTHER, at};

/// Writes of each map that has any: its name, updates, deletions.
type Delta = Vec<(&'static str, u64, u64)>;

fn delta(before: &MapWrites, after: &MapWrites) -> Delta {
    let pairs = before.by_map().into_iter().zip(after.by_map());
    pairs
        .map(|(before, after)| {
            (after.map, after.updates - before.updates, after.deletions - before.deletions)
        })
        .filter(|&(_, updates, deletions)| updates + deletions > 0)
        .collect()
}

/// What the kernel was told to get to a policy, with what is deleted when no packet sees the old one any more.
fn cost(bench: &mut Bench, file: &Value) -> Delta {
    // What the change before has left to be done is not this one's.
    bench.enforcer().settle();
    let before = bench.enforcer().kernel().writes();
    bench.apply(std::slice::from_ref(file));
    bench.enforcer().settle();
    let after = bench.enforcer().kernel().writes();
    delta(&before, &after)
}

#[track_caller]
fn is_right(bench: &mut Bench) {
    let active = bench.enforcer().active().unwrap();
    assert!(*active.image == compile(&active.model), "the image depends on the ones before it");
    assert_eq!(bench.enforcer().audit().unwrap(), [""; 0]);
}

fn document(groups: &Value, interfaces: &Value, peers: &Value) -> Value {
    json!({
        "version": 1, "project": "shop", "vpc": "main", "ipv6": true, "security_groups": groups,
        "settings": { "quotas": { "rules_per_group": 20_000, "groups_per_interface": 200, "groups_per_project": 1000 } },
        "interfaces": interfaces, "peers": peers,
    })
}

fn interface(name: &str, groups: &[String]) -> Value {
    json!({ "name": name, "hook": "tc", "addresses": [], "security_groups": groups })
}

fn peer(address: &str) -> Value {
    json!({ "address": address, "security_groups": ["members"] })
}

/// `count` members of a group that 30 rules name, and two that are in another one besides.
fn crowd(count: u32, more: &[Value]) -> Value {
    let rules: Vec<Value> = (0..30)
        .map(|port| json!({ "protocol": "TCP", "source": "@members", "port": 80 + 2 * port }))
        .collect();
    let peers = (0..count).map(|number| peer(&Ipv4Addr::from(0xc612_0000 + number).to_string()));
    let peers: Vec<Value> = peers.chain(more.iter().cloned()).collect();
    document(
        &json!([{ "name": "webs", "inbound": rules }, { "name": "members" }, { "name": "others" }]),
        &json!([interface("sg0", &["webs".to_owned()])]),
        &json!(peers),
    )
}

#[test]
fn spec_d4_one_member_more_or_less_takes_as_few_map_writes_of_100000_as_of_1000() {
    Bench::run(Ingress::Tc, &DEVICES, |bench| {
        for count in [1000, 100_000] {
            bench.apply(&[crowd(count, &[])]);
            let knock = Packet::tcp(at(OTHER[0], 1), at(crate::GUEST[0], 80), SYN);
            assert_eq!(bench.receives(&knock), NoRule, "{count}");
            // The address with its set, and the generation; however many rules name the group.
            let more = crowd(count, &[peer(OTHER[0])]);
            let added = [("members_v4", 1, 0), ("control", 1, 0)];
            assert_eq!(cost(bench, &more), added, "{count}: one member more");
            is_right(bench);
            assert_eq!(bench.receives(&knock), NewFlow, "{count}");
            let removed = [("members_v4", 0, 1), ("control", 1, 0)];
            assert_eq!(cost(bench, &crowd(count, &[])), removed, "{count}: one member less");
            is_right(bench);
            bench.forget();
            assert_eq!(bench.receives(&knock), NoRule, "{count}");
            let six = crowd(count, &[peer(OTHER[1])]);
            let added = [("members_v6", 1, 0), ("control", 1, 0)];
            assert_eq!(cost(bench, &six), added, "{count}: one of IPv6 more");
            // The first of a new combination of groups: what the rules say of it, once for each family, and their set of ports
            // is there already. One word more for the combination's id.
            let mut both = peer(OTHER[0]);
            both["security_groups"] = json!(["members", "others"]);
            let first = crowd(count, &[peer(OTHER[1]), both]);
            let added = [("pairs", 2, 0), ("members_v4", 1, 0), ("control", 2, 0)];
            assert_eq!(cost(bench, &first), added, "{count}: the first of its kind");
            is_right(bench);
            let removed = [("pairs", 0, 2), ("members_v4", 0, 1), ("control", 1, 0)];
            assert_eq!(cost(bench, &six), removed, "{count}: the last of its kind");
            is_right(bench);
        }
    });
}

#[test]
fn spec_d21_only_steps_of_which_no_packet_sees_two_follow_each_other_without_a_wait() {
    let site = |peers: &[&str], rules: &Value| {
        let peers: Vec<Value> = peers.iter().map(|address| peer(address)).collect();
        let groups = json!([{ "name": "webs", "inbound": rules }, { "name": "members" }]);
        document(&groups, &json!([interface("sg0", &["webs".to_owned()])]), &json!(peers))
    };
    let of_members = json!({ "protocol": "TCP", "source": "@members", "port": 80 });
    let on = |net: &str| json!({ "protocol": "TCP", "source": net, "port": 80 });
    Bench::run(Ingress::Tc, &DEVICES, |bench| {
        let mut unseen = |peers: &[&str], rules: &[Value]| {
            let rules: Vec<&Value> = rules.iter().chain([&of_members]).collect();
            bench.apply(&[site(peers, &json!(rules))]);
            bench.enforcer().resident().steps()
        };
        assert_eq!(unseen(&["192.0.2.1"], &[]), 0, "a swap");
        assert_eq!(unseen(&["192.0.2.1", "192.0.2.2"], &[]), 1, "a step behind a swap");
        assert_eq!(unseen(&["192.0.2.1", "192.0.2.2", "192.0.2.3"], &[]), 2, "a member beside it");
        assert_eq!(unseen(&["192.0.2.2", "192.0.2.3"], &[]), 3, "one less");
        let rules = [on("198.51.100.0/24")];
        assert_eq!(unseen(&["192.0.2.2", "192.0.2.3"], &rules), 4, "a network beside them");
        // A rule in the place of the first member.
        let rules = [on("198.51.100.0/24"), on("192.0.2.1/32")];
        assert_eq!(unseen(&["192.0.2.2", "192.0.2.3"], &rules), 1, "it waits");
        is_right(bench);
        assert_eq!(bench.enforcer().resident().steps(), 0);
    });
}

/// `others` groups beside the one that changes: all of them on its interface, or on another one.
fn rules(others: usize, together: bool, of_first: &[Value]) -> Value {
    let names: Vec<String> = (0..=others).map(|number| format!("group{number}")).collect();
    let groups = names.iter().enumerate().map(|(number, name)| match number {
        0 => json!({ "name": name, "inbound": of_first }),
        _ => json!({ "name": name, "inbound": (0..100u32).map(|rule| {
            let net = Ipv4Addr::from(0x0a00_0000 + ((number as u32 * 100 + rule) << 8));
            json!({ "protocol": "TCP", "source": format!("{net}/24"), "port": 1 + rule })
        }).collect::<Vec<_>>() }),
    });
    let groups: Vec<Value> = groups.collect();
    let (first, second) = if together { (names.as_slice(), &names[..1]) } else { (&names[..1], &names[1..]) };
    // Where all are on one interface, no other one has the group: a second policy would change, too.
    let mut interfaces = vec![interface("sg0", first)];
    if !together {
        interfaces.push(interface("sg1", second));
    }
    document(&json!(groups), &json!(interfaces), &json!([]))
}

#[test]
fn spec_d4_one_rule_more_takes_as_few_map_writes_beside_9900_rules_as_beside_100() {
    let on = |net: &str, port: u16| json!({ "protocol": "TCP", "source": net, "port": port });
    let of_group = json!({ "protocol": "TCP", "source": "@group0", "port": 22 });
    let one = on("198.51.100.0/24", 80);
    Bench::run(Ingress::Tc, &DEVICES, |bench| {
        for together in [true, false] {
            let mut swaps = Vec::new();
            for others in [1, 99] {
                let mut next = |of_first: &[Value]| {
                    let cost = cost(bench, &rules(others, together, of_first));
                    is_right(bench);
                    cost
                };
                next(&[]);
                let put = [("classes_v4", 1, 0), ("control", 1, 0)];
                assert_eq!(next(std::slice::from_ref(&one)), put, "{others}: a rule of a new network");
                let second = on("198.51.100.0/24", 90);
                let with_ports = [("port_sets", 1, 0), ("classes_v4", 1, 0), ("control", 1, 0)];
                let two = [one.clone(), second];
                assert_eq!(next(&two), with_ports, "{others}: another one of that network");
                assert_eq!(next(std::slice::from_ref(&one)), put, "{others}: without it again");
                let taken = [("classes_v4", 0, 1), ("control", 1, 0)];
                assert_eq!(next(&[]), taken, "{others}: without any");
                // Two at once are a policy of its own, and so is what is said of a group: a swap, of the interface's own rules.
                next(std::slice::from_ref(&one));
                swaps.push(next(&[one.clone(), on("192.0.2.0/24", 1), on("198.18.0.0/24", 1)]));
                swaps.push(next(&[one.clone(), of_group.clone()]));
            }
            if !together {
                assert_eq!(swaps[..2], swaps[2..], "rules that other interfaces have cost nothing");
            }
        }
    });
}

#[derive(Debug, Clone)]
enum Step {
    Rule { group: usize, direction: usize, rule: usize },
    Peer { address: usize, groups: usize },
    Attach { interface: usize, groups: usize },
    Setting(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3usize, 0..2usize, 0..RULES.len()).prop_map(|(group, direction, rule)| Step::Rule { group, direction, rule }),
        6 => (0..6usize, 0..8usize).prop_map(|(address, groups)| Step::Peer { address, groups }),
        2 => (0..2usize, 1..8usize).prop_map(|(interface, groups)| Step::Attach { interface, groups }),
        1 => (0..4usize).prop_map(Step::Setting),
    ];
    prop::collection::vec(step, 1..40)
}

/// Networks that lie in each other, families, ports that are no range, groups, the metadata service.
const RULES: [(&str, &str, &str); 14] = [
    ("TCP", "0.0.0.0/0", "80"),
    ("ALL", "0.0.0.0/0", "ALL"),
    ("TCP", "10.0.0.0/8", "22"),
    ("TCP", "10.0.0.0/8", "80-90"),
    ("TCP", "10.1.0.0/16", "443"),
    ("UDP", "10.1.2.0/24", "53"),
    ("TCP", "10.1.2.0/24", "53"),
    ("TCP", "169.254.169.0/24", "80"),
    ("TCP", "::/0", "80"),
    ("UDP", "2001:db8::/32", "53"),
    ("TCP", "@alpha", "22"),
    ("TCP", "@alpha", "24"),
    ("ALL", "@bravo", "ALL"),
    ("TCP", "@default", "1-1000"),
];
const GROUPS: [&str; 3] = ["alpha", "bravo", "charlie"];
/// One of them is an interface's, one lies in the metadata service's range.
const ADDRESSES: [&str; 6] =
    ["10.0.0.5", "192.0.2.1", "192.0.2.2", "169.254.169.9", "2001:db8::1", "2001:db8::2"];

/// A policy that is changed step by step.
#[derive(Debug, Clone)]
struct World {
    rules: [[BTreeSet<usize>; 2]; 3],
    /// Bits of [`GROUPS`].
    peers: [usize; 6],
    interfaces: [usize; 2],
    settings: [bool; 4],
}

impl World {
    fn new() -> Self {
        Self { rules: Default::default(), peers: [0; 6], interfaces: [1, 3], settings: [false; 4] }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Rule { group, direction, rule } => {
                let rules = &mut self.rules[group][direction];
                if !rules.remove(&rule) {
                    rules.insert(rule);
                }
            }
            Step::Peer { address, groups } => self.peers[address] = groups,
            Step::Attach { interface, groups } => self.interfaces[interface] = groups,
            Step::Setting(setting) => self.settings[setting] ^= true,
        }
    }

    fn document(&self) -> Value {
        let names = |bits: usize| -> Vec<&str> {
            GROUPS
                .into_iter()
                .enumerate()
                .filter(|(bit, _)| bits >> bit & 1 == 1)
                .map(|(_, name)| name)
                .collect()
        };
        let list = |rules: &BTreeSet<usize>, remote: &str| -> Vec<Value> {
            let rules = rules.iter().map(|rule| RULES[*rule]);
            rules
                .map(|(protocol, net, port)| match protocol {
                    "ALL" => json!({ "protocol": protocol, remote: net }),
                    _ => json!({ "protocol": protocol, remote: net, "port": port }),
                })
                .collect()
        };
        let groups: Vec<Value> = GROUPS
            .iter()
            .zip(&self.rules)
            .map(|(name, [inbound, outbound])| {
                json!({
                    "name": name, "inbound": list(inbound, "source"), "outbound": list(outbound, "destination"),
                    "include_allowed_addresses": self.settings[0],
                })
            })
            .collect();
        let interfaces: Vec<Value> = [("sg0", "10.0.0.5", "10.0.0.6"), ("sg1", "10.0.0.7", "192.0.2.2")]
            .into_iter()
            .zip(self.interfaces)
            .map(|((name, address, allowed), groups)| {
                json!({
                    "name": name, "hook": "tc", "addresses": [address], "allowed_addresses": [allowed],
                    "security_groups": names(groups),
                })
            })
            .collect();
        let peers = ADDRESSES.iter().zip(self.peers).filter(|(_, groups)| *groups != 0);
        let peers: Vec<Value> = peers
            .map(|(address, groups)| json!({ "address": address, "security_groups": names(groups) }))
            .collect();
        json!({
            "version": 1, "project": "shop", "vpc": "main", "ipv6": self.settings[1],
            "settings": {
                "metadata": if self.settings[2] { "cidr" } else { "explicit" },
                "on_rule_change": if self.settings[3] { "revoke" } else { "keep" },
            },
            "security_groups": groups, "interfaces": interfaces, "peers": peers,
        })
    }
}

#[test]
fn spec_d21_what_was_changed_bit_by_bit_is_what_would_have_been_made_anew() {
    Bench::run(Ingress::Tc, &DEVICES, |bench| {
        let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let bench = RefCell::new(bench);
        let counted = Cell::new(0);
        let outcome = runner.run(&steps(), |steps| {
            let mut bench = bench.borrow_mut();
            let mut world = World::new();
            bench.apply(&[world.document()]);
            for (number, step) in steps.iter().enumerate() {
                world.take(step);
                let stores = |bench: &mut Bench| {
                    let writes = bench.enforcer().kernel().writes();
                    (writes.interface_stores, writes.control_stores)
                };
                let before = stores(&mut bench);
                bench.apply(&[world.document()]);
                let after = stores(&mut bench);
                if before.0 == after.0 && before.1 != after.1 {
                    counted.set(counted.get() + 1);
                }
                let active = bench.enforcer().active().unwrap();
                prop_assert!(*active.image == compile(&active.model), "after {step:?}");
                // Which waits for packets, so that the steps between follow each other as they may.
                if number % 4 != 3 && number + 1 != steps.len() {
                    continue;
                }
                let wrong = bench.enforcer().audit().unwrap();
                prop_assert!(wrong.is_empty(), "after {step:?}: {wrong:#?}");
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
        let in_one_step = counted.get();
        // The random steps are to be of both kinds.
        assert!(in_one_step > 20, "{in_one_step} changes were of one element");
    });
}
