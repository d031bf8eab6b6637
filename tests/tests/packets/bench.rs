//! A bench for packets: a namespace of its own, devices in it, the real programs loaded, and frames run through them
//! one by one.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, PerCpuArray};
use serde_json::{Value, json};
use sg_common::abi::{self, Counter, Direction, REASON_SLOTS, counter_index};
use sg_common::verdict::{Action, Reason};
use sg_daemon::enforce::Enforcer;
use sg_daemon::kernel::{Answer, FlowEntry, RunHook, TableSizes, TcMode};
use sg_daemon::policy;
use sg_tests::{Lab, Netns};

/// Where packets pass in this run of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    Xdp,
    Tc,
}

impl Ingress {
    /// The word for it in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        }
    }
}

/// The way past a device, seen from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into the host: what a guest behind the device sends.
    Ingress,
    /// Out of the host: what a guest behind the device receives.
    Egress,
}

/// The devices of a bench.
pub const DEVICES: [&str; 3] = ["sg0", "sg1", "sg2"];

/// The filter, in a namespace of its own.
pub struct Bench {
    ingress: Ingress,
    enforcer: Enforcer,
    indexes: BTreeMap<String, u32>,
    counters: PerCpuArray<MapData, Counter>,
    /// What [`Self::counts`] would say, and [`Self::would_drop`].
    counted: Option<(Counts, Counts)>,
    /// Whether the last frame passed only because its device is in audit.
    pub audited: bool,
    /// Row 0 of the counters, from before the last reset.
    unknown: Counts,
    /// Scratch, named like the lab.
    pub directory: PathBuf,
    // Last: goes after what is pinned in it.
    _pins: Pins,
}

/// The longest timeout there is (SPEC D11), in seconds.
pub const LONGEST: u32 = 432_000;

/// Counters that are not zero, by device (none for devices that the filter does not know).
pub type Counts = BTreeMap<(String, Direction, Reason), (u64, u64)>;

/// The far end of a cable.
pub struct Sender {
    socket: OwnedFd,
    index: u32,
}

impl Sender {
    /// Whether the cable took the frame.
    pub fn send(&self, frame: &[u8]) -> bool {
        // SAFETY: an address of zeros is one, and the call gets a live address and buffer with their lengths.
        let sent = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = self.index as i32;
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        sent == frame.len() as isize
    }
}

struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a test twice on one bench, the first time with XDP, then with TC alone. Egress is TC in both.
pub fn on_both_hooks(test: impl Fn(&mut Bench) + Sync) {
    Bench::run(Ingress::Xdp, &DEVICES, |bench| {
        for ingress in [Ingress::Xdp, Ingress::Tc] {
            println!("hook {}", ingress.name());
            bench.set_ingress(ingress);
            test(bench);
            bench.reset();
        }
    });
}

impl Bench {
    /// Runs `work` on a new bench, inside its namespace.
    ///
    /// The devices are one end each of a cable of which nobody uses the other: no packet comes by but the test's own.
    pub fn run<T: Send>(ingress: Ingress, devices: &[&str], work: impl FnOnce(&mut Self) -> T + Send) -> T {
        let lab = Lab::new().unwrap();
        let netns = lab.netns("bench").unwrap();
        plug(&netns, devices);
        let work = || {
            let mut bench = Self::open(ingress, lab.name(), lab.directory(), devices);
            let result = work(&mut bench);
            bench.enforcer.detach_everything().unwrap();
            result
        };
        netns.run(work).unwrap()
    }

    /// To be called inside of the namespace. The name is the lab's, so that its sweep knows what a test that was killed has left.
    pub fn open(ingress: Ingress, name: &str, directory: &Path, devices: &[&str]) -> Self {
        let pins = Pins(Path::new("/sys/fs/bpf").join(name));
        let enforcer = Enforcer::open(&pins.0, TcMode::Auto, TableSizes::default()).unwrap();
        let counters = pins.0.join(format!("v{}/maps/COUNTERS", abi::ABI_VERSION));
        let counters = Map::PerCpuArray(MapData::from_pin(counters).unwrap()).try_into().unwrap();
        let indexes = devices
            .iter()
            .map(|device| ((*device).to_owned(), nix::net::if_::if_nametoindex(*device).unwrap()))
            .collect();
        Self {
            ingress,
            enforcer,
            indexes,
            counters,
            counted: None,
            audited: false,
            unknown: Counts::new(),
            directory: directory.to_owned(),
            _pins: pins,
        }
    }

