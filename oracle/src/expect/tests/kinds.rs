//! D10, D13, D15, D16: flows of UDP, ICMP and other protocols, and errors about flows.

use std::net::IpAddr;

use serde_json::json;

use super::{PLENTY, at, established, files, oracle, query};
use crate::expect::{Limits, Oracle};
use crate::frame::{DESTINATION_OPTIONS, HOP_BY_HOP, Packet};

const ROUTER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9));

#[test]
fn spec_k6_answers_pass_whatever_the_rules_say() {
    let mut oracle = oracle();
    assert_eq!(oracle.received(&query().reply()), "no_rule");
    assert_eq!(oracle.sent(&query()), "new_flow");
    oracle.advance(10);
    assert_eq!(oracle.sent(&query()), "established");
    assert_eq!((oracle.state(), oracle.only_flow().seconds_left), ("udp", 30));
    assert_eq!(oracle.received(&query().reply()), "established");
    let flow = oracle.only_flow();
    assert_eq!((flow.state, flow.live, flow.seconds_left), ("udp", true, 30));
    assert_eq!((flow.begun_by_instance, flow.ports), (true, (5000, 53)));
    // Answers alone make no stream of it, and its time is the same.
    oracle.advance(10);
    assert_eq!(oracle.received(&query().reply()), "established");
    assert_eq!((oracle.state(), oracle.only_flow().seconds_left), ("udp", 30));
    for packet in [query(), query().reply()] {
        let _ = if packet.source == query().source { oracle.sent(&packet) } else { oracle.received(&packet) };
        assert_eq!((oracle.state(), oracle.only_flow().seconds_left), ("udp_stream", 180));
        oracle.advance(10);
    }
}

#[test]
fn spec_d10_pings_are_told_apart_by_who_asks() {
    let mut oracle = oracle();
    let (guest, other) = ("10.0.0.5".parse().unwrap(), "8.8.8.8".parse().unwrap());
    let (out, back) = (Packet::ping(guest, other, 7), Packet::ping(other, guest, 7));
    assert_eq!(oracle.sent(&out), "new_flow");
    assert_eq!(oracle.received(&back), "new_flow");
    assert_eq!(oracle.received(&out.reply()), "established");
    assert_eq!(oracle.received(&Packet::ping(guest, other, 8).reply()), "no_rule");
    let flows: Vec<_> = oracle.flows().iter().map(|flow| (flow.ports, flow.live)).collect();
    assert_eq!(flows, [((7, 8 << 8), false), ((7, 8 << 8 | 1), true)]);
    // An answer begins nothing, an allowed one neither.
    assert_eq!(oracle.sent(&Packet::icmp(guest, other, 0, 0, 9)), "rule_only");
    assert_eq!(oracle.flows().len(), 2);
}

#[test]
fn spec_d13_errors_about_flows_pass_from_any_router() {
    let mut oracle = oracle();
    let sent = query();
    assert_eq!(oracle.received(&sent.error(ROUTER, 3, 4)), "no_rule");
    oracle.sent(&sent);
    oracle.advance(10);
    for kind in [3, 11, 12] {
        assert_eq!(oracle.received(&sent.error(ROUTER, kind, 0)), "related");
    }
    assert_eq!(oracle.only_flow().seconds_left, 20);
    assert_eq!(oracle.received(&sent.error(ROUTER, 4, 0)), "no_rule");
    // The other way it was not.
    assert_eq!(oracle.received(&sent.reply().error(ROUTER, 3, 4)), "no_rule");
    let mut cut = sent.error(ROUTER, 3, 4);
    cut.payload.truncate(8 + 28);
    assert_eq!(oracle.received(&cut), "related");
    cut.payload.truncate(8 + 27);
    assert_eq!(oracle.received(&cut), "no_rule");
    let mut elsewhere = sent.error(ROUTER, 3, 4);
    elsewhere.destination = "10.0.0.6".parse().unwrap();
    assert_eq!(oracle.received(&elsewhere), "no_rule");
    oracle.advance(20);
    assert_eq!(oracle.received(&sent.error(ROUTER, 3, 4)), "no_rule");
}

