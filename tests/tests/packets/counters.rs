//! SPEC D24: every packet is counted once, under one verdict or drop reason, and the counters add up.

use std::collections::BTreeSet;
use std::path::Path;

use aya::maps::{Array, Map, MapData};
use serde_json::json;
use sg_common::abi::{self, Direction, FlowTags};
use sg_common::verdict::Action;
use sg_common::verdict::Reason::{self, *};

use crate::bench::{Bench, DEVICES, Ingress, Way, ip, on_both_hooks};
use crate::frame::{ACK, DESTINATION_OPTIONS, Packet, RST, SYN, arp, ethernet, from_mac, tagged};
use crate::{GUEST, OTHER, at, everything, with_rules};

/// The tags of free slots, and of flows that nobody has.
const FREE: u32 = 0;
const FOREIGN: u32 = 1;

/// Puts tags into the table of IPv6 flows in place of others.
fn replace(pins: &Path, tag: u32, new: u32) {
    let map = MapData::from_pin(pins.join(abi::map::TAGS_V6)).unwrap();
    let mut buckets: Array<MapData, FlowTags> = Map::Array(map).try_into().unwrap();
    for bucket in 0..buckets.len() {
        let FlowTags { tags } = buckets.get(&bucket, 0).unwrap();
        let tags = tags.map(|is| if is == tag { new } else { is });
        buckets.set(bucket, FlowTags { tags }, 0).unwrap();
    }
}

#[test]
fn spec_d24_each_reason_moves_one_counter_by_one_and_the_sum_is_the_packets() {
    on_both_hooks(|bench| {
        let mut open = with_rules(bench.ingress(), &everything("source"), &everything("destination"));
        let mut strict = with_rules(bench.ingress(), &json!([]), &everything("destination"));
        for file in [&mut open, &mut strict] {
            file["interfaces"][0]["mac"] = "52:54:00:00:00:05".into();
        }
        open["settings"] = json!({ "guest_baseline": { "ether_types": ["0x88f7"] } });
        strict["settings"] = json!({ "strict_tcp": true });
        let (here, there) = (at(GUEST[0], 40_000), at(OTHER[0], 443));
        let (here6, there6) = (at(GUEST[1], 40_000), at(OTHER[1], 443));
        let tcp = Packet::tcp(here, there, SYN);
        let mut chain = Packet::udp(here6, there6, b"");
        for _ in 0..7 {
            chain = chain.extension(DESTINATION_OPTIONS, &[0; 6]);
        }
        let mut seen = BTreeSet::new();
        let mut packets = 0;
        // `run_at` holds the whole of the counters to one step; the sum is held at the end.
        let mut expect = |bench: &mut Bench, way, frame: &[u8], reason: Reason| {
            assert_eq!(bench.run_at("sg0", way, frame), reason);
            seen.insert(reason);
            packets += 1;
        };

        bench.apply(&[open]);
        let (out, into) = (Way::Ingress, Way::Egress);
        expect(bench, out, &tcp.frame(), NewFlow);
        expect(bench, out, &tcp.then(ACK).frame(), TcpState);
        expect(bench, into, &tcp.answer(SYN | ACK).frame(), Established);
        expect(bench, out, &tcp.then(ACK).frame(), Established);
        expect(bench, out, &tcp.then(0).frame(), TcpFlags);
        expect(bench, out, &tcp.then(RST).sequence(0x8000_0000, 0).frame(), TcpWindow);
        expect(bench, into, &tcp.error(ip("203.0.113.1"), 3, 1).frame(), Related);
        expect(bench, into, &Packet::icmp(ip("203.0.113.1"), ip(GUEST[0]), 5, 1, 0).frame(), Redirect);
        expect(bench, out, &Packet::tcp(here, at(OTHER[0], 444), RST).frame(), RuleOnly);
        expect(bench, out, &arp([10, 0, 0, 5].into(), [10, 0, 0, 1].into()), Arp);
        let solicitation = Packet::icmp(ip(GUEST[1]), ip("ff02::1"), 135, 0, 0).hop_limit(255);
        expect(bench, out, &solicitation.frame(), NeighborDiscovery);
        expect(bench, out, &Packet::udp(at("0.0.0.0", 68), at("255.255.255.255", 67), b"").frame(), Dhcp);
        expect(bench, into, &tcp.bare()[..40], Malformed);
        expect(bench, into, &ethernet(0x88cc, &[0; 46]), EtherType);
        expect(bench, into, &ethernet(0x88f7, &[0; 46]), EtherTypeListed);
        expect(bench, into, &tagged(&tcp.frame(), 0x8100, 1), Vlan);
        let long = Packet::udp(there, here, &[0; 256]);
        expect(bench, into, &long.piece(0, 64, 1).frame(), NewFlow);
        expect(bench, into, &long.piece(64, 128, 1).frame(), Fragment);
        expect(bench, into, &long.piece(64, 128, 1).frame(), FragmentOverlap);
        for piece in 1..=8 {
            expect(bench, into, &long.piece(piece * 16, piece * 16 + 8, 2).frame(), EarlyFragment);
        }
        expect(bench, into, &long.piece(9 * 16, 9 * 16 + 8, 2).frame(), FragmentLimit);
        expect(bench, into, &tcp.reply().piece(0, 8, 3).frame(), TinyFragment);
        expect(bench, out, &from_mac(tcp.then(ACK).frame(), [0x52, 0x54, 0, 0, 0, 6]), SourceMac);
        expect(bench, out, &Packet::udp(at("10.0.0.6", 1), there, b"").frame(), SourceAddress);
        expect(bench, out, &arp([10, 0, 0, 6].into(), [10, 0, 0, 1].into()), ArpSpoof);
        expect(bench, out, &solicitation.clone().hop_limit(254).frame(), NeighborSpoof);
        expect(bench, out, &Packet::udp(at(GUEST[0], 67), at(OTHER[0], 68), b"").frame(), DhcpServer);
        let advertisement = Packet::icmp(ip(GUEST[1]), ip("ff02::1"), 134, 0, 0).hop_limit(255);
        expect(bench, out, &advertisement.frame(), RouterAdvertisement);
        expect(bench, out, &tcp.then(ACK).options(&[131, 3, 4, 0]).frame(), SourceRoute);
        expect(bench, into, &chain.frame(), ExtensionHeaders);
        bench.apply(&[strict]);
        expect(bench, out, &Packet::tcp(here, at(OTHER[0], 445), ACK).frame(), StrictTcp);
        let denied = Packet::udp(at(OTHER[0], 444), here, &[0; 64]);
        expect(bench, into, &denied.piece(0, 32, 4).frame(), NoRule);
        expect(bench, into, &denied.piece(32, 72, 4).frame(), FragmentOfDropped);
        let pins = bench.enforcer().kernel().pins().maps();
        let question = Packet::udp(here6, there6, b"");
        expect(bench, out, &question.frame(), NewFlow);
        replace(&pins, FREE, FOREIGN);
        // What is there stays what it was, and becomes live.
        expect(bench, into, &question.reply().frame(), Established);
        expect(bench, out, &Packet::udp(here6, at(OTHER[1], 444), b"").frame(), TableFull);
        replace(&pins, FOREIGN, FREE);

        // A device that the filter was never told about.
        let before = bench.counts();
        assert_eq!(bench.raw(0, out, &tcp.frame()), Action::Drop);
        let mut expected = before.clone();
        let counter = (String::new(), Direction::Outbound, UnknownInterface);
        expected.insert(counter, (1, tcp.frame().len() as u64));
        assert_eq!(bench.counts(), expected);
        seen.insert(UnknownInterface);
        packets += 1;

        assert_eq!(bench.packets(), packets);
        // A frame of a test run has no pending checksum: real senders are in the daemon's tests, `checksums.rs`.
        let every = Reason::EVERY.iter().copied().filter(|reason| *reason != ChecksumPlace);
        assert_eq!(seen, every.collect(), "every reason has its packet here");
    });
}

