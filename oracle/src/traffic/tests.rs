//! That the traffic meets every reason and every state: what is never met is not tested.

use std::collections::BTreeMap;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::{Ground, Script, Step, any_script};
use crate::expect::{FlowView, Limits, Oracle};
use crate::guarded::any_guarded_world;
use crate::world::any_world;

const SCRIPTS: usize = 20_000;
const SCRIPTS_OF_A_WORLD: usize = 20;

/// All of docs/packets.md.
const REASONS: [&str; 33] = [
    "established",
    "new_flow",
    "rule_only",
    "arp",
    "neighbor_discovery",
    "dhcp",
    "related",
    "fragment",
    "early_fragment",
    "ether_type_listed",
    "no_rule",
    "malformed",
    "ether_type",
    "vlan",
    "tiny_fragment",
    "extension_headers",
    "tcp_flags",
    "tcp_state",
    "strict_tcp",
    "table_full",
    "unknown_interface",
    "fragment_overlap",
    "fragment_of_dropped",
    "fragment_limit",
    "tcp_window",
    "redirect",
    "source_mac",
    "source_address",
    "arp_spoof",
    "neighbor_spoof",
    "dhcp_server",
    "router_advertisement",
    "source_route",
];

/// Section 8's and 9's changes of state; "" is no flow.
const TRANSITIONS: [(&str, &str); 22] = [
    ("", "syn_sent"),
    ("", "syn_recv"),
    ("", "established"),
    ("", "fin_wait"),
    ("syn_sent", "syn_recv"),
    ("syn_sent", "close"),
    ("syn_recv", "established"),
    ("syn_recv", "fin_wait"),
    ("syn_recv", "close"),
    ("established", "fin_wait"),
    ("established", "close"),
    ("fin_wait", "close_wait"),
    ("fin_wait", "last_ack"),
    ("fin_wait", "close"),
    ("close_wait", "last_ack"),
    ("close_wait", "close"),
    ("last_ack", "time_wait"),
    ("last_ack", "close"),
    ("time_wait", "close"),
    // Begun anew.
    ("time_wait", "syn_sent"),
    ("close", "syn_sent"),
    ("udp", "udp_stream"),
];

type States = BTreeMap<(String, u8, String), &'static str>;

fn states(flows: Vec<FlowView>) -> States {
    let name = |flow: &FlowView| format!("{} {} {:?}", flow.local, flow.remote, flow.ports);
    flows.into_iter().map(|flow| ((flow.device.clone(), flow.protocol, name(&flow)), flow.state)).collect()
}

fn scripts(runner: &mut TestRunner) -> Vec<Script> {
    (0..SCRIPTS_OF_A_WORLD).map(|_| any_script().new_tree(runner).unwrap().current()).collect()
}

#[test]
fn traffic_meets_every_reason_and_every_state() {
    let mut runner = TestRunner::deterministic();
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    let mut transitions: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for world in 0..SCRIPTS / SCRIPTS_OF_A_WORLD {
        let files = any_guarded_world().new_tree(&mut runner).unwrap().current().files();
        let ground = Ground::new(&files);
        let small = world % 4 == 0;
        let limits = if small {
            Limits { live: 2, half_v4: 3, half_v6: 2 }
        } else {
            Limits { live: 1000, half_v4: 1000, half_v6: 1000 }
        };
        let mut oracle = Oracle::new(&files, limits);
        for script in scripts(&mut runner) {
            // Mostly a fresh start; now and then on what others have left.
            if script.order % 8 != 0 {
                oracle = oracle.forgotten();
            }
            let mut before = states(oracle.flows());
            for step in script.on(&ground) {
                match step {
                    Step::Advance(seconds) => {
                        oracle.advance(seconds.into());
                        before = states(oracle.flows());
                    }
                    Step::Frame { device, ingress, frame } => {
                        *reasons.entry(oracle.judge(&device, ingress, &frame).reason).or_default() += 1;
                        let after = states(oracle.flows());
                        for (key, state) in &after {
                            let old = before.get(key).copied().unwrap_or("");
                            if old != *state {
                                *transitions.entry((old, state)).or_default() += 1;
                            }
                        }
                        before = after;
                    }
                }
            }
        }
    }
    println!("{reasons:#?}\n{transitions:#?}");
    let missing: Vec<_> = REASONS.iter().filter(|reason| !reasons.contains_key(*reason)).collect();
    assert!(missing.is_empty(), "never: {missing:?}");
    let unknown: Vec<_> = reasons.keys().filter(|reason| !REASONS.contains(reason)).collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
    let missing: Vec<_> = TRANSITIONS.iter().filter(|change| !transitions.contains_key(*change)).collect();
    assert!(missing.is_empty(), "never: {missing:?}");
}

#[test]
fn worlds_without_guards_are_ground_too() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let files = any_world().new_tree(&mut runner).unwrap().current().files();
        let bare = files
            .iter()
            .filter_map(|file| file["interfaces"].as_array())
            .flatten()
            .all(|interface| interface["kind"] == "bare_metal");
        let steps: usize = scripts(&mut runner).iter().map(|script| script.steps(&files).len()).sum();
        assert_eq!(steps == 0, bare);
    }
}
