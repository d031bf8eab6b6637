//! SPEC D24 in a mixed run: a million packets of every kind, on several interfaces and in both directions at once, over policies
//! and hooks that change, and not one is counted twice or not at all. The devices say how many there were.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sg_tests::{Daemon, Netns, outside};

use crate::packets::{RawEthernet, VirtioEthernet, ipv4};
use crate::world::{World, interface, plug, policy, status_of, wait, with};

/// The host's bridge, which takes what guests send and answers nothing.
const BRIDGE: &str = "52:54:00:00:00:fe";

/// Who sends to whom.
struct Ends {
    macs: [[u8; 6]; 2],
    v4: [Ipv4Addr; 2],
    v6: [Ipv6Addr; 2],
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

impl Ends {
    fn udp(&self, port: u16, payload: usize) -> Vec<u8> {
        let mut packet = ipv4(17, self.v4[0], self.v4[1], 8 + payload);
        packet.extend(40_000u16.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend((8 + payload as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(vec![7; payload]);
        packet
    }

    fn syn(&self, port: u16) -> Vec<u8> {
        let mut packet = ipv4(6, self.v4[0], self.v4[1], 20);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 53, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        packet
    }

    fn arp(&self) -> Vec<u8> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(self.macs[0]);
        arp.extend(self.v4[0].octets());
        arp.extend([0; 6]);
        arp.extend(self.v4[1].octets());
        arp
    }

    fn v6(&self, next: u8, hop: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, hop];
        packet.extend(self.v6[0].octets());
        packet.extend(self.v6[1].octets());
        packet.extend(payload);
        packet
    }

    fn frame(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        let [source, destination] = self.macs;
        let mut frame = [destination, source].concat();
        frame.extend(kind.to_be_bytes());
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// Frames, and how many of each in a round.
    fn frames(&self) -> Vec<(Vec<u8>, usize)> {
        let changed = |mut packet: Vec<u8>, at: usize, value: u8| {
            packet[at] = value;
            packet
        };
        let solicit = [vec![135, 0, 0, 0, 0, 0, 0, 0], self.v6[1].octets().to_vec()].concat();
        let round = vec![
            (0x0800, self.udp(53, 20), 400), // allowed
            (0x0800, self.udp(54, 20), 200), // no rule, in some policies
            (0x0800, self.syn(1000), 20),    // a flood of a few SYNs
            (0x0800, self.syn(1001), 20),
            (0x0800, changed(self.udp(53, 20), 0, 0x44), 40), // malformed
            (0x0800, changed(self.udp(53, 24), 6, 0x20), 20), // a first fragment, and again
            (0x0800, changed(self.udp(53, 24), 7, 4), 40),    // a later piece
            (0x0800, changed(self.udp(53, 20), 15, 9), 40),   // another's address
            (0x0806, self.arp(), 40),
            (0x86dd, self.v6(58, 255, &solicit), 40), // neighbour discovery
            (0x86dd, self.v6(58, 1, &solicit), 20),   // from beyond the link
            (0x86dd, self.v6(17, 64, &[0x9c, 0x40, 0, 53, 0, 8, 0, 0]), 60),
            (0x86dd, self.v6(0, 64, &[0; 8]), 20), // an extension header that ends early
            (0x8100, vec![0, 5, 8, 0, 0x45], 20),
            (0x88cc, vec![2; 40], 20),
        ];
        round.into_iter().map(|(kind, payload, count)| (self.frame(kind, &payload), count)).collect()
    }
}

/// One direction of an interface: who sends into it, and what of.
struct Side {
    interface: String,
    direction: &'static str,
    netns: Netns,
    raw: RawEthernet,
    virtio: VirtioEthernet,
    frames: Vec<(Vec<u8>, usize)>,
    /// A checksum over the destination port.
    spoiled: Vec<u8>,
    /// What the device had sent when the counting began.
    start: u64,
}

impl Side {
    fn new(interface: &str, direction: &'static str, netns: &Netns, ends: &Ends) -> Self {
        let raw = RawEthernet::new(netns, "eth0");
        let virtio = VirtioEthernet::new(netns, "eth0");
        let frames = ends.frames();
        let spoiled = ends.frame(0x0800, &ends.udp(53, 20));
        let netns = netns.clone();
        Self { interface: interface.to_owned(), direction, netns, raw, virtio, frames, spoiled, start: 0 }
    }

    /// What the sending device says that it has sent: what the network did not take is not in it.
    fn sent(&self) -> u64 {
        let output = self.netns.command("ip").args(["-s", "-j", "link", "show", "eth0"]).output().unwrap();
        let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
        stats[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    }

    fn counted(&self, daemon: &Daemon) -> u64 {
        let status = status_of(daemon, &self.interface);
        ["allowed", "dropped"].map(|verdict| status[self.direction][verdict].as_u64().unwrap()).iter().sum()
    }

    /// Until so many have gone.
    fn send(&self, enough: u64) {
        while self.sent() < self.start + enough {
            for (frame, count) in &self.frames {
                (0..*count).for_each(|_| self.raw.frame(frame));
            }
            (0..10).for_each(|_| self.virtio.send(&self.spoiled, 14 + 20, 2));
        }
    }
}

/// Waits until every packet that the devices have sent has come by, and is counted, once.
#[track_caller]
fn quiet(daemon: &Daemon, sides: &[Side], before: &[u64]) {
    let numbers = || -> Vec<(u64, u64)> {
        sides.iter().map(|side| (side.counted(daemon), side.sent() - side.start)).collect()
    };
    let mut last = Vec::new();
    wait("all packets are counted", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let was = std::mem::replace(&mut last, numbers());
        was == last
    });
    for ((side, before), (counted, sent)) in sides.iter().zip(before).zip(last) {
        let status = status_of(daemon, &side.interface);
        assert_eq!(counted - before, sent, "{} {}: {status:#}", side.interface, side.direction);
    }
}

/// Nothing of the kernel's own, and nobody answers.
fn silence(netns: &Netns) {
    netns.ip("link set eth0 arp off multicast off\naddress flush dev eth0").unwrap();
    quiet_v6(netns);
}

fn quiet_v6(netns: &Netns) {
    let off = || {
        ["all", "default"].map(|name| {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
        })
    };
    netns.run(off).unwrap();
}

#[test]
fn spec_d24_a_million_mixed_packets_are_counted_once_each_over_swaps_and_changes_of_hook() {
    const PACKETS: u64 = 1_000_000;
    const INTERFACES: usize = 3;
    const PARTS: usize = 6;
    let world = World::new(INTERFACES as u8);
    let guests: Vec<_> = (0..INTERFACES).map(|number| world.guest(number).clone()).collect();
    // Every interface has another hook than its neighbour, and each of them all, enforcing and in audit.
    let hook = |part: usize, number: usize| ["xdp", "tc"][(part + number) % 2];
    let enforcement = |part: usize, number: usize| ["enforce", "audit", "enforce"][(part + number) % 3];
    let text = |part: usize, port: u16| {
        let udp = |end: &str, remote: &str| json!({ "protocol": "UDP", end: remote, "port": port });
        let interfaces = guests.iter().enumerate().map(|(number, guest)| {
            let interface = with(interface(guest, &["senders"]), "hook", hook(part, number));
            with(interface, "enforcement", enforcement(part, number))
        });
        policy(json!({
            "security_groups": [{
                "name": "senders",
                "inbound": [udp("source", "203.0.113.0/24"), udp("source", "2001:db8:a::/64")],
                "outbound": [udp("destination", "0.0.0.0/0"), udp("destination", "::/0")],
            }],
            "interfaces": interfaces.collect::<Vec<_>>(),
        }))
    };
    let host = &world.site.host;
    let mut sides = Vec::new();
    let v4 = |address: &std::net::IpAddr| address.to_string().parse::<Ipv4Addr>().unwrap();
    let v6 = |address: &std::net::IpAddr| address.to_string().parse::<Ipv6Addr>().unwrap();
    for (number, guest) in (0u8..).zip(&guests) {
        // Whoever is outside has a port of his own for each guest: that device's counter is of this guest alone.
        let neighbour = plug(&world.site, &format!("up{}", number + 1), 100 + number);
        let outward = Ends {
            macs: [mac(&guest.mac), mac(BRIDGE)],
            v4: [v4(&guest.v4), outside::DNS],
            v6: [v6(&guest.v6), outside::DNS_V6],
        };
        let inward = Ends {
            macs: [mac(&neighbour.mac), mac(&guest.mac)],
            v4: [outside::ADMIN, v4(&guest.v4)],
            v6: [outside::ADMIN_V6, v6(&guest.v6)],
        };
        // The bridge sends what is for a guest to its port and to no other, also before the guest has said anything.
        let known = ["fdb", "replace", &guest.mac, "dev", &guest.device, "master", "static"];
        assert!(host.command("bridge").args(known).status().unwrap().success());
        silence(&guest.netns);
        silence(&neighbour.netns);
        sides.push(Side::new(&guest.device, "outbound", &guest.netns, &outward));
        sides.push(Side::new(&guest.device, "inbound", &neighbour.netns, &inward));
    }
    silence(&world.site.outside);
    host.ip(&format!("link set br0 address {BRIDGE}")).unwrap();
    quiet_v6(host);
    // The bridge takes no look at IP headers, of which some are wrong: what netfilter drops there no interface has seen.
    let bridge_only = || {
        for name in ["iptables", "ip6tables", "arptables"] {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{name}");
            if std::path::Path::new(&path).exists() {
                std::fs::write(path, "0").unwrap();
            }
        }
    };
    host.run(bridge_only).unwrap();
    let daemon = Daemon::start(&world.site, &text(0, 55)).unwrap();

    let counts =
        || -> Vec<(u64, u64)> { sides.iter().map(|side| (side.counted(&daemon), side.sent())).collect() };
    let mut first = counts();
    wait("the site is quiet", || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let was = std::mem::replace(&mut first, counts());
        was == first
    });
    let (before, starts): (Vec<u64>, Vec<u64>) = first.into_iter().unzip();
    sides.iter_mut().zip(starts).for_each(|(side, start)| side.start = start);
    // The hooks change between two parts, when nothing is under way; policies are swapped under the packets.
    for part in 0..PARTS {
        daemon.apply(&text(part, 53)).unwrap();
        for (number, guest) in guests.iter().enumerate() {
            let ingress = if hook(part, number) == "xdp" { "xdp" } else { "tcx" };
            assert_eq!(status_of(&daemon, &guest.device)["ingress"], ingress);
        }
        let enough = PACKETS * (part as u64 + 1) / PARTS as u64 / sides.len() as u64 + 1;
        let sending = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let swaps = scope.spawn(|| {
                let mut swaps = 0;
                while sending.load(Ordering::Relaxed) {
                    daemon.apply(&text(part, [54, 53][swaps % 2])).unwrap();
                    swaps += 1;
                }
                swaps
            });
            let senders: Vec<_> = sides.iter().map(|side| scope.spawn(|| side.send(enough))).collect();
            let sent: Vec<_> = senders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            sending.store(false, Ordering::Relaxed);
            assert!(sent.iter().all(Result::is_ok));
            assert!(swaps.join().unwrap() > 0);
        });
        quiet(&daemon, &sides, &before);
        guests.iter().for_each(|guest| sums(&status_of(&daemon, &guest.device)));
    }
    let total: u64 = sides.iter().map(|side| side.sent() - side.start).sum();
    assert!(total >= PACKETS, "{total}");
    for guest in &guests {
        let last = status_of(&daemon, &guest.device);
        println!("{}: {last:#}", guest.device);
        let twice = last["outbound"]["counted_twice"].as_u64().unwrap();
        assert!(twice > 0, "XDP has passed what was dropped behind it: {last:#}");
        for direction in ["inbound", "outbound"] {
            let kinds = |list: &str| last[direction][list].as_array().unwrap().len();
            assert!(kinds("reasons") >= 10 && kinds("would_drop_reasons") >= 5, "{direction}: {last:#}");
        }
    }
}

/// Each reason is in the sum once.
#[track_caller]
fn sums(status: &Value) {
    for direction in ["inbound", "outbound"] {
        let counters = &status[direction];
        let number = |name: &str| counters[name].as_u64().unwrap();
        let sum = |list: &str| -> u64 {
            counters[list].as_array().unwrap().iter().map(|reason| reason["packets"].as_u64().unwrap()).sum()
        };
        let both = sum("reasons") + sum("would_drop_reasons");
        assert_eq!(number("allowed") + number("dropped") + number("counted_twice"), both, "{status:#}");
    }
}
