//! SPEC section 6: what passes without a rule, and what a guest may not do whatever the rules say.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use sg_common::verdict::Reason::{
    self, Arp, ArpSpoof, Dhcp, DhcpServer, EtherType, EtherTypeListed, Malformed, NeighborDiscovery,
    NeighborSpoof, NewFlow, NoRule, Redirect, RouterAdvertisement, RuleOnly, SourceAddress, SourceMac,
    SourceRoute, Vlan,
};

use crate::bench::{Bench, Way, ip, on_both_hooks};
use crate::frame::{MAC, Packet, arp, ethernet, from_mac, tagged};
use crate::{GUEST, OTHER, at, everything, with_rules};

const OTHER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 6];
/// The address that follows from [`MAC`].
const LINK_LOCAL: &str = "fe80::5054:ff:fe00:5";
const ROUTER: &str = "fe80::1";

/// An interface whose hardware address is known.
fn guarded(bench: &Bench, inbound: &Value, outbound: &Value) -> Value {
    let mut file = with_rules(bench.ingress(), inbound, outbound);
    file["interfaces"][0]["mac"] = "52:54:00:00:00:05".into();
    file["settings"] = json!({ "guest_baseline": { "link_local": "derived" } });
    file
}

/// The same with one setting of the baseline changed.
fn but(mut file: Value, setting: &str, value: impl Into<Value>) -> Value {
    file["settings"]["guest_baseline"][setting] = value.into();
    file
}

fn shut(bench: &Bench) -> Value {
    guarded(bench, &json!([]), &json!([]))
}

fn open(bench: &Bench) -> Value {
    guarded(bench, &everything("source"), &everything("destination"))
}

/// Neighbour discovery about `target`, with an option that tells a hardware address.
fn neighbor(source: &str, kind: u8, target: &str, option: Option<(u8, [u8; 6])>) -> Packet {
    let mut packet = Packet::icmp(ip(source), ip("ff02::1"), kind, 0, 0).hop_limit(255);
    packet.payload.truncate(8);
    if matches!(kind, 135 | 136) {
        let std::net::IpAddr::V6(target) = ip(target) else { panic!("IPv4 has no neighbour discovery") };
        packet.payload.extend(target.octets());
    }
    if let Some((number, mac)) = option {
        packet.payload.extend([number, 1]);
        packet.payload.extend(mac);
    }
    packet
}

/// ARP of whoever has this address and this hardware address.
fn arp_of(sender: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = arp(sender.into(), Ipv4Addr::new(10, 0, 0, 1));
    frame[22..28].copy_from_slice(&mac);
    frame
}

#[test]
fn spec_6_arp_passes_for_own_addresses() {
    on_both_hooks(|bench| {
        let mut file = shut(bench);
        file["interfaces"][0]["allowed_addresses"] = json!(["10.0.0.7"]);
        bench.apply(&[file]);
        for (sender, mac, expected) in [
            ([10, 0, 0, 5], MAC, Arp),
            ([10, 0, 0, 7], MAC, Arp),
            // A probe (RFC 5227).
            ([0, 0, 0, 0], MAC, Arp),
            ([10, 0, 0, 6], MAC, ArpSpoof),
            ([10, 0, 0, 1], MAC, ArpSpoof),
            ([10, 0, 0, 5], OTHER_MAC, ArpSpoof),
            ([0, 0, 0, 0], OTHER_MAC, ArpSpoof),
        ] {
            let frame = arp_of(sender, mac);
            // An announcement asks for its own address; an answer says as much as a question.
            let mut announcement = frame.clone();
            announcement[38..42].copy_from_slice(&sender);
            let mut reply = frame.clone();
            reply[21] = 2;
            for frame in [frame, announcement, reply] {
                assert_eq!(bench.run_at("sg0", Way::Ingress, &frame), expected, "{sender:?} {mac:?}");
                assert_eq!(bench.run_at("sg0", Way::Egress, &frame), Arp, "{sender:?} {mac:?}");
            }
        }
        for way in [Way::Ingress, Way::Egress] {
            assert_eq!(bench.run_at("sg0", way, &ethernet(0x8035, &[0; 46])), Arp, "RARP");
            // Of another hardware, of another protocol, with addresses of other lengths, cut off.
            for (place, byte) in [(15, 6), (17, 1), (18, 8), (19, 16)] {
                let mut frame = arp_of([10, 0, 0, 5], MAC);
                frame[place] = byte;
                assert_eq!(bench.run_at("sg0", way, &frame), Malformed, "{place}");
            }
            assert_eq!(bench.run_at("sg0", way, &arp_of([10, 0, 0, 5], MAC)[..41]), Malformed);
        }
    });
}

