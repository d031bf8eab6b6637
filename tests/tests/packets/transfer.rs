//! SPEC K11 over hosts: connections that leave one interface as a file and go on at another, packet by packet.
//!
//! The other host is another interface with the same address, in a VPC of its own: nothing of the one is seen by the other.

use serde_json::{Value, json};
use sg_common::verdict::Reason::{self, Established, NewFlow, NoRule, TableFull, TcpWindow};
use sg_daemon::kernel::FlowEntry;
use sg_daemon::transfer::record::{read, write};
use sg_daemon::transfer::{Imported, TransferError, export, import};

use crate::bench::{Bench, Ingress, Way, on_both_hooks};
use crate::frame::{ACK, Packet, RST, SYN};
use crate::{
    GUEST, LIFE, Side, Talk, answer, everything, inbound_openers, next, outbound_openers, with_rules,
};

/// `sg0` lets everything in and out, `sg1` with the same addresses nothing.
fn two_hosts(ingress: Ingress) -> Vec<Value> {
    let mut there = with_rules(ingress, &json!([]), &json!([]));
    there["vpc"] = "there".into();
    there["interfaces"][0]["name"] = "sg1".into();
    vec![with_rules(ingress, &everything("source"), &everything("destination")), there]
}

/// Everything that `sg0` has, as text, to `sg1`.
fn transfer(bench: &mut Bench) -> Result<Imported, TransferError> {
    let records = export(bench.enforcer(), "sg0").unwrap();
    let text = write("sg0", &records).unwrap();
    let (header, records) = read(&text).unwrap();
    assert_eq!(header.flows, records.len());
    import(bench.enforcer(), "sg1", &records)
}

fn total(imported: &Imported) -> usize {
    imported.live + imported.half_open
}

#[test]
fn spec_k11_a_connection_moves_at_any_moment_of_its_life_where_no_rule_would_let_it_begin() {
    on_both_hooks(|bench| {
        let (outbound, inbound) = (outbound_openers(), inbound_openers());
        for (is_outbound, openers) in [(true, outbound), (false, inbound)] {
            for (name, opener) in openers.into_iter().filter(|(name, _)| name.starts_with("TCP")) {
                for moment in 1..LIFE.len() {
                    bench.apply(&two_hosts(bench.ingress()));
                    let mut talk = Talk::new(&opener);
                    let mut flows = Vec::new();
                    for (index, (side, flags)) in LIFE.into_iter().enumerate() {
                        if index == moment {
                            let before = bench.flow();
                            let imported = transfer(bench).unwrap();
                            assert_eq!(total(&imported), 1, "{name} {moment}: {imported:?}");
                            flows = bench.flows();
                            flows.retain(|flow| flow.zone != before.zone);
                            assert_eq!(
                                (flows[0].state, flows[0].half_open),
                                (before.state, before.half_open)
                            );
                            assert!(flows[0].expires_in <= before.expires_in, "{flows:?}");
                        }
                        let at = if index < moment { "sg0" } else { "sg1" };
                        let frame = talk.segment(side, flags).frame();
                        let reason = bench.run_at(at, side.way(is_outbound), &frame);
                        let expected = if index == 0 { NewFlow } else { Established };
                        assert_eq!(reason, expected, "{name}, moved before {moment}, segment {index}");
                    }
                    assert_eq!(flows.len(), 1);
                    bench.forget();
                }
            }
        }
    });
}

#[test]
fn spec_k11_d12_what_is_known_of_sequence_numbers_moves_too() {
    on_both_hooks(|bench| {
        for (is_outbound, (name, opener)) in
            [(true, outbound_openers().remove(0)), (false, inbound_openers().remove(4))]
        {
            bench.apply(&two_hosts(bench.ingress()));
            let mut talk = Talk::established(bench, &opener, is_outbound);
            let way = Side::Opener.way(is_outbound);
            assert_eq!(total(&transfer(bench).unwrap()), 1);
            let outside = talk.at(Side::Opener, RST, talk.next[0].wrapping_add(0x8000_0000), 0).frame();
            assert_eq!(bench.run_at("sg1", way, &outside), TcpWindow, "{name}");
            let data = talk.data(Side::Opener, ACK, b"still there").frame();
            assert_eq!(bench.run_at("sg1", way, &data), Established, "{name}");
            let stranger = opener.then(SYN).frame();
            assert_eq!(bench.run_at("sg1", way, &stranger), Established, "a SYN of the flow is challenged");
            bench.forget();
        }
    });
}

