//! Every packet is counted once (SPEC D24).

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use serde_json::{Value, json};
use sg_tests::{Daemon, Netns, outside};

use crate::packets::{RawEthernet, RawIp, ipv4};
use crate::world::{World, interface, policy, status_of, udp_from, wait, with};

/// What the guest's own device has sent and received.
fn device(netns: &Netns) -> [u64; 2] {
    let output = netns.command("ip").args(["-s", "-j", "link", "show", "eth0"]).output().unwrap();
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    ["tx", "rx"].map(|way| stats[0]["stats64"][way]["packets"].as_u64().unwrap())
}

pub fn reason(status: &Value, direction: &str, name: &str) -> u64 {
    let reasons = status[direction]["reasons"].as_array().unwrap();
    reasons
        .iter()
        .find(|reason| reason["reason"] == name)
        .map_or(0, |reason| reason["packets"].as_u64().unwrap())
}

fn total(status: &Value, direction: &str) -> [u64; 2] {
    ["allowed", "dropped"].map(|verdict| status[direction][verdict].as_u64().unwrap())
}

/// The counters and the guest's device when nothing is under way.
fn quiet(daemon: &Daemon, guest: &Netns) -> (Value, [u64; 2]) {
    let mut last = None;
    wait("the site is quiet", || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        let now = Some((status_of(daemon, "tap0"), device(guest)));
        let same = last == now;
        last = now;
        same
    });
    last.unwrap()
}

fn counted_once(hook: &str, arguments: &[&str]) {
    let world = World::new(1);
    let guest = world.guest(0);
    let Ok(own) = guest.v4.to_string().parse::<Ipv4Addr>() else { panic!("{}", guest.v4) };
    let text = policy(json!({
        "security_groups": [{
            "name": "webs", "inbound": [udp_from("203.0.113.0/24", 1000)],
            "outbound": [{ "protocol": "UDP", "destination": "8.8.8.8/32", "port": 53 }],
        }],
        "interfaces": [with(interface(guest, &["webs"]), "hook", hook)],
    }));
    let daemon = Daemon::start_with(&world.site, &text, arguments).unwrap();
    // Somebody listens everywhere, so that nobody complains of closed ports.
    let bind =
        |netns: &Netns, address: (Ipv4Addr, u16)| netns.run(|| UdpSocket::bind(address).unwrap()).unwrap();
    let _sinks = [
        bind(&world.site.outside, (outside::DNS, 53)),
        bind(&world.site.outside, (outside::DNS, 54)),
        bind(&guest.netns, (own, 1000)),
        bind(&guest.netns, (own, 1001)),
    ];
    // The neighbour is known before the counting begins.
    bind(&guest.netns, (own, 0)).send_to(b"!", (outside::DNS, 53)).unwrap();
    let (before, device_before) = quiet(&daemon, &guest.netns);

    for index in 0..20 {
        let new_flow = bind(&guest.netns, (own, 2000 + index));
        new_flow.send_to(b"!", (outside::DNS, 53)).unwrap();
    }
    let one_flow = bind(&guest.netns, (own, 3000));
    for (port, packets) in [(53, 13), (54, 15)] {
        for _ in 0..packets {
            one_flow.send_to(b"!", (outside::DNS, port)).unwrap();
        }
    }
    let raw = RawEthernet::new(&guest.netns, "eth0");
    (0..7).for_each(|_| raw.send(0x88b5, &[1; 40]));
    (0..4).for_each(|_| raw.send(0x8100, &[0, 5, 0x08, 0x00, 0x45]));
    let udp = [ipv4(17, own, outside::DNS, 8), vec![0xf0, 0, 0, 53, 0, 8, 0, 0]].concat();
    let altered = |at: usize, value: u8| {
        let mut packet = udp.clone();
        packet[at] = value;
        packet
    };
    (0..3).for_each(|_| raw.send(0x0800, &altered(0, 0x44))); // a header of four words
    (0..6).for_each(|_| raw.send(0x0800, &altered(6, 0x20))); // more fragments
    let no_flags = [
        ipv4(6, own, outside::DNS, 20),
        vec![0xf0, 0, 0, 53, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 1, 1, 0, 0, 0, 0],
    ];
    (0..5).for_each(|_| raw.send(0x0800, &no_flags.concat()));
    let outside_raw = RawIp::new(&world.site.outside);
    for index in 0..9 {
        let source = SocketAddrV4::new(outside::ADMIN, 4000 + index);
        outside_raw.udp(source, SocketAddrV4::new(own, 1000), b"!");
        outside_raw.udp(source, SocketAddrV4::new(own, 1000), b"!");
        outside_raw.udp(source, SocketAddrV4::new(own, 1001), b"!");
    }

    let (after, device_after) = quiet(&daemon, &guest.netns);
    let grew =
        |direction: &str, name: &str| reason(&after, direction, name) - reason(&before, direction, name);
    let expected = [
        // The first of the fragments begins a flow; the others overwrite it.
        ("outbound", "new_flow", 22),
        ("outbound", "established", 12),
        ("outbound", "no_rule", 15),
        ("outbound", "ether_type", 7),
        ("outbound", "vlan", 4),
        ("outbound", "malformed", 3),
        ("outbound", "fragment_overlap", 5),
        ("outbound", "tcp_flags", 5),
        ("inbound", "new_flow", 9),
        ("inbound", "established", 9),
        ("inbound", "no_rule", 9),
    ];
    for (direction, name, packets) in expected {
        assert_eq!(grew(direction, name), packets, "{direction} {name} with {hook}: {after:#}");
    }
    // The sums: of the reasons, and of what the devices say.
    for direction in ["inbound", "outbound"] {
        let reasons = after[direction]["reasons"].as_array().unwrap();
        let sum: u64 = reasons.iter().map(|reason| reason["packets"].as_u64().unwrap()).sum();
        assert_eq!(sum, total(&after, direction).iter().sum::<u64>());
    }
    let of_direction = |direction: &str| {
        let (before, after) = (total(&before, direction), total(&after, direction));
        [after[0] - before[0], after[1] - before[1]]
    };
    let [sent, received] = [0, 1].map(|way| device_after[way] - device_before[way]);
    assert_eq!(of_direction("outbound").iter().sum::<u64>(), sent, "{hook}");
    assert_eq!(of_direction("inbound"), [received, 9], "{hook}");
}

#[test]
fn spec_d24_every_packet_is_counted_once_on_xdp() {
    counted_once("xdp", &[]);
}

#[test]
fn spec_d24_every_packet_is_counted_once_on_tc() {
    counted_once("tc", &[]);
}

#[test]
fn spec_d24_every_packet_is_counted_once_on_clsact() {
    counted_once("tc", &["--tc", "clsact"]);
}
