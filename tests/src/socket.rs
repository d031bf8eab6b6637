//! Sockets with what std does not offer: a source address for TCP, raw ICMP, and a time limit on `connect` and `accept`.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// What a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
    Icmp,
}

/// A socket connected to `to`, from `source` if given. With every transport this also means that only packets from `to` are
/// received. TCP waits up to `wait` for the handshake and fails with `EINPROGRESS` after that.
pub fn connected(
    transport: Transport,
    source: Option<IpAddr>,
    to: SocketAddr,
    wait: Duration,
) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match (transport, to) {
        (Transport::Tcp, _) => (SockType::Stream, SockProtocol::Tcp),
        (Transport::Udp, _) => (SockType::Datagram, SockProtocol::Udp),
        (Transport::Icmp, SocketAddr::V4(_)) => (SockType::Raw, SockProtocol::Icmp),
        (Transport::Icmp, SocketAddr::V6(_)) => (SockType::Raw, SockProtocol::IcmpV6),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
    limit(&fd, wait)?;
    if let Some(source) = source {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    }
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

/// Bounds every blocking call on the socket: send, receive, `connect` and `accept` (socket(7), SO_RCVTIMEO).
pub fn limit(fd: &impl AsFd, wait: Duration) -> Result<(), Errno> {
    let value = TimeVal::microseconds(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
    setsockopt(fd, sockopt::SendTimeout, &value)?;
    setsockopt(fd, sockopt::ReceiveTimeout, &value)
}
