//! Which first packets the rules let through: SPEC sections 1 to 3, on the wire.

use serde_json::{Value, json};
use sg_common::abi::{FLAG_NO_GROUPS_INBOUND, FLAG_NO_GROUPS_OUTBOUND};
use sg_common::verdict::Reason::{Established, NewFlow, NoRule, RuleOnly};

use crate::bench::{Bench, Ingress, Way, ip, on_both_hooks};
use crate::frame::{ACK, Packet, SYN};
use crate::{
    GUEST, OTHER, answer, at, everything, inbound_openers, next, outbound_openers, policy, with_rules,
};

#[test]
fn spec_k4_what_no_rule_allows_is_denied_in_both_directions() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        for (what, packet) in outbound_openers() {
            assert_eq!(bench.sends(&packet), NoRule, "{what}");
            // A denied packet leaves no trace that its answer could come back by.
            assert_eq!(bench.receives(&answer(&packet)), NoRule, "{what}");
        }
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.receives(&packet), NoRule, "{what}");
            assert_eq!(bench.sends(&answer(&packet)), NoRule, "{what}");
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_k6_replies_leave_with_inbound_rules_only() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &everything("source"), &json!([]))]);
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.receives(&packet), NewFlow, "{what}");
            assert_eq!(bench.sends(&answer(&packet)), Established, "{what}");
            assert_eq!(bench.receives(&next(&packet)), Established, "{what}");
            assert_eq!(bench.sends(&answer(&packet)), Established, "{what}");
        }
        assert_eq!(bench.flows().len(), inbound_openers().len());
        // Only replies: the guest begins nothing. (Protocols without ports have one flow for both directions.)
        for (what, packet) in outbound_openers().into_iter().filter(|(_, packet)| packet.protocol != 47) {
            assert_eq!(bench.sends(&packet), NoRule, "{what}");
        }
    });
}

#[test]
fn spec_k6_replies_enter_with_outbound_rules_only() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
        for (what, packet) in outbound_openers() {
            assert_eq!(bench.sends(&packet), NewFlow, "{what}");
            assert_eq!(bench.receives(&answer(&packet)), Established, "{what}");
            assert_eq!(bench.sends(&next(&packet)), Established, "{what}");
            assert_eq!(bench.receives(&answer(&packet)), Established, "{what}");
        }
        assert_eq!(bench.flows().len(), outbound_openers().len());
        for (what, packet) in inbound_openers().into_iter().filter(|(_, packet)| packet.protocol != 47) {
            assert_eq!(bench.receives(&packet), NoRule, "{what}");
        }
    });
}

#[test]
fn spec_k6_a_reply_is_the_mirror_of_its_request_in_every_part() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &everything("destination"))]);
        let here = at(GUEST[0], 40_000);
        let there = at(OTHER[0], 443);
        for request in [Packet::tcp(here, there, SYN), Packet::udp(here, there, b"?")] {
            assert_eq!(bench.sends(&request), NewFlow);
        }
        assert_eq!(bench.sends(&Packet::ping(here.ip(), there.ip(), 7)), NewFlow);
        let stranger = at("198.51.100.8", 443);
        let strays = [
            Packet::tcp(stranger, here, SYN | ACK),
            Packet::tcp(at(OTHER[0], 444), here, SYN | ACK),
            Packet::tcp(there, at(GUEST[0], 40_001), SYN | ACK),
            Packet::tcp(there, at("10.0.0.6", 40_000), SYN | ACK),
            Packet::udp(stranger, here, b"!"),
            Packet::udp(at(OTHER[0], 444), here, b"!"),
            Packet::udp(there, at(GUEST[0], 40_001), b"!"),
            Packet::icmp(there.ip(), here.ip(), 0, 0, 8),
            Packet::icmp(stranger.ip(), here.ip(), 0, 0, 7),
            // A request is no reply, and neither is the answer to another kind of request.
            Packet::icmp(there.ip(), here.ip(), 8, 0, 7),
            Packet::icmp(there.ip(), here.ip(), 14, 0, 7),
        ];
        for stray in strays {
            assert_eq!(bench.receives(&stray), NoRule, "{stray:?}");
        }
        assert_eq!(bench.flows().len(), 3);
    });
}

