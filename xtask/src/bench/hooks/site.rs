//! A guest's device of one kind, filtered by one hook:
//!
//! ```text
//!   guest                              host                     outside
//!   eth0, or the end of a tap ─── tap0 ── br0 ── up0 ─────── eth0
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use sg_tests::bpf::Sink;
use sg_tests::{Daemon, Lab, Netns, Topology};

use super::super::filters::{DENIED_PORT, DEVICE, GUEST, TCP_PORT, UDP_PORT};
use super::super::path::{CLIENT, GUEST_MAC, OUTSIDE_MAC, thread_time, topology};
use super::frames::{ACK, Port, SYN, Size, frame};
use super::relay::Relay;

/// Frames after each of which it is looked whether it has arrived.
const LOOKED_AT: u32 = 64;

/// What a guest is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Veth,
    /// Of a hypervisor without vhost; frames are written by the thread that is measured.
    Tap,
    /// On a device that is not filtered itself. Its driver has no native XDP.
    Macvlan,
}

impl Device {
    pub const ALL: [Self; 3] = [Self::Veth, Self::Tap, Self::Macvlan];

    pub const fn text(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Tap => "tap",
            Self::Macvlan => "macvlan",
        }
    }

    pub const fn has_xdp(self) -> bool {
        !matches!(self, Self::Macvlan)
    }
}

/// Where a guest's frames come from.
enum GuestEnd {
    /// From whoever writes them.
    Cable(Port),
    Tap(Port),
    /// From the stack of its namespace, through a tap.
    Relayed {
        _relay: Relay,
    },
}

pub struct Site {
    /// Dropped first.
    daemon: Option<Daemon>,
    end: GuestEnd,
    answers: Port,
    /// Absent where sockets are to receive.
    sink: Option<Sink>,
    pub guest: Netns,
    pub outside: Netns,
    _topology: Topology,
}

impl Site {
    /// `hook`: none without a filter. `frames`: they are counted and dropped outside, and sockets receive nothing.
    pub fn new(device: Device, hook: Option<&str>, frames: bool) -> Result<Self> {
        let lab = Lab::new()?;
        let [host, guest, outside] = ["host", "g0", "outside"].map(|role| lab.netns(role));
        let (host, guest, outside) = (host?, guest?, outside?);
        for netns in [&host, &guest, &outside] {
            netns.silence()?;
        }
        host.bridge_without_netfilter()?;
        host.ip(&format!(
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up\n\
             link add up0 type veth peer name eth0 address {OUTSIDE_MAC} netns {}\nlink set up0 master br0 up",
            outside.name()
        ))?;
        outside.ip(&format!(
            "link set eth0 up\naddress add {CLIENT}/32 dev eth0\nroute add {GUEST}/32 dev eth0 src {CLIENT}\n\
             neigh replace {GUEST} lladdr {GUEST_MAC} dev eth0 nud permanent"
        ))?;
        let plug = |name: &str| -> Result<()> {
            host.ip(&format!(
                "link add {name} type veth peer name eth0 address {GUEST_MAC} netns {}\nlink set {name} up",
                guest.name()
            ))?;
            guest.ip(&format!(
                "link set eth0 up\naddress add {GUEST}/32 dev eth0\nroute add {CLIENT}/32 dev eth0\n\
                 neigh replace {CLIENT} lladdr {OUTSIDE_MAC} dev eth0 nud permanent"
            ))
        };
        let cable = || guest.run(|| Port::packets("eth0"))?.map(GuestEnd::Cable);
        let end = match device {
            Device::Veth => {
                plug(DEVICE)?;
                cable()?
            }
            Device::Tap if frames => GuestEnd::Tap(host.run(|| Port::tap(DEVICE))??),
            Device::Tap => {
                plug("port0")?;
                let ends = || Ok::<_, anyhow::Error>((Port::cable("port0")?, Port::tap(DEVICE)?));
                let (cable, tap) = host.run(ends)??;
                GuestEnd::Relayed { _relay: Relay::new(cable, tap) }
            }
            Device::Macvlan => {
                plug("port0")?;
                host.ip(&format!("link add {DEVICE} link port0 type macvlan mode passthru"))?;
                cable()?
            }
        };
        host.ip(&format!("link set {DEVICE} master br0 up"))?;
        for netns in [&guest, &outside] {
            // What is on its way stays in the CPU's cache: else the neighbours' use of it decides.
            let small = || {
                ["rmem", "wmem"].iter().try_for_each(|name| {
                    fs::write(format!("/proc/sys/net/ipv4/tcp_{name}"), "4096 131072 524288")
                })
            };
            netns.run(small)?.context("tcp_rmem and tcp_wmem")?;
        }
        let answers = outside.run(|| Port::packets("eth0"))??;
        let sink = if frames { Some(outside.run(|| Sink::new(if_nametoindex("eth0")?))??) } else { None };
        let topology = topology(lab, &host, &outside, &guest)?;
        let daemon = hook.map(|hook| filtered(&topology, hook)).transpose()?;
        Ok(Self { daemon, end, answers, sink, guest, outside, _topology: topology })
    }

    fn port(&self) -> Result<&Port> {
        match &self.end {
            GuestEnd::Cable(port) | GuestEnd::Tap(port) => Ok(port),
            GuestEnd::Relayed { .. } => bail!("the guest sends by itself"),
        }
    }

