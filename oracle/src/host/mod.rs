//! The decisions of `sg-common`, as the kernel runs them, over tables in memory.
//!
//! The tables answer as the kernel's maps would; their content is made from the operator's JSON in the plainest way, with the
//! sentences of [`crate::rules`], not with the compiler.

mod dry;
mod half;
mod rows;
mod tables;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;
use sg_common::abi::{Be32, Flow, FlowKeyV4, FlowKeyV6, FragmentKeyV4, FragmentKeyV6, Hook, Interface};
use sg_common::checksum::check;
use sg_common::family::{V4, V6};
use sg_common::headers::Header;
use sg_common::judge::{Environment as _, Judgement, Scratch, Tables, judge};
use sg_common::packet::Packet;

use self::rows::Rows;
use self::tables::{Flows, Fragments};
use crate::expect::Limits;

/// Ticks in a second of the clock here.
pub const HZ: u64 = 1000;

/// What another CPU may do between two steps that a packet takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// The packet's flow becomes live, just before the packet looks it up.
    BecomesLive,
    /// Likewise, but only after the packet has found it and counted it.
    BecomesLiveAtLast,
    /// The packet's flow is pushed out after the packet has found it.
    IsPushedOut,
    /// The interface's last live flow begins, for which the packet has found room.
    TakesTheLastPlace,
    /// The table fills up.
    FillsTheTable,
}

/// A filter without a kernel.
pub struct Host {
    limits: Limits,
    now: Cell<u64>,
    /// As [`sg_common::abi::Control`] has it. What is not in force is as wrong as can be.
    generation: u64,
    rows: Rows,
    /// The devices' names; a device's index here is its zone, its row, its policy and its ifindex, less one.
    devices: Vec<String>,
    /// Those that are in the policy, by index in `devices`.
    interfaces: BTreeMap<u32, Interface>,
    flows_v4: Flows<FlowKeyV4>,
    flows_v6: Flows<FlowKeyV6>,
    fragments_v4: Fragments<FragmentKeyV4>,
    fragments_v6: Fragments<FragmentKeyV6>,
    shares: RefCell<BTreeMap<u32, tables::Share>>,
    scratch_v4: UnsafeCell<Option<Scratch<V4>>>,
    scratch_v6: UnsafeCell<Option<Scratch<V6>>>,
    /// For one packet.
    meanwhile: Cell<Option<Meanwhile>>,
}

impl Host {
    /// A filter of the policy in `files`. Each interface may have that many flows.
    pub fn new(files: &[Value], limits: Limits) -> Self {
        let mut host = Self {
            limits,
            now: Cell::new(1_000_000),
            generation: 0,
            rows: Rows::default(),
            devices: Vec::new(),
            interfaces: BTreeMap::new(),
            flows_v4: Flows::default(),
            flows_v6: Flows::default(),
            fragments_v4: Fragments::default(),
            fragments_v6: Fragments::default(),
            shares: RefCell::default(),
            scratch_v4: UnsafeCell::new(None),
            scratch_v6: UnsafeCell::new(None),
            meanwhile: Cell::new(None),
        };
        host.set_policy(files);
        host
    }

    /// Changes the policy. Devices keep their flows.
    pub fn set_policy(&mut self, files: &[Value]) {
        self.interfaces.clear();
        self.generation += 1;
        let mut policies = Vec::new();
        for file in files {
            for interface in crate::rules::list(file, "interfaces") {
                if interface["kind"] == "bare_metal" {
                    continue;
                }
                let name = crate::rules::text(&interface["name"]);
                let index = self.devices.iter().position(|device| device == name).unwrap_or_else(|| {
                    self.devices.push(name.to_owned());
                    self.devices.len() - 1
                });
                let number = index as u32 + 1;
                let half = half::of(files, file, interface, number);
                let mut halves = [tables::FREE_ENTRY.halves[0]; 2];
                halves[(self.generation % 2) as usize] = half;
                let Limits { live, half_v4, half_v6, datagrams } = self.limits;
                let [live, half_v4, half_v6, datagrams] =
                    [live, half_v4, half_v6, datagrams].map(|limit| limit as u32);
                let entry = Interface {
                    ifindex: number,
                    zone: number,
                    row: number,
                    live_limit: live,
                    half_limit_v4: half_v4,
                    half_base_v4: half_v4 * index as u32,
                    half_limit_v6: half_v6,
                    half_base_v6: half_v6 * index as u32,
                    datagram_limit: datagrams,
                    datagram_base: datagrams * index as u32,
                    watched: [0; sg_common::abi::KIND_WORDS],
                    halves,
                };
                self.interfaces.insert(number, entry);
                policies.push((number, file.clone(), interface.clone()));
            }
        }
        self.rows = Rows::new(files, policies);
    }