#[test]
fn spec_k8_the_groups_of_an_interface_add_up_in_any_order() {
    let groups = json!([
        { "name": "http", "outbound": [],
          "inbound": [{ "protocol": "TCP", "source": "0.0.0.0/0", "port": "80" }] },
        { "name": "shell", "outbound": [],
          "inbound": [{ "protocol": "TCP", "source": "198.51.100.0/24", "port": 22 }] },
    ]);
    on_both_hooks(|bench| {
        for (round, attached) in
            [&["http", "shell"][..], &["shell", "http"], &["http"]].into_iter().enumerate()
        {
            bench.apply(&[policy(bench.ingress(), &groups, attached)]);
            let from = at(OTHER[0], 40_000 + round as u16);
            let shell = if attached.len() == 2 { NewFlow } else { NoRule };
            assert_eq!(bench.receives(&Packet::tcp(from, at(GUEST[0], 80), SYN)), NewFlow);
            assert_eq!(bench.receives(&Packet::tcp(from, at(GUEST[0], 22), SYN)), shell);
            assert_eq!(bench.receives(&Packet::tcp(from, at(GUEST[0], 443), SYN)), NoRule);
        }
    });
}

#[test]
fn spec_k13_inbound_and_outbound_rules_are_separate() {
    on_both_hooks(|bench| {
        let inbound = json!([{ "protocol": "TCP", "source": "198.51.100.0/24", "port": 80 }]);
        let outbound = json!([{ "protocol": "UDP", "destination": "198.51.100.0/24", "port": 53 }]);
        bench.apply(&[with_rules(bench.ingress(), &inbound, &outbound)]);
        let (here, there) = (at(GUEST[0], 40_000), at(OTHER[0], 40_000));
        assert_eq!(bench.receives(&Packet::tcp(there, at(GUEST[0], 80), SYN)), NewFlow);
        assert_eq!(bench.sends(&Packet::tcp(here, at(OTHER[0], 80), SYN)), NoRule);
        assert_eq!(bench.sends(&Packet::udp(here, at(OTHER[0], 53), b"")), NewFlow);
        assert_eq!(bench.receives(&Packet::udp(there, at(GUEST[0], 53), b"")), NoRule);
    });
}

/// A first packet of each of many protocols from a stranger.
fn of_every_protocol() -> Vec<(u8, Packet)> {
    let mut packets = Vec::new();
    for (from, to) in OTHER.into_iter().zip(GUEST) {
        let own = if ip(from).is_ipv4() { 1 } else { 58 };
        for protocol in [1u8, 2, 4, 6, 17, 33, 47, 50, 51, 58, 59, 89, 132, 136, 255] {
            // In IPv6 an extension header: what counts is what follows it (D15).
            if protocol == 51 && own == 58 {
                continue;
            }
            let packet = match protocol {
                6 => Packet::tcp(at(from, 40_000), at(to, 80), SYN),
                17 => Packet::udp(at(from, 40_000), at(to, 80), b""),
                own_icmp if own_icmp == own => Packet::ping(ip(from), ip(to), 1),
                other => Packet::new(ip(from), ip(to), other, vec![0; 24]),
            };
            packets.push((protocol, packet));
        }
    }
    packets
}

/// Applies one inbound rule for strangers of both families and says which protocols it lets in, as `(IPv6, number)`.
fn let_in_by(bench: &mut Bench, fields: &Value) -> Vec<(bool, u8)> {
    let rules: Value = ["198.51.100.0/24", "2001:db8:bad::/64"]
        .iter()
        .map(|source| {
            let mut rule = fields.clone();
            rule["source"] = (*source).into();
            rule
        })
        .collect();
    bench.apply(&[with_rules(bench.ingress(), &rules, &json!([]))]);
    let mut admitted = Vec::new();
    for (protocol, packet) in of_every_protocol() {
        // Asked, not sent: a flow would outlive the rule (K11).
        if bench.ask("sg0", Way::Egress, &packet.frame()).reason == NewFlow {
            admitted.push((packet.source.is_ipv6(), protocol));
        }
    }
    admitted
}

