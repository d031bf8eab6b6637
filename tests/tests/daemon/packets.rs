//! Packets that no ordinary socket sends.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket,
    sockopt,
};
use sg_tests::Netns;

/// Sends IPv4 packets whose header is the caller's.
pub struct RawIp(OwnedFd);

impl RawIp {
    pub fn new(from: &Netns) -> Self {
        let open = || {
            let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
            setsockopt(&fd, sockopt::SndBuf, &(1 << 20))?;
            nix::Result::Ok(fd)
        };
        Self(from.run(open).unwrap().unwrap())
    }

    /// A UDP datagram; the kernel fills in the header's checksum, and UDP needs none over IPv4.
    pub fn udp(&self, source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let mut packet = ipv4(17, *source.ip(), *to.ip(), 8 + payload.len());
        packet.extend(source.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        self.packet(to, &packet);
    }

    /// A packet from its IP header on.
    pub fn packet(&self, to: SocketAddrV4, packet: &[u8]) {
        loop {
            match sendto(self.0.as_raw_fd(), packet, &SockaddrIn::from(to), MsgFlags::empty()) {
                Ok(_) => return,
                Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// An IPv4 header without options for so many bytes; its checksum is right.
pub fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(((20 + payload) as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = (!(sum as u16)).to_be_bytes();
    header[10..12].copy_from_slice(&checksum);
    header
}

/// Sends Ethernet frames as they are.
pub struct RawEthernet(OwnedFd);

impl RawEthernet {
    pub fn new(from: &Netns, device: &str) -> Self {
        let open = || {
            let index = nix::net::if_::if_nametoindex(device).unwrap();
            // SAFETY: plain integers in, a new descriptor or an error out. Protocol 0: nothing is received.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: the descriptor is new and ours.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: zeros are a valid `sockaddr_ll`.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = index as i32;
            let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: the address is a `sockaddr_ll` of the size that is passed.
            let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) };
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            fd
        };
        Self(from.run(open).unwrap())
    }

    pub fn send(&self, ether_type: u16, payload: &[u8]) {
        let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 5];
        frame.extend(ether_type.to_be_bytes());
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        self.frame(&frame);
    }

    /// A whole frame.
    pub fn frame(&self, frame: &[u8]) {
        let sent = nix::sys::socket::send(self.0.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }
}

/// Sends Ethernet frames as a virtual machine does: with a header that says where a checksum is to be written (PACKET_VNET_HDR
/// in packet(7)).
pub struct VirtioEthernet(RawEthernet);

impl VirtioEthernet {
    pub fn new(from: &Netns, device: &str) -> Self {
        let socket = RawEthernet::new(from, device);
        let on: libc::c_int = 1;
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the option takes an integer of the size that is passed.
        let result = unsafe {
            libc::setsockopt(
                socket.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_VNET_HDR,
                (&raw const on).cast(),
                size,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Self(socket)
    }

    /// The sum of all bytes from `start` on goes to `offset` behind it.
    pub fn send(&self, frame: &[u8], start: u16, offset: u16) {
        // `struct virtio_net_hdr`, include/uapi/linux/virtio_net.h: NEEDS_CSUM, and no segmentation.
        let mut bytes = vec![1, 0, 0, 0, 0, 0];
        bytes.extend(start.to_ne_bytes());
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(frame);
        let sent = nix::sys::socket::send(self.0.0.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }
}
