//! What the kernel counts flow by flow, held to a ledger of every frame that was run.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use sg_common::abi::Direction;
use sg_common::verdict::Action;
use sg_common::verdict::Reason::{self, *};
use sg_daemon::kernel::{Collected, Due};

use crate::bench::{Bench, Way, ip, on_both_hooks};
use crate::frame::{ACK, FIN, Packet, RST, SYN};
use crate::{GUEST, OTHER, at, everything, with_rules};

/// Protocol, the guest's side, the other side, and the reason why it is dropped, if it is.
type Key = (u8, (IpAddr, u16), (IpAddr, u16), Option<Reason>);

/// Packets and bytes, inbound and outbound.
type Sums = BTreeMap<Key, [(u64, u64); 2]>;

/// Adds what the packet is of, as one who sees nothing but the packet and the verdict on it.
fn note(sums: &mut Sums, way: Way, packet: &Packet, ports: (u16, u16), reason: Reason) {
    let (source, destination) = ((packet.source, ports.0), (packet.destination, ports.1));
    let (local, remote, index) = match way {
        Way::Ingress => (source, destination, 1),
        Way::Egress => (destination, source, 0),
    };
    let dropped = (reason.action() == Action::Drop).then_some(reason);
    let sum = &mut sums.entry((packet.protocol, local, remote, dropped)).or_default()[index];
    // The frame without its Ethernet header, and without what fills it up to 60 bytes.
    *sum = (sum.0 + 1, sum.1 + packet.bare().len() as u64 - 14);
}

fn add(sums: &mut Sums, records: &[Collected]) {
    for record in records {
        let dropped = record.reason.filter(|reason| reason.action() == Action::Drop);
        let has_ports = matches!(record.protocol, 6 | 17);
        let port = |port: u16| if has_ports { port } else { 0 };
        let key = (
            record.protocol,
            (record.local, port(record.local_port)),
            (record.remote, port(record.remote_port)),
            dropped,
        );
        let sums = sums.entry(key).or_default();
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = (sum.0 + record.packets[index], sum.1 + record.bytes[index]);
        }
    }
}

/// What is recorded now.
fn collect(bench: &mut Bench, due: Due) -> Vec<Collected> {
    let kernel = bench.enforcer().kernel();
    let mut all = Vec::new();
    loop {
        let (_, more) = kernel.collect_records(due).unwrap();
        loop {
            let taken = kernel.take_records().unwrap();
            if taken.is_empty() {
                break;
            }
            all.extend(taken);
        }
        if !more {
            return all;
        }
    }
}

fn accounts(bench: &mut Bench) -> [u64; 2] {
    let slot = bench.enforcer().devices()["sg0"].slot;
    bench.enforcer().kernel().accounts(slot).0
}

fn unrecorded(bench: &mut Bench) -> u64 {
    let slot = bench.enforcer().devices()["sg0"].slot;
    bench.enforcer().kernel().take_unrecorded(slot)
}

/// Runs `test` while packets are counted.
fn while_counting(test: impl Fn(&mut Bench) + Sync) {
    on_both_hooks(|bench| {
        bench.enforcer().kernel().set_accounting(true).unwrap();
        test(bench);
        bench.enforcer().kernel().set_accounting(false).unwrap();
    });
}

fn open(bench: &Bench) -> Value {
    with_rules(bench.ingress(), &everything("source"), &everything("destination"))
}

fn ports(packet: &Packet) -> (u16, u16) {
    let word = |at: usize| u16::from_be_bytes([packet.payload[at], packet.payload[at + 1]]);
    if matches!(packet.protocol, 6 | 17) { (word(0), word(2)) } else { (0, 0) }
}

fn sizes() -> impl Iterator<Item = usize> {
    (0..40).map(|n| n * 37 % 1200)
}

#[test]
fn nothing_is_counted_while_nobody_wants_to_know() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        for (_, packet) in crate::outbound_openers() {
            assert_eq!(bench.sends(&packet), NewFlow);
        }
        assert!(!bench.enforcer().kernel().is_accounting());
        assert_eq!((accounts(bench), unrecorded(bench)), ([0; 2], 0));
        assert_eq!(collect(bench, Due::Now), []);
        // What was counted is forgotten when nobody wants to know it any more.
        bench.enforcer().kernel().set_accounting(true).unwrap();
        for (_, packet) in crate::outbound_openers() {
            bench.sends(&packet);
        }
        assert_eq!(accounts(bench), [8, 0]);
        bench.enforcer().kernel().set_accounting(false).unwrap();
        assert_eq!(accounts(bench), [0; 2]);
        bench.enforcer().kernel().set_accounting(true).unwrap();
        assert_eq!(collect(bench, Due::Now), []);
        bench.enforcer().kernel().set_accounting(false).unwrap();
    });
}

