//! What the programs tell of packets to those who watch.

use std::collections::BTreeMap;

use serde_json::json;
use sg_common::abi::{
    ANY, Be32, Direction, EVENT_AUDIT, EVENT_EGRESS, EVENTS_BYTES, Event, KIND_WORDS, WOULD_DROP, Watcher,
    packet_kind,
};
use sg_common::verdict::Reason::{self, *};
use sg_daemon::kernel::EventMaps;

use crate::bench::{Bench, Way, on_both_hooks};
use crate::frame::{ACK, Packet, SYN, arp, ethernet, tagged};
use crate::{GUEST, OTHER, at, everything, with_rules};

/// More than any test sends.
const UNLIMITED: (u64, u64) = (0, u64::MAX);

/// Who watches everything.
fn everything_watched() -> Watcher {
    Watcher {
        active: 1,
        ifindex: 0,
        kinds: [u32::MAX; KIND_WORDS],
        family: 0,
        protocol: ANY,
        port: ANY,
        padding: 0,
        remote: [Be32(0); 4],
        remote_mask: [Be32(0); 4],
        local: [Be32(0); 4],
        local_mask: [Be32(0); 4],
        interval: UNLIMITED.0,
        burst: UNLIMITED.1,
    }
}

fn only(direction: Direction, slots: &[u32]) -> [u32; KIND_WORDS] {
    let mut kinds = [0; KIND_WORDS];
    for &slot in slots {
        let kind = packet_kind(direction, slot);
        kinds[kind as usize / 32] |= 1 << (kind % 32);
    }
    kinds
}

/// Runs a test with the rings in hand, on both hooks. Rings can be had once: the test of the second hook gets them from the first.
fn with_events(test: impl Fn(&mut Bench, &mut EventMaps) + Sync) {
    let maps = std::sync::Mutex::new(None);
    on_both_hooks(|bench| {
        let mut maps = maps.lock().unwrap();
        let maps = maps.get_or_insert_with(|| bench.enforcer().kernel().take_events().unwrap());
        test(bench, maps);
        for place in 0..sg_common::abi::WATCHERS {
            bench.enforcer().kernel().unwatch(place);
        }
        while maps.events.read().is_some() {}
        while maps.new_flows.read().is_some() {}
    });
}

fn told(maps: &mut EventMaps) -> Vec<Event> {
    std::iter::from_fn(|| maps.events.read()).collect()
}

fn open(bench: &mut Bench) {
    let file = with_rules(bench.ingress(), &json!([]), &everything("destination"));
    bench.apply(&[file]);
}

fn reasons(events: &[Event]) -> Vec<Reason> {
    events.iter().map(|event| Reason::from_number(event.reason.into()).unwrap()).collect()
}

#[test]
fn each_packet_is_told_with_its_verdict_device_direction_and_beginning() {
    with_events(|bench, maps| {
        open(bench);
        let generation = bench.enforcer().kernel().generation();
        bench.enforcer().kernel().watch(3, everything_watched()).unwrap();
        let (here, there) = (at(GUEST[0], 40_000), at(OTHER[0], 443));
        let tcp = Packet::tcp(here, there, SYN);
        let (out, into) = (Way::Ingress, Way::Egress);
        let long = Packet::udp(at(GUEST[1], 1), at(OTHER[1], 2), &[7; 300]);
        let sent = [
            (out, tcp.frame(), NewFlow),
            (into, tcp.answer(SYN | ACK).frame(), Established),
            (out, tcp.then(ACK).frame(), Established),
            (out, tcp.then(0).frame(), TcpFlags),
            (into, Packet::udp(there, here, b"").frame(), NoRule),
            (into, tcp.bare()[..40].to_vec(), Malformed),
            (into, ethernet(0x88cc, &[0; 46]), EtherType),
            (into, tagged(&tcp.frame(), 0x8100, 1), Vlan),
            (out, Packet::udp(at("10.0.0.6", 1), there, b"").frame(), SourceAddress),
            (out, arp([10, 0, 0, 5].into(), [10, 0, 0, 1].into()), Arp),
            (out, long.frame(), NewFlow),
        ];
        for (way, frame, reason) in &sent {
            assert_eq!(bench.run_at("sg0", *way, frame), *reason);
        }
        // A device that the filter does not know: loopback.
        bench.raw(1, into, &sent[0].1);
        let events = told(maps);
        assert_eq!(events.len(), sent.len() + 1);
        let mut last = 0;
        for ((way, frame, reason), event) in sent.iter().zip(&events) {
            assert_eq!(event.reason, *reason as u8);
            assert_eq!(event.direction, u8::from(*way == out), "{reason:?}");
            assert_eq!(
                event.flags & (EVENT_EGRESS | EVENT_AUDIT),
                if *way == into { EVENT_EGRESS } else { 0 }
            );
            assert_eq!((event.ifindex, event.watchers), (bench.index("sg0"), 1 << 3));
            assert_eq!(event.generation, generation);
            assert_eq!(event.bytes as usize, frame.len());
            let captured = frame.len().min(event.frame.len());
            assert_eq!(event.captured as usize, captured);
            assert_eq!(event.frame[..captured], frame[..captured], "{reason:?}");
            assert!(event.time >= last, "in their order");
            last = event.time;
            let by_policy = matches!(reason, NewFlow | Established | NoRule);
            assert_eq!(event.policy != 0, by_policy, "{reason:?}");
        }
        let unknown = events.last().unwrap();
        assert_eq!((unknown.reason, unknown.ifindex), (UnknownInterface as u8, 1));
        assert_eq!(unknown.generation, generation);
        // Nobody watches any more: nothing is told.
        bench.enforcer().kernel().unwatch(3);
        bench.run_at("sg0", out, &tcp.then(ACK).frame());
        assert!(told(maps).is_empty());
        let counts = maps.counts.of(3).unwrap();
        assert_eq!((counts.told, counts.limited, counts.full), (sent.len() as u64 + 1, 0, 0));
    });
}