    /// Lets time pass, and nobody collects what is over by then.
    pub fn advance_only(&self, seconds: u32) {
        self.now.set(self.now.get() + u64::from(seconds) * HZ);
    }

    /// Lets time pass, and collects what is over by then.
    pub fn advance(&self, seconds: u32) {
        self.advance_only(seconds);
        for row in
            self.flows_v4.collect(self.now.get()).into_iter().chain(self.flows_v6.collect(self.now.get()))
        {
            self.add_live(row, -1);
        }
        self.fragments_v4.collect(self.now.get());
        self.fragments_v6.collect(self.now.get());
    }

    /// Forgets all flows and pieces, and counts anew.
    pub fn forget(&mut self) {
        self.flows_v4 = Flows::default();
        self.flows_v6 = Flows::default();
        self.fragments_v4 = Fragments::default();
        self.fragments_v6 = Fragments::default();
        self.shares = RefCell::default();
    }

    /// Judges a frame at a hook of a device.
    pub fn judge(&self, device: &str, ingress: bool, frame: &[u8]) -> Judgement {
        self.judged_by(self, device, ingress, &Frame::whole(frame))
    }

    /// A frame of whose VLAN tag only the device knows.
    pub fn judge_tagged(&self, device: &str, ingress: bool, frame: &[u8]) -> Judgement {
        self.judged_by(self, device, ingress, &Frame { tag_taken_out: true, ..Frame::whole(frame) })
    }

    /// A frame of which only the first `bytes` are at hand, and the device has the rest: pages of a super-packet.
    pub fn judge_first(&self, device: &str, ingress: bool, frame: &[u8], bytes: usize) -> Judgement {
        self.judged_by(self, device, ingress, &Frame { at_hand: bytes, ..Frame::whole(frame) })
    }

    /// A frame into which two bytes of checksum are still to be written.
    pub fn judge_pending(&self, device: &str, ingress: bool, frame: &[u8], checksum: u32) -> Judgement {
        let frame = Frame { pending_checksum: Some(checksum), ..Frame::whole(frame) };
        self.judged_by(self, device, ingress, &frame)
    }

    /// What the program behind XDP says of such a frame, if it has something to say.
    pub fn check_pending(&self, device: &str, frame: &[u8], checksum: u32) -> Option<Judgement> {
        let frame = Frame { pending_checksum: Some(checksum), ..Frame::whole(frame) };
        check(&frame, self, self.number(device).unwrap_or(u32::MAX), Hook::Ingress)
    }

    /// What would be said of a frame.
    pub fn explain(&self, device: &str, ingress: bool, frame: &[u8]) -> Judgement {
        self.judged_by(&dry::Dry(self), device, ingress, &Frame::whole(frame))
    }

    fn judged_by<T>(&self, tables: &T, device: &str, ingress: bool, frame: &Frame<'_>) -> Judgement
    where
        T: Tables<V4> + Tables<V6>,
    {
        self.flows_v4.bury();
        self.flows_v6.bury();
        let ifindex = self.number(device).unwrap_or(u32::MAX);
        let hook = if ingress { Hook::Ingress } else { Hook::Egress };
        let judgement = judge(frame, tables, ifindex, hook, |judgement| *judgement);
        self.meanwhile.set(None);
        judgement
    }

    /// The same, but another CPU does something in the middle of it.
    pub fn judge_while(&self, meanwhile: Meanwhile, device: &str, ingress: bool, frame: &[u8]) -> Judgement {
        self.meanwhile.set(Some(meanwhile));
        self.judge(device, ingress, frame)
    }

    /// How many live flows are counted for a device.
    pub fn live_count(&self, device: &str) -> u64 {
        self.number(device).map_or(0, |row| self.add_live(row, 0))
    }

    /// Every device that is in the policy.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.interfaces.keys().map(|zone| self.device(*zone))
    }

