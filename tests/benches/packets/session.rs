//! A filter that is loaded, with two devices, and packets for its programs.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData};
use sg_common::abi::{self, Interface, map, program};
use sg_common::verdict::Reason;
use sg_daemon::enforce::Enforcer;
use sg_daemon::kernel::{TableSizes, TcMode};
use sg_oracle::frame::{ACK, Packet, SYN};
use sg_tests::bpf::{self, Kind};
use sg_tests::{Lab, Netns, PinDirectory};

use super::driver::{Driver, FIRST_PORT, Order, Places};
use super::policy::{self, ASKED, DENIED, GUESTS, REMOTES_V4, REMOTES_V6, SERVED, Size};

/// Which program: by what it is and the device's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    XdpIngress,
    TcIngress,
    TcEgress,
}

impl Hook {
    pub const ALL: [Self; 3] = [Self::XdpIngress, Self::TcIngress, Self::TcEgress];

    pub fn name(self) -> &'static str {
        match self {
            Self::XdpIngress => "XDP",
            Self::TcIngress => "TC ingress",
            Self::TcEgress => "TC egress",
        }
    }

    pub fn kind(self) -> Kind {
        if self == Self::XdpIngress { Kind::Xdp } else { Kind::Tc }
    }

    /// Of the two devices.
    fn device(self) -> usize {
        usize::from(self != Self::XdpIngress)
    }

    /// Whether the guest sends what comes by.
    fn is_from_guest(self) -> bool {
        self != Self::TcEgress
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A segment of the side that began.
    Established,
    /// A segment of the other side.
    Reply,
    /// The first segment of a flow that is allowed.
    New,
    /// The first segment of one that is not.
    Denied,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Reply => "reply",
            Self::New => "new",
            Self::Denied => "denied",
        }
    }

    /// What each packet is to be counted under.
    fn reason(self) -> Reason {
        match self {
            Self::Established | Self::Reply => Reason::Established,
            Self::New => Reason::NewFlow,
            Self::Denied => Reason::NoRule,
        }
    }
}

/// Remotes, counted from the first: of very many connections from 0 on, of new flows from here on, and that of a connection which is
/// alone. All of them are members where there are 100,000.
const NEW: u32 = 1 << 14;
const ALONE: u32 = 49_999;
/// New flows until one comes again; by then its place has long been another's.
pub const NEW_FLOWS: u32 = 1 << 23;
/// Flows that are begun before the first of them is answered: fewer than any share of half-open ones.
const AT_ONCE: u32 = 1024;

pub struct Session {
    pub size: Size,
    enforcer: Enforcer,
    devices: [String; 2],
    programs: [OwnedFd; 3],
    new: Order,
    // Last: goes after what is pinned in it.
    _pins: PinDirectory,
}

/// The devices of one session, up and silent.
pub fn plug(netns: &Netns, number: usize) -> Result<[String; 2]> {
    netns.silence()?;
    let devices = policy::HOOKS.map(|hook| format!("{hook}{number}"));
    for device in &devices {
        netns.ip(&format!(
            "link add {device} type veth peer name {device}-p\nlink set {device} up\nlink set {device}-p up"
        ))?;
    }
    Ok(devices)
}

impl Session {
    /// To be called inside of the namespace.
    pub fn open(devices: [String; 2], size: Size, sizes: TableSizes) -> Result<Self> {
        let lab = Lab::new()?;
        let pins = lab.pins()?;
        let mut enforcer = Enforcer::open(pins.path(), TcMode::Auto, sizes)?;
        let file = lab.directory().join("policy.json");
        fs::write(&file, policy::policy(size, &devices).to_string())?;
        let loaded = sg_daemon::policy::load(&[file]).map_err(|error| anyhow!("{error}"))?;
        enforcer.apply(loaded.model)?;
        let pinned = pins.path().join(format!("v{}", abi::ABI_VERSION));
        lift_limits(&pinned.join("maps").join(map::INTERFACES), sizes.live)?;
        let directories: Vec<PathBuf> =
            fs::read_dir(pinned.join("programs"))?.flatten().map(|entry| entry.path()).collect();
        let [directory] = directories.as_slice() else {
            anyhow::bail!("programs of one object, and no other")
        };
        let open = |name| bpf::pinned(&directory.join(name));
        let programs = [open(program::XDP_INGRESS)?, open(program::TC_INGRESS)?, open(program::TC_EGRESS)?];
        let new = Order::shuffled(1, NEW_FLOWS, REMOTES_V4.0 + NEW);
        Ok(Self { size, enforcer, devices, programs, new, _pins: pins })
    }

