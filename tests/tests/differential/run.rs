//! Both wires side by side: the same policy, the same packets, and what came of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sg_common::abi::Direction;
use sg_common::verdict::{Action, Reason};
use sg_tests::Lab;

use crate::bench::{Bench, Ingress};
use crate::classes::{Came, Difference, Seen};
use crate::frame::Packet;
use crate::nft::ruleset;
use crate::policy::Policy;
use crate::steps::{Conn, Step};
use crate::traffic::{Sent, Traffic};
use crate::wire::{Conntrack, INSIDE, Wire};

pub struct Wires {
    sgd: Wire,
    bench: Bench,
    nft: Wire,
    conntrack: Conntrack,
    /// Of the case at hand.
    zone: u16,
    /// The last identification of a datagram in pieces; unfinished ones outlive their case.
    datagrams: u16,
    counts: BTreeMap<(Direction, Reason), u64>,
}

/// A policy and what is said under it.
#[derive(Debug, Clone)]
pub struct Case {
    pub policy: Policy,
    pub conns: Vec<Conn>,
    pub steps: Vec<Step>,
}

impl Wires {
    pub fn run<T: Send>(hook: Ingress, work: impl FnOnce(&mut Self) -> T + Send) -> T {
        let lab = Lab::new().unwrap();
        let sgd = Wire::new(&lab, "sgd", false);
        let nft = Wire::new(&lab, "nft", true);
        let conntrack = Conntrack::of(&nft.filter);
        let filter = sgd.filter.clone();
        let work = || {
            stay_on_this_cpu();
            let bench = Bench::open(hook, lab.name(), lab.directory(), &[INSIDE]);
            let mut wires =
                Self { sgd, bench, nft, conntrack, zone: 0, datagrams: 0, counts: BTreeMap::new() };
            let result = work(&mut wires);
            wires.bench.enforcer().detach_everything().unwrap();
            result
        };
        filter.run(work).unwrap()
    }

    /// Runs a case from a clean start. Returns the differences, each with the step that showed it.
    ///
    /// # Errors
    ///
    /// All about the first difference that is of no known kind.
    pub fn case(&mut self, case: &Case) -> Result<Vec<(usize, Difference)>, String> {
        self.begin(&case.policy);
        let mut traffic = Traffic::new(&case.conns, self.datagrams);
        let mut differences = Vec::new();
        let mut told = String::new();
        for (index, step) in case.steps.iter().enumerate() {
            for single in Traffic::singly(*step) {
                let seen = self.send(traffic.sent(single));
                writeln!(told, "{index:>3} {}", line(&seen)).unwrap();
                if !seen.is_difference() {
                    if seen.sgd == Came::All {
                        traffic.delivered(single);
                    }
                    continue;
                }
                let Some(difference) = Difference::of(&seen) else {
                    return Err(self.explain(case, &seen, &told));
                };
                differences.push((index, difference));
                traffic.renew(single);
            }
        }
        self.datagrams = traffic.datagrams();
        Ok(differences)
    }

    fn begin(&mut self, policy: &Policy) {
        self.zone += 1;
        self.nft.nft(&ruleset(policy, self.zone));
        let hook = self.bench.ingress().name();
        self.bench.apply(&[policy.file(hook)]);
        self.bench.forget();
        self.counts = self.counted();
    }

    fn send(&mut self, sent: Sent) -> Seen {
        let invalid_before = self.conntrack.invalid();
        let port = sent.segment_port;
        let before = port.and_then(|port| self.conntrack.tcp_state(self.zone, port));
        let mut reasons = Vec::new();
        let (mut through_sgd, mut through_nft) = (Vec::new(), Vec::new());
        for packet in &sent.packets {
            // Not padded: netfilter would cut the padding off.
            let frame = packet.bare();
            through_nft.extend(self.nft.send(sent.from, &frame));
            let came = self.sgd.send(sent.from, &frame);
            let reason = self.reason();
            assert_eq!(reason.action() == Action::Allow, !came.is_empty(), "{reason:?}: {packet:?}");
            reasons.push(reason);
            through_sgd.extend(came);
        }
        let (sgd, nft) = (came(&sent, &through_sgd), came(&sent, &through_nft));
        let invalid = self.conntrack.invalid() > invalid_before;
        let after = port.and_then(|port| self.conntrack.tcp_state(self.zone, port));
        Seen { sent, sgd, reasons, nft, invalid, states: [before, after] }
    }