#[test]
fn records_add_up_to_every_packet_and_byte() {
    while_counting(|bench| {
        let file = with_rules(
            bench.ingress(),
            &json!([
                { "protocol": "TCP", "source": "0.0.0.0/0", "port": "443" },
                { "protocol": "TCP", "source": "::/0", "port": "443" },
            ]),
            &everything("destination"),
        );
        bench.apply(&[file]);
        let mut expected = Sums::new();
        let mut run = |bench: &mut Bench, way: Way, packet: &Packet| {
            let reason = bench.run_at("sg0", way, &packet.frame());
            note(&mut expected, way, packet, ports(packet), reason);
            reason
        };
        let mut recorded = Sums::new();
        for (round, bytes) in sizes().enumerate() {
            for (_, opener) in crate::outbound_openers() {
                run(bench, Way::Ingress, &opener.clone().data(&vec![7; bytes]));
                run(bench, Way::Egress, &crate::answer(&opener));
                run(bench, Way::Ingress, &crate::next(&opener));
            }
            for (what, opener) in crate::inbound_openers() {
                let reason = run(bench, Way::Egress, &opener);
                if round == 0 {
                    let expected = match opener.protocol {
                        6 => NewFlow,
                        // Without ports, it is the flow that the guest has begun.
                        47 => Established,
                        _ => NoRule,
                    };
                    assert_eq!(reason, expected, "{what}");
                }
            }
            // In the middle of it all, some of it is recorded.
            if round % 7 == 3 {
                add(&mut recorded, &collect(bench, Due::Now));
            }
        }
        // Of no flow: a reset that no connection has, and an error about one.
        let reset = Packet::tcp(at(GUEST[0], 1), at(OTHER[0], 2), RST);
        assert_eq!(run(bench, Way::Ingress, &reset), RuleOnly);
        let tcp = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        let error = tcp.error(ip("203.0.113.1"), 3, 1);
        assert_eq!(run(bench, Way::Egress, &error), Related);
        add(&mut recorded, &collect(bench, Due::Now));
        assert_eq!(recorded, expected);
        assert_eq!(unrecorded(bench), 0);
        // Everything is told of, and told of once.
        assert_eq!(collect(bench, Due::Now), []);
    });
}

#[test]
fn pieces_count_to_the_flow_of_their_first() {
    while_counting(|bench| {
        bench.apply(&[open(bench)]);
        let mut expected = Sums::new();
        for (family, from, to) in
            [(0, at(GUEST[0], 5000), at(OTHER[0], 6000)), (1, at(GUEST[1], 5000), at(OTHER[1], 6000))]
        {
            let whole = Packet::udp(from, to, &[9; 2000]);
            for (piece, expect) in [
                (whole.piece(0, 1000, 1), NewFlow),
                (whole.piece(1000, 1600, 1), Fragment),
                (whole.piece(1600, 2008, 1), Fragment),
            ] {
                let reason = bench.sends(&piece);
                assert_eq!(reason, expect, "{family}");
                note(&mut expected, Way::Ingress, &piece, (5000, 6000), reason);
            }
            // Before its first piece has come, nobody knows the ports.
            let reply = whole.reply();
            let early = reply.piece(1000, 2008, 2);
            assert_eq!(bench.receives(&early), EarlyFragment);
            note(&mut expected, Way::Egress, &early, (0, 0), EarlyFragment);
            let first = reply.piece(0, 1000, 2);
            assert_eq!(bench.receives(&first), Established);
            note(&mut expected, Way::Egress, &first, (6000, 5000), Established);
            // What overlaps is dropped, and is of the same flow.
            let again = whole.piece(1000, 1600, 3);
            let first = whole.piece(0, 1000, 3);
            assert_eq!(bench.sends(&first), Established);
            note(&mut expected, Way::Ingress, &first, (5000, 6000), Established);
            for reason in [Fragment, FragmentOverlap] {
                assert_eq!(bench.sends(&again), reason);
                note(&mut expected, Way::Ingress, &again, (5000, 6000), reason);
            }
        }
        let mut recorded = Sums::new();
        add(&mut recorded, &collect(bench, Due::Now));
        // IPv6 pieces are of the protocol that their fragment header names.
        let expected: Sums = expected
            .into_iter()
            .map(|((_, local, remote, why), sums)| ((17, local, remote, why), sums))
            .collect();
        assert_eq!(recorded, expected);
    });
}

