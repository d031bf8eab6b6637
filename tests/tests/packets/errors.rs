//! SPEC D13: ICMP errors pass for the sake of the packet that they quote.

use serde_json::{Value, json};
use sg_common::verdict::Reason::{
    EarlyFragment, Established, Fragment, NewFlow, NoRule, Redirect, Related, RuleOnly,
};

use crate::bench::{Bench, Way, ip, on_both_hooks};
use crate::frame::{HOP_BY_HOP, Packet};
use crate::{GUEST, OTHER, answer, at, everything, inbound_openers, next, outbound_openers, with_rules};

/// A router on the way that no rule names.
const ROUTERS: [&str; 2] = ["203.0.113.1", "2001:db8:1::1"];

fn family(packet: &Packet) -> usize {
    usize::from(packet.source.is_ipv6())
}

/// Every kind of error: unreachable, packet too big, time exceeded, parameter problem.
fn kinds(family: usize) -> &'static [(u8, u8)] {
    [&[(3, 1), (3, 3), (3, 4), (11, 0), (12, 0)][..], &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 1)]][family]
}

/// The error from a router that is not the other side.
fn from_router(packet: &Packet, kind: u8, code: u8) -> Packet {
    packet.error(ip(ROUTERS[family(packet)]), kind, code)
}

fn outward(bench: &Bench) -> Value {
    with_rules(bench.ingress(), &json!([]), &everything("destination"))
}

#[test]
fn spec_d13_errors_about_flows_pass_in_both_directions_from_any_router() {
    on_both_hooks(|bench| {
        for outbound in [true, false] {
            let (file, openers) = if outbound {
                (outward(bench), outbound_openers())
            } else {
                (with_rules(bench.ingress(), &everything("source"), &json!([])), inbound_openers())
            };
            bench.apply(&[file]);
            let (there, back) =
                if outbound { (Way::Ingress, Way::Egress) } else { (Way::Egress, Way::Ingress) };
            for (what, packet) in openers {
                let reply = answer(&packet);
                // The guest itself, if it is the one that complains; some router, if not.
                let about = |packet: &Packet, way, kind, code| match way {
                    Way::Egress => from_router(packet, kind, code).frame(),
                    Way::Ingress => packet.error(packet.destination, kind, code).frame(),
                };
                for (kind, code) in kinds(family(&packet)) {
                    let frame = about(&packet, back, *kind, *code);
                    assert_eq!(bench.run_at("sg0", back, &frame), NoRule, "{what}: no flow yet, {kind}");
                }
                assert_eq!(bench.run_at("sg0", there, &packet.frame()), NewFlow, "{what}");
                let count = bench.flows().len();
                let hold = |bench: &mut Bench, when| {
                    for (kind, code) in kinds(family(&packet)) {
                        let frame = about(&packet, back, *kind, *code);
                        assert_eq!(bench.run_at("sg0", back, &frame), Related, "{what} {when} {kind}");
                        let frame = about(&reply, there, *kind, *code);
                        assert_eq!(bench.run_at("sg0", there, &frame), Related, "{what} {when} {kind}");
                    }
                };
                hold(bench, "half-open");
                assert_eq!(bench.run_at("sg0", back, &reply.frame()), Established, "{what}");
                assert_eq!(bench.run_at("sg0", there, &next(&packet).frame()), Established, "{what}");
                hold(bench, "live");
                assert_eq!(bench.flows().len(), count, "errors begin no flow");
            }
            bench.forget();
        }
    });
}

