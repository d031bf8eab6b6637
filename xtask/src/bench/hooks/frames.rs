//! Frames as a guest hands them over, each behind a virtio header: what is sent with a sum still to be written, and in super-packets.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use sg_tests::bpf::Counted;

use super::super::filters::GUEST;
use super::super::path::{GUEST_MAC, OUTSIDE_MAC, checksum};

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
/// The guest's port.
const PORT: u16 = 20_000;
/// Ethernet, IPv4 and TCP without options.
const HEADERS: usize = 54;
/// What a frame of Ethernet has of TCP's data.
const SEGMENT: usize = 1460;
/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), and two of its values.
const VIRTIO: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// No data: 60 bytes with Ethernet's padding.
    Small,
    /// One full frame of Ethernet.
    Full,
    /// As many of them as IPv4's length admits, in one.
    Super,
}

impl Size {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Small => "60 bytes",
            Self::Full => "1,514 bytes",
            Self::Super => "64 KB super-packet",
        }
    }

    /// Bytes of TCP's data.
    const fn data(self) -> usize {
        match self {
            Self::Small => 0,
            Self::Full => SEGMENT,
            Self::Super => 44 * SEGMENT,
        }
    }

    /// What [`Size::of`] makes of one frame.
    pub const fn counts(self) -> u64 {
        if self.data() == 0 { 1 } else { self.data() as u64 }
    }

    /// How much of frames of this size a sink has counted: packets if there is no data, else its bytes, as super-packets may come in
    /// pieces.
    pub const fn of(self, counted: Counted) -> u64 {
        if self.data() == 0 { counted.packets } else { counted.bytes - counted.packets * HEADERS as u64 }
    }
}

/// One of TCP from the guest's port to that port of a remote, or back, with the virtio header.
pub fn frame(remote: Ipv4Addr, port: u16, flags: u8, size: Size, back: bool) -> Result<Vec<u8>> {
    let guest: Ipv4Addr = GUEST.parse()?;
    let (mut macs, mut addresses, mut ports) = ([OUTSIDE_MAC, GUEST_MAC], [guest, remote], [PORT, port]);
    if back {
        macs.reverse();
        addresses.reverse();
        ports.reverse();
    }
    let gso = size == Size::Super;
    let length = |value: usize| u16::try_from(value).context("a length");
    let mut frame = vec![NEEDS_CSUM, if gso { GSO_TCPV4 } else { 0 }];
    // The headers' length, the segments', where the sum begins, and where in there it goes.
    for word in [length(HEADERS)?, if gso { length(SEGMENT)? } else { 0 }, 34, 16] {
        frame.extend(word.to_ne_bytes());
    }
    for mac in macs {
        for byte in mac.split(':') {
            frame.push(u8::from_str_radix(byte, 16)?);
        }
    }
    let data = size.data();
    let mut ip = vec![0x45, 0];
    ip.extend(length(40 + data)?.to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, 6, 0, 0]);
    addresses.iter().for_each(|address| ip.extend(address.octets()));
    let sum = checksum(&ip, 0);
    frame.extend([0x08, 0]);
    frame.extend(ip.get(..10).unwrap_or_default());
    frame.extend(sum.to_be_bytes());
    frame.extend(ip.get(12..).unwrap_or_default());
    ports.iter().for_each(|port| frame.extend(port.to_be_bytes()));
    let first = 1000u32;
    frame.extend(if flags & SYN == 0 { first + 1 } else { first }.to_be_bytes());
    frame.extend(if flags & ACK == 0 { 0 } else { first + 1 }.to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff]);
    // The pseudo-header's sum; whoever sends it on adds the rest.
    let pseudo: Vec<u8> = addresses.iter().flat_map(Ipv4Addr::octets).collect();
    frame.extend((!checksum(&pseudo, 6 + 20 + data as u32)).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize((VIRTIO + HEADERS + data).max(VIRTIO + 60), 0);
    Ok(frame)
}

/// Where frames are put, each in one write.
#[derive(Debug)]
pub struct Port(OwnedFd);

