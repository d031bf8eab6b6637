//! What passes without a rule: ARP, neighbour discovery, DHCP. The rest of SPEC section 6 is not enforced yet.

use std::net::Ipv4Addr;

use serde_json::json;
use sg_common::verdict::Reason::{Arp, Dhcp, EtherType, NeighborDiscovery, NoRule, Vlan};

use crate::bench::{Way, ip, on_both_hooks};
use crate::frame::{Packet, arp, ethernet, tagged};
use crate::{GUEST, OTHER, at, with_rules};

#[test]
fn arp_passes_both_ways() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        let frame = arp(Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 1));
        for way in [Way::Ingress, Way::Egress] {
            assert_eq!(bench.run_at("sg0", way, &frame), Arp);
            assert_eq!(bench.run_at("sg0", way, &ethernet(0x8035, &[0; 46])), Arp, "RARP");
        }
    });
}

#[test]
fn other_ether_types_do_not() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        for way in [Way::Ingress, Way::Egress] {
            // LLDP, PPPoE, MPLS, the length field of IEEE 802.3, nothing.
            for ether_type in [0x88cc, 0x8864, 0x8847, 0x002e, 0x0000, 0xffff] {
                let frame = ethernet(ether_type, &[0; 46]);
                assert_eq!(bench.run_at("sg0", way, &frame), EtherType, "{ether_type:#x}");
            }
            let packet = Packet::udp(at(GUEST[0], 68), at("255.255.255.255", 67), b"").frame();
            for tag_type in [0x8100, 0x88a8] {
                assert_eq!(bench.run_at("sg0", way, &tagged(&packet, tag_type, 7)), Vlan, "{tag_type:#x}");
            }
        }
    });
}

#[test]
fn neighbour_discovery_passes_if_no_router_forwarded_it() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        let message = |kind, hops| Packet::icmp(ip(GUEST[1]), ip("ff02::1"), kind, 0, 0).hop_limit(hops);
        // Router solicitation, neighbour solicitation and advertisement; listener reports.
        for (kinds, right, wrong) in [(&[133u8, 135, 136][..], 255, 254), (&[131, 132, 143], 1, 255)] {
            for kind in kinds {
                assert_eq!(bench.sends(&message(*kind, right)), NeighborDiscovery, "{kind}");
                assert_eq!(bench.receives(&message(*kind, right)), NeighborDiscovery, "{kind}");
                assert_eq!(bench.sends(&message(*kind, wrong)), NoRule, "{kind}");
                assert_eq!(bench.receives(&message(*kind, wrong)), NoRule, "{kind}");
            }
        }
        // A guest is no router, and nobody redirects.
        assert_eq!(bench.receives(&message(134, 255)), NeighborDiscovery);
        assert_eq!(bench.sends(&message(134, 255)), NoRule);
        assert_eq!(bench.receives(&message(137, 255)), NoRule);
        assert_eq!(bench.sends(&message(137, 255)), NoRule);
        assert_eq!(bench.flows(), []);
    });
}

#[test]
fn dhcp_passes_between_a_client_here_and_a_server_there() {
    on_both_hooks(|bench| {
        bench.apply(&[with_rules(bench.ingress(), &json!([]), &json!([]))]);
        for (here, there, client, server) in [
            ("0.0.0.0", "255.255.255.255", 68, 67),
            (GUEST[0], OTHER[0], 68, 67),
            ("fe80::5", "ff02::1:2", 546, 547),
        ] {
            let ask = Packet::udp(at(here, client), at(there, server), b"");
            assert_eq!(bench.sends(&ask), Dhcp);
            assert_eq!(bench.receives(&ask.reply()), Dhcp);
            // A server here is somebody who wants to be one.
            let offer = Packet::udp(at(here, server), at(there, client), b"");
            assert_eq!(bench.sends(&offer), NoRule);
            assert_eq!(bench.receives(&offer.reply()), NoRule);
        }
        // The ports of the one family mean nothing in the other.
        assert_eq!(bench.sends(&Packet::udp(at(GUEST[1], 68), at(OTHER[1], 67), b"")), NoRule);
        assert_eq!(bench.sends(&Packet::udp(at(GUEST[0], 546), at(OTHER[0], 547), b"")), NoRule);
        assert_eq!(bench.flows(), []);
    });
}
