//! One policy takes another's place while packets are under way (SPEC D21).

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use sg_tests::{Daemon, Outcome, Topology, outside, patience};

use super::{Toll, long};
use crate::packets::RawIp;
use crate::world::{World, interface, policy, status_of, tcp_from, udp_from, with};

/// Policy A allows it, by a CIDR; policy B does not.
const ONLY_A: u16 = 1001;
/// Policy B allows it, by a group; policy A does not.
const ONLY_B: u16 = 1002;
/// A allows it by a CIDR, B by a group.
const BOTH: u16 = 2000;
const NEITHER: u16 = 3000;

struct Size {
    swaps: usize,
    /// How many packets of each kind must have gone by, at least.
    flows: u64,
    /// Of each policy, besides those that are looked at.
    rules: u16,
}

fn size() -> Size {
    if long() {
        Size { swaps: 1000, flows: 1_000_000, rules: 1000 }
    } else {
        Size { swaps: 50, flows: 100_000, rules: 100 }
    }
}

/// The daemon waits for a quiet file for longer than this before it swaps, so no two swaps are nearer to each other.
const NO_TWO_SWAPS: Duration = Duration::from_millis(40);

/// Every other packet of a batch goes to `BOTH`, the rest to the other ports in turn.
const BATCH: [u16; 32] = {
    let mut batch = [BOTH; 32];
    let mut index = 0;
    while index < 30 {
        batch[index] = if index % 4 == 0 { ONLY_A } else { ONLY_B };
        index += 2;
    }
    batch[30] = NEITHER;
    batch
};

fn sources() -> [Ipv4Addr; 4] {
    [10, 11, 12, 13].map(|last| Ipv4Addr::new(203, 0, 113, last))
}

fn policies(world: &World) -> [String; 2] {
    [true, false].map(|a| {
        let mut rules = if a {
            json!([udp_from("203.0.113.0/24", ONLY_A), udp_from("203.0.113.0/24", BOTH), tcp_from("203.0.113.0/24", 80)])
        } else {
            json!([udp_from("@friends", ONLY_B), udp_from("@friends", BOTH), tcp_from("@friends", 80)])
        };
        // Others in each policy, so that all is written anew.
        let further = (0..size().rules).map(|number| {
            let remote = format!("100.{}.{}.0/24", if a { 64 } else { 65 } + number / 256, number % 256);
            tcp_from(&remote, 10_000 + number)
        });
        rules.as_array_mut().unwrap().extend(further);
        let friends = sources().map(|address| json!({ "address": address, "security_groups": ["friends"] }));
        policy(json!({
            // Flows are over soon, so that their table never fills.
            "settings": { "timeouts": { "udp": 1 }, "quotas": { "rules_per_group": 2000 } },
            "security_groups": [{ "name": "webs", "inbound": rules, "outbound": [] }, { "name": "friends" }],
            "interfaces": [with(interface(world.guest(0), &["webs"]), "hook", "xdp"), interface(world.guest(1), &["webs"])],
            "peers": if a { json!([]) } else { json!(friends) },
        }))
    })
}

