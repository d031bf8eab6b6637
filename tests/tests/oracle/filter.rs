//! The loaded programs and their maps, looked at from so near that every packet can be followed.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, Map, MapData, PerCpuArray};
use sg_common::abi::{
    Counter, Direction, Flow, FlowKeyV4, FlowKeyV6, FlowPorts, INTERFACE_PROBES, Interface, REASON_SLOTS,
    Share, WOULD_DROP, counter_index, interface_slot, map,
};
use sg_common::verdict::{Action, Reason};
use sg_daemon::kernel::{FlowKey, FlowMemory};
use sg_oracle::expect::Limits;
use sg_oracle::host::{Entry, HZ, Host, v4_words, v6_words};
use sg_oracle::traffic::Step;
use sg_oracle::trial::{Counted, Trial};

use crate::bench::{Bench, Ingress, Way};

/// How much longer a flow may last here than in the trial, whose clock stands still between steps.
const SLACK: f64 = 1.0;

/// Whether the kernel makes a test run of a frame: not if it ends before its IP header does (net/bpf/test_run.c). On the wire
/// there are none such, as frames are padded; the trial has them all the same.
fn is_long_enough(frame: &[u8]) -> bool {
    let network = match frame.get(12..14) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => 1,
    };
    frame.len() >= 14 + network
}

/// The filter beside a trial.
pub struct Filter<'b> {
    bench: &'b mut Bench,
    counters: PerCpuArray<MapData, Counter>,
    interfaces: Array<MapData, Interface>,
    shares: Array<MapData, Share>,
    flows: FlowMemory,
    /// By device: where its entry is, and what it is.
    devices: BTreeMap<String, (u32, Interface)>,
    /// What the counters said last.
    counted: BTreeMap<u32, u64>,
    /// Entries that the trial has or had, by device; whether live.
    touched: BTreeSet<(bool, String, Id)>,
    /// When the case began, in ticks here and there.
    began: (u64, u64),
    /// Ticks in a second.
    hz: u32,
    pub packets: u64,
    /// Those that passed although there was a reason to drop them.
    pub audited: u64,
}

/// Protocol, addresses, ports.
type Id = (u8, std::net::IpAddr, std::net::IpAddr, (u16, u16));

impl<'b> Filter<'b> {
    pub fn new(bench: &'b mut Bench) -> Self {
        let maps = bench.enforcer().kernel().pins().maps();
        let open = |name: &str| MapData::from_pin(maps.join(name)).unwrap();
        Self {
            counters: Map::PerCpuArray(open(map::COUNTERS)).try_into().unwrap(),
            interfaces: Map::Array(open(map::INTERFACES)).try_into().unwrap(),
            shares: Map::Array(open(map::SHARES)).try_into().unwrap(),
            flows: bench.enforcer().kernel().flow_memory().unwrap(),
            devices: BTreeMap::new(),
            counted: BTreeMap::new(),
            touched: BTreeSet::new(),
            began: (0, 0),
            hz: bench.enforcer().kernel().hz(),
            packets: 0,
            audited: 0,
            bench,
        }
    }

    /// Puts a policy in force. Devices that leave it lose their flows.
    pub fn apply(&mut self, files: &[serde_json::Value], limits: Limits) {
        self.bench.apply(files);
        let names: Vec<String> = self.bench.enforcer().devices().keys().cloned().collect();
        self.devices.clear();
        for name in names {
            let ifindex = self.bench.index(&name);
            let probes = (0..INTERFACE_PROBES).map(|probe| interface_slot(ifindex, probe));
            let slot =
                probes.into_iter().find(|slot| self.interfaces.get(slot, 0).unwrap().ifindex == ifindex);
            let slot = slot.expect("a filtered device has an entry");
            let mut entry = self.interfaces.get(&slot, 0).unwrap();
            // The parts of the ring stay where they are.
            entry.live_limit = limits.live as u32;
            entry.half_limit_v4 = limits.half_v4 as u32;
            entry.half_limit_v6 = limits.half_v6 as u32;
            entry.datagram_limit = limits.datagrams as u32;
            self.interfaces.set(slot, entry, 0).unwrap();
            for direction in [Direction::Inbound, Direction::Outbound] {
                for slot in 0..REASON_SLOTS {
                    let index = counter_index(entry.row, direction, slot);
                    let now = self.count(index);
                    self.counted.insert(index, now);
                }
            }
            self.devices.insert(name, (slot, entry));
        }
        let devices = &self.devices;
        self.touched.retain(|(_, device, _)| devices.contains_key(device));
    }

