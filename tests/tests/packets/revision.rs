//! One policy after another: SPEC K10, K23 and D21 in the small.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sg_common::abi::Direction;
use sg_common::verdict::Reason::{Established, NewFlow, NoRule, RuleOnly};

use crate::bench::{Bench, Way, on_both_hooks};
use crate::frame::{ACK, Packet, SYN};
use crate::{GUEST, OTHER, at, everything, policy, with_rules};

fn tcp_in(port: u16) -> Value {
    json!([{ "protocol": "TCP", "source": "0.0.0.0/0", "port": port }])
}

#[test]
fn spec_k10_every_change_of_a_rule_bites_at_once_on_all_that_the_group_is_attached_to() {
    on_both_hooks(|bench| {
        let file = |bench: &Bench, ports: &[u16]| {
            let rules: Value = ports.iter().map(|port| tcp_in(*port)[0].clone()).collect::<Vec<_>>().into();
            let mut file = with_rules(bench.ingress(), &rules, &json!([]));
            let mut second = file["interfaces"][0].clone();
            second["name"] = "sg1".into();
            second["addresses"] = json!([]);
            file["interfaces"].as_array_mut().unwrap().push(second);
            file
        };
        let mut source = 40_000;
        // Added, changed, deleted, added again.
        for ports in [&[80][..], &[80, 443], &[80, 8443], &[8443], &[], &[80]] {
            bench.apply(&[file(bench, ports)]);
            source += 1;
            for device in ["sg0", "sg1"] {
                for port in [80, 443, 8443] {
                    let packet = Packet::tcp(at(OTHER[0], source), at(GUEST[0], port), SYN);
                    let expected = if ports.contains(&port) { NewFlow } else { NoRule };
                    assert_eq!(
                        bench.run_at(device, Way::Egress, &packet.frame()),
                        expected,
                        "{port} of {ports:?}"
                    );
                }
            }
        }
    });
}

#[test]
fn spec_k23_default_can_be_edited() {
    on_both_hooks(|bench| {
        let default = json!([{ "name": "default", "inbound": tcp_in(22), "outbound": [] }]);
        bench.apply(&[policy(bench.ingress(), &default, &["default"])]);
        assert_eq!(bench.receives(&Packet::tcp(at(OTHER[0], 1), at(GUEST[0], 22), SYN)), NewFlow);
        assert_eq!(bench.sends(&Packet::tcp(at(GUEST[0], 1), at(OTHER[0], 22), SYN)), NoRule);
        // No longer written, it is what it was.
        bench.apply(&[policy(bench.ingress(), &json!([]), &["default"])]);
        assert_eq!(bench.receives(&Packet::tcp(at(OTHER[0], 2), at(GUEST[0], 22), SYN)), NoRule);
        assert_eq!(bench.sends(&Packet::tcp(at(GUEST[0], 2), at(OTHER[0], 22), SYN)), NewFlow);
    });
}

#[test]
fn spec_d21_verdicts_before_and_after_a_swap_are_those_of_the_policies() {
    on_both_hooks(|bench| {
        let policies = [
            with_rules(bench.ingress(), &tcp_in(80), &json!([])),
            with_rules(bench.ingress(), &tcp_in(81), &everything("destination")),
        ];
        for round in 0..20usize {
            let generation = bench.enforcer().kernel().generation();
            bench.apply(&policies[round % 2..=round % 2]);
            assert_eq!(bench.enforcer().kernel().generation(), generation + 1);
            let allowed = 80 + (round % 2) as u16;
            for port in [80, 81] {
                let packet = Packet::tcp(at(OTHER[0], 1000 + round as u16), at(GUEST[0], port), SYN);
                let expected = if port == allowed { NewFlow } else { NoRule };
                assert_eq!(bench.receives(&packet), expected, "round {round}, port {port}");
                // K11 across swaps: answered now, and in the next round.
                if port == allowed {
                    assert_eq!(bench.sends(&packet.answer(SYN | ACK)), Established);
                }
            }
            if round > 0 {
                let port = 80 + ((round - 1) % 2) as u16;
                let packet = Packet::tcp(at(OTHER[0], 1000 + round as u16 - 1), at(GUEST[0], port), ACK);
                assert_eq!(bench.receives(&packet), Established, "round {round}");
            }
        }
    });
}

#[test]
fn spec_d21_the_same_policy_again_changes_nothing() {
    on_both_hooks(|bench| {
        let file = with_rules(bench.ingress(), &tcp_in(80), &json!([]));
        bench.apply(std::slice::from_ref(&file));
        let generation = bench.enforcer().kernel().generation();
        bench.apply(&[file]);
        assert_eq!(bench.enforcer().kernel().generation(), generation);
    });
}

/// Both policies allow the packets that are sent; each mixture of them denies some: the old rules with the new
/// membership, the new rules with the old one.
#[test]
fn spec_d21_no_packet_sees_half_of_each_policy() {
    on_both_hooks(|bench| {
        let file = |bench: &Bench, colour: &str| {
            let groups = json!([
                { "name": "test", "inbound": [], "outbound": [
                    { "protocol": "ICMP", "destination": format!("@{colour}"), "icmp_type": 10 }] },
                { "name": "blue" }, { "name": "gold" } ]);
            let mut file = policy(bench.ingress(), &groups, &["test"]);
            file["peers"] = json!([{ "address": OTHER[0], "security_groups": [colour] }]);
            file
        };
        let files = ["blue", "gold"].map(|colour| file(bench, colour));
        bench.apply(&files[..1]);
        // Of a kind that starts no flow, so that the rules are asked each time.
        let packet = Packet::icmp(GUEST[0].parse().unwrap(), OTHER[0].parse().unwrap(), 10, 0, 0).frame();
        let sender = bench.sender("sg0");
        let stop = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let send = || {
                let mut sent = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    sent += u64::from(sender.send(&packet));
                }
                sent
            };
            let sending = scope.spawn(send);
            for round in 0..40 {
                bench.apply(&files[round % 2..=round % 2]);
            }
            stop.store(true, Ordering::Relaxed);
            sending.join().unwrap()
        });
        let counted = bench.wait_for_packets(sent);
        let counts = bench.counts();
        println!("{sent} packets during 40 swaps: {counts:?}");
        let (passed, _) = counts[&("sg0".to_owned(), Direction::Outbound, RuleOnly)];
        assert_eq!(counts.len(), 1, "no packet was denied: {counts:?}");
        assert_eq!((passed, counted), (sent, sent));
        assert!(sent > 1000, "{sent} packets are too few to meet a swap");
    });
}
