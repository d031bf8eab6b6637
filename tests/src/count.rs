//! Counting packets on a device, independently of the filter: a packet socket with a classic BPF program that tcpdump makes from
//! an expression. The kernel counts what matches, also what nobody reads, so nothing is missed in a flood.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::netns::Netns;

/// Which of a device's packets are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Sent,
    Received,
}

/// Counts from when it is made.
#[derive(Debug)]
pub struct Counter {
    socket: OwnedFd,
    /// Reading the kernel's number sets it to zero.
    so_far: Cell<u64>,
}

impl Netns {
    /// Counts packets of a device that match a pcap filter expression (pcap-filter(7)), as they stand on the wire; of a received
    /// frame the kernel has taken the outer VLAN tag out.
    pub fn count(&self, device: &str, way: Way, expression: &str) -> Result<Counter> {
        let program = compile(way, expression)?;
        self.run(|| open(device, &program))?
            .with_context(|| format!("cannot count packets on {device} in {}", self.name()))
    }
}

impl Counter {
    /// Packets so far.
    pub fn read(&self) -> Result<u64> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes, the size of the structure that this option has (packet(7)).
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("PACKET_STATISTICS");
        }
        // This counts what found no place in the socket's buffer too.
        self.so_far.set(self.so_far.get() + u64::from(statistics.tp_packets));
        Ok(self.so_far.get())
    }
}

/// The expression's program behind a look at the packet's way.
fn compile(way: Way, expression: &str) -> Result<Vec<libc::sock_filter>> {
    let output = Command::new("tcpdump")
        .args(["-ddd", "-y", "EN10MB", expression])
        .output()
        .context("cannot run tcpdump (install the package tcpdump)")?;
    ensure!(
        output.status.success(),
        "tcpdump does not understand `{expression}`: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // linux/filter.h: SKF_AD_OFF + SKF_AD_PKTTYPE, and PACKET_OUTGOING of linux/if_packet.h.
    let packet_type = libc::SKF_AD_OFF.wrapping_add(libc::SKF_AD_PKTTYPE) as u32;
    let outgoing = u32::from(libc::PACKET_OUTGOING);
    let (on_outgoing, on_other) = if way == Way::Sent { (1, 0) } else { (0, 1) };
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, packet_type),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, on_outgoing, on_other, outgoing),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines().skip(1) {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let &[code, jt, jf, k] = numbers.as_slice() else {
            anyhow::bail!("tcpdump -ddd has said `{line}`");
        };
        program.push(libc::sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k });
    }
    Ok(program)
}

const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

fn open(device: &str, program: &[libc::sock_filter]) -> Result<Counter> {
    // Without a protocol it receives nothing before it has its program.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let filter = libc::sock_fprog { len: u16::try_from(program.len())?, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program outlives the call, which copies it; the kernel only reads it.
    let attached = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if attached != 0 {
        return Err(io::Error::last_os_error()).context("SO_ATTACH_FILTER");
    }
    bind(&socket, device)?;
    Ok(Counter { socket, so_far: Cell::new(0) })
}

/// All protocols of one device.
pub(crate) fn bind(socket: &OwnedFd, device: &str) -> Result<()> {
    // SAFETY: integers and arrays of them, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(if_nametoindex(device)?)?;
    // SAFETY: the address is a sockaddr_ll, as long as is said.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound != 0 {
        return Err(io::Error::last_os_error()).context("bind");
    }
    Ok(())
}
