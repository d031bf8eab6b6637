//! Section 6; RFC 826, RFC 4861, RFC 2131, RFC 791.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::{at, guarded, oracle, query};
use crate::expect::{Limits, Oracle};
use crate::frame::{MAC, Packet, ROUTING, arp, ethernet, from_mac, tagged};

const FOREIGN: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Neighbour discovery: the bytes behind type, code and checksum.
fn discovery(source: &str, kind: u8, body: &[u8]) -> Packet {
    let message = [&[kind, 0, 0, 0, 0, 0, 0, 0], body].concat();
    Packet::new(ip(source), ip("ff02::1"), 58, message).hop_limit(255)
}

fn target(text: &str) -> Vec<u8> {
    let IpAddr::V6(v6) = ip(text) else { panic!("{text}") };
    v6.octets().to_vec()
}

#[test]
fn spec_6_source_addresses_are_the_guests_own() {
    let from = |oracle: &mut Oracle, source: &str, destination: &str| {
        oracle.sent(&Packet::udp(at(source), at(destination), b""))
    };
    let mut guard = oracle();
    assert_eq!(from(&mut guard, "10.0.0.5:1", "8.8.8.8:1"), "new_flow");
    assert_eq!(from(&mut guard, "10.0.0.6:1", "8.8.8.8:1"), "source_address");
    assert_eq!(from(&mut guard, "[2001:db8::5]:1", "[2001:db8::1]:1"), "new_flow");
    assert_eq!(from(&mut guard, "[2001:db8::6]:1", "[2001:db8::1]:1"), "source_address");
    assert_eq!(from(&mut guard, "[fe80::1]:1", "[2001:db8::1]:1"), "new_flow");
    let mut derived = guarded(&json!({ "link_local": "derived" }));
    assert_eq!(from(&mut derived, "[fe80::1]:1", "[2001:db8::1]:1"), "source_address");
    assert_eq!(from(&mut derived, "[fe80::5054:ff:fe00:5]:1", "[2001:db8::1]:1"), "new_flow");
    let mut off = guarded(&json!({ "source_address": false }));
    assert_eq!(from(&mut off, "10.0.0.6:1", "8.8.8.8:1"), "new_flow");
}

#[test]
fn spec_6_source_mac_is_the_guests_own() {
    let frame = from_mac(query().frame(), FOREIGN);
    assert_eq!(oracle().sends(&frame).reason, "source_mac");
    assert_eq!(oracle().receives(&frame).reason, "no_rule");
    assert_eq!(guarded(&json!({ "source_mac": false })).sends(&frame).reason, "new_flow");
    // SPEC D26.
    let out = Packet::udp(at("10.0.0.9:1"), at("8.8.8.8:1"), b"").frame();
    assert_eq!(oracle().judge("eth0", false, &from_mac(out, FOREIGN)).reason, "new_flow");
}

#[test]
fn spec_6_arp_for_own_addresses() {
    let target = Ipv4Addr::new(10, 0, 0, 1);
    let mut oracle = oracle();
    for (sender, reason) in [([10, 0, 0, 5], "arp"), ([0, 0, 0, 0], "arp"), ([10, 0, 0, 6], "arp_spoof")] {
        assert_eq!(oracle.sends(&arp(sender.into(), target)).reason, reason);
        assert_eq!(oracle.receives(&arp(sender.into(), target)).reason, "arp");
    }
    let mut foreign = arp([10, 0, 0, 5].into(), target);
    foreign[22..28].copy_from_slice(&FOREIGN);
    assert_eq!(oracle.sends(&foreign).reason, "arp_spoof");
    assert_eq!(oracle.sends(&foreign[..41]).reason, "malformed");
    assert_eq!(oracle.sends(&ethernet(0x8035, &[0; 46])).reason, "arp");
}

