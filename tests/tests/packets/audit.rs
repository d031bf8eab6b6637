//! Audit: everything passes, and each packet is counted once for what it would have been dropped for (SPEC D24).

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sg_common::abi::Direction;
use sg_common::verdict::Action;
use sg_common::verdict::Reason::{self, *};

use crate::bench::{Bench, Ingress, Way, ip, on_both_hooks};
use crate::frame::{ACK, DESTINATION_OPTIONS, Packet, RST, SYN, arp, ethernet, from_mac, tagged};
use crate::{GUEST, OTHER, at, with_rules};

/// The guest may ask TCP 443, and that is all; strict about what begins a connection.
fn narrow(ingress: Ingress, enforcement: &str) -> Value {
    let outbound = json!([{ "protocol": "TCP", "destination": "0.0.0.0/0", "port": 443 }]);
    let mut file = with_rules(ingress, &json!([]), &outbound);
    file["settings"] = json!({ "strict_tcp": true, "managed": ["sg*"] });
    file["interfaces"][0]["mac"] = "52:54:00:00:00:05".into();
    file["interfaces"][0]["enforcement"] = enforcement.into();
    file
}

/// Frames, most of which are dropped where the policy is enforced, each for a reason of its own.
fn frames() -> Vec<(Way, Vec<u8>)> {
    let (here, there) = (at(GUEST[0], 40_000), at(OTHER[0], 443));
    let tcp = Packet::tcp(here, there, SYN);
    let denied = Packet::udp(there, here, &[0; 64]);
    let mut chain = Packet::udp(at(GUEST[1], 1), at(OTHER[1], 2), b"");
    for _ in 0..7 {
        chain = chain.extension(DESTINATION_OPTIONS, &[0; 6]);
    }
    let solicitation = Packet::icmp(ip(GUEST[1]), ip("ff02::1"), 135, 0, 0).hop_limit(254);
    let advertisement = Packet::icmp(ip(GUEST[1]), ip("ff02::1"), 134, 0, 0).hop_limit(255);
    let (out, into) = (Way::Ingress, Way::Egress);
    vec![
        (out, tcp.frame()),
        (out, tcp.then(ACK).frame()),
        (into, tcp.answer(SYN | ACK).frame()),
        (out, tcp.then(ACK).frame()),
        (out, tcp.then(0).frame()),
        (out, tcp.then(RST).sequence(0x8000_0000, 0).frame()),
        (out, Packet::tcp(here, at(OTHER[0], 444), SYN).frame()),
        (into, Packet::tcp(at(OTHER[0], 444), here, SYN | ACK).frame()),
        (out, Packet::tcp(here, at(OTHER[0], 445), ACK).frame()),
        (out, Packet::udp(at(GUEST[0], 1), at(OTHER[0], 2), b"").frame()),
        (into, Packet::udp(at(OTHER[0], 2), at(GUEST[0], 1), b"").frame()),
        (into, Packet::icmp(ip("203.0.113.1"), ip(GUEST[0]), 5, 1, 0).frame()),
        (into, tcp.bare()[..40].to_vec()),
        (into, ethernet(0x88cc, &[0; 46])),
        (into, tagged(&tcp.frame(), 0x8100, 1)),
        (into, denied.piece(0, 32, 4).frame()),
        (into, denied.piece(32, 72, 4).frame()),
        (into, denied.piece(32, 72, 5).frame()),
        (into, tcp.reply().piece(0, 8, 3).frame()),
        (out, from_mac(tcp.then(ACK).frame(), [0x52, 0x54, 0, 0, 0, 6])),
        (out, Packet::udp(at("10.0.0.6", 1), there, b"").frame()),
        (out, arp([10, 0, 0, 6].into(), [10, 0, 0, 1].into())),
        (out, solicitation.frame()),
        (out, Packet::udp(at(GUEST[0], 67), at(OTHER[0], 68), b"").frame()),
        (out, advertisement.frame()),
        (out, tcp.then(ACK).options(&[131, 3, 4, 0]).frame()),
        (into, chain.frame()),
    ]
}

/// Runs all frames; their reasons, and whether each passed in audit only.
fn run(bench: &mut Bench) -> Vec<(Reason, bool)> {
    let ran = frames().into_iter().map(|(way, frame)| (bench.run_at("sg0", way, &frame), bench.audited));
    ran.collect()
}

