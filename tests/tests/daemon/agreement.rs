//! `sgctl explain` against ten thousand real packets (SPEC section 8): what it says of each before is what becomes of it.
//!
//! Four guests, each with a bridge of its own between its tap and the world: by XDP and by TC, a trunk and one that is held to no
//! address. Every frame carries its number behind the packet's end, where bytes mean nothing, and is looked for at the other end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::Method;
use serde_json::json;
use sg_daemon::api::client::call_within;
use sg_daemon::api::explain::{ExplainAnswer, ExplainQuestion, Verdict};
use sg_daemon::api::types::Direction;
use sg_oracle::frame::{self, ACK, FIN, Packet, RST, SYN};
use sg_tests::{Daemon, End, Lab, Topology};

use crate::explain::Random;
use crate::world::{DEADLINE, policy, status_of, tcp_from, udp_from};

const GUESTS: usize = 4;
/// Behind the end of every frame.
const MAGIC: [u8; 4] = *b"sgd#";

/// The cables of one guest.
struct Wire {
    guest: End,
    world: End,
}

/// Packets by guest, direction and reason.
type Counts = BTreeMap<(usize, &'static str, String), u64>;

struct Site {
    daemon: Daemon,
    wires: Vec<Wire>,
    /// Numbers given to frames.
    sent: u32,
    /// What was to be counted.
    expected: Counts,
    passed: u32,
    // Goes last.
    _topology: Topology,
}

/// A frame on its way to or from a guest.
#[derive(Debug, Clone)]
struct Shot {
    guest: usize,
    direction: Direction,
    frame: Vec<u8>,
    /// How it is asked about, if not as a whole.
    question: Option<ExplainQuestion>,
    what: &'static str,
}

fn mac(guest: usize) -> [u8; 6] {
    [0x52, 0x54, 0, 0, 0, 5 + guest as u8]
}

fn v4(guest: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5 + guest as u8))
}

fn v6(guest: usize) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5 + guest as u16))
}

fn rules() -> String {
    let to = |protocol: &str, destination: &str, port: &str| json!({ "protocol": protocol, "destination": destination, "port": port });
    let interface = |guest: usize, hook: &str, groups: &[&str]| {
        let mac = mac(guest).map(|byte| format!("{byte:02x}")).join(":");
        json!({ "name": format!("tap{guest}"), "mac": mac, "addresses": [v4(guest), v6(guest)], "hook": hook,
                "trunk": guest == 3, "security_groups": groups })
    };
    let mut last = interface(2, "xdp", &["wide"]);
    last["allowed_addresses"] = json!(["10.0.9.9", "fd00::99"]);
    policy(json!({
        "ipv6": true,
        "settings": { "timeouts": { "udp": 3600, "icmp": 3600, "other": 3600, "tcp_syn_sent": 3600, "tcp_syn_recv": 3600,
                                    "tcp_fin_wait": 3600, "tcp_close_wait": 3600 },
                      "guest_baseline": { "ether_types": ["0x88cc"], "dhcp_servers": ["10.0.0.2"] } },
        "security_groups": [
            { "name": "webs",
              "inbound": [ json!({ "protocol": "TCP", "source": "10.20.0.0/17", "port": "80-443" }), tcp_from("2001:db8:a::/49", 22),
                           udp_from("10.20.0.0/16", 53), json!({ "protocol": "ICMP", "source": "10.20.0.0/16", "icmp_type": 8 }),
                           json!({ "protocol": "ICMP", "source": "2001:db8::/33" }), json!({ "protocol": 47, "source": "10.20.0.0/17" }),
                           tcp_from("@apps", 8080) ],
              "outbound": [ to("TCP", "10.20.0.0/17", "1000-40000"), to("ALL", "2001:db8:a::/49", "ALL"), to("UDP", "0.0.0.0/0", "53"),
                            to("ALL", "@apps", "ALL"), json!({ "protocol": "ICMP", "destination": "10.20.0.0/16" }) ] },
            { "name": "apps", "inbound": [
                  tcp_from("@webs", 80), json!({ "protocol": "ALL", "source": "10.20.128.0/17", "port": "ALL" }),
                  json!({ "protocol": "UDP", "source": "2001:db8:a:8000::/49", "port": "ALL" }), tcp_from("169.254.0.0/16", 22) ] },
            { "name": "wide", "inbound": [ json!({ "protocol": "ALL", "source": "0.0.0.0/0", "port": "ALL" }),
                                           json!({ "protocol": "ALL", "source": "::/0", "port": "ALL" }) ] },
        ],
        "interfaces": [interface(0, "xdp", &["webs"]), interface(1, "tc", &["apps"]), last, interface(3, "tc", &["webs", "apps"])],
        "peers": [{ "address": "10.20.7.7", "security_groups": ["apps"] }, { "address": "2001:db8:a::77", "security_groups": ["webs"] }],
    }))
}

