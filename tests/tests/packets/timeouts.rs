//! SPEC D11: every timeout, reached by packets, alive just before and gone just after.

use serde_json::{Value, json};
use sg_common::abi::Direction;
use sg_common::conntrack::State;
use sg_common::verdict::Reason::{Established, NewFlow, NoRule};

use crate::bench::{Bench, Ingress, Way, ip, on_both_hooks};
use crate::frame::{ACK, Packet, RST, SYN};
use crate::{GUEST, LIFE, OTHER, Side, Talk, at, everything, with_rules};

/// A state, the name of its timeout, the default in seconds, and the packets that lead there: which side sends each.
struct Case {
    state: State,
    setting: &'static str,
    seconds: u32,
    script: Vec<(Side, Packet)>,
    /// What still passes, and changes nothing, while the flow lives: from either side.
    probes: [(Side, Packet); 2],
}

fn cases(family: usize) -> Vec<Case> {
    use Side::{Answerer, Opener};
    use State::{
        TcpClose, TcpCloseWait, TcpEstablished, TcpFinWait, TcpLastAck, TcpSynReceived, TcpSynSent,
        TcpTimeWait,
    };
    let (here, there) = (at(GUEST[family], 40_000), at(OTHER[family], 443));
    let opener = Packet::tcp(here, there, SYN);
    // The beginning of a connection's life, and what each side may say then.
    let life = |count: usize| {
        let mut talk = Talk::new(&opener);
        let script: Vec<_> =
            LIFE.into_iter().take(count).map(|(side, flags)| (side, talk.segment(side, flags))).collect();
        (script, talk)
    };
    let mut cases = Vec::new();
    for (count, state, setting, seconds) in [
        (1, TcpSynSent, "tcp_syn_sent", 30),
        (2, TcpSynReceived, "tcp_syn_recv", 60),
        (3, TcpEstablished, "tcp_established", 432_000),
        (4, TcpFinWait, "tcp_fin_wait", 120),
        (5, TcpCloseWait, "tcp_close_wait", 60),
        (6, TcpLastAck, "tcp_last_ack", 30),
        (7, TcpTimeWait, "tcp_time_wait", 120),
    ] {
        let (script, mut talk) = life(count);
        let own = if state == TcpSynSent { script[0].1.clone() } else { talk.segment(Opener, ACK) };
        let probes = [(Opener, own), (Answerer, talk.segment(Answerer, ACK))];
        cases.push(Case { state, setting, seconds, script, probes });
    }
    let (mut script, mut talk) = life(3);
    script.push((Answerer, talk.segment(Answerer, RST)));
    let probes = [(Opener, talk.segment(Opener, ACK)), (Answerer, talk.segment(Answerer, ACK))];
    cases.push(Case { state: TcpClose, setting: "tcp_close", seconds: 10, script, probes });
    let both = |packet: &Packet| [(Opener, packet.clone()), (Answerer, packet.reply())];
    let udp = Packet::udp(here, there, b"?");
    let ping = Packet::ping(here.ip(), there.ip(), 7);
    let gre = Packet::new(here.ip(), there.ip(), 47, vec![0; 8]);
    for (state, setting, seconds, packet, count) in [
        (State::Udp, "udp", 30, &udp, 1),
        (State::Udp, "udp", 30, &udp, 2),
        (State::UdpStream, "udp_stream", 180, &udp, 3),
        (State::UdpStream, "udp_stream", 180, &udp, 4),
        (State::Icmp, "icmp", 30, &ping, 1),
        (State::Icmp, "icmp", 30, &ping, 2),
        (State::Other, "other", 600, &gre, 1),
        (State::Other, "other", 600, &gre, 2),
    ] {
        let script = both(packet).into_iter().cycle().take(count).collect();
        cases.push(Case { state, setting, seconds, script, probes: both(packet) });
    }
    cases
}

/// Leads a flow into the case's state, takes the rules away and watches it end.
fn watch(bench: &mut Bench, case: &Case, seconds: u32, open: &Value, shut: &Value) {
    let state = case.state;
    bench.apply(std::slice::from_ref(open));
    for (index, (side, packet)) in case.script.iter().enumerate() {
        let expected = if index == 0 { NewFlow } else { Established };
        assert_eq!(bench.run_at("sg0", side.way(true), &packet.frame()), expected, "{state:?}");
    }
    bench.apply(std::slice::from_ref(shut));
    assert_eq!(bench.flow().state, state);
    bench.advance(seconds - 1);
    for (side, packet) in &case.probes {
        // Asked, because a packet would keep the flow alive.
        assert_eq!(
            bench.ask("sg0", side.way(true), &packet.frame()).reason,
            Established,
            "{state:?} {side:?}"
        );
    }
    assert_eq!(bench.flow().state, state);
    bench.advance(1);
    assert_eq!(bench.flows(), [], "{state:?}");
    for (side, packet) in &case.probes {
        assert_eq!(bench.ask("sg0", side.way(true), &packet.frame()).reason, NoRule, "{state:?} {side:?}");
        assert_eq!(bench.run_at("sg0", side.way(true), &packet.frame()), NoRule, "{state:?} {side:?}");
    }
}

