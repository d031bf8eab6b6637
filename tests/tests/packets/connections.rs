//! Connections: SPEC K11, D10 and D12.

use serde_json::{Value, json};
use sg_common::abi::Direction;
use sg_common::conntrack::State;
use sg_common::verdict::Reason::{Established, NewFlow, NoRule, RuleOnly, StrictTcp, TcpFlags, TcpState};

use crate::bench::{Bench, Way, ip, on_both_hooks};
use crate::frame::{ACK, FIN, PSH, Packet, RST, SYN, TCP, URG};
use crate::{
    GUEST, LIFE, OTHER, Talk, answer, at, everything, inbound_openers, next, outbound_openers, policy,
    with_rules,
};

/// Opens every kind of flow from both sides, changes the policy, and holds it to K11.
fn survive(before: fn(&Bench) -> Value, after: fn(&Bench) -> Value) {
    on_both_hooks(|bench| {
        for way in [Way::Ingress, Way::Egress] {
            let openers = if way == Way::Ingress { outbound_openers() } else { inbound_openers() };
            let back = if way == Way::Ingress { Way::Egress } else { Way::Ingress };
            bench.apply(&[before(bench)]);
            for (what, packet) in &openers {
                assert_eq!(bench.run_at("sg0", way, &packet.frame()), NewFlow, "{what}");
                assert_eq!(bench.run_at("sg0", back, &answer(packet).frame()), Established, "{what}");
                assert_eq!(bench.run_at("sg0", way, &next(packet).frame()), Established, "{what}");
            }
            bench.apply(&[after(bench)]);
            // Longer than any of the timeouts but TCP's, in steps shorter than each of them.
            for _ in 0..30 {
                bench.advance(25);
                for (what, packet) in &openers {
                    assert_eq!(bench.run_at("sg0", way, &next(packet).frame()), Established, "{what}");
                    let reply = if packet.protocol == TCP { packet.answer(ACK) } else { packet.reply() };
                    assert_eq!(bench.run_at("sg0", back, &reply.frame()), Established, "{what}");
                }
            }
            // Only new flows are judged by the new rules, …
            for (what, packet) in &openers {
                let other = match packet.protocol {
                    47 => continue,
                    1 | 58 => Packet::ping(packet.source, packet.destination, 78),
                    _ => {
                        let mut other = packet.clone();
                        other.payload[1] ^= 1;
                        other
                    }
                };
                assert_eq!(bench.run_at("sg0", way, &other.frame()), NoRule, "{what}");
            }
            // … until the old ones have timed out.
            bench.advance(432_000);
            for (what, packet) in &openers {
                assert_eq!(bench.run_at("sg0", way, &next(packet).frame()), NoRule, "{what}");
                let reply = if packet.protocol == TCP { packet.answer(ACK) } else { packet.reply() };
                assert_eq!(bench.run_at("sg0", back, &reply.frame()), NoRule, "{what}");
            }
            assert_eq!(bench.flows(), []);
        }
    });
}

fn open(bench: &Bench) -> Value {
    with_rules(bench.ingress(), &everything("source"), &everything("destination"))
}

fn shut(bench: &Bench) -> Value {
    with_rules(bench.ingress(), &json!([]), &json!([]))
}

#[test]
fn spec_k11_connections_outlive_the_rule_that_admitted_them_until_they_time_out() {
    survive(open, shut);
}

#[test]
fn spec_k11_connections_outlive_the_detachment_of_their_group() {
    let groups = |bench: &Bench, attached| {
        let open =
            json!({ "name": "open", "inbound": everything("source"), "outbound": everything("destination") });
        policy(bench.ingress(), &json!([open, { "name": "shut", "outbound": [] }]), &[attached])
    };
    on_both_hooks(|bench| {
        bench.apply(&[groups(bench, "open")]);
        for (what, packet) in outbound_openers() {
            assert_eq!(bench.sends(&packet), NewFlow, "{what}");
        }
        bench.apply(&[groups(bench, "shut")]);
        for (what, packet) in outbound_openers() {
            assert_eq!(bench.sends(&packet), Established, "{what}");
            assert_eq!(bench.receives(&answer(&packet)), Established, "{what}");
        }
    });
}

