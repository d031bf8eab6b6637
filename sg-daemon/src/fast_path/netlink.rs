//! The kernel's messages about devices and bridges (man 7 rtnetlink).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::enforce::links::{HEADER, word};

/// A socket that hears of changes, and one that asks.
#[derive(Debug)]
pub struct Netlink {
    changes: Socket,
    questions: Socket,
}

/// What was heard.
#[derive(Debug)]
pub enum Heard {
    /// Something of a device has changed, or there is one more or less.
    Link,
    Neighbour {
        message: NeighbourMessage,
        gone: bool,
    },
    /// There was more than there was room for.
    Lost,
}

/// Room for some ten thousand messages, in bytes.
const ROOM: usize = 8 << 20;

/// `RTNLGRP_LINK` and `RTNLGRP_NEIGH`, include/uapi/linux/rtnetlink.h.
const GROUPS: [u32; 2] = [1, 3];

impl Netlink {
    /// # Errors
    ///
    /// If the kernel refuses the sockets.
    pub fn new() -> io::Result<Self> {
        let mut changes = Socket::new(NETLINK_ROUTE)?;
        // Without CAP_NET_ADMIN there is less; what does not fit is heard of as `Lost`.
        // SAFETY: the descriptor is open as long as the socket lives.
        let _ =
            setsockopt(&unsafe { BorrowedFd::borrow_raw(changes.as_raw_fd()) }, sockopt::RcvBufForce, &ROOM);
        changes.bind_auto()?;
        for group in GROUPS {
            changes.add_membership(group)?;
        }
        changes.set_non_blocking(true)?;
        let mut questions = Socket::new(NETLINK_ROUTE)?;
        questions.bind_auto()?;
        questions.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { changes, questions })
    }

    /// Waits for changes, but no longer than `patience`, and hands over all that there are.
    ///
    /// # Errors
    ///
    /// If the socket cannot be read.
    pub fn wait(&self, patience: Duration, mut each: impl FnMut(Heard)) -> io::Result<()> {
        // SAFETY: as in `new`.
        let fd = unsafe { BorrowedFd::borrow_raw(self.changes.as_raw_fd()) };
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], patience) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            match self.changes.recv_from_full() {
                Ok((datagram, _)) => messages(&datagram, |payload| match payload {
                    RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => each(Heard::Link),
                    RouteNetlinkMessage::NewNeighbour(message) => {
                        each(Heard::Neighbour { message, gone: false });
                    }
                    RouteNetlinkMessage::DelNeighbour(message) => {
                        each(Heard::Neighbour { message, gone: true });
                    }
                    _ => {}
                })
                .map(drop)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => each(Heard::Lost),
                Err(error) => return Err(error),
            }
        }
    }

    /// All devices.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub fn links(&self, mut each: impl FnMut(&LinkMessage)) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), |payload| {
            if let RouteNetlinkMessage::NewLink(message) = payload {
                each(&message);
            }
        })
    }

    /// All that bridges have learned.
    ///
    /// # Errors
    ///
    /// If the kernel does not answer.
    pub fn neighbours(&self, mut each: impl FnMut(&NeighbourMessage)) -> io::Result<()> {
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        self.ask(RouteNetlinkMessage::GetNeighbour(question), |payload| {
            if let RouteNetlinkMessage::NewNeighbour(message) = payload {
                each(&message);
            }
        })
    }

    fn ask(
        &self,
        question: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.questions.send(&bytes, 0)?;
        loop {
            let (datagram, _) = self.questions.recv_from_full()?;
            if messages(&datagram, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Takes a datagram apart; true if it is the last of an answer. What this version of the library cannot read is passed over: a
/// device of a kind of its own is no port of a bridge.
fn messages(mut bytes: &[u8], mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
    while let Some(length) = word(bytes, 0).map(|length| length as usize) {
        let Some(one) = bytes.get(..length).filter(|_| length >= HEADER) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(message)) => each(message),
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            Ok(NetlinkPayload::Error(error)) if error.code.is_some() => return Err(error.to_io()),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a message about devices that is not understood"),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}