#[test]
fn spec_d24_the_filter_on_a_device_it_was_not_told_about_drops_everything() {
    Bench::run(Ingress::Tc, &DEVICES, |bench| {
        bench.apply(&[with_rules(bench.ingress(), &everything("source"), &everything("destination"))]);
        for way in [Way::Ingress, Way::Egress] {
            for frame in [
                Packet::tcp(at(GUEST[0], 1), at(OTHER[0], 2), SYN).frame(),
                Packet::ping(ip(GUEST[1]), ip(OTHER[1]), 1).frame(),
                arp([10, 0, 0, 5].into(), [10, 0, 0, 1].into()),
                ethernet(0x88cc, &[0; 46]),
            ] {
                assert_eq!(bench.run_at("sg2", way, &frame), UnknownInterface);
            }
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_d24_directions_and_devices_are_counted_apart() {
    on_both_hooks(|bench| {
        let mut file = with_rules(bench.ingress(), &everything("source"), &everything("destination"));
        let mut host = file["interfaces"][0].clone();
        host["name"] = "sg1".into();
        host["role"] = "host".into();
        host["addresses"] = json!(["192.0.2.1"]);
        file["interfaces"].as_array_mut().unwrap().push(host);
        bench.apply(&[file]);
        let frame = Packet::udp(at(GUEST[0], 1), at(OTHER[0], 2), b"").frame();
        for (device, way, direction) in [
            ("sg0", Way::Ingress, Direction::Outbound),
            ("sg0", Way::Egress, Direction::Inbound),
            // A host's own NIC: what comes in is inbound.
            ("sg1", Way::Ingress, Direction::Inbound),
            ("sg1", Way::Egress, Direction::Outbound),
        ] {
            assert_eq!(bench.run_at(device, way, &frame), NewFlow);
            let counts = bench.counts();
            assert_eq!(counts[&(device.to_owned(), direction, NewFlow)], (1, frame.len() as u64));
        }
    });
}

#[test]
fn spec_d24_a_tag_that_the_device_took_out_of_the_frame_is_a_tag() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &everything("source"), &everything("destination"))]);
        let packet = Packet::udp(at(GUEST[0], 1), at(OTHER[0], 2), b"").frame();
        bench.transmit("sg0", &tagged(&packet, 0x8100, 7));
        assert_eq!(bench.wait_for_packets(1), 1);
        let counts = bench.counts();
        assert!(counts.contains_key(&("sg0".to_owned(), Direction::Outbound, Vlan)), "{counts:?}");
    });
}