#[test]
fn spec_d13_errors_about_anything_else_do_not_pass() {
    on_both_hooks(|bench| {
        bench.apply(&[outward(bench)]);
        for (what, packet) in outbound_openers() {
            let (kind, code) = kinds(family(&packet))[0];
            assert_eq!(bench.sends(&packet), NewFlow, "{what}");
            assert_eq!(bench.receives(&from_router(&packet, kind, code)), Related, "{what}");
            let mut wrong = Vec::new();
            let strangers = [["198.51.100.8", "10.0.0.6"], ["2001:db8:bad::8", "fd00::6"]][family(&packet)];
            wrong.push(("another destination", Packet { destination: ip(strangers[0]), ..packet.clone() }));
            wrong.push(("another protocol", Packet { protocol: 132, ..packet.clone() }));
            if packet.protocol != 47 {
                let mut other = packet.clone();
                let identifier = if matches!(packet.protocol, 1 | 58) { 5 } else { 1 };
                other.payload[identifier] ^= 1;
                wrong.push(("another port or identifier", other));
                if matches!(packet.protocol, 6 | 17) {
                    let mut other = packet.clone();
                    other.payload[3] ^= 1;
                    wrong.push(("another destination port", other));
                }
            }
            for (how, inner) in wrong {
                assert_eq!(bench.receives(&from_router(&inner, kind, code)), NoRule, "{what}: {how}");
            }
            // What stands behind the end of the error is padding.
            let mut hollow = from_router(&packet, kind, code);
            let quoted = hollow.payload.split_off(8);
            let mut frame = hollow.bare();
            frame.extend(quoted);
            assert_eq!(bench.run_at("sg0", Way::Egress, &frame), NoRule, "{what}: in the padding");
            // The quoted packet is not one that the guest has sent.
            let mut other_source = packet.clone();
            other_source.source = ip(strangers[1]);
            let mut error = from_router(&other_source, kind, code);
            error.destination = packet.source;
            assert_eq!(bench.receives(&error), NoRule, "{what}: another source");
            // It went the other way: from the other side to the guest.
            let mut reply = from_router(&answer(&packet), kind, code);
            reply.destination = packet.source;
            assert_eq!(bench.receives(&reply), NoRule, "{what}: the wrong direction");
            let mut elsewhere = from_router(&packet, kind, code);
            elsewhere.destination = ip(strangers[1]);
            assert_eq!(bench.receives(&elsewhere), NoRule, "{what}: to another");
            // Other types are no errors. (v4: source quench; v6: private experimentation, reserved.)
            for kind in if family(&packet) == 0 { [4, 40] } else { [100, 127] } {
                assert_eq!(bench.receives(&from_router(&packet, kind, 0)), NoRule, "{what}: type {kind}");
            }
        }
        assert_eq!(bench.flows().len(), outbound_openers().len());
    });
}

#[test]
fn spec_d13_quotes_cut_short_do_not_pass() {
    on_both_hooks(|bench| {
        bench.apply(&[outward(bench)]);
        for (what, packet) in outbound_openers() {
            let (kind, code) = kinds(family(&packet))[0];
            assert_eq!(bench.sends(&packet), NewFlow, "{what}");
            let header = [20, 40][family(&packet)];
            let quote = |bytes: usize| {
                let mut error = from_router(&packet, kind, code);
                error.payload.truncate(8 + bytes);
                error.bare()
            };
            // Eight bytes behind the header are enough (RFC 792); protocols without ports need none.
            let needed = if packet.protocol == 47 { header } else { header + 8 };
            for bytes in [needed, needed + 4] {
                assert_eq!(bench.run_at("sg0", Way::Egress, &quote(bytes)), Related, "{what}, {bytes}");
            }
            for bytes in [0, 1, header - 1, needed - 1] {
                assert_eq!(bench.run_at("sg0", Way::Egress, &quote(bytes)), NoRule, "{what}, {bytes}");
            }
        }
        // A header that is none.
        let packet = Packet::udp(at(GUEST[0], 40_000), at(OTHER[0], 443), b"?");
        for first in [0x44, 0x65, 0x05] {
            let mut error = from_router(&packet, 3, 1);
            error.payload[8] = first;
            assert_eq!(bench.receives(&error), NoRule, "{first:#x}");
        }
        // Options move what follows.
        let with_options = packet.clone().options(&[1; 8]);
        assert_eq!(bench.receives(&from_router(&with_options, 3, 1)), Related);
        // And so do extension headers.
        let packet = Packet::udp(at(GUEST[1], 40_000), at(OTHER[1], 443), b"?");
        let with_extension = packet.extension(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]);
        assert_eq!(bench.receives(&from_router(&with_extension, 1, 0)), Related);
    });
}

