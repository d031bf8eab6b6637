//! The ends of cables: frames that a test sends and receives itself, past the kernel's own protocols.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::count::bind;
use crate::netns::Netns;

/// linux/if_packet.h
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
/// Frames that wait to be read.
const ROOM: usize = 64 << 20;

/// One end of a cable: what is sent goes into the cable, what is received came out of it.
#[derive(Debug)]
pub struct End(OwnedFd);

impl Netns {
    /// Keeps the kernel from announcing addresses of its own on devices that are made from now on.
    pub fn silence(&self) -> Result<()> {
        let write = || {
            ["all", "default"].iter().try_for_each(|scope| {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1")
            })
        };
        self.run(write)?.context("disable_ipv6")
    }

    /// The end of a cable that is plugged in here. To wait longer than that for a frame is a failure.
    pub fn end(&self, device: &str, patience: Duration) -> Result<End> {
        self.run(|| open(device, patience))?.with_context(|| format!("{device} in {}", self.name()))
    }
}

impl End {
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the buffer is alive and its length right.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        ensure!(sent == frame.len() as isize, "a frame is not sent: {}", io::Error::last_os_error());
        Ok(())
    }

    /// The next frame that comes in.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        // SAFETY: as above.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let length = usize::try_from(length).ok().filter(|&length| length > 0);
        let length = length.with_context(|| format!("no frame comes: {}", io::Error::last_os_error()))?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

fn open(device: &str, patience: Duration) -> Result<End> {
    // Without a protocol it receives nothing before it is bound to its device.
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
    let patience = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
    setsockopt(&fd, sockopt::RcvBufForce, &ROOM)?;
    let one: libc::c_int = 1;
    // SAFETY: the option is an integer that lives through the call.
    let set = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    ensure!(set == 0, "PACKET_IGNORE_OUTGOING: {}", io::Error::last_os_error());
    bind(&fd, device)?;
    Ok(End(fd))
}
