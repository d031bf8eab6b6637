//! Checksums that a sender leaves to others: written behind the filter, they must not change what it has judged.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use sg_tests::{Counter, Daemon, Way, outside};

use crate::counters::reason;
use crate::packets::{VirtioEthernet, ipv4};
use crate::world::{World, interface, plug, policy, status_of, udp_from, wait, with};

const ETHERNET: u16 = 14;
const IPV4: u16 = ETHERNET + 20;
const IPV6: u16 = ETHERNET + 40;
/// Newer kernels let nobody begin a sum before here (`virtio_net_hdr_to_skb`, include/linux/virtio_net.h); other senders do.
const LEAST_IPV4: u16 = 20;
const LEAST_IPV6: u16 = 40;

/// A frame of the guest, where its checksum goes, and whether it must arrive.
struct Case {
    name: &'static str,
    frame: Vec<u8>,
    start: u16,
    offset: u16,
    arrives: bool,
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 5];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

fn over_ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut packet = ipv4(protocol, Ipv4Addr::new(10, 0, 0, 5), outside::DNS, transport.len());
    packet.extend(transport);
    ethernet(0x0800, &packet)
}

fn over_ipv6(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, transport.len() as u8, protocol, 64];
    packet.extend("fd00::5".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend(outside::DNS_V6.octets());
    packet.extend(transport);
    ethernet(0x86dd, &packet)
}

fn udp() -> Vec<u8> {
    let mut header = vec![0x30, 0x39, 0, 53, 0, 40, 0, 0];
    header.resize(40, 7);
    header
}

fn syn() -> Vec<u8> {
    vec![0x30, 0x39, 0, 53, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]
}

fn ping(kind: u8) -> Vec<u8> {
    vec![kind, 0, 0, 0, 0, 9, 0, 1, 1, 2, 3, 4]
}

/// An announcement of the guest's own address.
fn arp() -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 5, 10, 0, 0, 5, 0, 0, 0, 0, 0, 0];
    arp.extend(outside::ROUTER.octets());
    ethernet(0x0806, &arp)
}

fn cases() -> Vec<Case> {
    let case = |name, frame, start, offset, arrives| Case { name, frame, start, offset, arrives };
    let (udp4, udp6) = (over_ipv4(17, &udp()), over_ipv6(17, &udp()));
    let (tcp4, tcp6) = (over_ipv4(6, &syn()), over_ipv6(6, &syn()));
    vec![
        case("UDP, its checksum", udp4.clone(), IPV4, 6, true),
        case("UDP, its destination port", udp4.clone(), IPV4, 2, false),
        case("UDP, its length", udp4.clone(), IPV4, 4, false),
        case("UDP, half of its checksum", udp4.clone(), IPV4, 5, false),
        case("UDP, half of its checksum and a byte of data", udp4.clone(), IPV4, 7, false),
        case("UDP, in its data", udp4.clone(), IPV4 + 8, 6, true),
        case("UDP, the source address", udp4, LEAST_IPV4, 6, false),
        case("UDP over IPv6, its checksum", udp6.clone(), IPV6, 6, true),
        case("UDP over IPv6, its destination port", udp6.clone(), IPV6, 2, false),
        case("UDP over IPv6, its destination address", udp6, LEAST_IPV6, 4, false),
        case("TCP, its checksum", tcp4.clone(), IPV4, 16, true),
        case("TCP, its flags", tcp4.clone(), IPV4, 13, false),
        case("TCP, its source port", tcp4, IPV4, 0, false),
        case("TCP over IPv6, its checksum", tcp6.clone(), IPV6, 16, true),
        case("TCP over IPv6, its acknowledgment", tcp6, IPV6, 8, false),
        case("ICMP, its checksum", over_ipv4(1, &ping(8)), IPV4, 2, true),
        case("ICMP, its type", over_ipv4(1, &ping(8)), IPV4, 0, false),
        case("ICMP, its data", over_ipv4(1, &ping(8)), IPV4, 8, false),
        case("ICMPv6, its checksum", over_ipv6(58, &ping(128)), IPV6, 2, true),
        case("ICMPv6, its type", over_ipv6(58, &ping(128)), IPV6, 0, false),
        case("ARP, the sender's address", arp(), LEAST_IPV4, 8, false),
        case("ARP, the sender's hardware address", arp(), LEAST_IPV4, 2, false),
    ]
}