impl Port {
    /// A device of this network namespace, as if its own stack had sent them.
    pub fn packets(device: &str) -> Result<Self> {
        Self::open(device, SockFlag::empty(), 0)
    }

    /// The same, which receives what comes out of the cable too, and waits for nothing.
    pub fn cable(device: &str) -> Result<Self> {
        let port = Self::open(device, SockFlag::SOCK_NONBLOCK, libc::ETH_P_ALL as u16)?;
        setsockopt(&port.0, sockopt::RcvBufForce, &(64 << 20))?;
        Ok(port)
    }

    fn open(device: &str, flags: SockFlag, protocol: u16) -> Result<Self> {
        /// linux/if_packet.h
        const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
        // Without a protocol nothing is received, and so no packet is cloned for it.
        let flags = SockFlag::SOCK_CLOEXEC | flags;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
        let on: libc::c_int = 1;
        for option in [libc::PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
            // SAFETY: the option is an integer that lives through the call.
            let set = unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_PACKET,
                    option,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                )
            };
            ensure!(set == 0, "option {option} of a packet socket: {}", io::Error::last_os_error());
        }
        // SAFETY: integers and arrays of them, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(if_nametoindex(device)?)?;
        // SAFETY: the address is a sockaddr_ll, as long as is said.
        let bound = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        };
        ensure!(bound == 0, "bind to {device}: {}", io::Error::last_os_error());
        Ok(Self(fd))
    }

    /// The guest's end of a new tap of this network namespace, as a hypervisor without vhost has it: what is written is
    /// received at the device.
    pub fn tap(name: &str) -> Result<Self> {
        /// include/uapi/linux/if_tun.h
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
        /// What the guest takes: sums that are not written, and super-packets.
        const TUN_F_CSUM: libc::c_ulong = 1;
        const TUN_F_TSO4: libc::c_ulong = 2;
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
        // SAFETY: a string that ends.
        let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) };
        ensure!(fd >= 0, "/dev/net/tun: {}", io::Error::last_os_error());
        // SAFETY: the kernel has just made the descriptor, for this caller alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // `struct ifreq`: a name of 16 bytes, and flags.
        let mut request = [0u8; 40];
        ensure!(name.len() < 16, "{name} is no device's name");
        for (to, from) in request.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        for (to, from) in request.iter_mut().skip(16).zip((flags as u16).to_ne_bytes()) {
            *to = from;
        }
        // SAFETY: a live buffer of the size of `struct ifreq`.
        let made = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        ensure!(made == 0, "TUNSETIFF {name}: {}", io::Error::last_os_error());
        // SAFETY: the argument is a number.
        let set = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) };
        ensure!(set == 0, "TUNSETOFFLOAD {name}: {}", io::Error::last_os_error());
        Ok(Self(fd))
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the buffer is alive and its length right.
        let sent = unsafe { libc::write(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        ensure!(sent == frame.len() as isize, "a frame is not sent: {}", io::Error::last_os_error());
        Ok(())
    }

    /// What waits at a tap for the guest is thrown away.
    pub fn drain(&self) {
        let mut buffer = [0u8; 2048];
        // SAFETY: the buffer is alive and its length right.
        while unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{ACK, HEADERS, Size, VIRTIO, checksum, frame};

    #[test]
    fn a_frame_is_what_its_virtio_header_says() {
        for (size, length, gso) in [(Size::Small, 60, 0), (Size::Full, 1514, 0), (Size::Super, 64_294, 1)] {
            let frame = frame([198, 18, 0, 1].into(), 80, ACK, size, false).unwrap();
            assert_eq!((frame.len() - VIRTIO, frame[1]), (length, gso));
            // A sum over a header that holds it is 0.
            assert_eq!(checksum(&frame[VIRTIO + 14..VIRTIO + 34], 0), 0);
            let total = u16::from_be_bytes([frame[VIRTIO + 16], frame[VIRTIO + 17]]);
            assert_eq!(usize::from(total) + 14, HEADERS + size.data());
        }
    }
}