#[test]
fn spec_k14_protocols_by_name_and_number() {
    Bench::run(Ingress::Tc, &["sg0"], |bench| {
        let every: Vec<_> = of_every_protocol()
            .iter()
            .map(|(protocol, packet)| (packet.source.is_ipv6(), *protocol))
            .collect();
        let both = |number| vec![(false, number), (true, number)];
        let table = [
            (json!({ "protocol": "ALL" }), every),
            (json!({ "protocol": "tcp", "port": "ALL" }), both(6)),
            (json!({ "protocol": "UDP", "port": "ALL" }), both(17)),
            // The packet's family's own.
            (json!({ "protocol": "Icmp" }), vec![(false, 1), (true, 58)]),
            // Literally that number, whatever the family.
            (json!({ "protocol": "icmpv6" }), both(58)),
            (json!({ "protocol": 1 }), both(1)),
            (json!({ "protocol": "gre" }), both(47)),
            (json!({ "protocol": "esp" }), both(50)),
            (json!({ "protocol": "sctp" }), both(132)),
            (json!({ "protocol": "ipip" }), both(4)),
            (json!({ "protocol": 255 }), both(255)),
            (json!({ "protocol": "89" }), both(89)),
        ];
        for (rule, expected) in table {
            assert_eq!(let_in_by(bench, &rule), expected, "{rule}");
        }
    });
}

#[test]
fn spec_k15_networks_and_groups_as_remotes() {
    let groups = json!([
        { "name": "test", "outbound": [], "inbound": [
            { "protocol": "TCP", "source": "198.51.100.0/30", "port": 1 },
            { "protocol": "TCP", "source": "0.0.0.0/0", "port": 2 },
            { "protocol": "TCP", "source": "::/0", "port": 3 },
            { "protocol": "TCP", "source": "2001:db8::/127", "port": 4 },
            { "protocol": "TCP", "source": "@club", "port": 5 },
            { "protocol": "TCP", "source": "203.0.113.9/32", "port": 6 } ] },
        { "name": "club" },
    ]);
    on_both_hooks(|bench| {
        let mut file = policy(bench.ingress(), &groups, &["test"]);
        file["peers"] = json!([
            { "address": "10.0.1.7", "security_groups": ["club"] },
            { "address": "2001:db8::7", "security_groups": ["club", "default"] },
            { "address": "10.0.1.8", "security_groups": ["default"] } ]);
        bench.apply(&[file]);
        for (source, ports) in [
            ("198.51.99.255", &[2][..]),
            ("198.51.100.0", &[1, 2]),
            ("198.51.100.3", &[1, 2]),
            ("198.51.100.4", &[2]),
            ("0.0.0.1", &[2]),
            ("255.255.255.254", &[2]),
            ("203.0.113.8", &[2]),
            ("203.0.113.9", &[2, 6]),
            ("203.0.113.10", &[2]),
            ("10.0.1.7", &[2, 5]),
            ("10.0.1.8", &[2]),
            ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", &[3]),
            ("2001:db8::", &[3, 4]),
            ("2001:db8::1", &[3, 4]),
            ("2001:db8::2", &[3]),
            ("2001:db8::7", &[3, 5]),
        ] {
            let guest = GUEST[usize::from(ip(source).is_ipv6())];
            for port in 1..=6 {
                let expected = if ports.contains(&port) { NewFlow } else { NoRule };
                let packet = Packet::tcp(at(source, 40_000), at(guest, port), SYN);
                assert_eq!(bench.receives(&packet), expected, "{source} to {port}");
            }
        }
    });
}

#[test]
fn spec_k16_ports_are_destination_ports_in_both_directions() {
    let rules = |remote: &str| {
        json!([
            { "protocol": "TCP", remote: "0.0.0.0/0", "port": "80" },
            { "protocol": "TCP", remote: "0.0.0.0/0", "port": "1000-2000" },
            { "protocol": "TCP", remote: "0.0.0.0/0", "port": 65535 },
            { "protocol": "UDP", remote: "0.0.0.0/0", "port": "ALL" } ])
    };
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &rules("source"), &rules("destination"))]);
        for (port, expected) in [
            (1, NoRule),
            (79, NoRule),
            (80, NewFlow),
            (81, NoRule),
            (999, NoRule),
            (1000, NewFlow),
            (1500, NewFlow),
            (2000, NewFlow),
            (2001, NoRule),
            (65534, NoRule),
            (65535, NewFlow),
        ] {
            let (here, there) = (at(GUEST[0], 40_000), at(OTHER[0], 40_000));
            assert_eq!(bench.sends(&Packet::tcp(here, at(OTHER[0], port), SYN)), expected, "to {port}");
            assert_eq!(bench.receives(&Packet::tcp(there, at(GUEST[0], port), SYN)), expected, "to {port}");
            assert_eq!(bench.sends(&Packet::udp(here, at(OTHER[0], port), b"")), NewFlow);
            assert_eq!(bench.receives(&Packet::udp(there, at(GUEST[0], port), b"")), NewFlow);
        }
        // The source port is nobody's business.
        for port in [80, 1500, 65535] {
            let packet = Packet::tcp(at(OTHER[0], port), at(GUEST[0], 5), SYN);
            assert_eq!(bench.receives(&packet), NoRule, "from {port}");
        }
    });
}

