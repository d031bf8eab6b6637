//! D14, RFC 791, RFC 8200.

use serde_json::json;

use super::{PLENTY, at, files, oracle, query};
use crate::expect::{Limits, Oracle};
use crate::frame::{Packet, SYN};

/// 80 bytes of UDP, in pieces of 16.
fn pieces(packet: &Packet) -> Vec<Packet> {
    let whole = packet.clone().data(&[0; 68]);
    (0..80).step_by(16).map(|from| whole.piece(from, from + 16, 9)).collect()
}

fn v6() -> Packet {
    Packet::udp(at("[2001:db8::5]:5000"), at("[2001:db8::8]:53"), b"who?")
}

#[test]
fn spec_d14_pieces_pass_in_any_order() {
    for packet in [query(), v6()] {
        let pieces = pieces(&packet);
        for first in 0..5 {
            let mut oracle = oracle();
            let mut seen = false;
            for piece in pieces.iter().cycle().skip(first).take(5) {
                let is_first = piece.fragment.unwrap().0 == 0;
                let expected = match (is_first, seen) {
                    (true, _) => "new_flow",
                    (false, true) => "fragment",
                    (false, false) => "early_fragment",
                };
                seen |= is_first;
                assert_eq!(oracle.sent(piece), expected);
            }
        }
    }
}

#[test]
fn spec_d14_pieces_share_the_fate_of_their_first() {
    let mut oracle = oracle();
    let denied = Packet::udp(at("8.8.8.8:1"), at("10.0.0.5:54"), b"who?");
    let pieces = pieces(&denied);
    assert_eq!(oracle.received(&pieces[1]), "early_fragment");
    assert_eq!(oracle.received(&pieces[0]), "no_rule");
    assert_eq!(oracle.received(&pieces[2]), "fragment_of_dropped");
    oracle.advance(29);
    assert_eq!(oracle.received(&pieces[2]), "fragment_of_dropped");
    oracle.advance(1);
    assert_eq!(oracle.received(&pieces[2]), "early_fragment");
}

#[test]
fn spec_d14_early_pieces_need_a_rule_for_their_protocol() {
    let early = |source: &str, protocol: u8| {
        let packet = Packet::new(source.parse().unwrap(), "10.0.0.5".parse().unwrap(), protocol, vec![0; 8]);
        oracle().received(&packet.fragment(64, true, 1))
    };
    assert_eq!(early("9.9.9.9", 6), "early_fragment");
    assert_eq!(early("9.9.9.9", 17), "fragment_limit");
    assert_eq!(early("9.9.9.9", 47), "fragment_limit");
    // Also what the other direction allows.
    assert_eq!(early("8.8.8.8", 47), "early_fragment");
}

#[test]
fn spec_d14_overlaps_are_dropped() {
    let whole = query().data(&[0; 60]);
    for (from, to, reason) in [
        (8, 24, "fragment_overlap"),
        (16, 24, "fragment"),
        (24, 40, "fragment_overlap"),
        (32, 40, "fragment_overlap"),
    ] {
        let mut oracle = oracle();
        oracle.sent(&whole.piece(0, 16, 1));
        oracle.sent(&whole.piece(32, 48, 1));
        assert_eq!(oracle.sent(&whole.piece(from, to, 1)), reason, "{from} {to}");
    }
}

#[test]
fn spec_d14_tiny_first_pieces_are_dropped() {
    // RFC 1858, section 3.
    let tcp = Packet::tcp(at("10.0.0.5:1"), at("8.8.8.8:80"), SYN).data(&[0; 20]);
    let mut oracle = oracle();
    assert_eq!(oracle.sent(&tcp.piece(0, 16, 1)), "tiny_fragment");
    assert_eq!(oracle.sent(&tcp.piece(16, 24, 1)), "fragment_of_dropped");
    assert_eq!(oracle.sent(&tcp.piece(8, 16, 2)), "tiny_fragment");
    assert_eq!(oracle.sent(&tcp.piece(0, 24, 3)), "new_flow");
    // A whole one is not cut but wrong.
    let mut short = tcp.clone();
    short.payload.truncate(19);
    assert_eq!(oracle.sent(&short), "malformed");
}

