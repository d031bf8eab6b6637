//! The questions to [`crate::rules`], each asked once.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use serde_json::Value;

use crate::rules::{self, Direction, Question, Transport};

/// Transport in a form that can be looked up: kind, and two numbers.
type Short = (u8, u16, u16);

pub struct Rules {
    files: Vec<Value>,
    answers: HashMap<(String, bool, IpAddr, Short), bool>,
    /// Whether any packet of a class passes, by device, remote and class.
    classes: HashMap<(String, IpAddr, u8), bool>,
    /// Every packet that some rule could tell from others has a like among these.
    samples: Vec<Transport>,
}

impl Rules {
    pub fn new(files: &[Value]) -> Self {
        Self {
            files: files.to_vec(),
            answers: HashMap::new(),
            classes: HashMap::new(),
            samples: samples(files),
        }
    }

    pub fn allow(&mut self, device: &str, outbound: bool, remote: IpAddr, transport: Transport) -> bool {
        let key = (device.to_owned(), outbound, remote, short(transport));
        if let Some(answer) = self.answers.get(&key) {
            return *answer;
        }
        let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
        let question = Question { interface: device.to_owned(), direction, remote, transport };
        let answer = rules::allows(&self.files, &question);
        self.answers.insert(key, answer);
        answer
    }

    /// Whether some packet of the protocol's class may pass between the device and the remote, one way or the other.
    pub fn allow_some(&mut self, device: &str, remote: IpAddr, protocol: u8) -> bool {
        let class = class(remote, protocol);
        let key = (device.to_owned(), remote, class);
        if let Some(answer) = self.classes.get(&key) {
            return *answer;
        }
        let of_class = |transport: &Transport| {
            number(*transport, remote).is_some_and(|number| self::class(remote, number) == class)
        };
        let samples: Vec<Transport> = self.samples.iter().copied().filter(of_class).collect();
        let answer = samples
            .into_iter()
            .any(|sample| [true, false].into_iter().any(|way| self.allow(device, way, remote, sample)));
        self.classes.insert(key, answer);
        answer
    }
}

/// IPv4: TCP, UDP, ICMP and all others; IPv6: one, because a later piece does not always tell its protocol.
fn class(remote: IpAddr, protocol: u8) -> u8 {
    match protocol {
        1 | 6 | 17 if remote.is_ipv4() => protocol,
        _ => 0,
    }
}

/// None: no packet of the remote's family is that.
fn number(transport: Transport, remote: IpAddr) -> Option<u8> {
    let icmp = if remote.is_ipv4() { 1 } else { 58 };
    match transport {
        Transport::Tcp { .. } => Some(6),
        Transport::Udp { .. } => Some(17),
        Transport::Icmp { .. } => Some(icmp),
        Transport::Other(number) => (number != icmp).then_some(number),
    }
}

fn short(transport: Transport) -> Short {
    match transport {
        Transport::Tcp { port } => (0, port, 0),
        Transport::Udp { port } => (1, port, 0),
        Transport::Icmp { kind, code } => (2, kind.into(), code.into()),
        Transport::Other(number) => (3, number.into(), 0),
    }
}

/// Ends of port ranges and what lies beside them (one port can be barred: K27), types that are named, numbers that are
/// named, and one of each that is not.
fn samples(files: &[Value]) -> Vec<Transport> {
    let groups = files.iter().filter_map(|file| file["security_groups"].as_array()).flatten();
    let failsafe = files.iter().map(|file| &file["settings"]["failsafe"]);
    let lists = groups.chain(failsafe).flat_map(|group| [&group["inbound"], &group["outbound"]]);
    let mut ports = BTreeSet::from([1, 22, 53, 80, 81]);
    let mut messages = BTreeSet::from([(0, 0)]);
    let mut numbers = BTreeSet::from([1, 4, 47, 50, 51, 58, 132]);
    for rule in lists.filter_map(Value::as_array).flatten() {
        let number = |field: &str| rule[field].as_u64().unwrap_or(0) as u8;
        messages.insert((number("icmp_type"), number("icmp_code")));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        for port in text(&rule["port"]).split('-').filter_map(|port| port.parse::<u16>().ok()) {
            ports.extend([port, port.saturating_add(1)]);
        }
        numbers.extend(text(&rule["protocol"]).parse::<u8>().ok().filter(|number| ![6, 17].contains(number)));
    }
    let mut samples = Vec::new();
    samples.extend(ports.iter().map(|&port| Transport::Tcp { port }));
    samples.extend(ports.iter().map(|&port| Transport::Udp { port }));
    samples.extend(messages.iter().map(|&(kind, code)| Transport::Icmp { kind, code }));
    samples.extend(numbers.iter().map(|&number| Transport::Other(number)));
    samples
}
