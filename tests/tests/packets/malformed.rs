//! Frames that contradict themselves never pass, however open the rules are.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;
use sg_common::verdict::Action;
use sg_common::verdict::Reason::{
    self, Arp, Dhcp, Established, ExtensionHeaders, Malformed, NeighborDiscovery, NewFlow, RuleOnly, TcpState,
};

use crate::bench::{Bench, DEVICES, Ingress, Way, ip, on_both_hooks};
use crate::frame::{ACK, DESTINATION_OPTIONS, HOP_BY_HOP, Packet, ROUTING, SYN, UDP, ethernet};
use crate::{GUEST, OTHER, at, everything, outbound_openers, with_rules};

/// Where the IP header starts, and the transport header of a packet without options and extensions.
const IP: usize = 14;
const TRANSPORT: [usize; 2] = [IP + 20, IP + 40];

fn open(bench: &Bench) -> serde_json::Value {
    with_rules(bench.ingress(), &everything("source"), &everything("destination"))
}

/// Runs a frame both ways.
#[track_caller]
fn both_ways(bench: &mut Bench, frame: &[u8], expected: Reason, what: &str) {
    for way in [Way::Ingress, Way::Egress] {
        assert_eq!(bench.run_at("sg0", way, frame), expected, "{what}, {way:?}");
    }
}