    /// What is allowed passes and nothing else does, all of it before the sender's call returns: else its thread's CPU time would
    /// not be what a packet costs.
    pub fn check(&self) -> Result<()> {
        let sink = self.sink.as_ref().context("a site for frames")?;
        // A port of a bridge forwards only when the kernel has noticed that it has a carrier.
        let deadline = Instant::now() + Duration::from_secs(10);
        let first = Size::Small.of(sink.count()?);
        while Size::Small.of(sink.count()?) == first {
            ensure!(Instant::now() < deadline, "nothing comes through the bridge");
            sleep(Duration::from_millis(20));
            self.connect()?;
        }
        for size in [Size::Small, Size::Full, Size::Super] {
            let frame = to(TCP_PORT, size)?;
            for number in 0..LOOKED_AT {
                let before = size.of(sink.count()?);
                self.port()?.send(&frame)?;
                let came = size.of(sink.count()?) - before;
                ensure!(
                    came == size.counts(),
                    "packet {number} of {}: {came} of {} came through before the call returned",
                    size.text(),
                    size.counts()
                );
            }
            if self.daemon.is_some() {
                let (frame, before) = (to(DENIED_PORT, size)?, size.of(sink.count()?));
                for _ in 0..LOOKED_AT {
                    self.port()?.send(&frame)?;
                }
                let came = size.of(sink.count()?) - before;
                ensure!(came == 0, "{came} of what no rule allows came through ({})", size.text());
            }
        }
        self.check_accounts(sink)
    }

    /// A kernel can be built so that soft interrupts are on nobody's account; the figures would be of half the work. In the best of
    /// many short bursts nobody else had the CPU, and the thread's time is what has passed.
    fn check_accounts(&self, sink: &Sink) -> Result<()> {
        let (frame, before, port) = (to(TCP_PORT, Size::Small)?, Size::Small.of(sink.count()?), self.port()?);
        let mut best = 0.0f64;
        for _ in 0..200 {
            let (began, used) = (Instant::now(), thread_time()?);
            for _ in 0..LOOKED_AT {
                port.send(&frame)?;
            }
            let used = thread_time()? - used;
            best = best.max(used / began.elapsed().as_nanos() as f64);
        }
        ensure!(Size::Small.of(sink.count()?) > before, "nothing comes through");
        ensure!(
            best > 0.9,
            "of the time that sending takes, the thread is charged {best:.2}: on a kernel with IRQ_TIME_ACCOUNTING this bench measures \
             nothing"
        );
        Ok(())
    }

    /// Opens the connection that known packets are of, and has the bridge learn anew who is where.
    pub fn connect(&self) -> Result<()> {
        self.port()?.send(&frame(CLIENT, TCP_PORT, SYN, Size::Small, false)?)?;
        self.answers.send(&frame(CLIENT, TCP_PORT, SYN | ACK, Size::Small, true)?)?;
        self.port()?.send(&to(TCP_PORT, Size::Small)?)?;
        if let GuestEnd::Tap(port) = &self.end {
            port.drain();
        }
        Ok(())
    }

    /// Nanoseconds of the sender's CPU for each packet, of which `count` are sent.
    pub fn packets(&self, size: Size, allowed: bool, count: u32) -> Result<f64> {
        let sink = self.sink.as_ref().context("a site for frames")?;
        let frame = to(if allowed { TCP_PORT } else { DENIED_PORT }, size)?;
        let (port, before) = (self.port()?, size.of(sink.count()?));
        let began = thread_time()?;
        for _ in 0..count {
            port.send(&frame)?;
        }
        let took = thread_time()? - began;
        let (came, sent) = (size.of(sink.count()?) - before, u64::from(count) * size.counts());
        ensure!(came == if allowed { sent } else { 0 }, "{came} of {sent} came through ({})", size.text());
        Ok(took / f64::from(count))
    }

    /// The same for each super-packet with `small` small ones behind it, as a guest's acknowledgments are.
    pub fn mix(&self, small: u32, count: u32) -> Result<f64> {
        let sink = self.sink.as_ref().context("a site for frames")?;
        let (large, little) = (to(TCP_PORT, Size::Super)?, to(TCP_PORT, Size::Small)?);
        let (port, before) = (self.port()?, Size::Super.of(sink.count()?));
        let began = thread_time()?;
        for _ in 0..count {
            port.send(&large)?;
            for _ in 0..small {
                port.send(&little)?;
            }
        }
        let took = thread_time()? - began;
        // Each small one is padded by six bytes, which are counted with the data.
        let each = Size::Super.counts() + u64::from(small) * 6;
        let (came, sent) = (Size::Super.of(sink.count()?) - before, u64::from(count) * each);
        ensure!(came == sent, "{came} of {sent} bytes of the mix came through");
        Ok(took / f64::from(count))
    }
}

fn to(port: u16, size: Size) -> Result<Vec<u8>> {
    frame(CLIENT, port, ACK, size, false)
}

fn filtered(topology: &Topology, hook: &str) -> Result<Daemon> {
    let remote: Ipv4Addr = CLIENT;
    let policy = json!({
        "version": 1, "project": "bench", "vpc": "main",
        "interfaces": [{
            "name": DEVICE, "hook": hook, "mac": GUEST_MAC, "addresses": [GUEST], "security_groups": ["guests"],
        }],
        "security_groups": [{
            "name": "guests",
            "outbound": [
                { "protocol": "TCP", "destination": format!("{remote}/32"), "port": TCP_PORT },
                { "protocol": "UDP", "destination": format!("{remote}/32"), "port": UDP_PORT },
            ],
        }],
    });
    let daemon = Daemon::start(topology, &policy.to_string())?;
    let status = daemon.status()?;
    let interfaces = status.get("interfaces").and_then(Value::as_array);
    let device =
        interfaces.and_then(|all| all.iter().find(|interface| interface.get("name") == Some(&json!(DEVICE))));
    let ingress = device.and_then(|device| device.get("ingress")).and_then(Value::as_str);
    let is_xdp = ingress == Some("xdp");
    ensure!(ingress.is_some() && is_xdp == (hook == "xdp"), "{DEVICE} is filtered by {ingress:?}");
    Ok(daemon)
}