#[test]
fn spec_d24_in_audit_every_packet_passes_and_is_counted_for_what_it_would_have_been_dropped_for() {
    on_both_hooks(|bench| {
        bench.apply(&[narrow(bench.ingress(), "enforce")]);
        let enforced = run(bench);
        let flows = bench.flows().len();
        assert!(enforced.iter().all(|(_, audited)| !audited));
        let dropped: BTreeSet<Reason> = enforced
            .iter()
            .map(|(reason, _)| *reason)
            .filter(|reason| reason.action() == Action::Drop)
            .collect();
        let expected = [
            NoRule,
            Malformed,
            EtherType,
            Vlan,
            TinyFragment,
            ExtensionHeaders,
            TcpFlags,
            TcpState,
            StrictTcp,
            FragmentOfDropped,
            FragmentLimit,
            TcpWindow,
            Redirect,
            SourceMac,
            SourceAddress,
            ArpSpoof,
            NeighborSpoof,
            DhcpServer,
            RouterAdvertisement,
            SourceRoute,
        ];
        assert_eq!(dropped, expected.into());
        assert_eq!(bench.would_drop(), Default::default());
        let before = bench.counts();
        bench.forget();
        bench.advance(31);

        // The programs' verdicts are held to by `run_at`: all of these pass now.
        bench.apply(&[narrow(bench.ingress(), "audit")]);
        let audited = run(bench);
        let same = |run: &[(Reason, bool)]| run.iter().map(|(reason, _)| *reason).collect::<Vec<_>>();
        assert_eq!(same(&audited), same(&enforced));
        for (reason, audited) in &audited {
            assert_eq!(*audited, reason.action() == Action::Drop, "{reason:?}");
        }
        assert_eq!(bench.flows().len(), flows, "what would be dropped begins no connection");
        // Nothing was dropped, and all that would have been is as much as was.
        let (counts, would_drop) = (bench.counts(), bench.would_drop());
        for ((device, direction, reason), count) in &before {
            let key = (device.clone(), *direction, *reason);
            if reason.action() == Action::Drop {
                assert_eq!((counts[&key], would_drop[&key]), (*count, *count), "{reason:?}");
            }
        }
        let packets =
            |counts: &crate::bench::Counts| counts.values().map(|(packets, _)| packets).sum::<u64>();
        assert_eq!(packets(&counts) + packets(&would_drop), 2 * frames().len() as u64);
        bench.forget();
    });
}

#[test]
fn audit_of_a_group_is_audit_of_its_interfaces_and_ends_with_a_swap() {
    on_both_hooks(|bench| {
        let denied = Packet::udp(at(OTHER[0], 2), at(GUEST[0], 1), b"").frame();
        let tcp = Packet::tcp(at(GUEST[0], 40_000), at(OTHER[0], 443), SYN);
        let mut by_group = narrow(bench.ingress(), "enforce");
        by_group["security_groups"][0]["enforcement"] = "audit".into();
        bench.apply(&[by_group.clone()]);
        assert_eq!(bench.run_at("sg0", Way::Ingress, &tcp.frame()), NewFlow);
        assert_eq!((bench.run_at("sg0", Way::Egress, &denied), bench.audited), (NoRule, true));
        let answer = bench.ask("sg0", Way::Egress, &denied);
        assert_eq!((answer.reason, answer.audit, answer.action()), (NoRule, true, Action::Allow));
        by_group["security_groups"][0]["enforcement"] = "enforce".into();
        bench.apply(&[by_group.clone()]);
        assert_eq!((bench.run_at("sg0", Way::Egress, &denied), bench.audited), (NoRule, false));
        let answer = bench.ask("sg0", Way::Egress, &denied);
        assert_eq!((answer.reason, answer.audit, answer.action()), (NoRule, false, Action::Drop));
        // Connections go on through it (SPEC K11).
        assert_eq!(bench.run_at("sg0", Way::Egress, &tcp.answer(SYN | ACK).frame()), Established);
        // A host's own device can be in audit too.
        by_group["interfaces"][0]["role"] = "host".into();
        by_group["interfaces"][0]["enforcement"] = "audit".into();
        bench.apply(&[by_group]);
        assert_eq!((bench.run_at("sg0", Way::Ingress, &denied), bench.audited), (NoRule, true));
    });
}

#[test]
fn spec_d23_a_device_that_left_the_policy_is_closed_and_not_in_audit() {
    on_both_hooks(|bench| {
        let file = narrow(bench.ingress(), "audit");
        let denied = Packet::udp(at(OTHER[0], 2), at(GUEST[0], 1), b"");
        let (sent, denied) = (denied.reply().frame(), denied.frame());
        bench.apply(std::slice::from_ref(&file));
        assert_eq!((bench.run_at("sg0", Way::Egress, &denied), bench.audited), (NoRule, true));
        let mut without = file;
        without["interfaces"] = json!([]);
        // Closed devices are filtered on TC.
        let ingress = bench.ingress();
        bench.apply(&[without]);
        bench.set_ingress(Ingress::Tc);
        for device in ["sg0", "sg1"] {
            for (way, frame) in [(Way::Ingress, &sent), (Way::Egress, &denied)] {
                assert_eq!((bench.run_at(device, way, frame), bench.audited), (NoRule, false), "{device}");
            }
        }
        // Nor is there audit for what the filter was never told about.
        assert_eq!(bench.raw(0, Way::Ingress, &denied), Action::Drop);
        assert!(bench.would_drop().keys().all(|(_, direction, _)| *direction == Direction::Inbound));
        bench.set_ingress(ingress);
    });
}