#[test]
fn frames_cut_off_anywhere_are_malformed() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        let mut packets = outbound_openers();
        let there = at(OTHER[1], 443);
        packets.push((
            "extensions",
            Packet::tcp(at(GUEST[1], 40_000), there, SYN).extension(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]),
        ));
        packets.push(("options", Packet::ping(ip(GUEST[0]), ip(OTHER[0]), 1).options(&[1; 8])));
        for (what, packet) in packets {
            let whole = packet.bare();
            // Test runs on TC take no frame without a whole IP header; real ones are sent instead.
            let header = IP + if packet.source.is_ipv4() { 20 } else { 40 };
            let before = bench.packets();
            for length in IP..header {
                bench.transmit("sg0", &whole[..length]);
            }
            let sent = (header - IP) as u64;
            assert_eq!(bench.wait_for_packets(before + sent), before + sent, "{what}");
            for length in header..whole.len() {
                both_ways(bench, &whole[..length], Malformed, &format!("{what} cut to {length}"));
            }
        }
        let counts = bench.counts();
        assert!(counts.keys().all(|(_, _, reason)| *reason == Malformed), "{counts:?}");
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn transport_headers_that_the_ip_length_cuts_off_are_malformed() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        for (what, packet) in outbound_openers() {
            let needed = match packet.protocol {
                6 => 20,
                47 => continue,
                _ => 8,
            };
            for length in 0..needed {
                let mut short = packet.clone();
                short.payload.truncate(length);
                // Padding follows: the frame goes on, the packet does not.
                both_ways(bench, &short.frame(), Malformed, &format!("{what}, {length} bytes"));
            }
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        let tcp = [0, 1].map(|family| Packet::tcp(at(GUEST[family], 1), at(OTHER[family], 443), SYN).bare());
        let bent = |frame: &[u8], at: usize, bytes: &[u8]| {
            let mut frame = frame.to_vec();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        let frames = [
            ("IPv4, version 6", bent(&tcp[0], IP, &[0x65])),
            ("IPv4, version 0", bent(&tcp[0], IP, &[0x05])),
            ("IPv4, header of 0 bytes", bent(&tcp[0], IP, &[0x40])),
            ("IPv4, header of 16 bytes", bent(&tcp[0], IP, &[0x44])),
            ("IPv4, header longer than the packet", bent(&tcp[0], IP, &[0x4f])),
            ("IPv4, total length 0", bent(&tcp[0], IP + 2, &[0, 0])),
            ("IPv4, total length 19", bent(&tcp[0], IP + 2, &[0, 19])),
            ("IPv4, total length 20", bent(&tcp[0], IP + 2, &[0, 20])),
            ("IPv4, total length 41", bent(&tcp[0], IP + 2, &[0, 41])),
            ("IPv4, total length 65535", bent(&tcp[0], IP + 2, &[255, 255])),
            ("IPv6, version 4", bent(&tcp[1], IP, &[0x40])),
            ("IPv6, version 15", bent(&tcp[1], IP, &[0xf0])),
            ("IPv6, payload length 0", bent(&tcp[1], IP + 4, &[0, 0])),
            ("IPv6, payload length 19", bent(&tcp[1], IP + 4, &[0, 19])),
            ("IPv6, payload length 21", bent(&tcp[1], IP + 4, &[0, 21])),
            ("IPv6, payload length 65535", bent(&tcp[1], IP + 4, &[255, 255])),
            ("IPv4 with the EtherType of IPv6", ethernet(0x86dd, &tcp[0][IP..])),
            ("IPv6 with the EtherType of IPv4", ethernet(0x0800, &tcp[1][IP..])),
        ];
        for (what, frame) in &frames {
            both_ways(bench, frame, Malformed, what);
        }
        for (family, frame) in tcp.iter().enumerate() {
            for words in [0u8, 1, 4, 6, 15] {
                let frame = bent(frame, TRANSPORT[family] + 12, &[words << 4]);
                both_ways(bench, &frame, Malformed, &format!("TCP header of {words} words"));
            }
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn options_and_extensions_that_are_whole_are_passed_over() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        let (here, there) = (at(GUEST[0], 40_000), at(OTHER[0], 443));
        // No operation; router alert; a time stamp and its padding.
        for filling in [&[1, 1, 1, 1][..], &[148, 4, 0, 0], &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            for count in 1..=40 / filling.len() {
                let here = at(GUEST[0], (filling.len() * 1000 + usize::from(filling[0]) + count) as u16);
                let packet = Packet::tcp(here, there, SYN).options(&filling.repeat(count));
                assert_eq!(bench.sends(&packet), NewFlow, "{count} times {filling:?}");
            }
        }
        // The same flow, whatever stands between.
        let udp = Packet::udp(here, there, b"");
        assert_eq!(bench.sends(&udp), NewFlow);
        assert_eq!(bench.sends(&udp.clone().options(&[1; 40])), Established);
        let (here, there) = (at(GUEST[1], 40_000), at(OTHER[1], 443));
        let plain = Packet::tcp(here, there, SYN);
        assert_eq!(bench.sends(&plain), NewFlow);
        let chains: [&[(u8, usize)]; 4] = [
            &[(HOP_BY_HOP, 6)],
            &[(DESTINATION_OPTIONS, 14), (ROUTING, 6)],
            &[(HOP_BY_HOP, 6), (DESTINATION_OPTIONS, 6), (ROUTING, 22), (DESTINATION_OPTIONS, 6)],
            &[(DESTINATION_OPTIONS, 6); 6],
        ];
        for chain in chains {
            let mut packet = plain.then(SYN);
            for (number, length) in chain {
                // A segment routing header (RFC 8754); type 0 names routers to pass.
                let mut body = vec![0; *length];
                body[0] = if *number == ROUTING { 4 } else { 0 };
                packet = packet.extension(*number, &body);
            }
            assert_eq!(bench.sends(&packet), Established, "{chain:?}");
        }
    });
}