#[test]
fn spec_d13_errors_refresh_nothing_and_end_with_their_flow() {
    on_both_hooks(|bench| {
        for (what, packet) in outbound_openers().into_iter().filter(|(_, packet)| packet.protocol == 17) {
            for answered in [false, true] {
                let (kind, code) = kinds(family(&packet))[0];
                bench.apply(&[outward(bench)]);
                assert_eq!(bench.sends(&packet), NewFlow, "{what}");
                if answered {
                    assert_eq!(bench.receives(&packet.reply()), Established, "{what}");
                    assert_eq!(bench.sends(&packet), Established, "{what}");
                }
                let third = if answered { 60 } else { 10 };
                for _ in 0..2 {
                    bench.advance(third);
                    assert_eq!(bench.receives(&from_router(&packet, kind, code)), Related, "{what}");
                    assert_eq!(
                        bench.ask("sg0", Way::Egress, &from_router(&packet, kind, code).frame()).reason,
                        Related
                    );
                }
                bench.advance(third);
                assert_eq!(bench.flows(), []);
                assert_eq!(bench.receives(&from_router(&packet, kind, code)), NoRule, "{what}");
                bench.advance(2);
                bench.enforcer().kernel().collect().unwrap();
                assert_eq!(bench.receives(&from_router(&packet, kind, code)), NoRule, "{what}");
            }
        }
    });
}

#[test]
fn spec_d13_redirects_never_pass() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &everything("source"), &everything("destination"))]);
        for (what, packet) in outbound_openers() {
            let kind = [5, 137][family(&packet)];
            assert_eq!(bench.sends(&packet), NewFlow, "{what}");
            for code in 0..4 {
                assert_eq!(bench.receives(&from_router(&packet, kind, code)), Redirect, "{what}");
                let mine = answer(&packet).error(packet.source, kind, code).hop_limit(255);
                assert_eq!(bench.sends(&mine), Redirect, "{what}");
            }
        }
        // Without the guard they still are about no flow: the rules decide, or there is none.
        for (rules, expected) in [(json!([]), NoRule), (everything("source"), RuleOnly)] {
            let mut file = with_rules(bench.ingress(), &rules, &everything("destination"));
            file["settings"] = json!({ "guest_baseline": { "redirects": false } });
            bench.apply(&[file]);
            for (what, packet) in outbound_openers() {
                let kind = [5, 137][family(&packet)];
                assert_eq!(bench.receives(&from_router(&packet, kind, 0)), expected, "{what}");
            }
        }
    });
}

#[test]
fn spec_d13_an_error_about_a_later_fragment_passes_if_the_first_has() {
    on_both_hooks(|bench| {
        bench.apply(&[outward(bench)]);
        for family in 0..2 {
            let (kind, code) = kinds(family)[2];
            let whole = Packet::udp(at(GUEST[family], 40_000), at(OTHER[family], 443), &[7; 200]);
            let later = whole.piece(64, 128, 9);
            assert_eq!(bench.receives(&from_router(&later, kind, code)), NoRule);
            // Without its first fragment it is of no flow yet.
            assert_eq!(bench.sends(&whole.piece(128, 208, 9)), EarlyFragment);
            assert_eq!(bench.receives(&from_router(&later, kind, code)), NoRule);
            assert_eq!(bench.sends(&whole.piece(0, 64, 9)), NewFlow);
            assert_eq!(bench.sends(&later), Fragment);
            assert_eq!(bench.receives(&from_router(&later, kind, code)), Related);
            assert_eq!(bench.receives(&from_router(&whole.piece(0, 64, 9), kind, code)), Related);
            // Another datagram.
            assert_eq!(bench.receives(&from_router(&whole.piece(64, 128, 10), kind, code)), NoRule);
        }
    });
}