#[test]
fn spec_k11_connections_outlive_the_membership_of_their_remote() {
    let file = |bench: &Bench, members: &Value| {
        let groups = json!([{ "name": "club" }, { "name": "test", "outbound": [],
            "inbound": [{ "protocol": "ALL", "source": "@club" }] }]);
        let mut file = policy(bench.ingress(), &groups, &["test"]);
        file["peers"] = members.clone();
        file
    };
    on_both_hooks(|bench| {
        let member = |address| json!({ "address": address, "security_groups": ["club"] });
        bench.apply(&[file(bench, &json!([member(OTHER[0]), member(OTHER[1])]))]);
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.receives(&packet), NewFlow, "{what}");
        }
        bench.apply(&[file(bench, &json!([]))]);
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.sends(&answer(&packet)), Established, "{what}");
            assert_eq!(bench.receives(&next(&packet)), Established, "{what}");
        }
        bench.advance(432_000);
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.receives(&packet), NoRule, "{what}");
        }
    });
}

#[test]
fn spec_k11_revoke_cuts_what_no_rule_allows_and_nothing_else() {
    on_both_hooks(|bench| {
        let mut before = open(bench);
        before["settings"] = json!({ "on_rule_change": "revoke" });
        bench.apply(std::slice::from_ref(&before));
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.receives(&packet), NewFlow, "{what}");
            assert_eq!(bench.sends(&answer(&packet)), Established, "{what}");
        }
        let mut after = with_rules(
            bench.ingress(),
            &json!([{ "protocol": "TCP", "source": "0.0.0.0/0", "port": 443 },
                    { "protocol": "ICMP", "source": "::/0", "icmp_type": 128 }]),
            &json!([]),
        );
        after["settings"] = before["settings"].clone();
        bench.apply(&[after]);
        for (what, packet) in inbound_openers() {
            let expected = if matches!(what, "TCP, IPv4" | "ICMPv6") { Established } else { NoRule };
            assert_eq!(bench.receives(&next(&packet)), expected, "{what}");
            let reply = if packet.protocol == TCP { packet.answer(ACK) } else { packet.reply() };
            assert_eq!(bench.sends(&reply), expected, "{what}");
        }
        assert_eq!(bench.flows().len(), 2);
    });
}

#[test]
fn spec_d10_one_entry_for_both_directions_of_a_flow() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        for (count, (what, packet)) in outbound_openers().into_iter().enumerate() {
            assert_eq!(bench.sends(&packet), NewFlow, "{what}");
            assert_eq!(bench.receives(&answer(&packet)), Established, "{what}");
            assert_eq!(bench.sends(&next(&packet)), Established, "{what}");
            let flows = bench.flows();
            assert_eq!(flows.len(), count + 1, "{what}");
            let flow = flows
                .iter()
                .find(|flow| flow.protocol == packet.protocol && flow.local == packet.source)
                .unwrap();
            assert_eq!(flow.remote, packet.destination);
            assert_eq!(flow.origin, Direction::Outbound);
            assert!(flow.replied);
            if matches!(packet.protocol, 6 | 17) {
                assert_eq!((flow.local_port, flow.remote_port), (40_000, 443));
            }
        }
    });
}