#[test]
fn extension_chains_that_are_too_long_or_run_over_the_end_do_not_pass() {
    on_both_hooks(|bench| {
        bench.apply(&[open(bench)]);
        let plain = Packet::udp(at(GUEST[1], 40_000), at(OTHER[1], 443), b"");
        let mut long = plain.clone();
        for _ in 0..7 {
            long = long.extension(DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
        }
        both_ways(bench, &long.frame(), ExtensionHeaders, "seven headers");
        for length in [3u8, 10, 255] {
            let mut frame = plain.clone().extension(HOP_BY_HOP, &[0; 6]).bare();
            frame[TRANSPORT[1] + 1] = length;
            both_ways(bench, &frame, Malformed, &format!("a header of {length} more words"));
        }
        // The chain ends where the packet does.
        let mut nothing = Packet::new(ip(GUEST[1]), ip(OTHER[1]), UDP, vec![]);
        both_ways(bench, &nothing.bare(), Malformed, "nothing behind the IPv6 header");
        nothing = nothing.extension(HOP_BY_HOP, &[0; 6]);
        both_ways(bench, &nothing.bare(), Malformed, "nothing behind the extension header");
        assert_eq!(bench.flows(), []);
    });
}

/// Frames near to valid ones: some bytes replaced, the end cut off or moved.
fn bent_frames()
-> impl Strategy<Value = (usize, Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>, bool)> {
    (
        0..64usize,
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        prop::option::of(any::<prop::sample::Index>()),
        any::<bool>(),
    )
}

#[test]
fn whatever_the_bytes_a_closed_interface_passes_only_its_baseline() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        let mut seeds: Vec<Vec<u8>> =
            outbound_openers().into_iter().map(|(_, packet)| packet.frame()).collect();
        seeds.push(
            Packet::tcp(at(GUEST[1], 1), at(OTHER[1], 2), ACK)
                .extension(HOP_BY_HOP, &[0; 6])
                .extension(ROUTING, &[0; 14])
                .frame(),
        );
        seeds.push(Packet::udp(at(GUEST[0], 1), at(OTHER[0], 2), b"").options(&[0; 40]).frame());
        seeds.push(crate::frame::tagged(&seeds[0], 0x8100, 1));
        let runs = 4000;
        // The same frames every time; `cargo fuzz` is for others.
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let config = Config { cases: runs, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, rng);
        let bench = std::cell::RefCell::new(bench);
        let mut passed = 0;
        let passed_cell = std::cell::RefCell::new(&mut passed);
        runner
            .run(&bent_frames(), |(seed, changes, cut, egress)| {
                let mut frame = seeds[seed % seeds.len()].clone();
                for (place, byte) in changes {
                    let place = place.index(frame.len());
                    frame[place] = byte;
                }
                let mut bench = bench.borrow_mut();
                let way = if egress { Way::Egress } else { Way::Ingress };
                if let Some(cut) = cut {
                    // As above.
                    let tc = egress || bench.ingress() == Ingress::Tc;
                    let shortest = if tc { IP + 40 } else { IP };
                    frame.truncate(shortest + cut.index(frame.len() - shortest));
                }
                let index = bench.index(DEVICES[0]);
                if bench.raw(index, way, &frame) == Action::Allow {
                    **passed_cell.borrow_mut() += 1;
                }
                Ok(())
            })
            .unwrap();
        let bench = bench.into_inner();
        let counts = bench.counts();
        let of_baseline = |reason: Reason| matches!(reason, Arp | NeighborDiscovery | Dhcp);
        let baseline: u64 =
            counts.iter().filter(|((_, _, reason), _)| of_baseline(*reason)).map(|(_, count)| count.0).sum();
        assert_eq!(passed, baseline, "{counts:?}");
        for reason in [NewFlow, Established, RuleOnly] {
            assert!(!counts.keys().any(|(_, _, counted)| *counted == reason), "{counts:?}");
        }
        // D24
        assert_eq!(bench.packets(), u64::from(runs));
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn frames_of_several_buffers_are_read_like_any_other() {
    // A page is one buffer; XDP reads the headers in the first.
    for (ingress, size) in [(Ingress::Xdp, 9000), (Ingress::Xdp, 20_000), (Ingress::Tc, 1460)] {
        Bench::run(ingress, &["sg0"], |bench| {
            bench.apply(&[open(bench)]);
            for family in [0, 1] {
                let (here, there) = (at(GUEST[family], 40_000), at(OTHER[family], 443));
                let packet = Packet::tcp(here, there, SYN).data(&vec![0; size]);
                assert_eq!(bench.sends(&packet), NewFlow, "{size} bytes");
                assert_eq!(bench.sends(&packet.then(ACK)), TcpState, "{size} bytes");
                let mut short = packet.bare();
                short.pop();
                assert_eq!(bench.run_at("sg0", Way::Ingress, &short), Malformed, "{size} bytes");
            }
        });
    }
}
