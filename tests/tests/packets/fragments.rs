//! SPEC D14: pieces of datagrams.

use serde_json::{Value, json};
use sg_common::verdict::Action;
use sg_common::verdict::Reason::{
    self, EarlyFragment, Fragment, FragmentLimit, FragmentOfDropped, FragmentOverlap, Malformed, NewFlow,
    NoRule, TinyFragment,
};

use crate::bench::{Bench, Way, on_both_hooks};
use crate::frame::{ACK, Packet, SYN};
use crate::{GUEST, OTHER, at, with_rules};

/// UDP 443 of strangers may come in; nothing else, and nothing goes out but answers.
fn inward(bench: &Bench) -> Value {
    let rule = |protocol: &str, source: &str| json!({ "protocol": protocol, "source": source, "port": 443 });
    let rules = json!([
        rule("UDP", "198.51.100.0/24"),
        rule("UDP", "2001:db8:bad::/48"),
        rule("TCP", "198.51.100.0/24"),
        rule("TCP", "2001:db8:bad::/48"),
    ]);
    with_rules(bench.ingress(), &rules, &json!([]))
}

/// A datagram to this port of the guest, of four pieces of 64 bytes.
fn datagram(family: usize, port: u16) -> Packet {
    Packet::udp(at(OTHER[family], 40_000), at(GUEST[family], port), &[7; 248])
}

const PIECES: usize = 4;

fn piece(whole: &Packet, number: usize, identification: u16) -> Packet {
    whole.piece(number * 64, number * 64 + 64, identification)
}

fn orders() -> Vec<Vec<usize>> {
    let mut orders = vec![vec![]];
    for _ in 0..PIECES {
        orders = orders
            .iter()
            .flat_map(|order| {
                (0..PIECES)
                    .filter(|next| !order.contains(next))
                    .map(move |next| [&order[..], &[next]].concat())
            })
            .collect();
    }
    orders
}

#[test]
fn spec_d14_pieces_pass_in_any_order_if_their_flow_does() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            for (number, order) in orders().into_iter().enumerate() {
                let identification = 100 + number as u16;
                let (allowed, denied) = (datagram(family, 443), datagram(family, 444));
                let mut first_came = false;
                for place in &order {
                    let expected = match (*place, first_came) {
                        (0, _) if number == 0 => NewFlow,
                        (0, _) => Reason::Established,
                        (_, true) => Fragment,
                        (_, false) => EarlyFragment,
                    };
                    let reason = bench.receives(&piece(&allowed, *place, identification));
                    assert_eq!(reason, expected, "{order:?} {place}");
                    first_came |= *place == 0;
                }
                let mut first_came = false;
                for place in &order {
                    // Without its first fragment a datagram is of no use, and that one never passes.
                    let expected = match (*place, first_came) {
                        (0, _) => NoRule,
                        (_, true) => FragmentOfDropped,
                        (_, false) => EarlyFragment,
                    };
                    let reason = bench.receives(&piece(&denied, *place, identification + 1000));
                    assert_eq!(reason, expected, "{order:?} {place}");
                    first_came |= *place == 0;
                }
            }
            assert_eq!(bench.flows().len(), family + 1);
        }
    });
}