impl Site {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let [host, ends] = ["host", "ends"].map(|role| lab.netns(role).unwrap());
        for netns in [&host, &ends] {
            netns.silence().unwrap();
        }
        host.bridge_without_netfilter().unwrap();
        for guest in 0..GUESTS {
            host.ip(&format!(
                "link add br{guest} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br{guest} up"
            ))
            .unwrap();
            for port in ["tap", "up"] {
                let device = format!("{port}{guest}");
                // Nothing is learnt: what comes in at one of two ports goes out at the other.
                host.ip(&format!(
                    "link add {device} type veth peer name {device} netns {}\nlink set {device} master br{guest} up\n\
                     link set {device} type bridge_slave learning off",
                    ends.name()
                ))
                .unwrap();
                ends.ip(&format!("link set {device} up")).unwrap();
            }
        }
        let end = |device: String| ends.end(&device, DEADLINE).unwrap();
        let wires = (0..GUESTS)
            .map(|guest| Wire { guest: end(format!("tap{guest}")), world: end(format!("up{guest}")) })
            .collect();
        let topology = Topology { host, outside: ends, guests: Vec::new(), lab };
        let daemon = Daemon::start(&topology, &rules()).unwrap();
        Self { daemon, wires, sent: 0, expected: BTreeMap::new(), passed: 0, _topology: topology }
    }

    /// Asks about all, then sends all. Says which came out at the other end.
    #[track_caller]
    fn fire(&mut self, shots: &[Shot]) -> Vec<bool> {
        let mut shots = shots.to_vec();
        // A frame that always passes, on each wire and way, comes behind all others.
        for guest in 0..GUESTS {
            for direction in [Direction::Inbound, Direction::Outbound] {
                let IpAddr::V4(own) = v4(guest) else { unreachable!() };
                let frame = frame::from_mac(frame::arp(own, own), mac(guest));
                let mut arp = frame;
                arp[22..28].copy_from_slice(&mac(guest));
                shots.push(Shot { guest, direction, frame: arp, question: None, what: "marker" });
            }
        }
        let first = self.sent;
        for shot in &mut shots {
            shot.frame.extend(MAGIC);
            shot.frame.extend(self.sent.to_be_bytes());
            self.sent += 1;
        }
        let questions: Vec<ExplainQuestion> = shots.iter().map(asked).collect();
        let answers: Vec<ExplainAnswer> =
            call_within(DEADLINE * 6, &self.daemon.socket(), Method::POST, "/v1/explain", Some(&questions))
                .unwrap_or_else(|error| panic!("{error}: {}", self.daemon.log_tail()));
        assert_eq!(answers.len(), shots.len());
        for shot in &shots {
            let Wire { guest, world } = &self.wires[shot.guest];
            let from = if shot.direction == Direction::Outbound { guest } else { world };
            from.send(&shot.frame).unwrap();
        }
        let mut came = BTreeSet::new();
        for (index, shot) in shots.iter().enumerate().filter(|(_, shot)| shot.what == "marker") {
            let Wire { guest, world } = &self.wires[shot.guest];
            let to = if shot.direction == Direction::Outbound { world } else { guest };
            loop {
                let number = number(&to.receive().expect("the marker comes"));
                came.insert(number);
                if number == first + index as u32 {
                    break;
                }
            }
        }
        let mut passed = Vec::new();
        for ((index, shot), answer) in shots.iter().enumerate().zip(&answers) {
            let arrived = came.contains(&(first + index as u32));
            let said = answer.verdict == Verdict::Allow;
            assert!(!answer.notes.iter().any(|note| note.contains("disagree")), "{answer:#?}");
            assert_eq!(
                said, arrived,
                "explain, then the packet ({}): {answer:#?}\n{:?} tap{} {:02x?}",
                shot.what, shot.direction, shot.guest, shot.frame
            );
            let direction = if shot.direction == Direction::Inbound { "inbound" } else { "outbound" };
            *self.expected.entry((shot.guest, direction, answer.reason.clone())).or_default() += 1;
            if shot.what != "marker" {
                passed.push(arrived);
                self.passed += u32::from(arrived);
            }
        }
        passed
    }

    /// The filter has counted every packet under the reason that was told (SPEC D24).
    fn count(&self) {
        let mut counted = Counts::new();
        for guest in 0..GUESTS {
            let status = status_of(&self.daemon, &format!("tap{guest}"));
            for direction in ["inbound", "outbound"] {
                for reason in status[direction]["reasons"].as_array().unwrap() {
                    let name = reason["reason"].as_str().unwrap().to_owned();
                    counted.insert((guest, direction, name), reason["packets"].as_u64().unwrap());
                }
            }
        }
        let differs = |from: &Counts, other: &Counts| {
            let differs = from.iter().filter(|(key, count)| other.get(*key) != Some(count));
            differs.map(|(key, count)| format!("{key:?}: {count}")).collect::<Vec<_>>()
        };
        let (here, there) = (differs(&counted, &self.expected), differs(&self.expected, &counted));
        assert!(here.is_empty() && there.is_empty(), "counted: {here:#?}, and told before: {there:#?}");
    }
}