#[test]
fn spec_k16_icmp_types_and_codes() {
    on_both_hooks(|bench| {
        let inbound = json!([
            { "protocol": "ICMP", "source": "0.0.0.0/0", "icmp_type": 8 },
            { "protocol": "ICMP", "source": "0.0.0.0/0", "icmp_type": 3, "icmp_code": 4 },
            { "protocol": "ICMP", "source": "::/0", "icmp_type": 128, "icmp_code": 0 } ]);
        bench.apply(&[with_rules(bench.ingress(), &inbound, &json!([]))]);
        let table = [
            (0, 8, 0, NewFlow),
            (0, 8, 255, NewFlow),
            (0, 7, 0, NoRule),
            (0, 9, 0, NoRule),
            (0, 13, 0, NoRule),
            // A message that asks for no answer starts nothing.
            (0, 3, 4, RuleOnly),
            (0, 3, 3, NoRule),
            (0, 128, 0, NoRule),
            (1, 128, 0, NewFlow),
            (1, 8, 0, NoRule),
            (1, 3, 4, NoRule),
        ];
        for (identifier, (family, kind, code, expected)) in table.into_iter().enumerate() {
            let packet = Packet::icmp(ip(OTHER[family]), ip(GUEST[family]), kind, code, identifier as u16);
            assert_eq!(bench.receives(&packet), expected, "IPv{} type {kind} code {code}", 4 + 2 * family);
        }
        assert_eq!(bench.flows().len(), 3);
    });
}

#[test]
fn spec_k21_default_lets_members_in_by_tcp_only() {
    on_both_hooks(|bench| {
        let mut file = policy(bench.ingress(), &json!([]), &["default"]);
        file["peers"] = json!([
            { "address": "10.0.1.7", "security_groups": ["default"] },
            { "address": "fd00::7", "security_groups": ["default"] } ]);
        bench.apply(&[file]);
        for (member, guest) in ["10.0.1.7", "fd00::7"].into_iter().zip(GUEST) {
            for (port, from) in [(1, 40_000), (443, 40_000), (65535, 1)] {
                assert_eq!(bench.receives(&Packet::tcp(at(member, from), at(guest, port), SYN)), NewFlow);
            }
            assert_eq!(bench.receives(&Packet::udp(at(member, 40_000), at(guest, 443), b"")), NoRule);
            assert_eq!(bench.receives(&Packet::ping(ip(member), ip(guest), 1)), NoRule);
            assert_eq!(bench.receives(&Packet::new(ip(member), ip(guest), 47, vec![0; 8])), NoRule);
        }
        for (stranger, guest) in OTHER.into_iter().zip(GUEST) {
            assert_eq!(bench.receives(&Packet::tcp(at(stranger, 40_000), at(guest, 443), SYN)), NoRule);
        }
    });
}

/// Whether each kind of first packet gets out.
fn let_out(bench: &mut Bench) -> Vec<(&'static str, bool)> {
    outbound_openers()
        .into_iter()
        .map(|(what, packet)| (what, bench.ask("sg0", Way::Ingress, &packet.frame()).reason == NewFlow))
        .collect()
}

#[test]
fn spec_k22_k26_groups_that_say_nothing_let_everything_out() {
    on_both_hooks(|bench| {
        for attached in [&["default"][..], &["silent"], &["default", "silent"]] {
            for ipv6 in [true, false] {
                let mut file =
                    policy(bench.ingress(), &json!([{ "name": "silent", "inbound": [] }]), attached);
                file["ipv6"] = ipv6.into();
                bench.apply(&[file]);
                for (what, out) in let_out(bench) {
                    let v6 = what.contains("v6");
                    assert_eq!(out, !v6 || ipv6, "{attached:?}, {what}, ipv6 {ipv6}");
                }
            }
        }
        // K26: an empty list means none.
        let file = policy(bench.ingress(), &json!([{ "name": "mute", "outbound": [] }]), &["mute"]);
        bench.apply(&[file]);
        assert!(let_out(bench).iter().all(|(_, out)| !out));
    });
}