#[test]
fn spec_d14_early_pieces_pass_only_where_a_rule_touches() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let stranger = ["203.0.113.9", "2001:db8:9::9"][family];
            for (what, from, protocol, expected) in [
                ("a rule for it", OTHER[family], 17, EarlyFragment),
                ("a rule for another remote", stranger, 17, FragmentLimit),
                // A piece of an IPv6 datagram may name any protocol, so none is asked for.
                ("a rule for another protocol", OTHER[family], 132, [FragmentLimit, EarlyFragment][family]),
            ] {
                // One identification for each, as IPv6 tells datagrams apart by nothing else.
                let id = u16::from(protocol);
                let whole =
                    Packet { protocol, ..Packet::udp(at(from, 1), at(GUEST[family], 443), &[0; 120]) };
                assert_eq!(bench.receives(&whole.piece(64, 128, id)), expected, "{what}");
                // An answer may come in pieces, too.
                let answer =
                    Packet { protocol, ..Packet::udp(at(GUEST[family], 443), at(from, 1), &[0; 120]) };
                assert_eq!(bench.sends(&answer.piece(64, 128, id)), expected, "{what}, outbound");
            }
        }
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        for family in 0..2 {
            let whole = datagram(family, 443);
            assert_eq!(bench.receives(&piece(&whole, 1, 8)), FragmentLimit, "no rule at all");
            assert_eq!(bench.sends(&whole.reply().piece(64, 128, 8)), FragmentLimit, "no rule at all");
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_d14_overlaps_are_dropped() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let whole = datagram(family, 443);
            let run = |bench: &mut Bench, from, to| bench.receives(&whole.piece(from, to, 20));
            assert_eq!(run(bench, 0, 64), NewFlow);
            for (from, to) in [(8, 16), (56, 128), (0, 64), (0, 8), (56, 64)] {
                assert_eq!(run(bench, from, to), FragmentOverlap, "{from}..{to}");
            }
            assert_eq!(run(bench, 64, 128), Fragment);
            assert_eq!(run(bench, 120, 136), FragmentOverlap);
            assert_eq!(run(bench, 192, 256), Fragment);
            assert_eq!(run(bench, 128, 200), FragmentOverlap);
            assert_eq!(run(bench, 128, 192), Fragment, "what fits the gap");
            // A first fragment that overlaps what came before it.
            let run = |bench: &mut Bench, from, to| bench.receives(&whole.piece(from, to, 21));
            assert_eq!(run(bench, 56, 128), EarlyFragment);
            assert_eq!(run(bench, 0, 64), FragmentOverlap);
            // Other datagrams have bytes of their own: by identification, by sender, by direction.
            assert_eq!(bench.receives(&whole.piece(56, 128, 22)), EarlyFragment);
            assert_eq!(bench.sends(&whole.reply().piece(56, 128, 21)), EarlyFragment);
        }
    });
}

#[test]
fn spec_d14_tiny_first_fragments_are_dropped() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let (here, there) = (at(GUEST[family], 443), at(OTHER[family], 40_000));
            let tcp = Packet::tcp(there, here, SYN).data(&[0; 64]);
            for (identification, length) in [(30, 8), (31, 16)] {
                assert_eq!(bench.receives(&tcp.piece(0, length, identification)), TinyFragment, "{length}");
                // Its other pieces are those of a datagram that was dropped.
                let rest = tcp.piece(64, 84, identification);
                assert_eq!(bench.receives(&rest), FragmentOfDropped, "after {length} bytes");
            }
            // Flags written anew by a piece that begins inside of the header (RFC 3128).
            assert_eq!(bench.receives(&tcp.piece(0, 24, 32)), NewFlow);
            assert_eq!(bench.receives(&tcp.piece(8, 32, 32)), TinyFragment);
            assert_eq!(bench.receives(&tcp.piece(8, 32, 33)), TinyFragment, "early");
            assert_eq!(bench.receives(&tcp.piece(16, 32, 32)), FragmentOverlap);
            assert_eq!(bench.receives(&tcp.piece(24, 84, 32)), Fragment);
            // A header with options, of which some are missing.
            let mut long = tcp.clone();
            long.payload[12] = 0xa0;
            assert_eq!(bench.receives(&long.piece(0, 24, 34)), TinyFragment);
            // Eight bytes are a whole UDP header.
            let udp = datagram(family, 443);
            assert_eq!(bench.receives(&udp.piece(0, 8, 35)), NewFlow);
            assert_eq!(bench.receives(&udp.piece(8, 256, 35)), Fragment);
            bench.forget();
        }
    });
}

#[test]
fn spec_d14_pieces_that_no_datagram_has_are_malformed() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let whole = datagram(family, 443);
            let cases = [
                ("not the last, and odd", whole.piece(64, 77, 40)),
                ("nothing in it", {
                    let mut piece = whole.clone().fragment(64, false, 41);
                    piece.payload.clear();
                    piece
                }),
                ("longer than a datagram can be", whole.clone().fragment(65_528, false, 42)),
                ("the same, and more follow", whole.clone().fragment(65_400, true, 43)),
            ];
            for (what, piece) in cases {
                assert_eq!(bench.receives(&piece), Malformed, "{what}, IPv{}", [4, 6][family]);
            }
        }
    });
}