fn number(frame: &[u8]) -> u32 {
    let (rest, number) = frame.split_at(frame.len() - 4);
    assert!(rest.ends_with(&MAGIC), "a frame that nobody has sent: {frame:02x?}");
    u32::from_be_bytes(number.try_into().unwrap())
}

fn asked(shot: &Shot) -> ExplainQuestion {
    let Some(question) = shot.question.clone() else {
        return ExplainQuestion {
            interface: format!("tap{}", shot.guest),
            direction: shot.direction,
            frame: Some(shot.frame.iter().map(|byte| format!("{byte:02x}")).collect()),
            ..ExplainQuestion::default()
        };
    };
    question
}

/// Random packets whose keys are their own, so that none meets what another has left.
struct Dice {
    random: Random,
    keys: BTreeSet<(usize, u8, IpAddr, IpAddr, u16, u16)>,
    datagrams: u16,
}

const FLAGS: [u8; 12] = [SYN, SYN, SYN, SYN, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN, 0x29];
const PORTS: [u16; 14] = [22, 53, 67, 68, 80, 443, 444, 999, 1000, 8080, 40_000, 40_001, 546, 547];

impl Dice {
    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        self.random.one_of(values)
    }

    fn number(&mut self) -> u64 {
        self.random.number()
    }

    fn remote(&mut self, guest: usize) -> IpAddr {
        let low = self.number() as u16;
        match self.number() % 16 {
            0 => "10.20.7.7".parse().unwrap(),
            1 => "2001:db8:a::77".parse().unwrap(),
            2 => "169.254.169.254".parse().unwrap(),
            3 => v4((guest + 1) % GUESTS),
            4 => v6((guest + 1) % GUESTS),
            5..=6 => IpAddr::V4(Ipv4Addr::new(198, 51, (low >> 8) as u8, low as u8)),
            7..=9 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, low, 0, 0, 0, low)),
            10 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x8000, 0, 0, 0, 0, low)),
            _ => IpAddr::V4(Ipv4Addr::new(10, 20, (low >> 8) as u8, low as u8)),
        }
    }

    /// A plain packet of a flow that no other is of.
    fn plain(&mut self) -> (usize, Direction, Packet) {
        loop {
            let guest = (self.number() % GUESTS as u64) as usize;
            let direction = self.pick(&[Direction::Inbound, Direction::Outbound]);
            let remote = self.remote(guest);
            let local = if remote.is_ipv4() { v4(guest) } else { v6(guest) };
            let (from, to) = if direction == Direction::Inbound { (remote, local) } else { (local, remote) };
            let source = 1024 + (self.number() % 60_000) as u16;
            let port = if self.number().is_multiple_of(4) { self.number() as u16 } else { self.pick(&PORTS) };
            let (one, other) = (SocketAddr::new(from, source), SocketAddr::new(to, port));
            let packet = match self.number() % 10 {
                0..=4 => {
                    let flags = self.pick(&FLAGS);
                    Packet::tcp(one, other, flags)
                }
                5..=6 => Packet::udp(one, other, b"four"),
                7 if remote.is_ipv4() => {
                    let kind = self.pick(&[8, 8, 8, 0, 3, 4, 5, 9, 11, 12, 13, 14, 17, 200]);
                    Packet::icmp(from, to, kind, self.pick(&[0, 0, 1, 3]), source)
                }
                7 => {
                    let kind = self
                        .pick(&[128, 128, 128, 129, 1, 2, 3, 4, 130, 133, 134, 135, 136, 137, 139, 143, 200]);
                    let hops = self.pick(&[64, 255, 1]);
                    Packet::icmp(from, to, kind, 0, source).hop_limit(hops)
                }
                _ => {
                    let number = self.pick(&[47, 50, 132, 2, 4, 41, 89, 112, 254, 255, 58, 1, 136]);
                    let own = if remote.is_ipv4() { 1 } else { 58 };
                    let extension = remote.is_ipv6() && number == 254;
                    let number = if number == own || extension { 47 } else { number };
                    Packet::new(from, to, number, vec![7; 12])
                }
            };
            // What the two sides call a flow, whoever begins it; ICMP has its identifier at both ends.
            let (own, there) = match packet.protocol {
                6 | 17 if direction == Direction::Inbound => (port, source),
                6 | 17 => (source, port),
                1 if remote.is_ipv4() => (source, source),
                58 if remote.is_ipv6() => (source, source),
                _ => (0, 0),
            };
            if self.keys.insert((guest, packet.protocol, local, remote, own, there)) {
                return (guest, direction, packet);
            }
        }
    }

    fn shot(&mut self) -> Shot {
        let (guest, direction, packet) = self.plain();
        let shot = |frame: Vec<u8>, what: &'static str| Shot {
            guest,
            direction,
            frame: if direction == Direction::Outbound { frame::from_mac(frame, mac(guest)) } else { frame },
            question: None,
            what,
        };
        match self.number() % 24 {
            // As an operator asks: by the tuple.
            0..=9 => {
                let mut shot = shot(packet.frame(), "tuple");
                shot.question = tuple(guest, direction, &packet);
                shot
            }
            10 => shot(frame::tagged(&packet.frame(), 0x8100, 7), "tag"),
            11 => shot(frame::tagged(&packet.frame(), 0x88a8, 7), "provider tag"),
            12 => {
                let kind = self.pick(&[0x88cc, 0x8035, 0x1234, 0x0806, 0x8847]);
                shot(frame::ethernet(kind, &[0; 50]), "EtherType")
            }
            13 => {
                let mut frame = packet.frame();
                let at = 14 + (self.number() % 24) as usize;
                frame[at] ^= 1 << (self.number() % 8);
                // Another address, port, protocol or piece may be another packet's.
                let harmless: &[usize] = if packet.source.is_ipv4() { &[22, 24, 25] } else { &[21] };
                if at >= 20 && !harmless.contains(&at) {
                    frame[14] ^= 0x10;
                }
                shot(frame, "bent header")
            }
            14 => {
                let mut bare = packet.bare();
                let length = 14 + (self.number() as usize % (bare.len() - 14));
                bare.truncate(length);
                shot(bare, "cut")
            }
            15 if direction == Direction::Outbound => {
                let mut spoofed = packet.clone();
                // The third guest's, of which it sends nothing else: but only what has ports is a flow of its own there.
                let own = matches!(packet.protocol, 6 | 17);
                spoofed.source = match (packet.source.is_ipv4(), own) {
                    (true, true) => "10.0.9.9",
                    (true, false) => "10.0.9.8",
                    (false, true) => "fd00::99",
                    (false, false) => "fd00::98",
                }
                .parse()
                .unwrap();
                shot(spoofed.frame(), "source address")
            }
            16 if direction == Direction::Outbound => {
                let mut shot = shot(packet.frame(), "source MAC");
                shot.frame[11] ^= 0x40;
                shot
            }
            17 if packet.source.is_ipv4() => {
                let options: &[u8] =
                    self.pick(&[&[1, 1, 1, 0], &[131, 4, 4, 0], &[148, 4, 0, 0], &[7, 0, 0, 0]]);
                shot(packet.options(options).frame(), "options")
            }
            17 | 18 if packet.source.is_ipv6() => {
                let number = self.pick(&[0, 60, 43, 51, 135]);
                let depth = self.pick(&[1, 1, 2, 6, 7]);
                let mut packet = packet;
                for _ in 0..depth {
                    packet = packet.extension(number, &[0; 6]);
                }
                shot(packet.frame(), "extension headers")
            }
            _ => shot(packet.frame(), "frame"),
        }
    }

    /// The first piece of a datagram and the last.
    fn pieces(&mut self) -> [Shot; 2] {
        let (guest, direction, packet) = self.plain();
        self.datagrams += 1;
        let whole = match packet.protocol {
            6 | 17 => packet.data(&[3; 40]),
            _ => {
                let mut packet = packet;
                packet.payload.extend([3; 44]);
                packet
            }
        };
        let middle = self.pick(&[8, 16, 24, 32]);
        let end = whole.payload.len();
        let overlap = self.pick(&[0, 0, 0, 8]);
        [whole.piece(0, middle, self.datagrams), whole.piece(middle - overlap, end, self.datagrams)].map(
            |piece| {
                let frame = piece.frame();
                let frame =
                    if direction == Direction::Outbound { frame::from_mac(frame, mac(guest)) } else { frame };
                Shot { guest, direction, frame, question: None, what: "piece" }
            },
        )
    }
}