#[test]
fn spec_6_neighbours_announce_themselves_only() {
    let mut oracle = oracle();
    let options = |mac: [u8; 6]| [&[2, 1], &mac[..]].concat();
    let announce = |address: &str, mac| [target(address), options(mac)].concat();
    for (packet, reason) in [
        (discovery("2001:db8::5", 136, &announce("2001:db8::5", MAC)), "neighbor_discovery"),
        (discovery("2001:db8::5", 136, &announce("2001:db8::6", MAC)), "neighbor_spoof"),
        (discovery("2001:db8::6", 136, &announce("2001:db8::5", MAC)), "neighbor_spoof"),
        (discovery("2001:db8::5", 136, &announce("2001:db8::5", FOREIGN)), "neighbor_spoof"),
        (discovery("::", 135, &target("2001:db8::6")), "neighbor_discovery"),
        (discovery("2001:db8::5", 136, &[0; 15]), "malformed"),
        (discovery("2001:db8::5", 136, &target("2001:db8::5")).hop_limit(254), "neighbor_spoof"),
        (discovery("2001:db8::5", 133, &options(MAC).repeat(8)), "neighbor_discovery"),
        (discovery("2001:db8::5", 133, &options(MAC).repeat(9)), "neighbor_spoof"),
        (discovery("2001:db8::5", 133, &[14, 0, 0, 0, 0, 0, 0, 0]), "neighbor_spoof"),
        (discovery("2001:db8::5", 133, &[14, 2, 0, 0, 0, 0, 0, 0]), "neighbor_spoof"),
    ] {
        assert_eq!(oracle.sent(&packet), reason, "{packet:?}");
    }
    assert_eq!(oracle.received(&discovery("fe80::1", 136, &target("2001:db8::7"))), "neighbor_discovery");
    let off = discovery("2001:db8::5", 136, &announce("2001:db8::6", FOREIGN));
    assert_eq!(guarded(&json!({ "neighbor_discovery": false })).sent(&off), "neighbor_discovery");
}

#[test]
fn spec_6_router_advertisements_come_from_routers() {
    let advertisement = discovery("fe80::1", 134, &[0; 8]);
    assert_eq!(oracle().sent(&advertisement), "router_advertisement");
    assert_eq!(oracle().received(&advertisement), "no_rule");
    let routers = json!({ "routers": ["fe80::1"] });
    assert_eq!(guarded(&routers).received(&advertisement), "neighbor_discovery");
    assert_eq!(guarded(&routers).received(&discovery("fe80::2", 134, &[0; 8])), "router_advertisement");
    // A router's address is nobody else's.
    let hijack = Packet::udp(at("[fe80::1]:1"), at("[2001:db8::1]:1"), b"");
    assert_eq!(guarded(&routers).sent(&hijack), "source_address");
    assert_eq!(oracle().judge("eth0", true, &advertisement.frame()).reason, "neighbor_discovery");
}

#[test]
fn spec_6_listeners_report() {
    let report = |source: &str, hops| Packet::icmp(ip(source), ip("ff02::16"), 143, 0, 0).hop_limit(hops);
    let mut oracle = oracle();
    assert_eq!(oracle.sent(&report("fe80::7", 1)), "neighbor_discovery");
    assert_eq!(oracle.sent(&report("::", 1)), "neighbor_discovery");
    assert_eq!(oracle.sent(&report("2001:db8::6", 1)), "source_address");
    assert_eq!(oracle.sent(&report("fe80::7", 2)), "no_rule");
}