#[test]
fn spec_k25_a_custom_group_without_inbound_lets_nothing_in() {
    on_both_hooks(|bench| {
        bench.apply(&[policy(bench.ingress(), &json!([{ "name": "silent" }]), &["silent"])]);
        for (what, packet) in inbound_openers() {
            assert_eq!(bench.receives(&packet), NoRule, "{what}");
        }
    });
}

const SERVICE: &str = "169.254.169.254";

/// Applies a policy of these groups and sends one first packet.
fn reaches(bench: &mut Bench, groups: &Value, attached: &[&str], packet: &Packet) -> bool {
    bench.apply(&[policy(bench.ingress(), groups, attached)]);
    bench.ask("sg0", Way::Ingress, &packet.frame()).reason == NewFlow
}

fn http(to: &str) -> Packet {
    Packet::tcp(at(GUEST[0], 40_000), at(to, 80), SYN)
}

#[test]
fn spec_k27_m1_custom_groups_alone_do_not_reach_metadata() {
    on_both_hooks(|bench| {
        let open = json!([{ "name": "open" }]);
        assert!(!reaches(bench, &open, &["open"], &http(SERVICE)));
        assert_eq!(bench.sends(&http(SERVICE)), NoRule);
        assert!(!reaches(bench, &open, &["open"], &http("169.254.169.0")));
        assert!(!reaches(bench, &open, &["open"], &http("169.254.169.255")));
        assert!(reaches(bench, &open, &["open"], &http("169.254.168.255")));
        assert!(reaches(bench, &open, &["open"], &http("169.254.170.0")));
    });
}

#[test]
fn spec_k27_m2_an_explicit_rule_reaches_metadata_and_its_reply_enters() {
    on_both_hooks(|bench| {
        for cidr in ["169.254.169.0/24", "169.254.169.254/32", "169.254.0.0/16"] {
            let groups = json!([{ "name": "open" }, { "name": "meta", "inbound": [], "outbound": [
                { "protocol": "TCP", "destination": cidr, "port": "80" }] }]);
            assert!(reaches(bench, &groups, &["open", "meta"], &http(SERVICE)), "{cidr}");
            assert!(reaches(bench, &groups, &["meta"], &http(SERVICE)), "{cidr}");
        }
        // A network that is larger than link-local is not explicit.
        let groups = json!([{ "name": "meta", "outbound": [
            { "protocol": "TCP", "destination": "169.254.0.0/15", "port": "80" }] }]);
        assert!(!reaches(bench, &groups, &["meta"], &http(SERVICE)));
        let groups = json!([{ "name": "meta", "outbound": [
            { "protocol": "TCP", "destination": "169.254.169.0/24", "port": "80" }] }]);
        bench.apply(&[policy(bench.ingress(), &groups, &["meta"])]);
        assert_eq!(bench.sends(&http(SERVICE)), NewFlow);
        assert_eq!(bench.receives(&http(SERVICE).answer(SYN | ACK)), Established);
    });
}

#[test]
fn spec_k27_m3_unedited_default_reaches_metadata() {
    on_both_hooks(|bench| {
        assert!(reaches(bench, &json!([{ "name": "open" }]), &["default"], &http(SERVICE)));
        assert!(reaches(bench, &json!([{ "name": "open" }]), &["open", "default"], &http(SERVICE)));
    });
}

#[test]
fn spec_k27_m4_other_addresses_are_not_reserved() {
    on_both_hooks(|bench| {
        assert!(reaches(bench, &json!([{ "name": "open" }]), &["open"], &http("8.8.8.8")));
    });
}

#[test]
fn spec_k27_m5_default_without_its_outbound_rule_does_not_reach_metadata() {
    on_both_hooks(|bench| {
        let groups = json!([{ "name": "default", "outbound": [] }, { "name": "open" }]);
        assert!(!reaches(bench, &groups, &["default"], &http(SERVICE)));
        assert!(!reaches(bench, &groups, &["default", "open"], &http(SERVICE)));
    });
}

#[test]
fn spec_k27_m6_other_ports_and_protocols_of_that_range_are_plain() {
    on_both_hooks(|bench| {
        let open = json!([{ "name": "open" }]);
        let here = at(GUEST[0], 40_000);
        for packet in [
            Packet::tcp(here, at(SERVICE, 79), SYN),
            Packet::tcp(here, at(SERVICE, 81), SYN),
            Packet::udp(here, at(SERVICE, 80), b""),
            Packet::ping(here.ip(), ip(SERVICE), 1),
        ] {
            assert!(reaches(bench, &open, &["open"], &packet), "{packet:?}");
        }
    });
}