/// The same packet by its fields; `None` for those that only a frame tells.
fn tuple(guest: usize, direction: Direction, packet: &Packet) -> Option<ExplainQuestion> {
    let ipv6 = packet.source.is_ipv6();
    let own_icmp = if ipv6 { 58 } else { 1 };
    let word = |at: usize| u16::from_be_bytes([packet.payload[at], packet.payload[at + 1]]);
    let (local, remote) = match direction {
        Direction::Inbound => (packet.destination, packet.source),
        Direction::Outbound => (packet.source, packet.destination),
    };
    let mut question = ExplainQuestion {
        interface: format!("tap{guest}"),
        direction,
        protocol: Some(packet.protocol.to_string()),
        remote: Some(remote),
        local: Some(local),
        ..ExplainQuestion::default()
    };
    match packet.protocol {
        6 => {
            (question.source_port, question.port) = (Some(word(0)), Some(word(2)));
            question.tcp_flags = Some(sg_daemon::protocols::tcp_flag_words(packet.payload[13]));
        }
        17 => (question.source_port, question.port) = (Some(word(0)), Some(word(2))),
        number if number == own_icmp => {
            if packet.hop_limit != 64 {
                return None;
            }
            (question.icmp_type, question.icmp_code) = (Some(packet.payload[0]), Some(packet.payload[1]));
            question.source_port = Some(word(4));
        }
        _ => {}
    }
    Some(question)
}

