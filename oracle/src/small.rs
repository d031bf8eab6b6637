//! Worlds so small that everything that can happen in them within a few steps can be tried: two rules, few addresses, ports,
//! flags and numbers.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::frame::{ACK, FIN, Packet, RST, SYN};
use crate::traffic::Step;

const DEVICE: &str = "sg0";
const GUEST: [&str; 2] = ["10.0.0.5", "fd00::5"];
const FRIEND: [&str; 2] = ["10.0.9.1", "fd00:9::1"];
const STRANGER: [&str; 2] = ["10.0.9.2", "fd00:9::2"];
const ROUTER: [&str; 2] = ["10.0.8.1", "fd00:8::1"];

/// A policy and all that may happen under it.
pub struct Small {
    pub name: &'static str,
    pub files: Vec<Value>,
    pub steps: Vec<Step>,
}

impl Small {
    /// How many sequences of `length` steps there are.
    pub fn count(&self, length: u32) -> u64 {
        (self.steps.len() as u64).pow(length)
    }

    /// One of them.
    pub fn sequence(&self, length: u32, number: u64) -> Vec<Step> {
        let base = self.steps.len() as u64;
        (0..length).map(|place| self.steps[(number / base.pow(place) % base) as usize].clone()).collect()
    }
}

/// All of them.
pub fn all() -> Vec<Small> {
    vec![connections(0), connections(1), datagrams(0), datagrams(1)]
}

/// The friend may connect to port 80 of the guest, and the guest may ask name servers and ping.
fn files() -> Vec<Value> {
    vec![json!({
        "version": 1, "project": "shop", "vpc": "main",
        "security_groups": [{ "name": "small",
            "inbound": [
                { "protocol": "TCP", "source": "10.0.9.1/32", "port": 80 },
                { "protocol": "TCP", "source": "fd00:9::1/128", "port": 80 } ],
            "outbound": [
                { "protocol": "UDP", "destination": "10.0.9.0/24", "port": 53 },
                { "protocol": "UDP", "destination": "fd00:9::/64", "port": 53 } ] }],
        "interfaces": [
            { "name": DEVICE, "mac": "52:54:00:00:00:05", "addresses": GUEST, "security_groups": ["small"] }],
    })]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

fn comes(packet: &Packet) -> Step {
    Step::Frame { device: DEVICE.to_owned(), ingress: false, frame: packet.frame() }
}

fn goes(packet: &Packet) -> Step {
    Step::Frame { device: DEVICE.to_owned(), ingress: true, frame: packet.frame() }
}

/// One TCP connection, with every flag and the numbers around those that it would have, and its neighbours.
fn connections(family: usize) -> Small {
    // Both sides begin near the end of the numbers, so that these wrap.
    const CLIENT: u32 = 0xffff_fffe;
    const SERVER: u32 = 0xffff_ffff;
    let open = Packet::tcp(at(FRIEND[family], 1000), at(GUEST[family], 80), SYN);
    let mut steps = Vec::new();
    for client in [true, false] {
        let (own, other) = if client { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
        let (base, step): (Packet, fn(&Packet) -> Step) =
            if client { (open.clone(), comes) } else { (open.reply(), goes) };
        let mut add = |flags: u8, sequence: u32, acknowledgment: u32| {
            let numbers = (own.wrapping_add(sequence), other.wrapping_add(acknowledgment));
            steps.push(step(&base.then(flags).sequence(numbers.0, numbers.1)));
        };
        add(SYN, 0, 0);
        add(SYN | ACK, 0, 1);
        add(ACK, 1, 1);
        // Of the other's FIN; and of what it has not sent.
        add(ACK, 2, 2);
        add(FIN | ACK, 1, 1);
        add(FIN | ACK, 1, 2);
        add(RST, 1, 0);
        add(RST | ACK, 2, 2);
    }
    let other_port = Packet::tcp(at(FRIEND[family], 1000), at(GUEST[family], 81), SYN);
    let other_host = Packet::tcp(at(STRANGER[family], 1000), at(GUEST[family], 80), SYN);
    steps.extend([
        comes(&other_port),
        comes(&other_host),
        goes(&open),
        Step::Advance(30),
        Step::Advance(120),
    ]);
    Small { name: ["TCP over IPv4", "TCP over IPv6"][family], files: files(), steps }
}

/// Questions, answers, complaints and pieces.
fn datagrams(family: usize) -> Small {
    let ask = Packet::udp(at(GUEST[family], 1000), at(FRIEND[family], 53), &[7; 24]);
    let unasked = Packet::udp(at(FRIEND[family], 53), at(GUEST[family], 1001), b"");
    let ping = Packet::ping(ip(GUEST[family]), ip(FRIEND[family]), 7);
    let pinged = Packet::ping(ip(FRIEND[family]), ip(GUEST[family]), 7);
    let complaint = if family == 0 { (3, 4) } else { (2, 0) };
    let (first, middle, last) = (ask.piece(0, 8, 1), ask.piece(8, 24, 1), ask.piece(16, 32, 1));
    let steps = vec![
        goes(&ask),
        comes(&ask.reply()),
        comes(&unasked),
        goes(&Packet::udp(at(GUEST[family], 1000), at(FRIEND[family], 54), b"")),
        comes(&ask.error(ip(ROUTER[family]), complaint.0, complaint.1)),
        goes(&ask.reply().error(ip(GUEST[family]), complaint.0, complaint.1)),
        goes(&ping),
        comes(&ping.reply()),
        comes(&pinged),
        goes(&pinged.reply()),
        goes(&first),
        goes(&middle),
        goes(&last),
        comes(&ask.reply().piece(0, 8, 1)),
        comes(&ask.reply().piece(8, 32, 1)),
        Step::Advance(30),
        Step::Advance(150),
    ];
    Small { name: ["datagrams over IPv4", "datagrams over IPv6"][family], files: files(), steps }
}