#[test]
fn spec_6_dhcp_clients_pass_and_servers_do_not() {
    let udp = |from: &str, to: &str| Packet::udp(at(from), at(to), b"dhcp");
    let discover = udp("0.0.0.0:68", "255.255.255.255:67");
    let offer = udp("10.0.0.98:67", "255.255.255.255:68");
    let mut anybody = oracle();
    assert_eq!(anybody.sent(&discover), "dhcp");
    assert_eq!(anybody.received(&offer), "dhcp");
    assert_eq!(anybody.sent(&udp("10.0.0.5:67", "10.0.0.7:68")), "dhcp_server");
    assert_eq!(anybody.sent(&udp("10.0.0.6:68", "255.255.255.255:67")), "source_address");
    assert_eq!(anybody.sent(&udp("10.0.0.5:68", "10.0.0.98:67")), "no_rule");
    assert_eq!(anybody.sent(&udp("[fe80::7]:546", "[ff02::1:2]:547")), "dhcp");
    let mut listed = guarded(&json!({ "dhcp_servers": ["10.0.0.98"] }));
    assert_eq!(listed.received(&offer), "dhcp");
    assert_eq!(listed.received(&udp("10.0.0.97:67", "255.255.255.255:68")), "no_rule");
    assert_eq!(listed.received(&udp("[fe80::9]:547", "[fe80::7]:546")), "dhcp");
    assert_eq!(listed.sent(&udp("10.0.0.5:68", "10.0.0.98:67")), "dhcp");
}

#[test]
fn spec_6_redirects_never_pass() {
    let redirect = Packet::icmp(ip("8.8.8.8"), ip("10.0.0.5"), 5, 0, 0);
    assert_eq!(oracle().received(&redirect), "redirect");
    assert_eq!(guarded(&json!({ "redirects": false })).received(&redirect), "no_rule");
    assert_eq!(oracle().received(&Packet::icmp(ip("fe80::1"), ip("2001:db8::5"), 137, 0, 0)), "redirect");
}

#[test]
fn spec_6_tags_are_for_trunks() {
    let tag = tagged(&query().frame(), 0x8100, 5);
    assert_eq!(oracle().sends(&tag).reason, "vlan");
    let mut files = super::files(&json!({}));
    files[0]["interfaces"][0]["trunk"] = true.into();
    let mut trunk = Oracle::new(&files, Limits { live: 1, half_v4: 1, half_v6: 1, datagrams: 1 });
    assert_eq!(trunk.sends(&tag).reason, "new_flow");
    assert_eq!(trunk.sends(&tagged(&tag, 0x8100, 6)).reason, "vlan");
    assert_eq!(trunk.sends(&tagged(&query().frame(), 0x88a8, 6)).reason, "vlan");
    assert_eq!(trunk.sends(&tag[..17]).reason, "malformed");
}

#[test]
fn spec_6_ether_types_are_listed() {
    let lldp = ethernet(0x88cc, &[0; 46]);
    assert_eq!(oracle().sends(&lldp).reason, "ether_type");
    for types in [json!(["0x88cc"]), json!([0x88cc]), json!("any")] {
        let said = guarded(&json!({ "ether_types": types })).sends(&lldp);
        assert_eq!((said.passes, said.reason), (true, "ether_type_listed"));
    }
    assert_eq!(oracle().judge("eth0", false, &lldp).reason, "ether_type_listed");
    assert_eq!(oracle().judge("tap9", true, &lldp).reason, "unknown_interface");
}

#[test]
fn spec_6_source_routes_are_dropped() {
    for (options, reason) in [
        (&[131, 7, 4, 8, 8, 8, 8, 0][..], "source_route"),
        (&[1, 137, 3, 4], "source_route"),
        (&[0, 131, 3, 4], "new_flow"),
        (&[148, 4, 131, 0], "new_flow"),
        (&[148, 1, 131, 3], "new_flow"),
    ] {
        assert_eq!(oracle().sent(&query().options(options)), reason, "{options:?}");
    }
    let v6 = |kind| {
        Packet::udp(at("[2001:db8::5]:1"), at("[2001:db8::1]:1"), b"")
            .extension(ROUTING, &[kind, 0, 0, 0, 0, 0])
    };
    assert_eq!(oracle().sent(&v6(0)), "source_route");
    assert_eq!(oracle().sent(&v6(2)), "new_flow");
    assert_eq!(guarded(&json!({ "source_routing": false })).sent(&v6(0)), "new_flow");
}
