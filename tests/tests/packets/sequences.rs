//! SPEC D12: sequence numbers, over the loaded programs.

use serde_json::{Value, json};
use sg_common::conntrack::State;
use sg_common::verdict::Reason::{Established, Fragment, NewFlow, NoRule, TcpState, TcpWindow};

use crate::bench::{Bench, Way, on_both_hooks};
use crate::frame::{ACK, FIN, PSH, Packet, RST, SYN};
use crate::{GUEST, LIFE, OTHER, Side, Talk, at, everything, with_rules};

/// The guest may begin anything, the others nothing.
fn outward(bench: &Bench) -> Value {
    with_rules(bench.ingress(), &json!([]), &everything("destination"))
}

/// For both families, and for connections that the guest opens and such that others do.
fn each(bench: &mut Bench, test: impl Fn(&mut Bench, &Packet, bool)) {
    for family in 0..2 {
        for outbound in [true, false] {
            let file = if outbound {
                outward(bench)
            } else {
                with_rules(bench.ingress(), &everything("source"), &json!([]))
            };
            bench.apply(&[file]);
            let (here, there) = (at(GUEST[family], 40_000), at(OTHER[family], 443));
            let opener = if outbound { Packet::tcp(here, there, SYN) } else { Packet::tcp(there, here, SYN) };
            test(bench, &opener, outbound);
            bench.forget();
        }
    }
}

/// The window that [`Packet::tcp`] offers.
const WINDOW: u32 = 0xffff;

#[test]
fn spec_d12_resets_close_if_exact_pass_if_inside_and_are_dropped_outside_of_the_window() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            for side in [Side::Opener, Side::Answerer] {
                let mut talk = Talk::established(bench, opener, outbound);
                let way = side.way(outbound);
                let exact = talk.next[side as usize];
                let reset = |sequence: u32| talk.at(side, RST, sequence, 0).frame();
                for (distance, expected) in [
                    (u32::MAX, TcpWindow),
                    (1u32.wrapping_neg() - 5000, TcpWindow),
                    (1, Established),
                    (WINDOW - 1, Established),
                    (WINDOW, TcpWindow),
                    (1 << 31, TcpWindow),
                ] {
                    let frame = reset(exact.wrapping_add(distance));
                    assert_eq!(bench.run_at("sg0", way, &frame), expected, "{side:?} {distance}");
                    assert_eq!(bench.flow().state, State::TcpEstablished, "{side:?} {distance}");
                }
                // The connection goes on.
                let data = talk.data(side, ACK | PSH, b"hello");
                assert_eq!(bench.run_at("sg0", way, &data.frame()), Established);
                let (other, back) = match side {
                    Side::Opener => (Side::Answerer, Side::Answerer.way(outbound)),
                    Side::Answerer => (Side::Opener, Side::Opener.way(outbound)),
                };
                let acknowledged = talk.segment(other, ACK);
                assert_eq!(bench.run_at("sg0", back, &acknowledged.frame()), Established);
                // What was exact is old now.
                assert_eq!(bench.run_at("sg0", way, &talk.at(side, RST, exact, 0).frame()), TcpWindow);
                assert_eq!(bench.flow().state, State::TcpEstablished);
                let exact = talk.segment(side, RST | ACK);
                assert_eq!(bench.run_at("sg0", way, &exact.frame()), Established);
                assert_eq!(bench.flow().state, State::TcpClose);
                // Its end leaves room for the next.
                bench.forget();
            }
        });
    });
}

#[test]
fn spec_d12_a_reset_that_does_not_close_keeps_nothing_alive() {
    on_both_hooks(|bench| {
        let mut file = outward(bench);
        file["settings"] = json!({ "timeouts": { "tcp_established": 60 } });
        bench.apply(&[file]);
        let opener = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        let talk = Talk::established(bench, &opener, true);
        for distance in [1, 1 << 31] {
            bench.advance(20);
            bench.receives(&talk.at(Side::Answerer, RST, talk.next[1].wrapping_add(distance), 0));
        }
        bench.advance(20);
        assert_eq!(bench.flows(), []);
        assert_eq!(bench.receives(&talk.at(Side::Answerer, RST, talk.next[1], 0)), NoRule);
    });
}

#[test]
fn spec_d12_a_connection_is_refused_only_by_who_has_seen_its_syn() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            let mut talk = Talk::new(opener);
            let syn = talk.segment(Side::Opener, SYN);
            assert_eq!(bench.run_at("sg0", Side::Opener.way(outbound), &syn.frame()), NewFlow);
            let way = Side::Answerer.way(outbound);
            let refusal = |flags, acknowledgment| talk.at(Side::Answerer, flags, 0, acknowledgment).frame();
            for frame in [refusal(RST | ACK, talk.next[0] - 1), refusal(RST | ACK, 0), refusal(RST, 0)] {
                assert_eq!(bench.run_at("sg0", way, &frame), TcpWindow);
                assert_eq!(bench.flow().state, State::TcpSynSent);
            }
            assert_eq!(bench.run_at("sg0", way, &refusal(RST | ACK, talk.next[0])), Established);
            assert_eq!(bench.flow().state, State::TcpClose);
            // A refused connection is none that lives: nothing has come of it.
            assert!(bench.flow().half_open);
        });
    });
}

