//! SPEC D16: what a flood of new flows can do, and what it cannot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use sg_common::conntrack::State;
use sg_common::verdict::Action;
use sg_common::verdict::Reason::{Established, NewFlow, NoRule, TableFull, TcpState};

use crate::bench::{Bench, Way, on_both_hooks};
use crate::frame::{ACK, Packet, RST, SYN};
use crate::{GUEST, OTHER, Side, Talk, answer, at, everything, next, outbound_openers, with_rules};

/// `sg0` and its neighbour `sg1`, which has the same addresses in another VPC; both open.
fn neighbours(bench: &Bench) -> [Value; 2] {
    let file = with_rules(bench.ingress(), &everything("source"), &everything("destination"));
    let mut other = file.clone();
    other["vpc"] = "test".into();
    other["interfaces"][0]["name"] = "sg1".into();
    [file, other]
}

/// An address and a port that no other number has.
fn somebody(family: usize, number: u32) -> SocketAddr {
    let address: IpAddr = match family {
        0 => Ipv4Addr::from_bits(0xc612_0000 + (number >> 8)).into(),
        _ => Ipv6Addr::from_bits((0x2001_0db8_0bad << 80) + u128::from(number >> 8)).into(),
    };
    SocketAddr::new(address, 1024 + (number & 0xff) as u16)
}

/// A stranger's first packet to the guest.
fn knock(family: usize, number: u32, flags: Option<u8>) -> Packet {
    let (from, to) = (somebody(family, number), at(GUEST[family], 443));
    match flags {
        Some(flags) => Packet::tcp(from, to, flags),
        None => Packet::udp(from, to, b"?"),
    }
}

/// The neighbour's flows of each kind, one half-open and one live; and a live one of the interface's own.
fn settle(bench: &mut Bench) -> Vec<(&'static str, Packet)> {
    let openers = outbound_openers();
    for (what, packet) in &openers {
        for (device, port) in [("sg0", 0), ("sg1", 0), ("sg1", 1)] {
            let mut packet = packet.clone();
            match packet.protocol {
                6 | 17 => packet.payload[0] ^= port,
                1 | 58 => packet.payload[4] ^= port,
                // No ports: its neighbour's one flow is live.
                _ if port == 1 => continue,
                _ => {}
            }
            assert_eq!(bench.run_at(device, Way::Ingress, &packet.frame()), NewFlow, "{what}");
            if port == 0 {
                assert_eq!(bench.run_at(device, Way::Egress, &answer(&packet).frame()), Established);
                assert_eq!(bench.run_at(device, Way::Ingress, &next(&packet).frame()), Established);
            }
        }
    }
    openers
}

/// How many half-open flows an interface may have of one family: until its oldest is pushed out.
fn half_share(bench: &mut Bench, family: usize) -> u32 {
    let index = bench.index("sg0");
    let limit = 1 << 16;
    let mut begun = 0;
    while begun < limit {
        for _ in 0..512 {
            assert_eq!(bench.raw(index, Way::Egress, &knock(family, begun, None).frame()), Action::Allow);
            begun += 1;
        }
        let zone = zone(bench, "sg0");
        let there = bench.flows();
        let there = there
            .iter()
            .filter(|flow| flow.half_open && flow.zone == zone && flow.local.is_ipv6() == (family == 1))
            .count();
        if there < begun as usize {
            return there as u32;
        }
    }
    panic!("{begun} half-open flows of one interface, and no end");
}

fn zone(bench: &mut Bench, device: &str) -> u32 {
    let slot = bench.enforcer().devices()[device].slot;
    bench.enforcer().kernel().zone(slot).unwrap()
}

/// What the interface's share says, and what is there.
#[track_caller]
fn assert_live(bench: &mut Bench, device: &str, expected: usize) {
    let slot = bench.enforcer().devices()[device].slot;
    let (live, _) = bench.enforcer().kernel().live_flows(slot);
    let zone = zone(bench, device);
    let there = bench.flows().iter().filter(|flow| flow.zone == zone && !flow.half_open).count();
    assert_eq!((live, there), (expected as u64, expected));
}

fn live_limit(bench: &mut Bench, device: &str) -> u32 {
    let slot = bench.enforcer().devices()[device].slot;
    bench.enforcer().kernel().live_flows(slot).1
}