#[test]
fn spec_d14_pieces_that_cannot_be() {
    let piece = |offset: u16, more: bool, length: usize| {
        let mut piece = query().fragment(offset, more, 1);
        piece.payload = vec![0; length];
        oracle().sent(&piece)
    };
    assert_eq!(piece(64, true, 8), "early_fragment");
    assert_eq!(piece(64, true, 9), "malformed");
    assert_eq!(piece(64, false, 9), "early_fragment");
    assert_eq!(piece(64, false, 0), "malformed");
    assert_eq!(piece(65_528, false, 7), "early_fragment");
    assert_eq!(piece(65_528, false, 8), "malformed");
}

#[test]
fn spec_d14_nine_separate_ranges_are_too_many() {
    let whole = query().data(&[0; 400]);
    let send = |oracle: &mut Oracle, from: usize| oracle.sent(&whole.piece(from, from + 8, 1));
    let mut oracle = oracle();
    for range in 1..=8 {
        assert_eq!(send(&mut oracle, range * 16), "early_fragment");
    }
    assert_eq!(send(&mut oracle, 9 * 16), "fragment_limit");
    // One that joins two makes room.
    assert_eq!(send(&mut oracle, 24), "early_fragment");
    assert_eq!(send(&mut oracle, 9 * 16), "early_fragment");
}

#[test]
fn spec_d14_a_datagram_is_known_for_a_while() {
    for (packet, seconds) in [(query(), 30), (v6(), 60)] {
        let pieces = pieces(&packet);
        let mut oracle = oracle();
        assert_eq!(oracle.sent(&pieces[0]), "new_flow");
        oracle.advance(seconds - 1);
        assert_eq!(oracle.sent(&pieces[1]), "fragment");
        oracle.advance(1);
        assert_eq!(oracle.sent(&pieces[2]), "early_fragment");
    }
}

#[test]
fn spec_d14_a_whole_datagram_is_begun_anew() {
    for packet in [query(), v6()] {
        let pieces = pieces(&packet);
        let sent = |oracle: &mut Oracle, numbers: &[usize]| -> Vec<&str> {
            numbers.iter().map(|&number| oracle.sent(&pieces[number])).collect()
        };
        let again = ["established", "fragment", "fragment", "fragment", "fragment"];
        for whole in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 4, 0, 3, 2]] {
            let mut oracle = oracle();
            assert!(sent(&mut oracle, &whole).iter().all(|reason| *reason != "fragment_overlap"));
            assert_eq!(sent(&mut oracle, &[1, 4]), ["fragment_overlap"; 2]);
            for _ in 0..2 {
                assert_eq!(sent(&mut oracle, &[0, 1, 2, 3, 4]), again);
            }
        }
        for part in [[0, 1, 2, 3], [0, 1, 2, 4], [0, 2, 3, 4]] {
            let mut oracle = oracle();
            sent(&mut oracle, &part);
            assert_eq!(sent(&mut oracle, &[0]), ["fragment_overlap"], "{part:?}");
        }
    }
}

#[test]
fn spec_d16_the_newest_datagram_takes_the_oldest_ones_place() {
    let limits = Limits { datagrams: 2, ..PLENTY };
    let mut oracle = Oracle::new(&files(&json!({})), limits);
    let piece = |packet: &Packet, number: usize, id: u16| {
        packet.clone().data(&[0; 68]).piece(number * 16, number * 16 + 16, id)
    };
    for id in [1, 2] {
        oracle.sent(&piece(&query(), 0, id));
        oracle.sent(&piece(&v6(), 0, id));
    }
    // Another piece begins none; the other family has places of its own.
    assert_eq!(oracle.sent(&piece(&query(), 1, 1)), "fragment");
    assert_eq!(oracle.sent(&piece(&query(), 1, 3)), "early_fragment");
    assert_eq!(oracle.sent(&piece(&query(), 2, 2)), "fragment");
    assert_eq!(oracle.sent(&piece(&v6(), 2, 1)), "fragment");
    assert_eq!(oracle.sent(&piece(&query(), 2, 1)), "early_fragment");
    assert_eq!(oracle.sent(&piece(&query(), 3, 2)), "early_fragment");
}