#[test]
fn spec_d13_errors_about_pieces_and_extension_headers() {
    let mut oracle = oracle();
    let whole = query().data(&[0; 60]);
    assert_eq!(oracle.received(&whole.piece(16, 32, 3).error(ROUTER, 11, 1)), "no_rule");
    oracle.sent(&whole.piece(0, 16, 3));
    assert_eq!(oracle.received(&whole.piece(16, 32, 3).error(ROUTER, 11, 1)), "related");
    assert_eq!(oracle.received(&whole.piece(16, 32, 4).error(ROUTER, 11, 1)), "no_rule");
    let v6 = Packet::udp(at("[2001:db8::5]:1"), at("[2001:db8::1]:1"), b"");
    let v6 =
        v6.extension(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]).extension(DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]);
    assert_eq!(oracle.sent(&v6), "new_flow");
    let router = "fd00::1".parse().unwrap();
    for (kind, reason) in [(1, "related"), (2, "related"), (3, "related"), (4, "related"), (5, "no_rule")] {
        assert_eq!(oracle.received(&v6.error(router, kind, 0)), reason);
    }
}

#[test]
fn spec_d15_chains_end() {
    let chain = |count: usize| {
        let packet = Packet::udp(at("[2001:db8::5]:1"), at("[2001:db8::1]:1"), b"");
        (0..count).fold(packet, |packet, _| packet.extension(DESTINATION_OPTIONS, &[1, 4, 0, 0, 0, 0]))
    };
    assert_eq!(oracle().sent(&chain(6)), "new_flow");
    assert_eq!(oracle().sent(&chain(7)), "extension_headers");
    for number in [135, 139, 140, 253, 254] {
        let odd = chain(1).extension(number, &[0; 6]);
        assert_eq!(oracle().sent(&odd), "extension_headers", "{number}");
    }
    let mut frame = chain(1).bare();
    // The header says that it goes on behind the packet.
    frame[14 + 40 + 1] = 9;
    assert_eq!(oracle().sends(&frame).reason, "malformed");
}

#[test]
fn spec_d16_half_open_flows_make_room_and_live_ones_are_counted() {
    let mut oracle = Oracle::new(&files(&json!({})), Limits { live: 1, half_v4: 2, half_v6: 0, ..PLENTY });
    let syn = established(&mut oracle);
    assert_eq!(oracle.sent(&query()), "new_flow");
    assert_eq!(oracle.received(&query().reply()), "table_full");
    let v6 = Packet::udp(at("[2001:db8::5]:1"), at("[2001:db8::1]:1"), b"");
    assert_eq!(oracle.sent(&v6), "table_full");
    // What is over is not counted.
    oracle.sent(&syn.then(crate::frame::RST));
    oracle.advance(10);
    assert_eq!(oracle.received(&query().reply()), "established");
    assert!(oracle.only_flow().live);
}

#[test]
fn spec_d2_every_interface_has_its_own_flows() {
    let mut files = files(&json!({}));
    let mut twin = files[0]["interfaces"][0].clone();
    twin["name"] = "tap1".into();
    files[0]["interfaces"].as_array_mut().unwrap().push(twin);
    let mut oracle = Oracle::new(&files, PLENTY);
    assert_eq!(oracle.sent(&query()), "new_flow");
    assert_eq!(oracle.judge("tap1", false, &query().reply().frame()).reason, "no_rule");
    assert_eq!(oracle.received(&query().reply()), "established");
}

#[test]
fn spec_d24_lengths_contradict_themselves() {
    let bent = |at: usize, byte: u8| {
        let mut frame = query().bare();
        frame[at] = byte;
        oracle().sends(&frame).reason
    };
    assert_eq!(bent(14, 0x45), "new_flow");
    assert_eq!(bent(14, 0x55), "malformed");
    assert_eq!(bent(14, 0x44), "malformed");
    assert_eq!(bent(14, 0x4f), "malformed");
    assert_eq!(bent(17, 33), "malformed");
    // UDP's own length: too small, too large.
    assert_eq!(bent(39, 7), "malformed");
    assert_eq!(bent(39, 8), "new_flow");
    assert_eq!(bent(39, 13), "malformed");
    // A frame that a device has put together from many: the length does not fit its field.
    let mut large = Packet::tcp(at("10.0.0.5:1"), at("8.8.8.8:80"), crate::frame::SYN).bare();
    large[16..18].fill(0);
    assert_eq!(oracle().sends(&large).reason, "malformed");
    large.resize(65_536, 0);
    assert_eq!(oracle().sends(&large).reason, "new_flow");
}