#[test]
fn spec_d16_a_flood_pushes_out_nothing_but_its_own_interfaces_oldest_half_open_flows() {
    on_both_hooks(|bench| {
        bench.apply(&neighbours(bench));
        let openers = settle(bench);
        let before: Vec<_> = bench.flows().into_iter().map(|flow| flow.key).collect();
        for family in 0..2 {
            let share = half_share(bench, family);
            assert!(share >= 1024, "{share}");
            let flows = bench.flows();
            // Whatever was there is there: live flows of the interface, and all of its neighbour's.
            for key in &before {
                assert!(flows.iter().any(|flow| flow.key == *key), "{key:?}");
            }
            // A SYN flood, three times as large, does no more than that.
            let index = bench.index("sg0");
            for number in 0..3 * share {
                let syn = knock(family, 100_000 + number, Some(SYN)).frame();
                assert_eq!(bench.raw(index, Way::Egress, &syn), Action::Allow);
            }
            let zone = zone(bench, "sg0");
            let flows = bench.flows();
            let half_open: Vec<_> = flows
                .iter()
                .filter(|flow| flow.zone == zone && flow.half_open && flow.local.is_ipv6() == (family == 1))
                .collect();
            assert_eq!(half_open.len(), share as usize);
            assert!(half_open.iter().all(|flow| flow.protocol == 6), "the newest");
            let newest = knock(family, 100_000 + 3 * share - 1, Some(SYN));
            assert_eq!(bench.sends(&newest.answer(SYN | ACK)), Established);
            let newest_in_place = knock(family, 100_000 + 2 * share, Some(SYN));
            assert_eq!(bench.sends(&newest_in_place.answer(SYN | ACK)), Established);
            for key in &before {
                assert!(flows.iter().any(|flow| flow.key == *key), "{key:?}");
            }
        }
        // A flow of the flood that was pushed out is as if it had never been.
        bench.apply(&{
            let mut files = neighbours(bench);
            files[0]["security_groups"][0] = json!({ "name": "test", "inbound": [], "outbound": [] });
            files
        });
        assert_eq!(bench.sends(&knock(0, 100_000, Some(SYN)).answer(SYN | ACK)), NoRule);
        // The others go on.
        for (what, packet) in &openers {
            for device in ["sg0", "sg1"] {
                let reply = answer(packet).frame();
                assert_eq!(bench.run_at(device, Way::Egress, &reply), Established, "{what} {device}");
                let more = next(packet).frame();
                assert_eq!(bench.run_at(device, Way::Ingress, &more), Established, "{what} {device}");
            }
        }
    });
}

#[test]
fn spec_d16_a_guess_makes_nothing_live() {
    on_both_hooks(|bench| {
        bench.apply(&neighbours(bench));
        for family in 0..2 {
            let opener = knock(family, 7, Some(SYN));
            let mut talk = Talk::new(&opener);
            assert_eq!(bench.receives(&talk.segment(Side::Opener, SYN)), NewFlow);
            // Before the guest has said anything there is nothing to acknowledge.
            let guess = |talk: &Talk, flags, acknowledgment| {
                talk.at(Side::Opener, flags, talk.next[0], acknowledgment)
            };
            assert_eq!(bench.receives(&guess(&talk, ACK, 1)), TcpState);
            assert_eq!(bench.sends(&talk.segment(Side::Answerer, SYN | ACK)), Established);
            for distance in [0x1_0000, 1 << 30, 1 << 31, u32::MAX, 0xff00_0000] {
                let _ = bench.receives(&guess(&talk, ACK, talk.next[1].wrapping_sub(distance)));
                let flow = bench.flow();
                assert_eq!((flow.state, flow.half_open), (State::TcpSynReceived, true), "{distance:#x}");
            }
            assert_live(bench, "sg0", 0);
            // No reset makes a flow live either.
            assert_eq!(bench.sends(&talk.segment(Side::Answerer, RST | ACK)), Established);
            assert!(bench.flow().half_open);
            assert_live(bench, "sg0", 0);
            bench.forget();
        }
        // One side alone makes nothing live, however much it says.
        for family in 0..2 {
            for packet in [knock(family, 7, None), knock(family, 7, Some(ACK))] {
                assert_eq!(bench.receives(&packet), NewFlow);
                assert_eq!(bench.receives(&packet), Established);
                assert_eq!(bench.receives(&packet), Established);
                assert!(bench.flow().half_open);
                bench.forget();
            }
        }
    });
}