#[test]
fn spec_d14_a_forged_first_fragment_does_not_spoil_a_datagram() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let (allowed, denied) = (datagram(family, 443), datagram(family, 444));
            assert_eq!(bench.receives(&piece(&allowed, 0, 50)), NewFlow);
            assert_eq!(bench.receives(&piece(&denied, 0, 50)), NoRule);
            for number in 1..PIECES {
                assert_eq!(bench.receives(&piece(&allowed, number, 50)), Fragment);
            }
            // An allowed one that comes later than a denied one opens the way; nothing of the denied one is there.
            assert_eq!(bench.receives(&piece(&denied, 0, 51)), NoRule);
            assert_eq!(bench.receives(&piece(&denied, 1, 51)), FragmentOfDropped);
        }
    });
}

#[test]
fn spec_d14_the_memory_of_a_datagram_is_short_and_its_gaps_are_few() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let whole = datagram(family, 443);
            assert_eq!(bench.receives(&piece(&whole, 0, 60)), NewFlow);
            // Half a minute, for IPv6 a whole one (RFC 8200, section 4.5), up to the rounding of jiffies; a piece does not make
            // it longer.
            bench.advance([27, 57][family]);
            assert_eq!(bench.receives(&piece(&whole, 1, 60)), Fragment);
            bench.advance(4);
            assert_eq!(bench.receives(&piece(&whole, 2, 60)), EarlyFragment, "another datagram by now");
            let long = Packet::udp(at(OTHER[family], 40_000), at(GUEST[family], 443), &[7; 500]);
            for number in 1..=8 {
                let piece = long.piece(number * 16, number * 16 + 8, 61);
                assert_eq!(bench.receives(&piece), EarlyFragment, "gap {number}");
            }
            assert_eq!(bench.receives(&long.piece(9 * 16, 9 * 16 + 8, 61)), FragmentLimit);
            // What closes a gap needs no room.
            assert_eq!(bench.receives(&long.piece(24, 32, 61)), EarlyFragment);
            assert_eq!(bench.receives(&long.piece(9 * 16, 9 * 16 + 8, 61)), EarlyFragment);
        }
    });
}

#[test]
fn spec_d14_an_identification_comes_round_when_its_datagram_is_whole() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let (allowed, denied) = (datagram(family, 443), datagram(family, 444));
            let run = |bench: &mut Bench, order: &[usize], identification| {
                order.iter().map(|&number| bench.receives(&piece(&allowed, number, identification))).collect()
            };
            // The first fragment begins it anew, as often as it comes.
            let mut began = NewFlow;
            for order in [[0, 1, 2, 3], [0, 3, 2, 1], [0, 2, 3, 1]] {
                let passed: Vec<Reason> = run(bench, &order, 90);
                assert_eq!(passed, [began, Fragment, Fragment, Fragment], "{order:?}");
                began = Reason::Established;
            }
            // Until it comes, everything overlaps.
            let passed: Vec<Reason> = run(bench, &[1, 3, 2, 0, 2], 90);
            let overlap = FragmentOverlap;
            assert_eq!(passed, [overlap, overlap, overlap, Reason::Established, Fragment]);
            // Early pieces make a datagram whole as well.
            let passed: Vec<Reason> = run(bench, &[3, 1, 2, 0, 0, 1], 91);
            let early = EarlyFragment;
            assert_eq!(passed, [early, early, early, began, began, Fragment]);
            // What is not whole is not begun anew: without its last piece, or with a gap.
            for (order, identification) in [([0, 1, 2], 92), ([0, 1, 3], 93), ([0, 3, 2], 94)] {
                let passed: Vec<Reason> = run(bench, &order, identification);
                assert_eq!(passed, [began, Fragment, Fragment], "{order:?}");
                assert_eq!(bench.receives(&piece(&allowed, 0, identification)), FragmentOverlap, "{order:?}");
            }
            // Anew means judged anew.
            let _: Vec<Reason> = run(bench, &[0, 1, 2, 3], 95);
            assert_eq!(bench.receives(&piece(&denied, 0, 95)), NoRule);
            assert_eq!(bench.receives(&piece(&allowed, 1, 95)), FragmentOfDropped);
            let passed: Vec<Reason> = run(bench, &[0, 1, 2, 3], 95);
            assert_eq!(passed, [began, Fragment, Fragment, Fragment]);
        }
    });
}