    /// As if no packet had come yet; `ingress` runs from now on.
    pub fn begin(&mut self, ingress: Ingress, host: &Host) {
        for (live, device, id) in std::mem::take(&mut self.touched) {
            self.remove(live, &device, &id);
        }
        for (_, entry) in self.devices.values() {
            let share = Share {
                live: 0,
                half_v4: 0,
                half_v6: 0,
                zone: entry.zone,
                account_limit: 0,
                datagrams_v4: 0,
                datagrams_v6: 0,
                accounts: 0,
                unrecorded: 0,
            };
            self.shares.set(entry.row, share, 0).unwrap();
        }
        self.bench.set_ingress(ingress);
        let kernel = self.bench.enforcer().kernel();
        // Datagrams in pieces are remembered for 60 seconds at most.
        kernel.advance_clock(70);
        self.began = (kernel.now().unwrap(), host.now());
    }

    /// Takes a step beside the trial.
    pub fn step(&mut self, trial: &mut Trial, step: &Step) -> Result<(), String> {
        if matches!(step, Step::Frame { frame, .. } if !is_long_enough(frame)) {
            return Ok(());
        }
        let before = trial.host().entries();
        let counted = trial.step(step)?;
        match (step, counted) {
            (Step::Advance(seconds), _) => {
                self.bench.enforcer().kernel().advance_clock(*seconds);
                self.collect(&before, trial.host())?;
            }
            (Step::Frame { device, ingress, frame }, Some(counted)) => {
                let way = if *ingress { Way::Ingress } else { Way::Egress };
                let index = if self.devices.contains_key(device) { self.bench.index(device) } else { 0 };
                let action = self.bench.raw(index, way, frame);
                self.packets += 1;
                let expected = if counted.audit { Action::Allow } else { counted.reason.action() };
                if action != expected {
                    return Err(format!("{counted:?}, but the program's verdict is {action:?}"));
                }
                self.audited += u64::from(counted.audit);
                self.is_counted(device, counted)?;
            }
            (Step::Frame { .. }, None) => return Err("a packet is counted as nothing".to_owned()),
        }
        self.same_entries(trial.host())
    }

    /// D24, in short: the counter of this reason has moved by one. That no other has, is looked at from time to time.
    fn is_counted(&mut self, device: &str, counted: Counted) -> Result<(), String> {
        let Counted { reason, direction, audit } = counted;
        let row = self.devices.get(device).map_or(0, |(_, entry)| entry.row);
        let apart = if audit { WOULD_DROP } else { 0 };
        let index = counter_index(row, direction, reason as u32 + apart);
        let now = self.count(index);
        let before = self.counted.insert(index, now);
        if row == 0 && before.is_none() {
            return Ok(());
        }
        if now == before.unwrap_or(0) + 1 {
            return Ok(());
        }
        Err(format!("not counted as {counted:?}; {}", self.moved()))
    }

    /// Every counter that is not what it was when it was last looked at.
    pub fn moved(&self) -> String {
        let mut moved = String::new();
        for (device, (_, entry)) in &self.devices {
            for direction in [Direction::Inbound, Direction::Outbound] {
                for slot in 0..REASON_SLOTS {
                    let index = counter_index(entry.row, direction, slot);
                    let (now, before) = (self.count(index), self.counted.get(&index).copied().unwrap_or(0));
                    if now != before {
                        moved += &format!(
                            "{device} {direction:?} {slot} ({:?}): {before} → {now}; ",
                            Reason::from_number(slot)
                        );
                    }
                }
            }
        }
        moved
    }

    fn count(&self, index: u32) -> u64 {
        self.counters.get(&index, 0).unwrap().iter().map(|counter| counter.packets).sum()
    }