#[test]
fn spec_6_other_ether_types_do_not_pass_unless_listed() {
    on_both_hooks(|bench| {
        // LLDP, PPPoE, MPLS, the length field of IEEE 802.3, nothing.
        let types = [0x88cc, 0x8864, 0x8847, 0x002e, 0x0000, 0xffff];
        for (setting, passing) in
            [(json!([]), &[][..]), (json!(["0x88cc", 0xffff]), &[0x88cc, 0xffff]), (json!("any"), &types)]
        {
            bench.apply(&[but(shut(bench), "ether_types", setting.clone())]);
            for way in [Way::Ingress, Way::Egress] {
                for ether_type in types {
                    let frame = ethernet(ether_type, &[0; 46]);
                    let expected = if passing.contains(&ether_type) { EtherTypeListed } else { EtherType };
                    assert_eq!(bench.run_at("sg0", way, &frame), expected, "{setting} {ether_type:#x}");
                }
                let packet = Packet::udp(at(GUEST[0], 68), at("255.255.255.255", 67), b"").frame();
                for tag_type in [0x8100, 0x88a8] {
                    let frame = tagged(&packet, tag_type, 7);
                    assert_eq!(bench.run_at("sg0", way, &frame), Vlan, "{setting} {tag_type:#x}");
                }
            }
        }
    });
}

#[test]
fn spec_6_vlan_tags_pass_on_a_trunk() {
    on_both_hooks(|bench| {
        let mut file = open(bench);
        file["interfaces"][0]["trunk"] = true.into();
        bench.apply(&[file]);
        for (family, port) in [(0, 1000), (1, 1001)] {
            let packet = Packet::udp(at(GUEST[family], port), at(OTHER[family], 53), b"?");
            let tagged_once = tagged(&packet.frame(), 0x8100, 7);
            assert_eq!(bench.run_at("sg0", Way::Ingress, &tagged_once), NewFlow);
            let reply = tagged(&packet.reply().frame(), 0x8100, 7);
            assert_eq!(bench.run_at("sg0", Way::Egress, &reply), Reason::Established);
            // The guards look behind the tag.
            let forged = Packet::udp(at(["10.0.0.6", "fd00::6"][family], 1), at(OTHER[family], 53), b"?");
            let forged = tagged(&forged.frame(), 0x8100, 7);
            assert_eq!(bench.run_at("sg0", Way::Ingress, &forged), SourceAddress);
            // One tag.
            assert_eq!(bench.run_at("sg0", Way::Ingress, &tagged(&tagged_once, 0x8100, 8)), Vlan);
            assert_eq!(bench.run_at("sg0", Way::Ingress, &tagged(&tagged_once, 0x88a8, 8)), Vlan);
        }
        assert_eq!(bench.run_at("sg0", Way::Ingress, &tagged(&arp_of([10, 0, 0, 5], MAC), 0x8100, 7)), Arp);
        let spoof = tagged(&arp_of([10, 0, 0, 6], MAC), 0x8100, 7);
        assert_eq!(bench.run_at("sg0", Way::Ingress, &spoof), ArpSpoof);
    });
}