#[test]
fn spec_d16_the_limit_of_live_flows_is_exact_and_each_interfaces_own() {
    on_both_hooks(|bench| {
        bench.apply(&neighbours(bench));
        let index = bench.index("sg0");
        let limit = live_limit(bench, "sg0");
        // Both families have one limit.
        for number in 0..limit {
            let family = (number % 2) as usize;
            let packet = knock(family, number, None);
            assert_eq!(bench.raw(index, Way::Egress, &packet.frame()), Action::Allow);
            assert_eq!(bench.raw(index, Way::Ingress, &packet.reply().frame()), Action::Allow, "{number}");
        }
        assert_live(bench, "sg0", limit as usize);
        for family in 0..2 {
            for number in limit..limit + 3 {
                let packet = knock(family, number, None);
                assert_eq!(bench.receives(&packet), NewFlow, "half-open ones have a room of their own");
                assert_eq!(bench.sends(&packet.reply()), TableFull);
                assert_eq!(bench.sends(&packet.reply()), TableFull);
                let talk_opener = knock(family, number, Some(SYN));
                assert_eq!(bench.receives(&talk_opener), NewFlow);
                assert_eq!(bench.sends(&talk_opener.answer(SYN | ACK)), Established);
                assert_eq!(bench.receives(&talk_opener.then(ACK)), TableFull);
            }
        }
        assert_live(bench, "sg0", limit as usize);
        // The live ones go on.
        for number in [0, 1, limit - 2, limit - 1] {
            let packet = knock((number % 2) as usize, number, None);
            assert_eq!(bench.receives(&packet), Established, "{number}");
            assert_eq!(bench.sends(&packet.reply()), Established, "{number}");
        }
        // The neighbour has a share of its own.
        for (what, packet) in outbound_openers() {
            assert_eq!(bench.run_at("sg1", Way::Ingress, &packet.frame()), NewFlow, "{what}");
            assert_eq!(bench.run_at("sg1", Way::Egress, &answer(&packet).frame()), Established, "{what}");
            assert_eq!(bench.run_at("sg1", Way::Ingress, &next(&packet).frame()), Established, "{what}");
        }
        assert_live(bench, "sg1", outbound_openers().len());
        // One that goes makes room for one.
        let flow =
            bench.flows().into_iter().find(|flow| !flow.half_open && flow.remote_port == 1024).unwrap();
        let memory = bench.enforcer().kernel().flow_memory().unwrap();
        bench.enforcer().kernel().delete_flow(&memory, &flow);
        assert_live(bench, "sg0", limit as usize - 1);
        for (number, expected) in [(limit + 10, Established), (limit + 11, TableFull)] {
            let packet = knock(0, number, None);
            assert_eq!(bench.receives(&packet), NewFlow);
            assert_eq!(bench.sends(&packet.reply()), expected);
        }
        assert_live(bench, "sg0", limit as usize);
        // Flows that are over make room when they are collected.
        bench.forget();
        assert_live(bench, "sg0", 0);
        let packet = knock(0, 1, None);
        assert_eq!(bench.receives(&packet), NewFlow);
        assert_eq!(bench.sends(&packet.reply()), Established);
        assert_live(bench, "sg0", 1);
    });
}

#[test]
fn spec_d16_an_answered_datagram_holds_its_place_for_half_a_minute_and_no_longer() {
    // Whoever is asked with forged addresses answers each of them once: none of that is a stream.
    on_both_hooks(|bench| {
        bench.apply(&neighbours(bench));
        for family in 0..2 {
            for number in 0..50 {
                let query = knock(family, number, None);
                assert_eq!(bench.receives(&query), NewFlow);
                assert_eq!(bench.sends(&query.reply()), Established);
            }
            let talk = knock(family, 50, None);
            assert_eq!(bench.receives(&talk), NewFlow);
            assert_eq!(bench.sends(&talk.reply()), Established);
            assert_eq!(bench.receives(&talk), Established);
            assert_live(bench, "sg0", 51);
            bench.advance(32);
            bench.enforcer().kernel().collect().unwrap();
            let flow = bench.flow();
            assert_eq!((flow.state, flow.remote_port), (State::UdpStream, 1024 + 50));
            bench.forget();
        }
    });
}

#[test]
fn spec_d16_the_share_is_the_number_of_live_flows() {
    on_both_hooks(|bench| {
        let revoking = |bench: &Bench| {
            let mut files = neighbours(bench);
            files[0]["settings"] = json!({ "on_rule_change": "revoke" });
            files
        };
        bench.apply(&revoking(bench));
        let openers = settle(bench);
        let live = openers.len();
        assert_live(bench, "sg0", live);
        assert_live(bench, "sg1", live);
        // A reset ends a connection; until it is collected, it is there.
        let (_, tcp) = openers.iter().find(|(_, packet)| packet.protocol == 6).unwrap();
        assert_eq!(bench.sends(&tcp.then(RST)), Established);
        assert_live(bench, "sg0", live);
        // A new one in its place, before and after it was collected.
        assert_eq!(bench.sends(&tcp.then(SYN)), NewFlow);
        assert_live(bench, "sg0", live - 1);
        assert_eq!(bench.receives(&answer(tcp)), Established);
        assert_eq!(bench.sends(&next(tcp)), Established);
        assert_live(bench, "sg0", live);
        assert_eq!(bench.sends(&tcp.then(RST)), Established);
        bench.advance(12);
        bench.enforcer().kernel().collect().unwrap();
        assert_live(bench, "sg0", live - 1);
        // Revoked: only what is left of the rules.
        let mut files = revoking(bench);
        files[0]["security_groups"][0] = json!({ "name": "test", "inbound": [], "outbound": [
            { "protocol": "UDP", "destination": "0.0.0.0/0", "port": "ALL" }] });
        bench.apply(&files);
        assert_live(bench, "sg0", 1);
        assert_live(bench, "sg1", live);
        // Gone with its device, and not passed on to whoever gets its place.
        bench.apply(&files[1..]);
        assert_live(bench, "sg1", live);
        bench.apply(&revoking(bench));
        assert_live(bench, "sg0", 0);
        // Expired and not collected, its place is taken by the next.
        let packet = Packet::udp(at(GUEST[0], 9), at(OTHER[0], 9), b"?");
        for _ in 0..2 {
            assert_eq!(bench.sends(&packet), NewFlow);
            assert_eq!(bench.receives(&packet.reply()), Established);
            assert_live(bench, "sg0", 1);
            bench.advance(181);
        }
        bench.forget();
        assert_live(bench, "sg0", 0);
        assert_live(bench, "sg1", 0);
    });
}