#[test]
fn what_passes_in_audit_is_told_as_that() {
    with_events(|bench, maps| {
        let mut file = with_rules(bench.ingress(), &json!([]), &json!([]));
        file["interfaces"][0]["enforcement"] = "audit".into();
        bench.apply(&[file]);
        let would = Watcher {
            kinds: only(Direction::Inbound, &[NoRule as u32 + WOULD_DROP]),
            ..everything_watched()
        };
        bench.enforcer().kernel().watch(1, would).unwrap();
        let dropped = Watcher { kinds: only(Direction::Inbound, &[NoRule as u32]), ..everything_watched() };
        bench.enforcer().kernel().watch(2, dropped).unwrap();
        let denied = Packet::udp(at(OTHER[0], 2), at(GUEST[0], 1), b"");
        assert_eq!(bench.run_at("sg0", Way::Egress, &denied.frame()), NoRule);
        assert_eq!(bench.run_at("sg0", Way::Ingress, &denied.reply().frame()), NoRule);
        let events = told(maps);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].flags & EVENT_AUDIT, events[0].watchers), (EVENT_AUDIT, 1 << 1));
    });
}

#[test]
fn filters_are_the_kernels_and_each_watchers_own() {
    with_events(|bench, maps| {
        open(bench);
        let own = |bench: &mut Bench, place, change: &dyn Fn(&mut Watcher)| {
            let mut watcher = everything_watched();
            change(&mut watcher);
            bench.enforcer().kernel().watch(place, watcher).unwrap();
        };
        let address = |text: &str| match crate::bench::ip(text) {
            std::net::IpAddr::V4(v4) => [Be32::from_host(v4.to_bits()), Be32(0), Be32(0), Be32(0)],
            std::net::IpAddr::V6(v6) => sg_daemon::kernel::words_of(v6),
        };
        let (other, ones) = (bench.index("sg1"), [Be32(u32::MAX), Be32(0), Be32(0), Be32(0)]);
        own(bench, 1, &|watcher| watcher.ifindex = other);
        own(bench, 2, &|watcher| watcher.protocol = 17);
        own(bench, 3, &|watcher| watcher.port = 443);
        own(bench, 4, &|watcher| {
            (watcher.family, watcher.remote, watcher.remote_mask) = (4, address(OTHER[0]), ones);
        });
        own(bench, 5, &|watcher| {
            (watcher.family, watcher.local, watcher.local_mask) = (6, address(GUEST[1]), [Be32(u32::MAX); 4]);
        });
        own(bench, 6, &|watcher| watcher.kinds = only(Direction::Inbound, &[NoRule as u32]));
        own(bench, 7, &|watcher| watcher.family = 6);
        let (v4, v6) = ((GUEST[0], OTHER[0]), (GUEST[1], OTHER[1]));
        let tcp = Packet::tcp(at(v4.0, 40_000), at(v4.1, 443), SYN);
        let dns = Packet::udp(at(v6.0, 40_000), at(v6.1, 53), b"?");
        let elsewhere = Packet::udp(at(v4.0, 443), at("203.0.113.9", 53), b"?");
        let denied = Packet::udp(at(v4.1, 5), at(v4.0, 6), b"?");
        let cases: [(Way, Vec<u8>, &[u32]); 6] = [
            (Way::Ingress, tcp.frame(), &[3, 4]),
            // The other way round it is the same other side.
            (Way::Egress, tcp.answer(SYN | ACK).frame(), &[3, 4]),
            (Way::Ingress, dns.frame(), &[2, 5, 7]),
            (Way::Ingress, elsewhere.frame(), &[2, 3]),
            (Way::Egress, denied.frame(), &[2, 4, 6]),
            // Without sides: whoever asks for some is not told.
            (Way::Ingress, Packet::ping(crate::bench::ip(v4.0), crate::bench::ip(v4.1), 1).frame(), &[4]),
        ];
        for (way, frame, takers) in cases {
            bench.run_at("sg0", way, &frame);
            let mask = takers.iter().fold(0, |mask, place| mask | 1u32 << place);
            let events = told(maps);
            assert_eq!(events.iter().map(|event| event.watchers).collect::<Vec<_>>(), [mask], "{takers:?}");
        }
        // Of what was dropped before its sides were read, all are told: the daemon reads the frame.
        bench.run_at("sg0", Way::Egress, &tagged(&tcp.frame(), 0x8100, 1));
        let mask = told(maps)[0].watchers;
        assert_eq!(mask, [2, 3, 4, 5, 7].iter().fold(0, |mask, place| mask | 1 << place));
    });
}