    /// As if nothing had happened.
    fn reset(&mut self) {
        self.apply(&[json!({ "version": 1, "project": "shop", "vpc": "main" })]);
        self.forget();
        assert_eq!(self.flows().len(), 0);
        // Devices get new counters; those of unknown devices are never cleared.
        self.unknown = self.unknown_counts();
    }

    pub fn ingress(&self) -> Ingress {
        self.ingress
    }

    /// Which program stands for ingress from now on. For XDP, the device must be filtered by it.
    pub fn set_ingress(&mut self, ingress: Ingress) {
        self.ingress = ingress;
    }

    /// Lets every flow end.
    pub fn forget(&mut self) {
        self.advance(LONGEST + 2);
        self.enforcer.kernel().collect().unwrap();
    }

    pub fn enforcer(&mut self) -> &mut Enforcer {
        self.counted = None;
        &mut self.enforcer
    }

    /// Puts a policy in force: the files, as values.
    pub fn apply(&mut self, files: &[Value]) {
        self.counted = None;
        for entry in fs::read_dir(&self.directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (index, file) in files.iter().enumerate() {
            fs::write(self.directory.join(format!("{index}.json")), file.to_string()).unwrap();
        }
        let loaded = policy::load(std::slice::from_ref(&self.directory));
        let model = loaded.unwrap_or_else(|error| panic!("the test's policy is refused: {error}")).model;
        self.enforcer.apply(model).unwrap();
    }

    pub fn index(&self, device: &str) -> u32 {
        self.indexes[device]
    }

    /// Runs a frame through the real program and holds it to D24: one counter goes up, by one packet and its bytes, and
    /// it is a counter of the verdict; or, where the packet passes in audit, of what it would have been dropped for.
    #[track_caller]
    pub fn run_at(&mut self, device: &str, way: Way, frame: &[u8]) -> Reason {
        let before = match self.counted.take() {
            Some(counts) => counts,
            None => (self.counts(), self.would_drop()),
        };
        let action = self.raw(self.index(device), way, frame);
        let after = (self.counts(), self.would_drop());
        let tell = |after: &Counts, before: &Counts, audit: bool| {
            let moved = after.iter().filter(|(key, count)| before.get(*key) != Some(*count));
            let with_before = |(key, count): (&(String, Direction, Reason), &(u64, u64))| {
                (key.clone(), *count, before.get(key).copied().unwrap_or_default(), audit)
            };
            moved.map(with_before).collect::<Vec<_>>()
        };
        let moved = [tell(&after.0, &before.0, false), tell(&after.1, &before.1, true)].concat();
        assert_eq!(moved.len(), 1, "one packet, one counter: {moved:?}");
        let ((at, _, reason), (packets, bytes), (packets_before, bytes_before), audited) = &moved[0];
        self.audited = *audited;
        assert_eq!(*packets, packets_before + 1, "{reason:?}");
        assert_eq!(*bytes, bytes_before + frame.len() as u64, "{reason:?}");
        assert_eq!(at, if self.enforcer.devices().contains_key(device) { device } else { "" });
        assert_eq!(action, if *audited { Action::Allow } else { reason.action() }, "{reason:?}");
        let reason = *reason;
        self.counted = Some(after);
        reason
    }

    /// The program alone.
    pub fn raw(&mut self, index: u32, way: Way, frame: &[u8]) -> Action {
        self.counted = None;
        let hook = match (way, self.ingress) {
            (Way::Ingress, Ingress::Xdp) => RunHook::XdpIngress,
            (Way::Ingress, Ingress::Tc) => RunHook::TcIngress,
            (Way::Egress, _) => RunHook::TcEgress,
        };
        let run = self.enforcer.kernel().run_frame(hook, index, frame);
        run.unwrap_or_else(|error| panic!("{hook:?} of {} bytes: {error:?}", frame.len()))
    }

    /// What a guest behind `sg0` sends.
    #[track_caller]
    pub fn sends(&mut self, packet: &super::frame::Packet) -> Reason {
        self.run_at(DEVICES[0], Way::Ingress, &packet.frame())
    }

    /// What is on its way to a guest behind `sg0`.
    #[track_caller]
    pub fn receives(&mut self, packet: &super::frame::Packet) -> Reason {
        self.run_at(DEVICES[0], Way::Egress, &packet.frame())
    }

    /// What the filter would say, with no effect on anything.
    pub fn ask(&mut self, device: &str, way: Way, frame: &[u8]) -> Answer {
        let hook = match way {
            Way::Ingress => abi::Hook::Ingress,
            Way::Egress => abi::Hook::Egress,
        };
        let index = self.index(device);
        self.enforcer.kernel().explain(index, hook, frame).unwrap()
    }

    /// Every counter that is not zero.
    pub fn counts(&mut self) -> Counts {
        let mut counts = self.counted(false);
        for (key, (packets, bytes)) in self.unknown_counts() {
            let before = self.unknown.get(&key).copied().unwrap_or_default();
            if packets > before.0 {
                counts.insert(key, (packets - before.0, bytes - before.1));
            }
        }
        counts
    }

    /// Every counter of audit that is not zero.
    pub fn would_drop(&mut self) -> Counts {
        self.counted(true)
    }

    fn counted(&mut self, audit: bool) -> Counts {
        let mut counts = Counts::new();
        let devices: Vec<_> =
            self.enforcer.devices().iter().map(|(name, device)| (name.clone(), device.slot)).collect();
        for (name, slot) in devices {
            let samples = self.enforcer.kernel().counters(slot).unwrap().samples;
            for sample in samples.iter().filter(|sample| sample.would_drop == audit) {
                let counter = sample.counter;
                counts.insert(
                    (name.clone(), sample.direction, sample.reason),
                    (counter.packets, counter.bytes),
                );
            }
        }
        counts
    }

    /// Row 0: packets of devices that the filter does not know.
    fn unknown_counts(&self) -> Counts {
        let mut counts = Counts::new();
        for direction in [Direction::Inbound, Direction::Outbound] {
            for number in 0..REASON_SLOTS {
                let Some(reason) = Reason::from_number(number) else { continue };
                let cpus = self.counters.get(&counter_index(0, direction, reason as u32), 0).unwrap();
                let packets = cpus.iter().map(|counter| counter.packets).sum();
                let bytes = cpus.iter().map(|counter| counter.bytes).sum();
                if packets > 0 {
                    counts.insert((String::new(), direction, reason), (packets, bytes));
                }
            }
        }
        counts
    }

    /// Packets counted, under whatever reason.
    pub fn packets(&mut self) -> u64 {
        self.counts().values().map(|(packets, _)| packets).sum()
    }

    /// Puts a real frame on the cable of `device`, from the other end.
    pub fn transmit(&mut self, device: &str, frame: &[u8]) {
        self.counted = None;
        assert!(self.sender(device).send(frame));
    }

    /// The far end of the cable of `device`. It stays in this namespace, wherever it is used.
    pub fn sender(&self, device: &str) -> Sender {
        let index = nix::net::if_::if_nametoindex(format!("{device}-peer").as_str()).unwrap();
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Packet,
            nix::sys::socket::SockType::Raw,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        Sender { socket, index }
    }

    /// Waits until this many packets are counted, or none has come for a second. Says how many are.
    pub fn wait_for_packets(&mut self, packets: u64) -> u64 {
        let (mut before, mut last_came) = (0, Instant::now());
        loop {
            let now = self.packets();
            if now != before {
                (before, last_came) = (now, Instant::now());
            }
            if now >= packets || last_came.elapsed() > Duration::from_secs(1) {
                return now;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn flows(&mut self) -> Vec<FlowEntry> {
        self.enforcer.kernel().flows().unwrap()
    }

    /// The only flow there is.
    #[track_caller]
    pub fn flow(&mut self) -> FlowEntry {
        let flows = self.flows();
        assert_eq!(flows.len(), 1, "{flows:#?}");
        flows[0]
    }

    /// Lets time pass.
    pub fn advance(&mut self, seconds: u32) {
        self.enforcer.kernel().advance_clock(seconds);
    }
}

/// Devices that are up and silent.
fn plug(netns: &Netns, devices: &[&str]) {
    let silence = || {
        for scope in ["all", "default"] {
            // The kernel would announce its own addresses, and the counters would count that.
            fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1").unwrap();
        }
    };
    netns.run(silence).unwrap();
    let lines: Vec<String> = devices
        .iter()
        .map(|name| {
            format!(
                "link add {name} type veth peer name {name}-peer\nlink set {name} up\nlink set {name}-peer up"
            )
        })
        .collect();
    netns.ip(&lines.join("\n")).unwrap();
}

/// An address, from its text.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