#[test]
fn spec_d12_a_syn_on_a_live_connection_changes_nothing() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            let mut talk = Talk::established(bench, opener, outbound);
            for sequence in [0, talk.next[0] - 1, talk.next[0], talk.next[0] + 100_000] {
                let again = talk.at(Side::Opener, SYN, sequence, 0).frame();
                assert_eq!(bench.run_at("sg0", Side::Opener.way(outbound), &again), Established);
                assert_eq!(bench.flow().state, State::TcpEstablished);
                let other = talk.at(Side::Answerer, SYN, sequence, 0).frame();
                assert_eq!(bench.run_at("sg0", Side::Answerer.way(outbound), &other), TcpState);
                assert_eq!(bench.flow().state, State::TcpEstablished);
            }
            // The window is where it was.
            let reset = talk.segment(Side::Opener, RST);
            assert_eq!(bench.run_at("sg0", Side::Opener.way(outbound), &reset.frame()), Established);
            assert_eq!(bench.flow().state, State::TcpClose);
        });
    });
}

#[test]
fn spec_d12_time_wait_gives_way_to_a_higher_sequence_only() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            let mut talk = Talk::new(opener);
            for (side, flags) in LIFE.into_iter().take(7) {
                let _ = bench.run_at("sg0", side.way(outbound), &talk.segment(side, flags).frame());
            }
            assert_eq!(bench.flow().state, State::TcpTimeWait);
            let [mine, theirs] = talk.next;
            let (there, back) = (Side::Opener.way(outbound), Side::Answerer.way(outbound));
            let run = |bench: &mut Bench, side: Side, sequence: u32| {
                let way = if side == Side::Opener { there } else { back };
                bench.run_at("sg0", way, &talk.at(side, SYN, sequence, 0).frame())
            };
            // A late copy of the SYN, and what lies half a circle away.
            for sequence in [mine - 10, mine, mine.wrapping_add(1 << 31)] {
                assert_eq!(run(bench, Side::Opener, sequence), Established);
                assert_eq!(bench.flow().state, State::TcpTimeWait);
            }
            assert_eq!(run(bench, Side::Answerer, theirs), TcpState);
            // No rule lets the other side begin.
            assert_eq!(run(bench, Side::Answerer, theirs + 1), NoRule);
            assert_eq!(bench.flow().state, State::TcpTimeWait);
            assert_eq!(run(bench, Side::Opener, mine + 1), NewFlow);
            let flow = bench.flow();
            assert_eq!((flow.state, flow.half_open), (State::TcpSynSent, true));
            // The new connection has numbers of its own.
            talk.next = [mine + 2, 77];
            let answer = talk.segment(Side::Answerer, SYN | ACK);
            assert_eq!(bench.run_at("sg0", back, &answer.frame()), Established);
            let ack = talk.segment(Side::Opener, ACK);
            assert_eq!(bench.run_at("sg0", there, &ack.frame()), Established);
            let flow = bench.flow();
            assert_eq!((flow.state, flow.half_open), (State::TcpEstablished, false));
        });
    });
}

/// A SYN with options: padding and a window scale (RFC 7323).
fn with_scale(packet: Packet, scale: u8) -> Packet {
    let mut packet = packet.data(&[1, 3, 3, scale, 2, 4, 5, 180]);
    packet.payload[12] = 0x70;
    packet
}

#[test]
fn spec_d12_windows_are_scaled_if_both_sides_said_so() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            for (scales, shift) in
                [([Some(7), Some(7)], 7), ([Some(7), None], 0), ([None, Some(7)], 0), ([None, None], 0)]
            {
                let mut talk = Talk::new(opener);
                for ((side, flags), scale) in LIFE.into_iter().take(3).zip([scales[0], scales[1], None]) {
                    let packet = talk.segment(side, flags);
                    let packet = match scale {
                        Some(scale) => with_scale(packet, scale),
                        None => packet,
                    };
                    let _ = bench.run_at("sg0", side.way(outbound), &packet.frame());
                }
                assert_eq!(bench.flow().state, State::TcpEstablished, "{scales:?}");
                // What the side that began offered last, with its ACK, is what the other may send.
                let window = WINDOW << shift;
                let way = Side::Answerer.way(outbound);
                for (distance, expected) in [(window - 1, Established), (window, TcpWindow)] {
                    let sequence = talk.next[1].wrapping_add(distance);
                    let reset = talk.at(Side::Answerer, RST, sequence, 0).frame();
                    assert_eq!(bench.run_at("sg0", way, &reset), expected, "{scales:?} {distance}");
                }
                // The window of a SYN is never scaled.
                let way = Side::Opener.way(outbound);
                for (distance, expected) in [(WINDOW - 1, Established), (WINDOW, TcpWindow)] {
                    let sequence = talk.next[0].wrapping_add(distance);
                    let reset = talk.at(Side::Opener, RST, sequence, 0).frame();
                    assert_eq!(bench.run_at("sg0", way, &reset), expected, "{scales:?} {distance}");
                }
                assert_eq!(bench.flow().state, State::TcpEstablished, "{scales:?}");
                bench.forget();
            }
        });
    });
}