    /// The zone of a device here.
    pub fn number(&self, device: &str) -> Option<u32> {
        let index = self.devices.iter().position(|name| name == device)? as u32 + 1;
        self.interfaces.contains_key(&index).then_some(index)
    }

    /// What a zone is of.
    fn interface_of_zone(&self, zone: u32) -> Option<&Interface> {
        self.interfaces.values().find(|interface| interface.zone == zone)
    }

    /// The device with a zone.
    pub fn device(&self, zone: u32) -> &str {
        &self.devices[zone as usize - 1]
    }

    pub fn now(&self) -> u64 {
        self.now.get()
    }

    /// Every entry, whether its time is over or not.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (key, flow) in self.flows_v4.all() {
            let (local, remote) = (v4(key.local), v4(key.remote));
            entries.push(Entry::new(
                key.zone_protocol,
                local,
                remote,
                (key.ports.local, key.ports.remote),
                flow,
            ));
        }
        for (key, flow) in self.flows_v6.all() {
            let (local, remote) = (v6(key.local), v6(key.remote));
            entries.push(Entry::new(
                key.zone_protocol,
                local,
                remote,
                (key.ports.local, key.ports.remote),
                flow,
            ));
        }
        entries.sort_by_key(|entry| (entry.id(), entry.live));
        entries
    }
}

/// An entry of the flow tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub live: bool,
    pub zone: u32,
    pub protocol: u8,
    pub local: IpAddr,
    pub remote: IpAddr,
    /// As in the key.
    pub ports: (u16, u16),
    pub flow: Flow,
}

impl Entry {
    fn new(zone_protocol: u32, local: IpAddr, remote: IpAddr, ports: (u16, u16), flow: Flow) -> Self {
        let live = !flow.is_half_open();
        Self { live, zone: zone_protocol >> 8, protocol: zone_protocol as u8, local, remote, ports, flow }
    }

    /// What tells it from others.
    pub fn id(&self) -> (u32, u8, IpAddr, IpAddr, (u16, u16)) {
        (self.zone, self.protocol, self.local, self.remote, self.ports)
    }
}

/// An address as the maps have it.
pub fn v4_words(address: std::net::Ipv4Addr) -> Be32 {
    Be32::from_host(address.to_bits())
}

/// Likewise.
pub fn v6_words(address: std::net::Ipv6Addr) -> [Be32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| Be32::from_host((bits >> shift) as u32))
}

fn v4(address: Be32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(address.to_host()).into()
}

fn v6(address: [Be32; 4]) -> IpAddr {
    let bits = address.iter().fold(0, |bits, word| (bits << 32) | u128::from(word.to_host()));
    std::net::Ipv6Addr::from_bits(bits).into()
}

struct Frame<'a> {
    bytes: &'a [u8],
    at_hand: usize,
    tag_taken_out: bool,
    pending_checksum: Option<u32>,
}

impl<'a> Frame<'a> {
    const fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes, at_hand: bytes.len(), tag_taken_out: false, pending_checksum: None }
    }
}

impl Packet for Frame<'_> {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        let at_hand = self.bytes.get(..self.at_hand)?;
        let bytes = at_hand.get(offset as usize..)?.get(..size_of::<H>())?;
        // SAFETY: there are as many bytes as the header has, and any bytes are one.
        Some(unsafe { bytes.as_ptr().cast::<H>().read_unaligned() })
    }

    fn has_offloaded_vlan(&self) -> bool {
        self.tag_taken_out
    }

    fn pending_checksum(&self) -> Option<u32> {
        self.pending_checksum
    }
}