#[test]
fn spec_k27_m7_two_custom_groups_do_not_reach_metadata_either() {
    on_both_hooks(|bench| {
        let groups = json!([{ "name": "open" }, { "name": "wide", "outbound": [
            { "protocol": "TCP", "destination": "128.0.0.0/1", "port": "ALL" }] }]);
        assert!(!reaches(bench, &groups, &["open", "wide"], &http(SERVICE)));
    });
}

#[test]
fn spec_k27_metadata_settings() {
    Bench::run(Ingress::Tc, &["sg0"], |bench| {
        for (setting, open, closed) in
            [("explicit", false, false), ("cidr", true, false), ("exempt", true, true)]
        {
            for (group, expected) in [("open", open), ("closed", closed)] {
                let groups = json!([{ "name": "open" }, { "name": "closed", "outbound": [] }]);
                let mut file = policy(bench.ingress(), &groups, &[group]);
                file["settings"] = json!({ "metadata": setting });
                bench.apply(&[file]);
                let reason = bench.ask("sg0", Way::Ingress, &http(SERVICE).frame()).reason;
                assert_eq!(reason == NewFlow, expected, "{setting}, {group}");
            }
        }
    });
}

#[test]
fn spec_k3_bare_metal_is_not_filtered() {
    on_both_hooks(|bench| {
        let mut file = policy(bench.ingress(), &json!([]), &[]);
        file["interfaces"][0]["kind"] = "bare_metal".into();
        bench.apply(&[file]);
        assert!(bench.enforcer().devices().is_empty(), "no program, no verdict");
    });
}

#[test]
fn spec_d26_failsafe_of_a_host_passes_until_it_is_emptied() {
    on_both_hooks(|bench| {
        let mut file = policy(bench.ingress(), &json!([{ "name": "shut", "outbound": [] }]), &["shut"]);
        file["interfaces"][0]["role"] = "host".into();
        bench.apply(std::slice::from_ref(&file));
        // On a host's own NIC, what comes in is inbound.
        let mut source = 40_000;
        let mut ask = |bench: &mut Bench, shell, dns, other| {
            source += 1;
            for (there, here) in OTHER.into_iter().zip(GUEST) {
                let to = |port| Packet::tcp(at(there, source), at(here, port), SYN).frame();
                assert_eq!(bench.run_at("sg0", Way::Ingress, &to(22)), shell);
                assert_eq!(bench.run_at("sg0", Way::Ingress, &to(23)), other);
                let tcp = Packet::tcp(at(here, source), at(there, 53), SYN).frame();
                assert_eq!(bench.run_at("sg0", Way::Egress, &tcp), dns);
                let udp = Packet::udp(at(here, source), at(there, 53), b"").frame();
                assert_eq!(bench.run_at("sg0", Way::Egress, &udp), dns);
                let tcp = Packet::tcp(at(here, source), at(there, 22), SYN).frame();
                assert_eq!(bench.run_at("sg0", Way::Egress, &tcp), other);
            }
        };
        ask(bench, NewFlow, NewFlow, NoRule);
        file["settings"] = json!({ "failsafe": { "inbound": [], "outbound": [] } });
        bench.apply(&[file]);
        ask(bench, NoRule, NoRule, NoRule);
    });
}

/// Who is a member of which group is asked only where a rule of the packet's direction names a group: else it is a look-up for nothing.
#[test]
fn spec_k15_groups_are_asked_for_in_the_direction_whose_rules_name_one() {
    on_both_hooks(|bench| {
        let named = |remote: &str| json!([{ "protocol": "TCP", remote: "@default", "port": "443" }]);
        let no_group = [FLAG_NO_GROUPS_INBOUND, FLAG_NO_GROUPS_OUTBOUND];
        for (inbound, outbound, expected) in [
            (json!([]), json!([]), no_group[0] | no_group[1]),
            (everything("source"), named("destination"), no_group[0]),
            (named("source"), everything("destination"), no_group[1]),
            (named("source"), named("destination"), 0),
            (everything("source"), everything("destination"), no_group[0] | no_group[1]),
        ] {
            bench.apply(&[with_rules(bench.ingress(), &inbound, &outbound)]);
            let enforcer = bench.enforcer();
            let slot = enforcer.devices().values().next().unwrap().slot;
            let flags = enforcer.kernel().half(slot).unwrap().flags;
            assert_eq!(flags & (no_group[0] | no_group[1]), expected, "{inbound} {outbound}");
        }
    });
}