#[test]
fn spec_d12_a_fin_is_acknowledged_by_what_acknowledges_all() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            let mut talk = Talk::established(bench, opener, outbound);
            let (there, back) = (Side::Opener.way(outbound), Side::Answerer.way(outbound));
            let late = talk.segment(Side::Answerer, ACK);
            let fin = talk.segment(Side::Opener, FIN | ACK);
            assert_eq!(bench.run_at("sg0", there, &fin.frame()), Established);
            // Sent before the FIN came, or by somebody who has never seen it.
            for acknowledgment in [talk.next[0] - 1, talk.next[0] + 1, 0] {
                let ack = talk.at(Side::Answerer, ACK, talk.next[1], acknowledgment).frame();
                assert_eq!(bench.run_at("sg0", back, &ack), Established);
                assert_eq!(bench.flow().state, State::TcpFinWait, "{acknowledgment}");
            }
            assert_eq!(bench.run_at("sg0", back, &late.frame()), Established);
            assert_eq!(bench.flow().state, State::TcpFinWait);
            let ack = talk.segment(Side::Answerer, ACK);
            assert_eq!(bench.run_at("sg0", back, &ack.frame()), Established);
            assert_eq!(bench.flow().state, State::TcpCloseWait);
            let fin = talk.segment(Side::Answerer, FIN | ACK);
            assert_eq!(bench.run_at("sg0", back, &fin.frame()), Established);
            let early = talk.at(Side::Opener, ACK, talk.next[0], talk.next[1] - 1).frame();
            assert_eq!(bench.run_at("sg0", there, &early), Established);
            assert_eq!(bench.flow().state, State::TcpLastAck);
            let ack = talk.segment(Side::Opener, ACK);
            assert_eq!(bench.run_at("sg0", there, &ack.frame()), Established);
            assert_eq!(bench.flow().state, State::TcpTimeWait);
        });
    });
}

#[test]
fn spec_d12_segments_outside_of_the_window_pass_and_keep_nothing_alive() {
    on_both_hooks(|bench| {
        let mut file = outward(bench);
        file["settings"] = json!({ "timeouts": { "tcp_established": 60 } });
        bench.apply(&[file]);
        let opener = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        let talk = Talk::established(bench, &opener, true);
        let far = talk.next[1].wrapping_add(1 << 30);
        for flags in [ACK, FIN | ACK] {
            bench.advance(20);
            let packet = talk.at(Side::Answerer, flags, far, talk.next[0]);
            assert_eq!(bench.run_at("sg0", Way::Egress, &packet.frame()), Established);
            assert_eq!(bench.flow().state, State::TcpEstablished);
        }
        bench.advance(20);
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_d12_d14_a_segment_in_pieces_does_not_end_the_tracking() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            for side in [Side::Opener, Side::Answerer] {
                let other = if side == Side::Opener { Side::Answerer } else { Side::Opener };
                let mut talk = Talk::established(bench, opener, outbound);
                let mut pass = |packet: &Packet, side: Side, expected| {
                    let frame = packet.frame();
                    assert_eq!(bench.run_at("sg0", side.way(outbound), &frame), expected, "{side:?}");
                };
                // Only the first piece is looked at; how long the segment is, the other side says.
                let segment = talk.data(side, ACK | PSH, &[7; 3000]);
                pass(&segment.piece(0, 1480, 77), side, Established);
                pass(&segment.piece(1480, 2960, 77), side, Fragment);
                pass(&segment.piece(2960, 3020, 77), side, Fragment);
                pass(&talk.segment(other, ACK), other, Established);
                for (side, flags) in [(side, FIN | ACK), (other, ACK), (other, FIN | ACK), (side, ACK)] {
                    pass(&talk.segment(side, flags), side, Established);
                }
                assert_eq!(bench.flow().state, State::TcpTimeWait, "{side:?}");
                bench.forget();
            }
        });
    });
}

#[test]
fn spec_d12_what_nobody_has_sent_cannot_be_acknowledged() {
    on_both_hooks(|bench| {
        each(bench, |bench, opener, outbound| {
            for pieces in [false, true] {
                let mut talk = Talk::established(bench, opener, outbound);
                let segment = talk.data(Side::Opener, ACK | PSH, &[7; 3000]);
                let way = Side::Opener.way(outbound);
                let whole = if pieces { segment.piece(0, 1480, 78) } else { segment };
                assert_eq!(bench.run_at("sg0", way, &whole.frame()), Established);
                let flow = bench.flow();
                // What is unknown of a segment in pieces is less than 65,536 bytes.
                let far = talk.next[0].wrapping_add(70_000);
                let forged = talk.at(Side::Answerer, FIN | ACK, talk.next[1], far);
                let way = Side::Answerer.way(outbound);
                assert_eq!(bench.run_at("sg0", way, &forged.frame()), Established, "the receiver drops it");
                assert_eq!(bench.flow().state, flow.state, "pieces: {pieces}");
                bench.forget();
            }
        });
    });
}
