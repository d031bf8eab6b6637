//! Packets on a cable, and when the filter has judged them.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, PerCpuArray};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use sg_common::abi::{Counter, Direction, counter_index, map};
use sg_common::verdict::Reason;
use sg_daemon::kernel::Pins;

use crate::table::{DEVICE, GUEST, PEER, ROW};

/// Has the packets that come in at the device handled by a CPU, in its soft interrupt (receive packet steering).
pub fn steer(netns: &str, cpu: usize) -> anyhow::Result<()> {
    // The files of this namespace's devices are in a sysfs of its own.
    let script = format!("echo {:x} > /sys/class/net/{DEVICE}/queues/rx-0/rps_cpus", 1u64 << cpu);
    let status = Command::new("ip").args(["netns", "exec", netns, "sh", "-c", &script]).status()?;
    anyhow::ensure!(status.success(), "packets cannot be steered to CPU {cpu} (the kernel needs CONFIG_RPS)");
    Ok(())
}

/// A packet's, or a thread's.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub sent: Instant,
    pub judged: Instant,
}

#[derive(Debug, Default)]
pub struct Waits(Vec<Duration>);

impl Waits {
    pub fn add(&mut self, wait: Wait) {
        self.0.push(wait.judged - wait.sent);
    }

    pub fn text(mut self) -> String {
        self.0.sort();
        let at = |part: usize| {
            let wait = self.0.get((self.0.len() * part / 1000).min(self.0.len().saturating_sub(1)));
            wait.map_or("-".to_owned(), |wait| format!("{:.1}", wait.as_secs_f64() * 1e6))
        };
        format!("{:>8} {:>10} {:>10} {:>10}", self.0.len(), at(500), at(990), at(1000))
    }
}

/// A thread that sends one packet after another, each when the one before has been judged.
pub struct Packets {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Wait>>,
}

impl Packets {
    /// To be called inside of the namespace.
    pub fn start(pins: &Path, cpu: usize) -> anyhow::Result<Self> {
        let counters = Map::PerCpuArray(MapData::from_pin(Pins::at(pins).map(map::COUNTERS))?).try_into()?;
        let index = nix::net::if_::if_nametoindex(PEER)?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            crate::pin_to(cpu);
            let frame = frame();
            let mut waits = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let before = judged(&counters);
                let sent = Instant::now();
                assert!(send(&socket, index, &frame), "the cable takes no frame");
                while judged(&counters) == before {
                    assert!(sent.elapsed() < Duration::from_secs(10), "a packet is lost");
                }
                waits.push(Wait { sent, judged: Instant::now() });
            }
            waits
        });
        Ok(Self { stop, thread })
    }

    pub fn stop(self) -> Vec<Wait> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// How many packets of the guest have passed.
fn judged(counters: &PerCpuArray<MapData, Counter>) -> u64 {
    [Reason::NewFlow, Reason::Established]
        .map(|reason| counter_index(ROW, Direction::Outbound, reason as u32))
        .iter()
        .flat_map(|index| {
            counters.get(index, 0).unwrap().iter().map(|counter| counter.packets).collect::<Vec<_>>()
        })
        .sum()
}

fn send(socket: &OwnedFd, index: u32, frame: &[u8]) -> bool {
    // SAFETY: an address of zeros is one, and the call gets a live address and buffer with their lengths.
    let sent = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        let (to, len) = ((&raw const address).cast(), size_of_val(&address) as u32);
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, len)
    };
    sent == frame.len() as isize
}

/// A query of the guest, by UDP over IPv4; nobody looks at its checksums.
fn frame() -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0];
    frame.extend([0x45, 0, 0, 46, 0, 1, 0, 0, 64, 17, 0, 0]);
    frame.extend(GUEST);
    frame.extend([192, 0, 2, 1]);
    frame.extend([0x9c, 0x40, 0, 53, 0, 26, 0, 0]);
    frame.extend([0; 18]);
    frame
}