    /// The trial has collected what was over; here it must be over too.
    fn collect(&mut self, before: &[Entry], host: &Host) -> Result<(), String> {
        let after = host.entries();
        for gone in before.iter().filter(|entry| !after.contains(entry)) {
            let device = host.device(gone.zone).to_owned();
            if !self.devices.contains_key(&device) {
                continue;
            }
            let now = self.bench.enforcer().kernel().now().unwrap();
            match self.find(gone.live, &device, &id(gone)) {
                Some(flow) if flow.expires <= now => {}
                found => return Err(format!("{gone:?} is over, but in the kernel it is {now}: {found:?}")),
            }
            self.remove(gone.live, &device, &id(gone));
            if gone.live {
                let row = self.devices[&device].1.row;
                let mut share = self.shares.get(&row, 0).unwrap();
                share.live -= 1;
                self.shares.set(row, share, 0).unwrap();
            }
        }
        Ok(())
    }

    /// Every entry that the trial has is here too and says the same; and none is here that the trial has no more.
    fn same_entries(&mut self, host: &Host) -> Result<(), String> {
        let mut there = BTreeMap::new();
        for entry in host.entries() {
            let device = host.device(entry.zone).to_owned();
            if self.devices.contains_key(&device) {
                there.insert((entry.live, device, id(&entry)), entry.flow);
            }
        }
        self.touched.extend(there.keys().cloned());
        for at in &self.touched {
            let (live, device, id) = at;
            match (there.get(at), self.find(*live, device, id)) {
                (None, None) => {}
                (Some(there), Some(here)) => self.same(there, &here).map_err(|what| {
                    format!("{what} of {at:?}:\nin the trial {there:?}\nin the kernel {here:?}")
                })?,
                (there, here) => {
                    return Err(format!("{at:?}:\nin the trial {there:?}\nin the kernel {here:?}"));
                }
            }
        }
        for (device, (_, entry)) in &self.devices {
            let live = there.keys().filter(|(live, of, _)| *live && of == device).count() as u64;
            let share = self.shares.get(&entry.row, 0).unwrap().live;
            if share != live {
                return Err(format!("{device} has {live} live flows, its share says {share}"));
            }
        }
        Ok(())
    }

    fn same(&self, there: &Flow, here: &Flow) -> Result<(), &'static str> {
        if there.state != here.state {
            return Err("the state");
        }
        if there.flags != here.flags {
            return Err("the flags");
        }
        if (there.tcp, there.sequence) != (here.tcp, here.sequence) {
            return Err("the sequence numbers");
        }
        let hz = f64::from(self.hz);
        let (here, there) = (here.expires - self.began.0, there.expires - self.began.1);
        let apart = here as f64 / hz - there as f64 / HZ as f64;
        if (-SLACK..SLACK).contains(&apart) { Ok(()) } else { Err("the time") }
    }

    fn key(&self, device: &str, (protocol, local, remote, ports): &Id) -> FlowKey {
        use std::net::IpAddr::{V4, V6};
        let zone_protocol = self.devices[device].1.zone << 8 | u32::from(*protocol);
        let ports = FlowPorts { local: ports.0, remote: ports.1 };
        match (local, remote) {
            (V4(local), V4(remote)) => FlowKey::V4(FlowKeyV4 {
                zone_protocol,
                local: v4_words(*local),
                remote: v4_words(*remote),
                ports,
            }),
            (V6(local), V6(remote)) => FlowKey::V6(FlowKeyV6 {
                zone_protocol,
                local: v6_words(*local),
                remote: v6_words(*remote),
                ports,
            }),
            _ => panic!("one flow, one family"),
        }
    }

    fn find(&self, live: bool, device: &str, id: &Id) -> Option<Flow> {
        self.flows.get(&self.key(device, id)).filter(|flow| flow.is_half_open() != live)
    }

    fn remove(&self, live: bool, device: &str, id: &Id) {
        // That there is none is what most often is the case.
        if self.find(live, device, id).is_some() {
            self.flows.remove(&self.key(device, id));
        }
    }
}

fn id(entry: &Entry) -> Id {
    (entry.protocol, entry.local, entry.remote, entry.ports)
}