/// Whether each case's frame comes out at the counter, and moves the counter of that reason.
fn judged(daemon: &Daemon, direction: &str, from: &VirtioEthernet, cases: &[Case], counter: &Counter) {
    let dropped = || reason(&status_of(daemon, "tap0"), direction, "checksum_place");
    let total = || {
        let status = status_of(daemon, "tap0");
        let counted: u64 =
            ["allowed", "dropped"].map(|verdict| status[direction][verdict].as_u64().unwrap()).iter().sum();
        // The device may still be telling that it has come up.
        counted - reason(&status, direction, "neighbor_discovery")
    };
    for case in cases {
        let (through, counted, before) = (counter.read().unwrap(), dropped(), total());
        from.send(&case.frame, case.start, case.offset);
        if case.arrives {
            wait(case.name, || counter.read().unwrap() > through);
            assert_eq!(dropped(), counted, "{}", case.name);
        } else {
            wait(case.name, || dropped() == counted + 1);
            assert_eq!(counter.read().unwrap(), through, "{}", case.name);
        }
        // D24, also where one program passes a packet and the next one drops it.
        wait(case.name, || total() == before + 1);
    }
}

fn enforced(world: &World, hook: &str, arguments: &[&str]) -> Daemon {
    let outbound: Vec<Value> = ["0.0.0.0/0", "::/0"]
        .iter()
        .map(|remote| json!({ "protocol": "ALL", "destination": remote }))
        .collect();
    let text = policy(json!({
        "security_groups": [{ "name": "senders", "inbound": [udp_from("10.0.0.0/24", 53)], "outbound": outbound }],
        "interfaces": [with(interface(world.guest(0), &["senders"]), "hook", hook)],
    }));
    Daemon::start_with(&world.site, &text, arguments).unwrap()
}

fn sent_by_a_guest(hook: &str, arguments: &[&str]) {
    let world = World::new(1);
    let daemon = enforced(&world, hook, arguments);
    let guest = world.guest(0);
    // Nothing but the cases' frames, which would be counted too.
    guest.netns.ip("link set eth0 arp off multicast off").unwrap();
    let expression = format!("ether src {} and ether dst 52:54:00:00:00:01", guest.mac);
    let counter = world.site.outside.count("eth0", Way::Received, &expression).unwrap();
    let sender = VirtioEthernet::new(&guest.netns, "eth0");
    judged(&daemon, "outbound", &sender, &cases(), &counter);
}

#[test]
fn a_neighbours_checksum_goes_where_nothing_was_judged() {
    let world = World::new(1);
    let daemon = enforced(&world, "auto", &[]);
    // At a port of the bridge that nothing filters.
    let neighbour = plug(&world.site, "up1", 7);
    let guest = world.guest(0);
    for netns in [&neighbour.netns, &guest.netns] {
        netns.ip("link set eth0 arp off multicast off").unwrap();
    }
    let datagram = || {
        let mut packet = ipv4(17, Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 5), udp().len());
        packet.extend(udp());
        let mut frame = ethernet(0x0800, &packet);
        frame[..12].copy_from_slice(&[0x52, 0x54, 0, 0, 0, 5, 0x52, 0x54, 0, 0, 1, 7]);
        frame
    };
    let case = |name, offset, arrives| Case { name, frame: datagram(), start: IPV4, offset, arrives };
    let cases = [case("its checksum", 6, true), case("its destination port", 2, false)];
    let counter = guest.netns.count("eth0", Way::Received, "udp dst port 53").unwrap();
    let sender = VirtioEthernet::new(&neighbour.netns, "eth0");
    judged(&daemon, "inbound", &sender, &cases, &counter);
}

#[test]
fn a_guests_checksum_goes_where_nothing_was_judged_tc() {
    sent_by_a_guest("tc", &[]);
}

#[test]
fn a_guests_checksum_goes_where_nothing_was_judged_clsact() {
    sent_by_a_guest("tc", &["--tc", "clsact"]);
}

#[test]
fn a_guests_checksum_goes_where_nothing_was_judged_xdp() {
    sent_by_a_guest("xdp", &[]);
}

#[test]
fn a_guests_checksum_goes_where_nothing_was_judged_xdp_and_clsact() {
    sent_by_a_guest("xdp", &["--tc", "clsact"]);
}