#[test]
fn spec_d16_a_flood_of_first_pieces_pushes_out_nothing_but_its_own_interfaces_oldest_datagrams() {
    const SHARE: u16 = 4096;
    const FLOOD: u16 = 40_000;
    on_both_hooks(|bench| {
        let mut other = inward(bench);
        other["vpc"] = "test".into();
        other["interfaces"][0]["name"] = "sg1".into();
        bench.apply(&[inward(bench), other]);
        for family in 0..2 {
            let whole = datagram(family, 443);
            let frame = |number: usize, id: u16| piece(&whole, number, id).frame();
            for id in [0, 1] {
                assert_eq!(bench.run_at("sg1", Way::Egress, &frame(0, id)).action(), Action::Allow);
            }
            assert_eq!(bench.run_at("sg1", Way::Egress, &frame(1, 1)), Fragment);
            let index = bench.index("sg0");
            for id in 0..FLOOD {
                assert_eq!(bench.raw(index, Way::Egress, &frame(0, id)), Action::Allow, "{id}");
            }
            // The neighbour's are all there, and go on.
            for (id, expected) in [(0, Fragment), (1, FragmentOverlap)] {
                assert_eq!(bench.run_at("sg1", Way::Egress, &frame(1, id)), expected, "{id}");
                assert_eq!(bench.run_at("sg1", Way::Egress, &frame(2, id)), Fragment, "{id}");
            }
            // Of its own, as many as its share has: the newest.
            let oldest = FLOOD - SHARE;
            for id in [0, 1, oldest / 2, oldest - 1, oldest, oldest + 1, FLOOD - 1] {
                let expected = if id < oldest { EarlyFragment } else { Fragment };
                let answer = bench.ask("sg0", Way::Egress, &frame(1, id));
                assert_eq!(answer.reason, expected, "{id} of {oldest}..{FLOOD}");
            }
            // An early piece begins a datagram, too, and takes the oldest one's place.
            assert_eq!(bench.receives(&piece(&whole, 2, FLOOD)), EarlyFragment);
            assert_eq!(bench.ask("sg0", Way::Egress, &frame(1, oldest)).reason, EarlyFragment);
            assert_eq!(bench.ask("sg0", Way::Egress, &frame(1, oldest + 1)).reason, Fragment);
            // Another piece of a datagram that is known takes nobody's.
            assert_eq!(bench.receives(&piece(&whole, 2, FLOOD - 1)), Fragment);
            assert_eq!(bench.ask("sg0", Way::Egress, &frame(1, oldest + 1)).reason, Fragment);
        }
    });
}

#[test]
fn spec_d14_pieces_of_an_established_connection_pass_both_ways() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let (here, there) = (at(GUEST[family], 443), at(OTHER[family], 40_000));
            let opener = Packet::tcp(there, here, SYN);
            let mut talk = crate::Talk::established(bench, &opener, false);
            for (number, side) in [crate::Side::Opener, crate::Side::Answerer].into_iter().enumerate() {
                let data = talk.data(side, ACK, &[7; 100]);
                let way = side.way(false);
                let run = |bench: &mut Bench, from, to| {
                    let piece = data.piece(from, to, 70 + number as u16);
                    bench.run_at("sg0", way, &piece.frame())
                };
                assert_eq!(run(bench, 64, 120), EarlyFragment);
                assert_eq!(run(bench, 0, 32), Reason::Established);
                assert_eq!(run(bench, 32, 64), Fragment);
            }
        }
    });
}

#[test]
fn spec_d14_a_question_about_pieces_changes_nothing() {
    on_both_hooks(|bench| {
        bench.apply(&[inward(bench)]);
        for family in 0..2 {
            let whole = datagram(family, 443);
            for _ in 0..2 {
                let frame = piece(&whole, 0, 80).frame();
                assert_eq!(bench.ask("sg0", Way::Egress, &frame).reason, NewFlow);
                let frame = piece(&whole, 1, 80).frame();
                assert_eq!(bench.ask("sg0", Way::Egress, &frame).reason, EarlyFragment);
            }
            assert_eq!(bench.flows().len(), 0);
        }
    });
}