#[test]
fn spec_k11_connections_of_every_kind_move_in_both_directions() {
    on_both_hooks(|bench| {
        for (is_outbound, openers) in [(true, outbound_openers()), (false, inbound_openers())] {
            let (there, back) =
                if is_outbound { (Way::Ingress, Way::Egress) } else { (Way::Egress, Way::Ingress) };
            for (name, opener) in openers {
                bench.apply(&two_hosts(bench.ingress()));
                assert_eq!(bench.run_at("sg0", there, &opener.frame()), NewFlow);
                assert_eq!(bench.run_at("sg0", back, &answer(&opener).frame()), Established);
                assert_eq!(bench.run_at("sg0", there, &next(&opener).frame()), Established);
                let imported = transfer(bench).unwrap();
                assert_eq!((imported.live, imported.half_open), (1, 0), "{name}");
                // A request may not pass as an answer here either.
                let other_way = bench.run_at("sg1", back, &opener.frame());
                assert_eq!(other_way, if is_outbound { NoRule } else { spoof(&opener) }, "{name}");
                assert_eq!(bench.run_at("sg1", back, &answer_again(&opener).frame()), Established, "{name}");
                assert_eq!(bench.run_at("sg1", there, &next(&opener).frame()), Established, "{name}");
                bench.forget();
            }
        }
    });
}

/// What becomes of an inbound packet that the guest sends: it has another's source.
fn spoof(_: &Packet) -> Reason {
    Reason::SourceAddress
}

fn answer_again(opener: &Packet) -> Packet {
    if opener.protocol == crate::frame::TCP { opener.answer(ACK) } else { opener.reply() }
}

#[test]
fn spec_d16_an_import_fits_into_the_share_whole_or_not_at_all() {
    on_both_hooks(|bench| {
        bench.apply(&two_hosts(bench.ingress()));
        let (_, opener) = inbound_openers().remove(1);
        bench.run_at("sg0", Way::Egress, &opener.frame());
        bench.run_at("sg0", Way::Ingress, &opener.reply().frame());
        let one = export(bench.enforcer(), "sg0").unwrap().remove(0);
        let limit = {
            let slot = bench.enforcer().devices()["sg1"].slot;
            bench.enforcer().kernel().live_flows(slot).1 as usize
        };
        let used = |bench: &mut Bench| {
            let slot = bench.enforcer().devices()["sg1"].slot;
            bench.enforcer().kernel().live_flows(slot).0 as usize
        };
        let records = |count: usize| -> Vec<_> {
            let mut record = one.clone();
            (0..count)
                .map(|number| {
                    record.remote = std::net::Ipv4Addr::from_bits(0xc633_6400 + number as u32).into();
                    record.clone()
                })
                .collect()
        };
        let refused = import(bench.enforcer(), "sg1", &records(limit + 1)).unwrap_err().to_string();
        assert!(refused.contains(&format!("room for {limit}")), "{refused}");
        assert_eq!((used(bench), bench.flows().len()), (0, 1));

        let imported = import(bench.enforcer(), "sg1", &records(limit - 1)).unwrap();
        assert_eq!((imported.live, used(bench)), (limit - 1, limit - 1));
        // What is here already needs no room, and one more is the last.
        let imported = import(bench.enforcer(), "sg1", &records(limit)).unwrap();
        assert_eq!((imported.live, imported.kept, used(bench)), (1, limit - 1, limit));
        let refused = import(bench.enforcer(), "sg1", &records(limit + 1)).unwrap_err();
        assert!(matches!(refused, TransferError::NoRoom(_)), "{refused}");
        assert_eq!(used(bench), limit);
        // Nor does a packet get more than the share.
        let mut half_open = one.clone();
        half_open.remote = "192.0.2.1".parse().unwrap();
        (half_open.half_open, half_open.replied, half_open.state) = (true, false, "udp".to_owned());
        let imported = import(bench.enforcer(), "sg1", &[half_open]).unwrap();
        assert_eq!((imported.half_open, used(bench)), (1, limit));
        let reply = Packet::udp(
            (crate::bench::ip(GUEST[0]), one.local_port.unwrap()).into(),
            (crate::bench::ip("192.0.2.1"), one.remote_port.unwrap()).into(),
            b"",
        );
        assert_eq!(bench.run_at("sg1", Way::Ingress, &reply.frame()), TableFull);
        bench.forget();
        assert_eq!(used(bench), 0, "every one was counted once");
    });
}