#[test]
fn a_flow_that_goes_on_has_a_record_in_every_interval_and_one_at_its_end() {
    while_counting(|bench| {
        bench.apply(&[open(bench)]);
        let packet = Packet::udp(at(GUEST[0], 5000), at(OTHER[0], 53), b"?");
        let bytes = packet.bare().len() as u64 - 14;
        bench.sends(&packet);
        for _ in 0..3 {
            // Far from what makes it due: a busy machine takes its time too.
            bench.advance(15);
            assert_eq!(bench.receives(&packet.reply()), Established);
            assert_eq!(bench.sends(&packet), Established);
            assert_eq!(collect(bench, Due::After(60)), []);
        }
        bench.advance(15);
        let records = collect(bench, Due::After(60));
        assert_eq!(records.len(), 1, "{records:#?}");
        let record = records[0];
        assert_eq!((record.packets, record.bytes), ([3, 4], [3 * bytes, 4 * bytes]));
        assert_eq!(record.origin, Direction::Outbound);
        assert!((45..60).contains(&(record.end - record.start)), "{record:?}");
        assert_eq!(collect(bench, Due::After(60)), []);
        bench.receives(&packet.reply());
        // The stream's last packet, and the time after which it is over.
        bench.advance(30);
        assert_eq!(collect(bench, Due::After(60)), []);
        bench.advance(152);
        let records = collect(bench, Due::After(600));
        assert_eq!(records.iter().map(|record| record.packets).collect::<Vec<_>>(), [[1, 0]]);
        assert_eq!(accounts(bench), [0; 2]);
        // The kernel's ticks are told as the time that everybody has; tests have turned the clock.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(records[0].end <= now - 181 && records[0].end + 240 > now, "{records:?} {now}");
    });
}

#[test]
fn tcp_flags_are_those_since_the_last_record() {
    while_counting(|bench| {
        bench.apply(&[open(bench)]);
        let opener = Packet::tcp(at(GUEST[0], 5000), at(OTHER[0], 443), SYN);
        let mut talk = crate::Talk::established(bench, &opener, true);
        let flags = |bench: &mut Bench| {
            collect(bench, Due::Now).iter().map(|record| record.tcp_flags).collect::<Vec<_>>()
        };
        assert_eq!(flags(bench), [[SYN | ACK, SYN | ACK]]);
        bench.sends(&talk.segment(crate::Side::Opener, ACK));
        assert_eq!(flags(bench), [[0, ACK]]);
        bench.sends(&talk.segment(crate::Side::Opener, FIN | ACK));
        bench.receives(&talk.segment(crate::Side::Answerer, RST | ACK));
        assert_eq!(flags(bench), [[RST | ACK, FIN | ACK]]);
    });
}

#[test]
fn flows_that_others_push_out_are_recorded() {
    while_counting(|bench| {
        bench.apply(&[open(bench)]);
        // More than an interface may have half-open.
        let count = 8192 + 500;
        for number in 0..count {
            let packet = Packet::udp(at(OTHER[0], 1024 + number as u16), at(GUEST[0], 443), b"?");
            assert_eq!(bench.raw(bench.index("sg0"), Way::Egress, &packet.frame()), Action::Allow);
        }
        assert_eq!(accounts(bench), [count, 0]);
        bench.advance(2);
        let records = collect(bench, Due::After(600));
        let pushed_out: Vec<u16> = records.iter().map(|record| record.remote_port - 1024).collect();
        assert_eq!(records.len(), 500);
        assert!(pushed_out.iter().all(|number| *number < 500), "{pushed_out:?}");
        assert_eq!(accounts(bench), [8192, 0]);
        assert_eq!(collect(bench, Due::Now).len(), 8192);
    });
}

#[test]
fn spec_d16_what_is_dropped_takes_a_quarter_of_the_accounts_and_no_more() {
    while_counting(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
        let slot = bench.enforcer().devices()["sg0"].slot;
        let quarter = u64::from(bench.enforcer().kernel().accounts(slot).1 / 4);
        for number in 0..quarter + 300 {
            let port = 1024 + (number % 60_000) as u16;
            let packet = Packet::udp(at(OTHER[0], port), at(GUEST[0], 443), b"?");
            assert_eq!(bench.raw(bench.index("sg0"), Way::Egress, &packet.frame()), Action::Drop);
        }
        assert_eq!((accounts(bench), unrecorded(bench)), ([0, quarter], 300));
        // Somebody who is known already is counted on.
        let known = Packet::udp(at(OTHER[0], 1024), at(GUEST[0], 443), b"?");
        bench.raw(bench.index("sg0"), Way::Egress, &known.frame());
        assert_eq!(unrecorded(bench), 0);
        let packet = Packet::udp(at(GUEST[0], 5000), at(OTHER[0], 53), b"?");
        assert_eq!(bench.sends(&packet), NewFlow);
        assert_eq!((accounts(bench), unrecorded(bench)), ([1, quarter], 0));
        let records = collect(bench, Due::Now);
        assert_eq!(records.iter().map(|record| record.packets[0]).sum::<u64>(), quarter + 1);
        // They are kept for a while, as whoever is refused tries again.
        assert_eq!(accounts(bench), [1, quarter]);
        bench.advance(11);
        assert_eq!(collect(bench, Due::After(60)), []);
        assert_eq!(accounts(bench), [1, 0]);
    });
}