#[test]
fn spec_8_explain_agrees_with_ten_thousand_packets() {
    let mut site = Site::new();
    let mut dice = Dice { random: Random(0x9e37_79b9_7f4a_7c15), keys: BTreeSet::new(), datagrams: 0 };
    let mut begun: Vec<Shot> = Vec::new();
    // What begins something, or does not.
    for _ in 0..7 {
        let shots: Vec<Shot> = (0..1000).map(|_| dice.shot()).collect();
        let passed = site.fire(&shots);
        begun.extend(
            shots
                .into_iter()
                .zip(passed)
                .filter(|(shot, passed)| *passed && shot.what != "tag")
                .map(|(shot, _)| shot),
        );
    }
    let mut asides = Vec::new();
    for guest in 0..GUESTS {
        let discover = Packet::udp("0.0.0.0:68".parse().unwrap(), "255.255.255.255:67".parse().unwrap(), b"");
        let offer = Packet::udp("10.0.0.2:67".parse().unwrap(), SocketAddr::new(v4(guest), 68), b"");
        let served = Packet::udp(SocketAddr::new(v4(guest), 67), "10.0.0.1:68".parse().unwrap(), b"");
        for (direction, packet) in
            [(Direction::Outbound, discover), (Direction::Inbound, offer), (Direction::Outbound, served)]
        {
            let frame = packet.frame();
            let frame =
                if direction == Direction::Outbound { frame::from_mac(frame, mac(guest)) } else { frame };
            asides.push(Shot { guest, direction, frame, question: None, what: "DHCP" });
        }
    }
    site.fire(&asides);
    // Answers to what has passed, and errors about it: each flow is met once.
    let answers: Vec<Shot> = begun.iter().filter_map(|shot| answer(shot, &mut dice)).take(2000).collect();
    for shots in answers.chunks(1000) {
        site.fire(shots);
    }
    // First pieces, then last ones; and some that come before their first.
    for _ in 0..2 {
        let datagrams: Vec<[Shot; 2]> = (0..400).map(|_| dice.pieces()).collect();
        let (late, early) = datagrams.split_at(300);
        let early: Vec<Shot> = early.iter().map(|[_, last]| last.clone()).collect();
        site.fire(&late.iter().map(|[first, _]| first.clone()).collect::<Vec<_>>());
        site.fire(&[late.iter().map(|[_, last]| last.clone()).collect::<Vec<_>>(), early].concat());
    }
    site.count();
    let reasons: BTreeMap<&str, u64> =
        site.expected.iter().fold(BTreeMap::new(), |mut sums, ((_, _, name), count)| {
            *sums.entry(name.as_str()).or_default() += count;
            sums
        });
    println!("{} packets, {} of them passed; {reasons:#?}", site.sent, site.passed);
    assert!(site.sent >= 10_000, "{} packets", site.sent);
    assert!((2000..8000).contains(&site.passed), "{} passed: too one-sided to mean much", site.passed);
    for reason in [
        "established",
        "new_flow",
        "rule_only",
        "arp",
        "dhcp",
        "related",
        "fragment",
        "early_fragment",
        "ether_type_listed",
        "no_rule",
        "malformed",
        "ether_type",
        "vlan",
        "tiny_fragment",
        "extension_headers",
        "tcp_flags",
        "tcp_state",
        "fragment_overlap",
        "fragment_of_dropped",
        "fragment_limit",
        "redirect",
        "source_mac",
        "source_address",
        "source_route",
        "neighbor_spoof",
        "neighbor_discovery",
        "dhcp_server",
        "router_advertisement",
        "tcp_window",
    ] {
        assert!(reasons.contains_key(reason), "no packet was counted as {reason}: {reasons:#?}");
    }
}