#[test]
fn what_is_told_and_what_is_lost_is_what_was_asked_for() {
    with_events(|bench, maps| {
        open(bench);
        // One in an hour, and three at once.
        let slow =
            Watcher { interval: 3_600_000_000_000, burst: 2 * 3_600_000_000_000, ..everything_watched() };
        bench.enforcer().kernel().watch(1, slow).unwrap();
        // Not of the kind: nothing is told of, nothing lost.
        let others = Watcher { kinds: only(Direction::Outbound, &[Arp as u32]), ..slow };
        bench.enforcer().kernel().watch(2, others).unwrap();
        bench.enforcer().kernel().watch(4, everything_watched()).unwrap();
        let denied = Packet::udp(at(OTHER[0], 5), at(GUEST[0], 6), b"?").frame();
        const SENT: u64 = 500;
        for _ in 0..SENT {
            bench.raw(bench.index("sg0"), Way::Egress, &denied);
        }
        let events = told(maps);
        assert_eq!(reasons(&events), [NoRule; SENT as usize]);
        let mut seen = BTreeMap::<u32, u64>::new();
        for event in &events {
            *seen.entry(event.watchers).or_default() += 1;
        }
        let counts = [1, 2, 4].map(|place| maps.counts.of(place).unwrap());
        let (slow, none, all) = (counts[0], counts[1], counts[2]);
        assert_eq!((all.told, all.limited, all.full), (SENT, 0, 0));
        assert_eq!((none.told, none.limited, none.full), (0, 0, 0));
        // Three on each CPU that the test has run on.
        assert_eq!((slow.told % 3, slow.told + slow.limited, slow.full), (0, SENT, 0));
        assert!(slow.told >= 3);
        assert_eq!(seen, [(1 << 1 | 1 << 4, slow.told), (1 << 4, SENT - slow.told)].into());
    });
}

#[test]
fn what_finds_no_room_in_the_ring_is_counted() {
    with_events(|bench, maps| {
        open(bench);
        bench.enforcer().kernel().watch(1, everything_watched()).unwrap();
        let denied = Packet::udp(at(OTHER[0], 5), at(GUEST[0], 6), b"?").frame();
        // A record has a header of 8 bytes.
        let room = u64::from(EVENTS_BYTES) / (size_of::<Event>() as u64 + 8);
        let sent = room + 1000;
        for _ in 0..sent {
            bench.raw(bench.index("sg0"), Way::Egress, &denied);
        }
        let read = told(maps).len() as u64;
        let counts = maps.counts.of(1).unwrap();
        assert_eq!((counts.told, counts.told + counts.full, counts.limited), (read, sent, 0));
        assert!(read.abs_diff(room) <= 1, "{read} of {room}");
        // There is room again.
        bench.raw(bench.index("sg0"), Way::Egress, &denied);
        assert_eq!(told(maps).len(), 1);
    });
}

#[test]
fn new_flows_have_a_ring_of_their_own_that_nobody_who_watches_can_fill() {
    with_events(|bench, maps| {
        open(bench);
        bench.enforcer().kernel().watch_new_flows(sg_daemon::events::new_flows()).unwrap();
        bench.enforcer().kernel().watch(1, everything_watched()).unwrap();
        let denied = Packet::udp(at(OTHER[0], 5), at(GUEST[0], 6), b"?").frame();
        for _ in 0..u64::from(EVENTS_BYTES) / size_of::<Event>() as u64 {
            bench.raw(bench.index("sg0"), Way::Egress, &denied);
        }
        let tcp = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        assert_eq!(bench.run_at("sg0", Way::Ingress, &tcp.frame()), NewFlow);
        assert_eq!(bench.run_at("sg0", Way::Egress, &tcp.answer(SYN | ACK).frame()), Established);
        let event = maps.new_flows.read().unwrap();
        assert_eq!((event.reason, event.watchers), (NewFlow as u8, 1));
        assert!(maps.new_flows.read().is_none(), "what goes on is no new flow");
        assert!(maps.counts.of(1).unwrap().full > 0);
        assert_eq!(maps.counts.of(0).unwrap().told, 1);
        bench.forget();
    });
}