#[test]
fn spec_d10_each_part_of_the_key_tells_flows_apart() {
    on_both_hooks(|bench| {
        let mut file = open(bench);
        file["interfaces"][0]["allowed_addresses"] = json!(["10.0.0.6"]);
        bench.apply(&[file]);
        let (here, there) = (at(GUEST[0], 1000), at(OTHER[0], 2000));
        let distinct = [
            Packet::udp(here, there, b""),
            Packet::udp(at(GUEST[0], 1001), there, b""),
            Packet::udp(here, at(OTHER[0], 2001), b""),
            Packet::udp(here, at("198.51.100.8", 2000), b""),
            Packet::udp(at("10.0.0.6", 1000), there, b""),
            Packet::udp(at(GUEST[0], 2000), at(OTHER[0], 1000), b""),
            Packet::tcp(here, there, SYN),
            Packet::ping(here.ip(), there.ip(), 1000),
            Packet::ping(here.ip(), there.ip(), 1001),
            Packet::icmp(here.ip(), there.ip(), 13, 0, 1000),
            Packet::new(here.ip(), there.ip(), 47, vec![0; 8]),
            Packet::new(here.ip(), there.ip(), 50, vec![0; 8]),
        ];
        for (count, packet) in distinct.iter().enumerate() {
            assert_eq!(bench.sends(packet), NewFlow, "{packet:?}");
            assert_eq!(bench.flows().len(), count + 1, "{packet:?}");
        }
        // The other way round, what is not an echo is the same flow.
        assert_eq!(bench.receives(&Packet::udp(there, here, b"")), Established);
        assert_eq!(bench.flows().len(), distinct.len());
    });
}

#[test]
fn spec_d10_pings_of_both_sides_with_one_identifier_are_two_flows() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        for (count, (here, there)) in GUEST.into_iter().zip(OTHER).enumerate() {
            let (here, there) = (ip(here), ip(there));
            assert_eq!(bench.sends(&Packet::ping(here, there, 9)), NewFlow);
            assert_eq!(bench.receives(&Packet::ping(there, here, 9)), NewFlow);
            assert_eq!(bench.flows().len(), 2 * count + 2);
            assert_eq!(bench.receives(&Packet::ping(here, there, 9).reply()), Established);
            assert_eq!(bench.sends(&Packet::ping(there, here, 9).reply()), Established);
            assert_eq!(bench.flows().len(), 2 * count + 2);
        }
    });
}

#[test]
fn spec_d10_other_protocols_have_no_ports() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        let (here, there) = (ip(GUEST[0]), ip(OTHER[0]));
        for protocol in [47, 50, 132] {
            assert_eq!(bench.sends(&Packet::new(here, there, protocol, vec![1; 12])), NewFlow);
            assert_eq!(bench.sends(&Packet::new(here, there, protocol, vec![2; 12])), Established);
            assert_eq!(bench.receives(&Packet::new(there, here, protocol, vec![3; 12])), Established);
            // Even without a byte of it.
            assert_eq!(bench.receives(&Packet::new(there, here, protocol, vec![])), Established);
        }
        assert_eq!(bench.flows().len(), 3);
    });
}

#[test]
fn spec_d12_a_connection_from_its_first_segment_to_its_last() {
    use State::{
        TcpClose, TcpCloseWait, TcpEstablished, TcpFinWait, TcpLastAck, TcpSynReceived, TcpSynSent,
        TcpTimeWait,
    };
    let states = [
        TcpSynSent,
        TcpSynReceived,
        TcpEstablished,
        TcpFinWait,
        TcpCloseWait,
        TcpLastAck,
        TcpTimeWait,
        TcpClose,
    ];
    on_both_hooks(|bench| {
        for (family, outbound) in [(0, true), (0, false), (1, true), (1, false)] {
            // What the other side may do on its own is of no use to it.
            let (inbound_rules, outbound_rules) = if outbound {
                (json!([]), everything("destination"))
            } else {
                (everything("source"), json!([]))
            };
            bench.apply(&[with_rules(bench.ingress(), &inbound_rules, &outbound_rules)]);
            let (here, there) = (at(GUEST[family], 40_000), at(OTHER[family], 40_000));
            let opener = if outbound { Packet::tcp(here, there, SYN) } else { Packet::tcp(there, here, SYN) };
            let mut talk = Talk::new(&opener);
            for ((side, flags), state) in LIFE.into_iter().zip(states) {
                let packet = talk.segment(side, flags);
                let expected = if flags == SYN { NewFlow } else { Established };
                assert_eq!(bench.run_at("sg0", side.way(outbound), &packet.frame()), expected, "{state:?}");
                assert_eq!(bench.flow().state, state);
            }
            bench.advance(432_000);
            assert_eq!(bench.flows(), []);
        }
    });
}