/// Stays on one processor, so that packets are judged in the order in which they were sent.
fn stay() {
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut one = CpuSet::new();
    let cpu = (0..CpuSet::count()).rev().find(|&cpu| all.is_set(cpu).unwrap()).unwrap();
    one.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

/// The sequence numbers of the datagrams that are there.
fn drain(socket: &UdpSocket) -> Vec<u64> {
    let mut found = Vec::new();
    let mut buffer = [0; 8];
    loop {
        match socket.recv(&mut buffer) {
            Ok(8) => found.push(u64::from_be_bytes(buffer)),
            Ok(length) => panic!("{length} bytes"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return found,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a stream of batches has seen.
#[derive(Debug, Default)]
struct Seen {
    sent_to_both: u64,
    /// Batches in which a swap fell.
    straddling: usize,
    only_a: usize,
    only_b: usize,
    /// Batches that took so long that two swaps may have fallen in them.
    slow: usize,
    /// Packets that both policies allow.
    lost: u64,
    /// Packets that neither allows, and batches that were judged by a mix of both.
    wrong: u64,
}

/// Sends new flows to guest 0, batch by batch, and judges what arrives.
fn flood(site: &Topology, swapping: &AtomicBool) -> Seen {
    stay();
    let guest = &site.guest(0).unwrap().netns;
    let address = Ipv4Addr::new(10, 0, 0, 5);
    let listen = |port: u16| {
        let socket = guest.run(|| UdpSocket::bind((address, port)).unwrap()).unwrap();
        socket.set_nonblocking(port != BOTH).unwrap();
        socket.set_read_timeout(Some(patience::ALLOWED)).unwrap();
        socket
    };
    let (only_a, only_b, both, neither) = (listen(ONLY_A), listen(ONLY_B), listen(BOTH), listen(NEITHER));
    let raw = RawIp::new(&site.outside);
    let mut seen = Seen::default();
    let mut sequence = 0u64;
    // What is lost is waited for, each time.
    while seen.lost < 10 && (swapping.load(Ordering::Relaxed) || seen.sent_to_both < size().flows) {
        let (first, begin) = (sequence, Instant::now());
        for port in BATCH {
            // A flow that was never there before: 4 addresses with 60,000 ports each come round after more than 10 s.
            let source = SocketAddrV4::new(
                sources()[(sequence / 60_000 % 4) as usize],
                2000 + (sequence % 60_000) as u16,
            );
            raw.udp(source, SocketAddrV4::new(address, port), &sequence.to_be_bytes());
            sequence += 1;
        }
        for (number, _) in (first..).zip(BATCH).filter(|(_, port)| *port == BOTH) {
            let mut buffer = [0; 8];
            // In the order in which they were sent, each of them.
            seen.lost += u64::from(both.recv(&mut buffer).is_err() || u64::from_be_bytes(buffer) != number);
            seen.sent_to_both += 1;
        }
        let took = begin.elapsed();
        seen.wrong += drain(&neither).len() as u64;
        let (a, b) = (drain(&only_a), drain(&only_b));
        judge(first, &a, &b, took, &mut seen);
        std::thread::sleep(Duration::from_millis(1));
    }
    seen
}

/// At most one swap falls in a batch: the packets before it were judged by one policy and those behind it by the other.
fn judge(first: u64, a: &[u64], b: &[u64], took: Duration, seen: &mut Seen) {
    if took >= NO_TWO_SWAPS {
        seen.slow += 1;
        return;
    }
    // By which policy each packet was judged, as its verdict tells.
    let by_a: Vec<bool> = (first..)
        .zip(BATCH)
        .filter_map(|(number, port)| match port {
            ONLY_A => Some(a.contains(&number)),
            ONLY_B => Some(!b.contains(&number)),
            _ => None,
        })
        .collect();
    let swaps = by_a.windows(2).filter(|pair| pair[0] != pair[1]).count();
    match (swaps, by_a[0]) {
        // A mix of both policies.
        (2.., _) => seen.wrong += 1,
        (1, _) => seen.straddling += 1,
        (_, true) => seen.only_a += 1,
        (_, false) => seen.only_b += 1,
    }
}

#[test]
fn spec_d21_every_packet_is_judged_by_the_old_policy_or_by_the_new_one() {
    let world = World::new(2);
    let [a, b] = policies(&world);
    let daemon = Daemon::start(&world.site, &a).unwrap();
    let mut streams = [0, 1].map(|guest| world.hold(&world.tcp(outside::ADMIN, world.guest(guest).v4, 80)));
    let swapping = AtomicBool::new(true);
    let (seen, exchanges) = std::thread::scope(|scope| {
        let swapping = &swapping;
        let site = &world.site;
        let flood = scope.spawn(move || flood(site, swapping));
        let stream = scope.spawn(|| {
            let mut exchanges = 0;
            while swapping.load(Ordering::Relaxed) {
                for stream in &mut streams {
                    assert_eq!(
                        stream.exchange(patience::ALLOWED).unwrap(),
                        Outcome::Answered,
                        "a stream stalls"
                    );
                }
                exchanges += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            exchanges
        });
        // A failed thread must not leave the others waiting for the end of the swaps.
        for swap in 0..size().swaps {
            if flood.is_finished() || stream.is_finished() {
                break;
            }
            daemon.apply(if swap % 2 == 0 { &b } else { &a }).unwrap();
        }
        swapping.store(false, Ordering::Relaxed);
        let seen = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (seen, stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    Toll {
        fault: "a swap of policies under traffic",
        times: size().swaps as u64,
        lost: seen.lost,
        wrong: seen.wrong,
        note: format!(
            "{} packets that both policies allow, as many others; {} batches saw a swap, {} only one policy, {} took too long \
             to say; {exchanges} exchanges on connections that were there before",
            seen.sent_to_both,
            seen.straddling,
            seen.only_a + seen.only_b,
            seen.slow
        ),
    }
    .settle();
    assert!(seen.sent_to_both >= size().flows && exchanges > 0, "{seen:?}");
    assert!(seen.only_a > 0 && seen.only_b > 0, "both policies were in force: {seen:?}");
    assert!(daemon.generation().unwrap() > size().swaps as u64);
    let reasons = status_of(&daemon, "tap0")["inbound"]["reasons"].clone();
    let dropped =
        reasons.as_array().unwrap().iter().filter(|reason| reason["reason"] == "table_full").count();
    assert_eq!(dropped, 0, "{reasons:#}");
}