#[test]
fn spec_d11_every_state_lasts_as_long_as_the_specification_says() {
    on_both_hooks(|bench| {
        let open = with_rules(bench.ingress(), &json!([]), &everything("destination"));
        let shut = with_rules(bench.ingress(), &json!([]), &json!([]));
        for family in 0..2 {
            for case in cases(family) {
                watch(bench, &case, case.seconds, &open, &shut);
            }
        }
    });
}

#[test]
fn spec_d11_timeouts_are_settings_of_the_daemon_and_of_the_interface() {
    Bench::run(Ingress::Tc, &["sg0"], |bench| {
        for place in ["daemon", "interface"] {
            for (index, case) in cases(0).iter().enumerate() {
                // Different for each, so that none stands in for another.
                let seconds = 61 + 3 * index as u32;
                let with = |mut file: Value| {
                    let timeouts = json!({ case.setting: seconds });
                    match place {
                        "daemon" => file["settings"] = json!({ "timeouts": timeouts }),
                        _ => file["interfaces"][0]["timeouts"] = timeouts,
                    }
                    file
                };
                let open = with(with_rules(bench.ingress(), &json!([]), &everything("destination")));
                let shut = with(with_rules(bench.ingress(), &json!([]), &json!([])));
                watch(bench, case, seconds, &open, &shut);
            }
        }
    });
}

#[test]
fn spec_d11_packets_of_both_directions_keep_a_flow_alive() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
        let ping = Packet::ping(ip(GUEST[0]), ip(OTHER[0]), 7);
        assert_eq!(bench.sends(&ping), NewFlow);
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        for _ in 0..5 {
            bench.advance(29);
            assert_eq!(bench.sends(&ping), Established);
            bench.advance(29);
            assert_eq!(bench.receives(&ping.reply()), Established);
        }
        bench.advance(30);
        assert_eq!(bench.receives(&ping.reply()), NoRule);
    });
}

#[test]
fn spec_d11_a_question_keeps_nothing_alive() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
        let packet = Packet::udp(at(GUEST[0], 40_000), at(OTHER[0], 53), b"?");
        assert_eq!(bench.sends(&packet), NewFlow);
        let before = (bench.counts(), bench.flow().state);
        bench.advance(20);
        assert_eq!(bench.ask("sg0", Way::Ingress, &packet.frame()).reason, Established);
        assert_eq!(bench.ask("sg0", Way::Egress, &packet.reply().frame()).reason, Established);
        assert_eq!((bench.counts(), bench.flow().state), before);
        bench.advance(10);
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_d11_an_expired_entry_gives_no_verdict_collected_or_not() {
    on_both_hooks(|bench| {
        let outbound = with_rules(bench.ingress(), &json!([]), &everything("destination"));
        let inbound = with_rules(bench.ingress(), &everything("source"), &json!([]));
        for (what, packet) in crate::outbound_openers() {
            for collected in [false, true] {
                bench.apply(std::slice::from_ref(&outbound));
                assert_eq!(bench.sends(&packet), NewFlow, "{what}");
                bench.advance(432_000);
                if collected {
                    bench.advance(2);
                    assert_eq!(bench.enforcer().kernel().collect().unwrap(), 1, "{what}");
                    assert_eq!(bench.enforcer().kernel().collect().unwrap(), 0, "{what}");
                }
                assert_eq!(bench.receives(&crate::answer(&packet)), NoRule, "{what}");
                // In its place a flow of the other side begins, if the rules say so.
                bench.apply(std::slice::from_ref(&inbound));
                let other_way = if matches!(packet.protocol, 1 | 58) {
                    Packet::ping(packet.destination, packet.source, 77)
                } else {
                    packet.reply()
                };
                assert_eq!(bench.sends(&packet), NoRule, "{what}");
                assert_eq!(bench.receives(&other_way), NewFlow, "{what}");
                let flow = bench.flow();
                assert_eq!((flow.origin, flow.replied), (Direction::Inbound, false), "{what}");
                assert_eq!(flow.age, 0);
                bench.advance(432_002);
                bench.enforcer().kernel().collect().unwrap();
            }
        }
    });
}