    pub fn close(mut self) -> Result<()> {
        Ok(self.enforcer.detach_everything()?)
    }

    pub fn ifindex(&self, hook: Hook) -> Result<u32> {
        let name = self.devices[hook.device()].as_str();
        nix::net::if_::if_nametoindex(name).with_context(|| format!("there is no {name}"))
    }

    pub fn program(&self, hook: Hook) -> &OwnedFd {
        &self.programs[hook as usize]
    }

    /// Opens so many connections of the guest on the device of a hook, with every packet of their handshakes.
    pub fn open_flows(&mut self, hook: Hook, v6: bool, flows: u32) -> Result<()> {
        ensure!(hook.is_from_guest(), "connections are counted from the side of the guest");
        let opener = self.opener(hook, v6, true, ASKED);
        let ifindex = self.ifindex(hook)?;
        let steps = [
            (hook, opener.clone(), true),
            (Hook::TcEgress, opener.answer(SYN | ACK), false),
            (hook, opener.then(ACK), true),
        ];
        let drivers = steps
            .iter()
            .map(|(at, _, opener)| Driver::new(at.kind(), places(*at, v6, *opener), self.program(*at)))
            .collect::<Result<Vec<_>>>()?;
        let before = self.live(hook)?;
        for first in (0..flows).step_by(AT_ONCE as usize) {
            let order = Order::counting(first, flows, REMOTES_V4.0);
            for ((_, packet, _), driver) in steps.iter().zip(&drivers) {
                driver.run(ifindex, &packet.frame(), order, AT_ONCE.min(flows))?;
            }
        }
        let live = self.live(hook)? - before;
        ensure!(live == u64::from(flows), "{live} of {flows} connections live ({hook:?}, IPv6: {v6})");
        Ok(())
    }

    fn live(&mut self, hook: Hook) -> Result<u64> {
        let slot = self.slot(hook)?;
        Ok(self.enforcer.kernel().live_flows(slot).0)
    }

    fn slot(&self, hook: Hook) -> Result<sg_daemon::kernel::Slot> {
        let name = &self.devices[hook.device()];
        Ok(self.enforcer.devices().get(name).with_context(|| format!("{name} is not filtered"))?.slot)
    }

    /// Opens the one connection to which the packets of `what` at a hook belong, if they belong to one.
    pub fn open_one(&mut self, hook: Hook, v6: bool, what: What) -> Result<()> {
        let outbound = match what {
            What::Established => hook.is_from_guest(),
            What::Reply => !hook.is_from_guest(),
            What::New | What::Denied => return Ok(()),
        };
        let opener = self.opener(hook, v6, outbound, port(outbound));
        let ingress = if hook.device() == 0 { Hook::XdpIngress } else { Hook::TcIngress };
        let (there, back) = if outbound { (ingress, Hook::TcEgress) } else { (Hook::TcEgress, ingress) };
        let ifindex = self.ifindex(hook)?;
        for (at, packet) in
            [(there, opener.clone()), (back, opener.answer(SYN | ACK)), (there, opener.then(ACK))]
        {
            bpf::run(self.program(at), at.kind(), ifindex, &packet.frame(), 1)?;
        }
        Ok(())
    }

    /// The first packet of a connection of the guest behind a hook's device, or of one with it.
    fn opener(&self, hook: Hook, v6: bool, outbound: bool, port: u16) -> Packet {
        let guest: IpAddr = GUESTS[hook.device()][usize::from(v6)].parse().unwrap();
        let remote = remote(v6, REMOTES_V4.0 + ALONE);
        let (from, to) = if outbound { (guest, remote) } else { (remote, guest) };
        Packet::tcp(SocketAddr::new(from, FIRST_PORT as u16), SocketAddr::new(to, port), SYN)
    }

    pub fn packet(&self, hook: Hook, v6: bool, what: What) -> Packet {
        let outbound = hook.is_from_guest();
        match what {
            What::Established => self.opener(hook, v6, outbound, port(outbound)).then(ACK),
            What::Reply => self.opener(hook, v6, !outbound, port(!outbound)).answer(ACK),
            What::New => self.opener(hook, v6, outbound, port(outbound)),
            What::Denied => self.opener(hook, v6, outbound, DENIED),
        }
    }

    /// Packets that are all the same.
    pub fn same(&mut self, hook: Hook, v6: bool, what: What, repeat: u32) -> Result<u32> {
        let frame = self.packet(hook, v6, what).frame();
        let ifindex = self.ifindex(hook)?;
        let before = self.counted(hook, what)?;
        let run = bpf::run(self.program(hook), hook.kind(), ifindex, &frame, repeat)?;
        self.check(hook, what, before, repeat)?;
        Ok(run.nanoseconds)
    }