/// What comes back to a packet that has passed: an answer, a wrong one, or an error about it.
fn answer(shot: &Shot, dice: &mut Dice) -> Option<Shot> {
    let (_, packet) = read(&shot.frame)?;
    let direction = match shot.direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    };
    let ipv6 = packet.source.is_ipv6();
    let router: IpAddr = if ipv6 { "2001:db8:feed::1" } else { "192.0.2.1" }.parse().unwrap();
    let error = |kind: u8, code: u8, from: IpAddr| packet.error(from, kind, code);
    let from = if direction == Direction::Inbound { router } else { packet.destination };
    let (frame, what) = match (packet.protocol, dice.number() % 5) {
        (_, 0) => (error(if ipv6 { 1 } else { 3 }, 1, from).frame(), "error"),
        (6, 1) => (packet.answer(SYN).frame(), "SYN back"),
        (6, 2) => (packet.answer(RST).frame(), "reset back"),
        (6, _) => (packet.answer(SYN | ACK).frame(), "SYN+ACK"),
        (1, _) if packet.payload[0] == 8 && !ipv6 => (packet.reply().frame(), "echo reply"),
        (58, _) if packet.payload[0] == 128 && ipv6 => (packet.reply().frame(), "echo reply"),
        (1 | 58, _) => return None,
        _ => (packet.reply().frame(), "reply"),
    };
    let frame =
        if direction == Direction::Outbound { frame::from_mac(frame, mac(shot.guest)) } else { frame };
    Some(Shot { guest: shot.guest, direction, frame, question: None, what })
}

/// A plain packet from its frame, without what was put behind it.
fn read(frame: &[u8]) -> Option<(u16, Packet)> {
    let kind = u16::from_be_bytes([frame[12], frame[13]]);
    let ip = &frame[14..];
    let word = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    let packet = match kind {
        0x0800 if ip.len() >= 20 && ip[0] == 0x45 && word(6) == 0 => {
            let [source, destination] = [12, 16]
                .map(|at| <[u8; 4]>::try_from(&ip[at..at + 4]).unwrap())
                .map(|octets| IpAddr::V4(octets.into()));
            Packet::new(source, destination, ip[9], ip.get(20..word(2))?.to_vec())
        }
        0x86dd if ip.len() >= 40 && [6, 17, 58, 47, 50].contains(&ip[6]) => {
            let [source, destination] = [8, 24]
                .map(|at| <[u8; 16]>::try_from(&ip[at..at + 16]).unwrap())
                .map(|octets| IpAddr::V6(octets.into()));
            Packet::new(source, destination, ip[6], ip.get(40..40 + word(4))?.to_vec())
        }
        _ => return None,
    };
    let enough = match packet.protocol {
        6 => 20,
        17 | 1 | 58 => 8,
        _ => 0,
    };
    (packet.payload.len() >= enough).then_some((kind, packet))
}
