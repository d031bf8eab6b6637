//! SPEC D24 in a mixed run: a million packets of every kind, over policies and hooks that change, and not one is counted twice
//! or not at all. The sender and the device say how many there were.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use sg_tests::{Daemon, Netns, outside};

use crate::packets::{RawEthernet, VirtioEthernet, ipv4};
use crate::world::{World, interface, policy, status_of, wait, with};

/// Frames that a guest sends: ether type and what follows, so many of each in a round.
fn frames(own: Ipv4Addr) -> Vec<(u16, Vec<u8>, usize)> {
    let udp = |port: u16, payload: usize| {
        let mut packet = ipv4(17, own, outside::DNS, 8 + payload);
        packet.extend(40_000u16.to_be_bytes());
        packet.extend(port.to_be_bytes());
        packet.extend((8 + payload as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(vec![7; payload]);
        packet
    };
    let changed = |mut packet: Vec<u8>, at: usize, value: u8| {
        packet[at] = value;
        packet
    };
    let syn = |port: u16| {
        let mut packet = ipv4(6, own, outside::DNS, 20);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 53, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        packet
    };
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 5];
    arp.extend(own.octets());
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let v6 = |next: u8, hop: u8, payload: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, hop];
        packet.extend("fd00::5".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend(outside::DNS_V6.octets());
        packet.extend(payload);
        packet
    };
    let solicit =
        [vec![135, 0, 0, 0, 0, 0, 0, 0], "fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec()]
            .concat();
    vec![
        (0x0800, udp(53, 20), 400), // allowed
        (0x0800, udp(54, 20), 200), // no rule, in some policies
        (0x0800, syn(1000), 20),    // a flood of a few SYNs
        (0x0800, syn(1001), 20),
        (0x0800, changed(udp(53, 20), 0, 0x44), 40), // malformed
        (0x0800, changed(udp(53, 24), 6, 0x20), 20), // a first fragment, and again
        (0x0800, changed(udp(53, 24), 7, 4), 40),    // a later piece
        (0x0800, changed(udp(53, 20), 15, 9), 40),   // another's address
        (0x0806, arp, 40),
        (0x86dd, v6(58, 255, &solicit), 40), // neighbour discovery
        (0x86dd, v6(58, 1, &solicit), 20),   // from beyond the link
        (0x86dd, v6(17, 64, &[0x9c, 0x40, 0, 53, 0, 8, 0, 0]), 60),
        (0x86dd, v6(0, 64, &[0; 8]), 20), // an extension header that ends early
        (0x8100, vec![0, 5, 8, 0, 0x45], 20),
        (0x88cc, vec![2; 40], 20),
    ]
}

/// What the guest's own device says that it has sent.
fn sent(netns: &Netns) -> u64 {
    let output = netns.command("ip").args(["-s", "-j", "link", "show", "eth0"]).output().unwrap();
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    stats[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
}

fn counted(status: &Value) -> u64 {
    ["allowed", "dropped"].map(|verdict| status["outbound"][verdict].as_u64().unwrap()).iter().sum()
}

/// The counters when every packet that the device has sent has come by.
#[track_caller]
fn quiet(daemon: &Daemon, guest: &Netns, before: u64) -> (Value, u64) {
    let mut last = None;
    wait("all packets are counted", || {
        let (status, device) = (status_of(daemon, "tap0"), sent(guest));
        let (now, was) = (counted(&status), last.replace((counted(&status), device)));
        std::thread::sleep(std::time::Duration::from_millis(100));
        was == Some((now, device)) && now + before == device
    });
    (status_of(daemon, "tap0"), sent(guest))
}

#[test]
fn spec_d24_a_million_mixed_packets_are_counted_once_each_over_swaps_and_changes_of_hook() {
    const PACKETS: u64 = 1_000_000;
    let world = World::new(1);
    let guest = world.guest(0);
    let Ok(own) = guest.v4.to_string().parse::<Ipv4Addr>() else { panic!("{}", guest.v4) };
    let text = |hook: &str, port: u16, enforcement: &str| {
        let udp = |to: &str| json!({ "protocol": "UDP", "destination": to, "port": port });
        policy(json!({
            "security_groups": [{ "name": "senders", "inbound": [], "outbound": [udp("0.0.0.0/0"), udp("::/0")] }],
            "interfaces": [with(with(interface(guest, &["senders"]), "hook", hook), "enforcement", enforcement)],
        }))
    };
    let daemon = Daemon::start(&world.site, &text("tc", 55, "enforce")).unwrap();
    // Nothing of the kernel's own, and nobody answers.
    guest.netns.ip("link set eth0 arp off multicast off").unwrap();
    let silence = || std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1");
    guest.netns.run(silence).unwrap().unwrap();
    let (raw, virtio) = (RawEthernet::new(&guest.netns, "eth0"), VirtioEthernet::new(&guest.netns, "eth0"));
    let frames = frames(own);
    // A checksum over the destination port, which only the program behind XDP sees.
    let mut spoiled = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 5, 8, 0];
    spoiled.extend(&frames[0].1);
    assert!(spoiled.len() >= 60);

    let start = sent(&guest.netns) - counted(&status_of(&daemon, "tap0"));
    let (first, device) = quiet(&daemon, &guest.netns, start);
    let mut total = 0;
    // The hook changes between two parts, when nothing is under way; policies are swapped under the packets.
    let parts =
        [("xdp", "enforce"), ("tc", "enforce"), ("xdp", "audit"), ("tc", "audit"), ("xdp", "enforce")];
    for (part, (hook, enforcement)) in parts.into_iter().enumerate() {
        daemon.apply(&text(hook, 53, enforcement)).unwrap();
        assert_eq!(status_of(&daemon, "tap0")["ingress"], if hook == "xdp" { "xdp" } else { "tcx" });
        let end = PACKETS * (part as u64 + 1) / parts.len() as u64;
        let sending = std::sync::atomic::AtomicBool::new(true);
        std::thread::scope(|scope| {
            let swaps = scope.spawn(|| {
                let mut swaps = 0;
                while sending.load(std::sync::atomic::Ordering::Relaxed) {
                    daemon.apply(&text(hook, [54, 53][swaps % 2], enforcement)).unwrap();
                    swaps += 1;
                }
                swaps
            });
            while total < end {
                for (kind, payload, count) in &frames {
                    (0..*count).for_each(|_| raw.send(*kind, payload));
                    total += *count as u64;
                }
                for _ in 0..10 {
                    virtio.send(&spoiled, 14 + 20, 2);
                    total += 1;
                }
            }
            sending.store(false, std::sync::atomic::Ordering::Relaxed);
            assert!(swaps.join().unwrap() > 0);
        });
        let (status, now) = quiet(&daemon, &guest.netns, start);
        assert_eq!(now - device, total, "the sender and the device agree");
        assert_eq!(counted(&status) - counted(&first), total, "after {hook}, {enforcement}: {status:#}");
        sums(&status);
    }
    let last = status_of(&daemon, "tap0");
    println!("{total} packets: {last:#}");
    assert!(
        last["outbound"]["counted_twice"].as_u64().unwrap() > 0,
        "XDP has passed what was dropped behind it"
    );
    let kinds = last["outbound"]["reasons"].as_array().unwrap().len();
    assert!(kinds >= 10, "{last:#}");
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