    /// A driver for what goes by at a hook, in front of the hook's program or of another one.
    pub fn driver(hook: Hook, v6: bool, what: What, target: &OwnedFd) -> Result<Driver> {
        Driver::new(hook.kind(), places(hook, v6, what != What::Reply), target)
    }

    /// Packets of as many flows, in an order that is not theirs. Of new flows, none comes twice. Of others, each has come by once
    /// before it counts: so a flow is where as many others have left it in the caches, and not where another figure has.
    pub fn mixed(
        &mut self,
        driver: &Driver,
        (hook, v6, what): (Hook, bool, What),
        flows: u32,
        repeat: u32,
    ) -> Result<u32> {
        let frame = self.packet(hook, v6, what).frame();
        let ifindex = self.ifindex(hook)?;
        let order = self.order(what, flows);
        let before = self.counted(hook, what)?;
        if what == What::New {
            let run = driver.run(ifindex, &frame, order, repeat)?;
            self.check(hook, what, before, repeat)?;
            self.new = order.after(repeat);
            return Ok(run.nanoseconds);
        }
        driver.run(ifindex, &frame, order, flows)?;
        let run = driver.run(ifindex, &frame, order, repeat)?;
        self.check(hook, what, before, flows + repeat)?;
        Ok(run.nanoseconds)
    }

    /// The same packets, in front of a program that does nothing.
    pub fn unfiltered(
        &self,
        driver: &Driver,
        (hook, v6, what): (Hook, bool, What),
        flows: u32,
        repeat: u32,
    ) -> Result<u32> {
        let frame = self.packet(hook, v6, what).frame();
        let run = driver.run(self.ifindex(hook)?, &frame, self.order(what, flows), repeat)?;
        Ok(run.nanoseconds)
    }

    fn order(&self, what: What, flows: u32) -> Order {
        if what == What::New { self.new } else { Order::shuffled(1, flows, REMOTES_V4.0) }
    }

    fn counted(&mut self, hook: Hook, what: What) -> Result<u64> {
        let slot = self.slot(hook)?;
        let direction = if hook.is_from_guest() { abi::Direction::Outbound } else { abi::Direction::Inbound };
        let samples = self.enforcer.kernel().counters(slot)?.samples;
        let of_this = samples.iter().filter(|sample| {
            sample.direction == direction && sample.reason == what.reason() && !sample.would_drop
        });
        Ok(of_this.map(|sample| sample.counter.packets).sum())
    }

    /// A figure for packets that were something else would be none.
    fn check(&mut self, hook: Hook, what: What, before: u64, repeat: u32) -> Result<()> {
        let packets = self.counted(hook, what)? - before;
        ensure!(
            packets == u64::from(repeat),
            "{packets} of {repeat} packets at {} were {:?}, as all of them should be",
            hook.name(),
            what.reason()
        );
        Ok(())
    }
}

/// What a connection is about, by who begins it.
fn port(outbound: bool) -> u16 {
    if outbound { ASKED } else { SERVED }
}

/// Where a packet says which of many connections it is of: who the remote is, and the port of the side that began.
fn places(hook: Hook, v6: bool, opener: bool) -> Places {
    // Behind 14 bytes of Ethernet: the last four bytes of the source, those of the destination, the ports.
    let [source, destination, ports] = if v6 { [34, 50, 54] } else { [26, 30, 34] };
    Places {
        address: if hook.is_from_guest() { destination } else { source },
        port: if opener { ports } else { ports + 2 },
    }
}

/// Lets one interface have all the flows that the tables hold, of which there is one for each family.
fn lift_limits(interfaces: &std::path::Path, live: u32) -> Result<()> {
    let interfaces = Map::Array(MapData::from_pin(interfaces)?);
    let mut interfaces: Array<MapData, Interface> = interfaces.try_into()?;
    for index in 0..interfaces.len() {
        let interface = interfaces.get(&index, 0)?;
        if interface.ifindex != 0 {
            interfaces.set(index, Interface { live_limit: 2 * live, ..interface }, 0)?;
        }
    }
    Ok(())
}

fn remote(v6: bool, low: u32) -> IpAddr {
    if !v6 {
        return std::net::Ipv4Addr::from(low).into();
    }
    let [a, b, c, d, e, f] = REMOTES_V6.0;
    Ipv6Addr::new(a, b, c, d, e, f, (low >> 16) as u16, low as u16).into()
}