    /// Under which reason sgd has counted the last packet.
    fn reason(&mut self) -> Reason {
        let counts = self.counted();
        let before = |key| self.counts.get(key).copied().unwrap_or(0);
        let moved: Vec<_> = counts.iter().filter(|(key, count)| before(*key) != **count).collect();
        assert_eq!(moved.len(), 1, "one packet, one counter: {moved:?}");
        let reason = moved[0].0.1;
        self.counts = counts;
        reason
    }

    /// All but the markers.
    fn counted(&mut self) -> BTreeMap<(Direction, Reason), u64> {
        let slot = self.bench.enforcer().devices()[INSIDE].slot;
        let counters = self.bench.enforcer().kernel().counters(slot).unwrap();
        let samples = counters.samples.iter().filter(|sample| !sample.would_drop);
        samples
            .filter(|sample| sample.reason != Reason::Arp)
            .map(|sample| ((sample.direction, sample.reason), sample.counter.packets))
            .collect()
    }

    fn explain(&mut self, case: &Case, seen: &Seen, told: &str) -> String {
        let frames: Vec<String> = seen.sent.packets.iter().map(hex).collect();
        format!(
            "a difference that docs/nftables.md does not know: {}\n{}\n\npolicy:\n{}\n\n{}\nconnections: {:?}\n\
             what was sent:\n{told}\nconntrack:\n{}\n\nsgd:\n{:#?}",
            line(seen),
            frames.join("\n"),
            case.policy.file("xdp"),
            ruleset(&case.policy, self.zone),
            case.conns,
            self.conntrack.table(self.zone),
            self.bench.flows(),
        )
    }
}

fn hex(packet: &Packet) -> String {
    packet.bare().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn line(seen: &Seen) -> String {
    let Seen { sent, sgd, reasons, nft, invalid, states } = seen;
    format!(
        "{:?} sends {:?}: sgd {sgd:?} {reasons:?}, nft {nft:?}{}, {} → {}",
        sent.from,
        sent.step,
        if *invalid { " (invalid)" } else { "" },
        states[0].as_deref().unwrap_or("none"),
        states[1].as_deref().unwrap_or("none"),
    )
}

/// How much of the bytes behind the IP header has come. A packet comes as it was sent or not at all; a datagram may have
/// been cut anew.
fn came(sent: &Sent, frames: &[Vec<u8>]) -> Came {
    if frames.is_empty() {
        return Came::Nothing;
    }
    if let [packet] = sent.packets.as_slice() {
        assert_eq!(frames, [packet.bare()], "a packet has changed on its way");
        return Came::All;
    }
    let mut covered = vec![false; sent.bytes];
    for frame in frames {
        let (offset, bytes) = piece(frame);
        covered[offset..offset + bytes].fill(true);
    }
    if covered.iter().all(|covered| *covered) { Came::All } else { Came::Part }
}

/// Where a piece belongs, and its length, both in bytes. Frames without options or other extension headers.
fn piece(frame: &[u8]) -> (usize, usize) {
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    match (word(12), frame[20]) {
        (0x0800, _) => ((word(20) & 0x1fff) * 8, word(16) - 20),
        (_, crate::frame::FRAGMENT) => (word(56) & !7, word(18) - 8),
        _ => (0, word(18)),
    }
}

/// Frames that one CPU sends one after another arrive in this order.
fn stay_on_this_cpu() {
    let mut cpus = CpuSet::new();
    // SAFETY: the call has no arguments and reads no memory of ours.
    let cpu = unsafe { libc::sched_getcpu() };
    cpus.set(cpu as usize).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}