#[test]
fn what_passes_in_audit_is_told_with_its_reason() {
    while_counting(|bench| {
        let mut file = with_rules(bench.ingress(), &json!([]), &json!([]));
        file["interfaces"][0]["enforcement"] = "audit".into();
        bench.apply(&[file]);
        assert_eq!(bench.receives(&Packet::udp(at(OTHER[0], 1), at(GUEST[0], 443), b"?")), NoRule);
        let records = collect(bench, Due::Now);
        assert_eq!(records.len(), 1, "{records:#?}");
        assert_eq!((records[0].reason, records[0].audit, records[0].packets), (Some(NoRule), true, [1, 0]));
    });
}

#[test]
fn a_device_that_leaves_the_policy_has_its_last_records() {
    while_counting(|bench| {
        let mut file = open(bench);
        let alone = {
            let mut other = file["interfaces"][0].clone();
            other["name"] = "sg1".into();
            other["addresses"] = json!(["10.0.0.6"]);
            json!([other])
        };
        let interfaces = file["interfaces"].as_array_mut().unwrap();
        interfaces.push(alone[0].clone());
        bench.apply(std::slice::from_ref(&file));
        for (_, packet) in crate::outbound_openers() {
            bench.sends(&packet);
        }
        let packet = Packet::udp(at("10.0.0.6", 5000), at(OTHER[0], 53), b"?");
        assert_eq!(bench.run_at("sg1", Way::Ingress, &packet.frame()), NewFlow);
        file["interfaces"] = alone;
        bench.apply(&[file]);
        assert_eq!(bench.enforcer().kernel().take_records().unwrap().len(), 8);
        // Those of the other are not due yet.
        assert_eq!(collect(bench, Due::Now).len(), 1);
        assert_eq!(collect(bench, Due::Now), []);
    });
}

#[test]
fn a_flow_that_was_there_before_is_counted_from_then_on() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        let packet = Packet::udp(at(GUEST[0], 5000), at(OTHER[0], 53), b"?");
        assert_eq!(bench.sends(&packet), NewFlow);
        bench.enforcer().kernel().set_accounting(true).unwrap();
        assert_eq!(bench.receives(&packet.reply()), Established);
        let records = collect(bench, Due::Now);
        assert_eq!(records.len(), 1);
        assert_eq!((records[0].packets, records[0].origin), ([1, 0], Direction::Outbound));
        assert_ne!(records[0].policy, 0);
        bench.enforcer().kernel().set_accounting(false).unwrap();
    });
}

#[test]
fn records_that_are_made_while_packets_pass_lose_none_and_tell_none_twice() {
    const EACH: u64 = 20_000;
    while_counting(|bench| {
        bench.apply(&[open(bench)]);
        let frames: Vec<Vec<u8>> = (0..4)
            .map(|flow| Packet::udp(at(GUEST[0], 5000 + flow), at(OTHER[0], 53), &[1; 100]).frame())
            .collect();
        let senders = [bench.sender("sg0"), bench.sender("sg0")];
        let mut recorded = Sums::new();
        let mut rounds = 0;
        std::thread::scope(|scope| {
            // Both send packets of the same flows, from two CPUs.
            let running = senders.each_ref().map(|sender| {
                let frames = &frames;
                scope.spawn(move || {
                    for frame in frames.iter().cycle().take(EACH as usize) {
                        while !sender.send(frame) {
                            std::thread::yield_now();
                        }
                    }
                })
            });
            while running.iter().any(|thread| !thread.is_finished()) {
                add(&mut recorded, &collect(bench, Due::Now));
                rounds += 1;
            }
        });
        let counted = bench.wait_for_packets(2 * EACH);
        add(&mut recorded, &collect(bench, Due::Now));
        assert!(rounds > 1);
        assert_eq!(recorded.len(), 4, "{recorded:#?}");
        let sum = |of: fn(&(u64, u64)) -> u64| recorded.values().map(|[_, out]| of(out)).sum::<u64>();
        assert_eq!(sum(|(packets, _)| *packets) + unrecorded(bench), counted);
        assert_eq!(sum(|(_, bytes)| *bytes), sum(|(packets, _)| *packets) * 128);
    });
}