#[test]
fn spec_d12_a_new_flow_starts_with_syn_or_in_mid_stream_by_a_rule_of_its_own_direction() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
        for (port, flags, state) in [
            (1, ACK, State::TcpEstablished),
            (2, ACK | PSH, State::TcpEstablished),
            (3, SYN | ACK, State::TcpSynReceived),
            (4, FIN | ACK, State::TcpFinWait),
        ] {
            let packet = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], port), flags);
            assert_eq!(bench.receives(&packet.answer(flags)), NoRule, "{flags:#x}");
            assert_eq!(bench.flows(), []);
            assert_eq!(bench.sends(&packet), NewFlow, "{flags:#x}");
            assert_eq!(bench.flow().state, state);
            assert_eq!(bench.receives(&packet.answer(ACK)), Established);
            bench.advance(432_000);
        }
        // A reset ends something; there is nothing to end.
        let reset = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 5), RST);
        assert_eq!(bench.sends(&reset), RuleOnly);
        assert_eq!(bench.receives(&reset.reply()), NoRule);
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_d12_strict_tcp_wants_a_syn() {
    on_both_hooks(|bench| {
        let mut file = open(bench);
        file["settings"] = json!({ "strict_tcp": true });
        bench.apply(&[file]);
        let packet = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        for flags in [ACK, SYN | ACK, FIN | ACK, RST] {
            assert_eq!(bench.sends(&packet.then(flags)), StrictTcp, "{flags:#x}");
            assert_eq!(bench.receives(&packet.answer(flags)), StrictTcp, "{flags:#x}");
        }
        assert_eq!(bench.flows(), []);
        assert_eq!(bench.sends(&packet), NewFlow);
        assert_eq!(bench.receives(&packet.answer(SYN | ACK)), Established);
    });
}

#[test]
fn spec_d12_segments_that_do_not_fit_the_connection_are_dropped_and_change_nothing() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        let opener = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        assert_eq!(bench.sends(&opener), NewFlow);
        // Nobody acknowledges what has not come.
        assert_eq!(bench.sends(&opener.then(ACK)), TcpState);
        assert_eq!(bench.flow().state, State::TcpSynSent);
        assert_eq!(bench.receives(&opener.answer(SYN | ACK)), Established);
        assert_eq!(bench.sends(&opener.then(ACK)), Established);
        // A connection of its own would need its own rule, and there is one already with these ports.
        assert_eq!(bench.receives(&opener.answer(SYN)), TcpState);
        assert_eq!(bench.flow().state, State::TcpEstablished);
        for flags in [0, FIN, SYN | FIN, SYN | RST, FIN | RST, URG, FIN | PSH | URG] {
            assert_eq!(bench.sends(&opener.then(flags)), TcpFlags, "{flags:#x}");
            assert_eq!(bench.receives(&opener.answer(flags)), TcpFlags, "{flags:#x}");
        }
        assert_eq!(bench.flow().state, State::TcpEstablished);
    });
}

#[test]
fn spec_d12_a_syn_after_the_end_is_judged_by_the_rules_of_today() {
    on_both_hooks(|bench| {
        let opener = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        let life = |bench: &mut Bench| {
            bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
            let mut talk = Talk::new(&opener);
            for (side, flags) in LIFE.into_iter().take(7) {
                let packet = talk.segment(side, flags);
                let reason = bench.run_at("sg0", side.way(true), &packet.frame());
                assert_eq!(reason, if flags == SYN { NewFlow } else { Established });
            }
            assert_eq!(bench.flow().state, State::TcpTimeWait);
        };
        life(bench);
        let again = opener.clone().sequence(1_000_000, 0);
        // The other side has no rule of its own.
        assert_eq!(bench.receives(&again.answer(SYN).sequence(1_000_000, 0)), NoRule);
        assert_eq!(bench.sends(&again), NewFlow);
        assert_eq!(bench.flow().state, State::TcpSynSent);
        bench.advance(432_000);
        life(bench);
        bench.apply(&[shut(bench)]);
        assert_eq!(bench.sends(&again), NoRule);
    });
}