#[test]
fn spec_6_neighbour_discovery_passes_for_own_addresses_if_no_router_forwarded_it() {
    on_both_hooks(|bench| {
        bench.apply(&[shut(bench)]);
        for (what, packet, expected) in [
            ("solicitation", neighbor(GUEST[1], 135, ROUTER, Some((1, MAC))), NeighborDiscovery),
            ("solicitation from link-local", neighbor(LINK_LOCAL, 135, ROUTER, None), NeighborDiscovery),
            ("is my address free?", neighbor("::", 135, GUEST[1], None), NeighborDiscovery),
            ("of another", neighbor("fd00::6", 135, ROUTER, None), NeighborSpoof),
            ("of another's hardware", neighbor(GUEST[1], 135, ROUTER, Some((1, OTHER_MAC))), NeighborSpoof),
            ("advertisement", neighbor(GUEST[1], 136, GUEST[1], Some((2, MAC))), NeighborDiscovery),
            ("of the link-local one", neighbor(LINK_LOCAL, 136, LINK_LOCAL, None), NeighborDiscovery),
            ("of another's", neighbor(GUEST[1], 136, "fd00::6", None), NeighborSpoof),
            ("of the router's", neighbor(LINK_LOCAL, 136, ROUTER, Some((2, MAC))), NeighborSpoof),
            ("by another", neighbor("fd00::6", 136, GUEST[1], None), NeighborSpoof),
            ("of other hardware", neighbor(GUEST[1], 136, GUEST[1], Some((2, OTHER_MAC))), NeighborSpoof),
            ("where is a router?", neighbor(LINK_LOCAL, 133, "", Some((1, MAC))), NeighborDiscovery),
            ("from nowhere", neighbor("::", 133, "", None), NeighborDiscovery),
            ("router advertisement", neighbor(LINK_LOCAL, 134, "", None), RouterAdvertisement),
            ("redirect", neighbor(LINK_LOCAL, 137, "", None), Redirect),
        ] {
            assert_eq!(bench.sends(&packet), expected, "{what}");
            // Others may say of themselves what they like; but nobody redirects, and who is a router has to be told.
            let expected = match packet.payload[0] {
                134 => NoRule,
                137 => Redirect,
                _ => NeighborDiscovery,
            };
            assert_eq!(bench.receives(&packet), expected, "{what}, received");
            // Whatever was forwarded or comes in pieces, comes from elsewhere (RFC 4861, RFC 6980).
            if expected != Redirect {
                for way in [Way::Ingress, Way::Egress] {
                    let far = packet.clone().hop_limit(254).frame();
                    assert_eq!(bench.run_at("sg0", way, &far), NeighborSpoof, "{what}");
                    let piece = packet.clone().fragment(0, true, 1).frame();
                    assert_eq!(bench.run_at("sg0", way, &piece), NeighborSpoof, "{what}, first piece");
                }
            }
        }
        // Listener reports have a hop limit of one.
        for kind in [131, 132, 143] {
            let report = |hops| Packet::icmp(ip(LINK_LOCAL), ip("ff02::16"), kind, 0, 0).hop_limit(hops);
            assert_eq!(bench.sends(&report(1)), NeighborDiscovery, "{kind}");
            assert_eq!(bench.receives(&report(1)), NeighborDiscovery, "{kind}");
            assert_eq!(bench.sends(&report(255)), NoRule, "{kind}");
            assert_eq!(bench.receives(&report(255)), NoRule, "{kind}");
            // Before it has an address it reports from none; never from another's.
            for (source, expected) in
                [("::", NeighborDiscovery), ("fe80::6", SourceAddress), ("fd00::6", SourceAddress)]
            {
                let report = Packet { source: ip(source), ..report(1) };
                assert_eq!(bench.sends(&report), expected, "{kind} {source}");
            }
            // They are of the link, and no way to anybody.
            for (source, destination) in [
                (LINK_LOCAL, OTHER[1]),
                (GUEST[1], "ff02::16"),
                (OTHER[1], "ff02::16"),
                ("fe80::9", GUEST[1]),
            ] {
                let report = Packet { source: ip(source), destination: ip(destination), ..report(1) };
                let own = source == LINK_LOCAL || source == GUEST[1];
                let expected = if own { NoRule } else { SourceAddress };
                assert_eq!(bench.sends(&report), expected, "{kind} {source} {destination}");
                assert_eq!(bench.receives(&report), NoRule, "{kind} {source} {destination}");
            }
        }
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_6_router_advertisements_come_from_configured_routers() {
    on_both_hooks(|bench| {
        for (routers, of_router, of_other) in [
            (json!([]), NoRule, NoRule),
            (json!([ROUTER]), NeighborDiscovery, RouterAdvertisement),
            (json!(["fe80::3", ROUTER]), NeighborDiscovery, RouterAdvertisement),
        ] {
            bench.apply(&[but(shut(bench), "routers", routers.clone())]);
            assert_eq!(bench.receives(&neighbor(ROUTER, 134, "", None)), of_router, "{routers}");
            assert_eq!(bench.receives(&neighbor("fe80::2", 134, "", None)), of_other, "{routers}");
            // The guest's own address is no router's.
            assert_eq!(bench.receives(&neighbor(LINK_LOCAL, 134, "", None)), of_other, "{routers}");
            // A guest that says it is the router is none.
            assert_eq!(bench.sends(&neighbor(ROUTER, 134, "", None)), RouterAdvertisement, "{routers}");
        }
        // Where nobody says who the routers are, the rules may; where somebody does, they may not.
        let rules = json!([{ "protocol": "icmpv6", "source": "fe80::/10", "icmp_type": 134 }]);
        let allowing = guarded(bench, &rules, &json!([]));
        for (routers, expected) in [(json!([]), RuleOnly), (json!(["fe80::3"]), RouterAdvertisement)] {
            bench.apply(&[but(allowing.clone(), "routers", routers)]);
            assert_eq!(bench.receives(&neighbor(ROUTER, 134, "", None)), expected);
        }
        // D26
        let mut host = shut(bench);
        host["interfaces"][0]["role"] = "host".into();
        bench.apply(&[host]);
        let frame = neighbor(ROUTER, 134, "", None).frame();
        assert_eq!(bench.run_at("sg0", Way::Ingress, &frame), NeighborDiscovery);
    });
}

#[test]
fn spec_6_no_guest_has_the_link_local_address_of_a_router() {
    on_both_hooks(|bench| {
        // Any other it may have.
        let any = but(open(bench), "link_local", "any");
        for (routers, expected, discovery) in
            [(json!([]), NewFlow, NeighborDiscovery), (json!([ROUTER]), SourceAddress, NeighborSpoof)]
        {
            bench.apply(&[but(any.clone(), "routers", routers.clone())]);
            assert_eq!(bench.sends(&neighbor(ROUTER, 135, "fe80::9", None)), discovery, "{routers}");
            assert_eq!(bench.sends(&neighbor(LINK_LOCAL, 136, ROUTER, None)), discovery, "{routers}");
            assert_eq!(bench.sends(&neighbor("fe80::9", 136, "fe80::9", None)), NeighborDiscovery);
            assert_eq!(bench.sends(&Packet::udp(at(ROUTER, 1), at(OTHER[1], 2), b"")), expected);
            assert_eq!(bench.sends(&Packet::udp(at("fe80::9", 1), at(OTHER[1], 2), b"")), NewFlow);
            bench.forget();
        }
        // It may if it is said to be the router.
        let mut listed = but(any, "routers", json!([ROUTER]));
        listed["interfaces"][0]["allowed_addresses"] = json!([ROUTER]);
        bench.apply(&[listed]);
        assert_eq!(bench.sends(&neighbor(ROUTER, 135, "fe80::9", None)), NeighborDiscovery);
        assert_eq!(bench.sends(&Packet::udp(at(ROUTER, 1), at(OTHER[1], 2), b"")), NewFlow);
    });
}

#[test]
fn spec_6_all_options_of_neighbour_discovery_are_looked_at() {
    on_both_hooks(|bench| {
        bench.apply(&[shut(bench)]);
        let mine: &[u8] = &[2, 1, 0x52, 0x54, 0, 0, 0, 5];
        let anothers: &[u8] = &[2, 1, 0x52, 0x54, 0, 0, 0, 6];
        let nonce: &[u8] = &[14, 1, 1, 2, 3, 4, 5, 6];
        let long: &[u8] = &[31, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let endless: &[u8] = &[14, 0, 0, 0, 0, 0, 0, 0];
        let beyond: &[u8] = &[14, 2, 0, 0, 0, 0, 0, 0];
        for (options, expected) in [
            (vec![], NeighborDiscovery),
            (vec![mine], NeighborDiscovery),
            (vec![nonce, long, mine], NeighborDiscovery),
            (vec![nonce; 8], NeighborDiscovery),
            (vec![nonce; 9], NeighborSpoof),
            (vec![mine, anothers], NeighborSpoof),
            (vec![nonce, long, anothers], NeighborSpoof),
            ([vec![nonce; 7], vec![anothers]].concat(), NeighborSpoof),
            (vec![mine, endless], NeighborSpoof),
            (vec![mine, beyond], NeighborSpoof),
            (vec![mine, &[14, 1, 0]], NeighborSpoof),
        ] {
            for (kind, target) in [(133, ""), (135, ROUTER), (136, GUEST[1])] {
                let mut packet = neighbor(GUEST[1], kind, target, None);
                packet.payload.extend(options.concat());
                assert_eq!(bench.sends(&packet), expected, "{kind} {options:?}");
            }
        }
    });
}

#[test]
fn spec_6_a_guest_with_addresses_of_one_family_has_none_of_the_other() {
    on_both_hooks(|bench| {
        for (addresses, family) in [(json!([GUEST[0]]), 0), (json!([GUEST[1]]), 1)] {
            let mut file = open(bench);
            file["interfaces"][0]["addresses"] = addresses;
            bench.apply(&[file]);
            for other in [0, 1] {
                let packet = Packet::udp(at(GUEST[other], 1), at(OTHER[other], 2), b"");
                let expected = if other == family { NewFlow } else { SourceAddress };
                assert_eq!(bench.sends(&packet), expected, "{other} of {family}");
            }
            let (arp, neighbor_of) =
                if family == 0 { (Arp, NeighborSpoof) } else { (ArpSpoof, NeighborDiscovery) };
            assert_eq!(bench.run_at("sg0", Way::Ingress, &arp_of([10, 0, 0, 5], MAC)), arp);
            assert_eq!(bench.sends(&neighbor(LINK_LOCAL, 136, GUEST[1], None)), neighbor_of);
            // A link-local one has every guest, and no address while it looks for one.
            assert_eq!(bench.sends(&neighbor(LINK_LOCAL, 136, LINK_LOCAL, None)), NeighborDiscovery);
            assert_eq!(bench.sends(&neighbor("::", 135, LINK_LOCAL, None)), NeighborDiscovery);
            assert_eq!(bench.run_at("sg0", Way::Ingress, &arp_of([0; 4], MAC)), Arp);
            bench.forget();
        }
    });
}

#[test]
fn spec_6_dhcp_passes_between_a_client_here_and_a_server_there() {
    on_both_hooks(|bench| {
        bench.apply(&[shut(bench)]);
        for (here, there, client, server) in [
            ("0.0.0.0", "255.255.255.255", 68, 67),
            (GUEST[0], "255.255.255.255", 68, 67),
            (LINK_LOCAL, "ff02::1:2", 546, 547),
            (GUEST[1], "ff02::1:2", 546, 547),
        ] {
            let ask = Packet::udp(at(here, client), at(there, server), b"");
            assert_eq!(bench.sends(&ask), Dhcp);
            assert_eq!(bench.receives(&ask.reply()), Dhcp);
            // A server here is somebody who wants to be one.
            let offer = Packet::udp(at(here, server), at(there, client), b"");
            assert_eq!(bench.sends(&offer), DhcpServer);
            assert_eq!(bench.receives(&offer.reply()), NoRule);
        }
        // A client asks for itself.
        for (here, there, client, server) in
            [("10.0.0.6", "255.255.255.255", 68, 67), ("fe80::6", "ff02::1:2", 546, 547)]
        {
            let ask = Packet::udp(at(here, client), at(there, server), b"");
            assert_eq!(bench.sends(&ask), SourceAddress);
        }
        // The ports of the one family mean nothing in the other.
        assert_eq!(bench.sends(&Packet::udp(at(GUEST[1], 68), at(OTHER[1], 67), b"")), NoRule);
        assert_eq!(bench.sends(&Packet::udp(at(GUEST[0], 546), at(OTHER[0], 547), b"")), NoRule);
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn spec_6_dhcp_is_no_way_out_to_anybody() {
    const SERVER: [&str; 2] = ["10.0.0.2", "fd00::2"];
    const EVERYBODY: [&str; 2] = ["255.255.255.255", "ff02::1:2"];
    const PORTS: [(u16, u16); 2] = [(68, 67), (546, 547)];
    on_both_hooks(|bench| {
        let with = |servers: &[&str]| but(shut(bench), "dhcp_servers", json!(servers));
        // Which servers are configured; and for each family whether a message to a listed one passes, to anybody, from a listed
        // one, from anybody.
        let cases = [
            (with(&[]), [[NoRule, NoRule, Dhcp, Dhcp]; 2]),
            (with(&SERVER), [[Dhcp, NoRule, Dhcp, NoRule]; 2]),
            (with(&SERVER[..1]), [[Dhcp, NoRule, Dhcp, NoRule], [NoRule, NoRule, Dhcp, Dhcp]]),
            (with(&SERVER[1..]), [[NoRule, NoRule, Dhcp, Dhcp], [Dhcp, NoRule, Dhcp, NoRule]]),
        ];
        for (file, expected) in cases {
            bench.apply(std::slice::from_ref(&file));
            for family in [0, 1] {
                let (client, server) = PORTS[family];
                let renew = |to| Packet::udp(at(GUEST[family], client), at(to, server), b"");
                let seen = [
                    bench.sends(&renew(SERVER[family])),
                    bench.sends(&renew(OTHER[family])),
                    bench.receives(&renew(SERVER[family]).reply()),
                    bench.receives(&renew(OTHER[family]).reply()),
                ];
                assert_eq!(seen, expected[family], "{file}");
                // Who has no lease asks everybody.
                assert_eq!(bench.sends(&renew(EVERYBODY[family])), Dhcp, "{file}");
                // Nobody asks in another's name.
                let mut forged = renew(SERVER[family]);
                forged.source = ip(["10.0.0.6", "fd00::6"][family]);
                assert_eq!(bench.sends(&forged), SourceAddress, "{file}");
            }
        }
        // Rules may let more pass, and then it is a flow like others.
        bench.apply(&[but(open(bench), "dhcp_servers", json!(SERVER))]);
        for family in [0, 1] {
            let (client, server) = PORTS[family];
            let ask = Packet::udp(at(GUEST[family], client), at(OTHER[family], server), b"");
            assert_eq!(bench.sends(&ask), NewFlow);
            assert_eq!(bench.receives(&ask.reply()), Reason::Established);
        }
        // D26: a host that cannot renew its lease is out of reach.
        let mut host = shut(bench);
        host["interfaces"][0]["role"] = "host".into();
        bench.apply(&[host]);
        for family in [0, 1] {
            let (client, server) = PORTS[family];
            let ask = Packet::udp(at(GUEST[family], client), at(OTHER[family], server), b"");
            assert_eq!(bench.run_at("sg0", Way::Egress, &ask.frame()), Dhcp);
            assert_eq!(bench.run_at("sg0", Way::Ingress, &ask.reply().frame()), Dhcp);
        }
    });
}

#[test]
fn spec_6_source_addresses_are_the_interfaces_own() {
    on_both_hooks(|bench| {
        let mut file = open(bench);
        file["interfaces"][0]["allowed_addresses"] = json!(["10.0.0.7", "fd00::7"]);
        bench.apply(&[file.clone()]);
        let send = |bench: &mut Bench, source: &str| {
            let other = OTHER[usize::from(ip(source).is_ipv6())];
            let whole = Packet::udp(at(source, 40_000), at(other, 443), &[0; 64]);
            let reason = bench.sends(&whole);
            // Later pieces have a source too.
            let piece = bench.sends(&whole.piece(32, 72, 1));
            bench.forget();
            assert_eq!(reason == SourceAddress, piece == SourceAddress, "{source}");
            reason
        };
        for (source, expected) in [
            (GUEST[0], NewFlow),
            (GUEST[1], NewFlow),
            ("10.0.0.7", NewFlow),
            ("fd00::7", NewFlow),
            (LINK_LOCAL, NewFlow),
            ("10.0.0.6", SourceAddress),
            ("0.0.0.0", SourceAddress),
            ("127.0.0.1", SourceAddress),
            ("fd00::6", SourceAddress),
            ("::", SourceAddress),
            ("fe80::6", SourceAddress),
            // A network away from the right address.
            ("fe80:0:0:1:5054:ff:fe00:5", SourceAddress),
        ] {
            assert_eq!(send(bench, source), expected, "{source}");
        }
        // Whoever has an address there may be sent packets for any.
        assert_eq!(bench.receives(&Packet::udp(at(OTHER[0], 1), at("10.0.0.6", 2), b"")), NewFlow);
        file = but(file, "link_local", "any");
        bench.apply(std::slice::from_ref(&file));
        assert_eq!(send(bench, "fe80::6"), NewFlow);
        assert_eq!(send(bench, "fec0::6"), SourceAddress);
        assert_eq!(send(bench, "fd00::6"), SourceAddress);
        // D26: a host is no guest.
        file["settings"] = json!({});
        file["interfaces"][0]["role"] = "host".into();
        bench.apply(&[file]);
        let forged = Packet::udp(at("10.0.0.6", 1), at(OTHER[0], 2), b"").frame();
        let forged = from_mac(forged, OTHER_MAC);
        assert_eq!(bench.run_at("sg0", Way::Egress, &forged), NewFlow);
    });
}

#[test]
fn spec_6_each_guard_has_a_reason_and_a_switch_of_its_own() {
    on_both_hooks(|bench| {
        let (here, there) = (at(GUEST[0], 40_000), at(OTHER[0], 443));
        let (here6, there6) = (at(GUEST[1], 40_000), at(OTHER[1], 443));
        let plain = Packet::udp(here, there, b"?");
        let plain6 = Packet::udp(here6, there6, b"?");
        let cases = [
            ("source_mac", from_mac(plain.frame(), OTHER_MAC), SourceMac, NewFlow),
            ("source_mac", from_mac(plain6.frame(), OTHER_MAC), SourceMac, NewFlow),
            ("source_address", Packet::udp(at("10.0.0.6", 1), there, b"?").frame(), SourceAddress, NewFlow),
            ("source_address", Packet::udp(at("fd00::6", 1), there6, b"?").frame(), SourceAddress, NewFlow),
            ("arp", arp_of([10, 0, 0, 6], MAC), ArpSpoof, Arp),
            (
                "neighbor_discovery",
                neighbor(GUEST[1], 136, "fd00::6", None).frame(),
                NeighborSpoof,
                NeighborDiscovery,
            ),
            (
                "dhcp_server",
                Packet::udp(at(GUEST[0], 67), at(OTHER[0], 68), b"").frame(),
                DhcpServer,
                NewFlow,
            ),
            (
                "dhcp_server",
                Packet::udp(at(GUEST[1], 547), at(OTHER[1], 546), b"").frame(),
                DhcpServer,
                NewFlow,
            ),
            (
                "router_advertisements",
                neighbor(LINK_LOCAL, 134, "", None).frame(),
                RouterAdvertisement,
                NeighborDiscovery,
            ),
            ("redirects", Packet::icmp(here.ip(), there.ip(), 5, 1, 0).frame(), Redirect, RuleOnly),
            ("redirects", neighbor(LINK_LOCAL, 137, "", None).frame(), Redirect, RuleOnly),
            ("vlan", tagged(&plain.frame(), 0x8100, 7), Vlan, NewFlow),
            ("vlan", tagged(&plain6.frame(), 0x8100, 7), Vlan, NewFlow),
            // Loose, strict, and behind another option.
            ("source_routing", plain.clone().options(&[131, 3, 4, 0]).frame(), SourceRoute, NewFlow),
            ("source_routing", plain.clone().options(&[137, 3, 4, 0]).frame(), SourceRoute, NewFlow),
            (
                "source_routing",
                plain.clone().options(&[1, 148, 4, 0, 0, 131, 3, 4]).frame(),
                SourceRoute,
                NewFlow,
            ),
        ];
        bench.apply(&[open(bench)]);
        for (guard, frame, on, _) in &cases {
            assert_eq!(bench.run_at("sg0", Way::Ingress, frame), *on, "{guard}");
        }
        assert_eq!(bench.flows(), []);
        // Off, it lets through what it is about, and nothing of what the others are about.
        let mut guards: Vec<&str> = cases.iter().map(|(guard, ..)| *guard).collect();
        guards.dedup();
        for off in guards {
            bench.apply(&[but(open(bench), off, false)]);
            for (guard, frame, on, without) in &cases {
                let expected = if *guard == off { without } else { on };
                assert_eq!(bench.run_at("sg0", Way::Ingress, frame), *expected, "{guard} without {off}");
                bench.forget();
            }
        }
    });
}
