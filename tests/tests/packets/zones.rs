//! SPEC D2: each interface has connections of its own.

use serde_json::{Value, json};
use sg_common::verdict::Reason::{Established, NewFlow, NoRule, SourceAddress};

use crate::bench::{Bench, DEVICES, Ingress, Way, on_both_hooks};
use crate::frame::{ACK, Packet, SYN, TCP};
use crate::{GUEST, OTHER, answer, at, everything, inbound_openers, next, outbound_openers, with_rules};

/// Two VPCs, an interface in each, the same addresses on both.
fn twins(hook: Ingress, rules: impl Fn(usize) -> (Value, Value)) -> Vec<Value> {
    let file = |(index, vpc): (usize, &str)| {
        let (inbound, outbound) = rules(index);
        let mut file = with_rules(hook, &inbound, &outbound);
        file["vpc"] = vpc.into();
        file["interfaces"][0]["name"] = DEVICES[index].into();
        file
    };
    ["main", "test"].into_iter().enumerate().map(file).collect()
}

#[test]
fn spec_d2_equal_addresses_on_two_interfaces_never_mix() {
    on_both_hooks(|bench| {
        let rules = |_| (json!([]), everything("destination"));
        bench.apply(&twins(bench.ingress(), rules));
        let openers = outbound_openers();
        for (what, packet) in &openers {
            assert_eq!(bench.run_at("sg0", Way::Ingress, &packet.frame()), NewFlow, "{what}");
        }
        // What answers the one is no answer to the other.
        for (what, packet) in &openers {
            assert_eq!(bench.run_at("sg1", Way::Egress, &answer(packet).frame()), NoRule, "{what}");
            assert_eq!(bench.run_at("sg0", Way::Egress, &answer(packet).frame()), Established, "{what}");
        }
        assert_eq!(bench.flows().len(), openers.len());
        for (what, packet) in &openers {
            assert_eq!(bench.run_at("sg1", Way::Ingress, &packet.frame()), NewFlow, "{what}");
        }
        let flows = bench.flows();
        assert_eq!(flows.len(), 2 * openers.len());
        let mut zones: Vec<u32> = flows.iter().map(|flow| flow.zone).collect();
        zones.sort_unstable();
        zones.dedup();
        assert_eq!(zones.len(), 2);
    });
}

#[test]
fn spec_d2_members_of_one_vpc_are_strangers_in_another() {
    on_both_hooks(|bench| {
        let by_group = |_| (json!([{ "protocol": "ALL", "source": "@club" }]), json!([]));
        let mut files = twins(bench.ingress(), by_group);
        for file in &mut files {
            file["security_groups"].as_array_mut().unwrap().push(json!({ "name": "club" }));
        }
        files[1]["peers"] =
            OTHER.iter().map(|address| json!({ "address": address, "security_groups": ["club"] })).collect();
        bench.apply(&files);
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.run_at("sg0", Way::Egress, &packet.frame()), NoRule, "{what}");
            assert_eq!(bench.run_at("sg1", Way::Egress, &packet.frame()), NewFlow, "{what}");
        }
    });
}

#[test]
fn spec_d2_the_senders_outbound_and_the_receivers_inbound_rules_both_apply() {
    on_both_hooks(|bench| {
        // sg0 may begin anything; sg1 takes only TCP 443.
        let rules = |index| match index {
            0 => (json!([]), everything("destination")),
            _ => (json!([{ "protocol": "TCP", "source": "10.0.0.5/32", "port": 443 }]), json!([])),
        };
        let mut files = twins(bench.ingress(), rules);
        files[1]["vpc"] = "main".into();
        files[1]["security_groups"][0]["name"] = "receiver".into();
        files[1]["interfaces"][0]["security_groups"] = json!(["receiver"]);
        files[1]["interfaces"][0]["addresses"] = json!(["10.0.0.6"]);
        bench.apply(&files);
        for (port, expected) in [(443, NewFlow), (80, NoRule)] {
            let packet = Packet::tcp(at("10.0.0.5", 40_000), at("10.0.0.6", port), SYN);
            assert_eq!(bench.run_at("sg0", Way::Ingress, &packet.frame()), NewFlow);
            assert_eq!(bench.run_at("sg1", Way::Egress, &packet.frame()), expected);
        }
        let answer = Packet::tcp(at("10.0.0.6", 443), at("10.0.0.5", 40_000), SYN | ACK);
        assert_eq!(bench.run_at("sg1", Way::Ingress, &answer.frame()), Established);
        assert_eq!(bench.run_at("sg0", Way::Egress, &answer.frame()), Established);
        // Two on the sender's side, one on the receiver's.
        assert_eq!(bench.flows().len(), 3);
    });
}

#[test]
fn spec_d2_a_forged_packet_with_the_guests_own_address_matches_no_flow_of_its() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
        for (what, packet) in outbound_openers() {
            assert_eq!(bench.sends(&packet), NewFlow, "{what}");
            assert_eq!(bench.receives(&answer(&packet)), Established, "{what}");
            // The guest's own packet, coming towards it.
            assert_eq!(bench.receives(&packet), NoRule, "{what}");
            assert_eq!(bench.receives(&next(&packet)), NoRule, "{what}");
        }
        let flows = bench.flows().len();
        // The other's packet, sent by the guest: its address is not the guest's; and if it may be, it has no rule.
        for (guarded, expected) in [(true, SourceAddress), (false, NoRule)] {
            let mut file = with_rules(bench.ingress(), &json!([]), &json!([]));
            file["settings"] = json!({ "guest_baseline": { "source_address": guarded } });
            bench.apply(&[file]);
            for (what, packet) in outbound_openers() {
                let forged = if packet.protocol == TCP { packet.answer(ACK) } else { packet.reply() };
                assert_eq!(bench.sends(&forged), expected, "{what}");
            }
        }
        assert_eq!(bench.flows().len(), flows);
    });
}

#[test]
fn spec_d2_a_device_that_takes_anothers_place_inherits_no_connection() {
    Bench::run(Ingress::Tc, &["sg0", "sg1"], |bench| {
        let open = with_rules(bench.ingress(), &json!([]), &everything("destination"));
        bench.apply(std::slice::from_ref(&open));
        let packet = Packet::udp(at(GUEST[0], 40_000), at(OTHER[0], 53), b"?");
        assert_eq!(bench.sends(&packet), NewFlow);
        let mut elsewhere = open.clone();
        elsewhere["interfaces"][0]["name"] = "sg1".into();
        bench.apply(&[elsewhere]);
        assert_eq!(bench.run_at("sg1", Way::Egress, &packet.reply().frame()), NoRule);
        bench.apply(&[open]);
        assert_eq!(bench.receives(&packet.reply()), NoRule);
    });
}
