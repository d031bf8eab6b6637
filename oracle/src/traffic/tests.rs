//! That the traffic meets every reason and every state: what is never met is not tested.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::{Ground, Script, Step, any_script};
use crate::expect::{FlowView, Limits, Oracle};
use crate::guarded::{any_guarded_world, any_limits};
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

/// Section 8's and 9's changes of state, no more and no fewer; "" is no flow.
const TRANSITIONS: [(&str, &str); 26] = [
    ("", "udp"),
    ("", "icmp"),
    ("", "other"),
    ("", "syn_sent"),
    ("", "syn_recv"),
    ("", "established"),
    ("", "fin_wait"),
    ("syn_sent", "syn_recv"),
    ("syn_sent", "close"),
    ("syn_recv", "established"),
    ("syn_recv", "fin_wait"),
    ("syn_recv", "close"),
    // Both open at once.
    ("syn_recv", "syn_sent"),
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

/// Of TCP.
const STATES: [&str; 8] =
    ["syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close"];

type States = BTreeMap<(String, u8, String), &'static str>;

fn states(flows: &[FlowView]) -> States {
    let name = |flow: &FlowView| format!("{} {} {:?}", flow.local, flow.remote, flow.ports);
    flows.iter().map(|flow| ((flow.device.clone(), flow.protocol, name(flow)), flow.state)).collect()
}

fn scripts(runner: &mut TestRunner) -> Vec<Script> {
    (0..SCRIPTS_OF_A_WORLD).map(|_| any_script().new_tree(runner).unwrap().current()).collect()
}

#[test]
fn traffic_meets_every_reason_and_every_state() {
    let mut runner = TestRunner::deterministic();
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    let mut transitions: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut rows: BTreeMap<(&str, &str, bool), u64> = BTreeMap::new();
    for world in 0..SCRIPTS / SCRIPTS_OF_A_WORLD {
        let files = any_guarded_world().new_tree(&mut runner).unwrap().current().files();
        let ground = Ground::new(&files);
        let limits = match world % 8 {
            0 => Limits { live: 1, half_v4: 1, half_v6: 0, datagrams: 1 },
            _ => any_limits().new_tree(&mut runner).unwrap().current(),
        };
        let mut oracle = Oracle::new(&files, limits);
        for script in scripts(&mut runner) {
            // Mostly a fresh start; now and then on what others have left.
            if script.order % 8 != 0 {
                oracle = oracle.forgotten();
            }
            let mut before = oracle.flows();
            for step in script.on(&ground) {
                match step {
                    Step::Advance(seconds) => {
                        oracle.advance(seconds.into());
                        before = oracle.flows();
                    }
                    Step::Frame { device, ingress, frame } => {
                        *reasons.entry(oracle.judge(&device, ingress, &frame).reason).or_default() += 1;
                        let after = oracle.flows();
                        let host = ground.spots.iter().any(|spot| spot.device == device && spot.host);
                        if let Some(row) = row(&before, &device, ingress != host, &frame) {
                            *rows.entry(row).or_default() += 1;
                        }
                        let old_states = states(&before);
                        for (key, state) in &states(&after) {
                            let old = old_states.get(key).copied().unwrap_or("");
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
    println!("{reasons:#?}\n{transitions:#?}\n{rows:#?}");
    let missing: Vec<_> = REASONS.iter().filter(|reason| !reasons.contains_key(*reason)).collect();
    assert!(missing.is_empty(), "never: {missing:?}");
    let unknown: Vec<_> = reasons.keys().filter(|reason| !REASONS.contains(reason)).collect();
    assert!(unknown.is_empty(), "not in the list: {unknown:?}");
    let met: BTreeSet<_> = transitions.into_keys().collect();
    assert_eq!(met, BTreeSet::from(TRANSITIONS));
    for state in STATES {
        for segment in ["rst", "syn", "syn_ack", "fin", "ack"] {
            for from_origin in [true, false] {
                assert!(rows.contains_key(&(segment, state, from_origin)), "{segment} {state} {from_origin}");
            }
        }
    }
}

/// Which row of section 8's tables the frame is for, if it is TCP without anything around it.
fn row(
    before: &[FlowView],
    device: &str,
    outbound: bool,
    frame: &[u8],
) -> Option<(&'static str, &'static str, bool)> {
    let (source, destination, tcp): (IpAddr, IpAddr, &[u8]) = match (frame.get(12..15)?, frame.len()) {
        ([8, 0, 0x45], 54..) if frame[23] == 6 && frame[20] & 0x3f == 0 && frame[21] == 0 => {
            let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
            (address(26), address(30), &frame[34..])
        }
        ([0x86, 0xdd, 0x60], 74..) if frame[20] == 6 => {
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
            (address(22), address(38), &frame[54..])
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let key = if outbound {
        (source, destination, (port(0), port(2)))
    } else {
        (destination, source, (port(2), port(0)))
    };
    let flow = before.iter().find(|flow| {
        flow.device == device && flow.protocol == 6 && (flow.local, flow.remote, flow.ports) == key
    })?;
    let segment = match tcp[13] & 0x17 {
        0x04 | 0x14 => "rst",
        0x02 => "syn",
        0x12 => "syn_ack",
        0x11 => "fin",
        0x10 => "ack",
        _ => return None,
    };
    Some((segment, flow.state, flow.begun_by_instance == outbound))
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