#[test]
fn spec_k11_what_is_here_is_not_overwritten_but_a_half_open_flow_gives_way_to_a_live_one() {
    on_both_hooks(|bench| {
        let mut files = two_hosts(bench.ingress());
        files[1]["security_groups"] =
            json!([{ "name": "test", "inbound": everything("source"), "outbound": [] }]);
        bench.apply(&files);
        let (_, opener) = inbound_openers().remove(0);
        let first = Talk::established(bench, &opener, false);
        // Meanwhile the SYN of another connection of the same ports has come by there.
        assert_eq!(bench.run_at("sg1", Way::Egress, &opener.then(SYN).sequence(7, 0).frame()), NewFlow);
        assert_eq!(transfer(bench).unwrap().live, 1);
        assert_eq!(bench.flows().len(), 2, "the half-open one is gone");
        let mut moved = first.clone();
        let frame = moved.data(Side::Answerer, ACK, b"more").frame();
        assert_eq!(bench.run_at("sg1", Way::Ingress, &frame), Established);
        // The clock goes on meanwhile: what is left is told in whole seconds, and may be one less a moment later.
        let timeless = |mut flows: Vec<FlowEntry>| {
            for flow in &mut flows {
                (flow.expires_in, flow.age) = (0, 0);
            }
            flows
        };
        let left = |flows: &[FlowEntry]| flows.iter().map(|flow| flow.expires_in).collect::<Vec<_>>();
        let there: Vec<FlowEntry> = bench.flows();
        // A second import finds it there, with what has happened since.
        let imported = transfer(bench).unwrap();
        assert_eq!((imported.live, imported.half_open, imported.kept), (0, 0, 1));
        let now: Vec<FlowEntry> = bench.flows();
        let pairs: Vec<(u64, u64)> = left(&there).into_iter().zip(left(&now)).collect();
        assert!(pairs.iter().all(|(before, now)| now <= before && before - now < 60), "{pairs:?}");
        assert_eq!(timeless(now), timeless(there));
        bench.forget();
    });
}

#[test]
fn spec_d11_the_time_that_is_left_is_not_more_for_having_moved() {
    on_both_hooks(|bench| {
        let mut files = two_hosts(bench.ingress());
        files[1]["interfaces"][0]["timeouts"] = json!({ "udp_stream": 20 });
        bench.apply(&files);
        for (waits, left) in [(170, 10), (30, 20)] {
            let (_, opener) = inbound_openers().remove(1);
            bench.run_at("sg0", Way::Egress, &opener.frame());
            bench.run_at("sg0", Way::Ingress, &opener.reply().frame());
            // A stream from now on.
            bench.run_at("sg0", Way::Egress, &opener.frame());
            bench.advance(waits);
            let imported = transfer(bench).unwrap();
            assert_eq!(imported.live, 1);
            bench.advance(left - 2);
            assert_eq!(bench.ask("sg1", Way::Egress, &opener.frame()).reason, Established);
            bench.advance(2);
            assert_eq!(bench.run_at("sg1", Way::Egress, &opener.frame()), NoRule);
            bench.forget();
        }
    });
}
