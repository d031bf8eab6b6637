//! The devices of this network namespace.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

/// `ARPHRD_ETHER`, include/uapi/linux/if_arp.h.
const ARPHRD_ETHER: u16 = 1;

/// The present devices, by name, with their indexes.
///
/// # Errors
///
/// If the kernel cannot be asked.
pub fn present() -> io::Result<BTreeMap<String, u32>> {
    let devices = nix::net::if_::if_nameindex()?;
    let devices = devices.iter().map(|device| (device.name().to_string_lossy().into_owned(), device.index()));
    Ok(devices.collect())
}

/// Whether a device carries Ethernet frames, which is all that the filter reads.
///
/// # Errors
///
/// If the device is gone.
pub fn is_ethernet(name: &str) -> io::Result<bool> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: zeros are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is an `ifreq` with a terminated name, as this ioctl wants it (man netdevice).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the ioctl has filled in the hardware address.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family } == ARPHRD_ETHER)
}

/// What a message says of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has appeared, or something of it has changed.
    Is { ifindex: u32, name: String, ethernet: bool },
    /// It is not in this network namespace any more.
    Gone { ifindex: u32 },
    /// There were more messages than there was room for.
    Lost,
}

/// The kernel's messages about the devices of this network namespace (man 7 rtnetlink).
#[derive(Debug)]
pub struct Messages(OwnedFd);

/// Room for some thousand messages, in bytes.
const ROOM: libc::c_int = 8 << 20;

impl Messages {
    /// # Errors
    ///
    /// If the kernel refuses the socket.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain integers in, a new descriptor or an error out.
        let socket = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // The limit for everybody is small; with CAP_NET_ADMIN there is none. What does not fit is heard of as `Lost`.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(ROOM as usize));
        // SAFETY: zeros are a valid `sockaddr_nl`.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let size = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address is a `sockaddr_nl` of the size that is passed.
        let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
        if result == 0 { Ok(Self(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits for messages and hands each to `each`.
    ///
    /// # Errors
    ///
    /// If the socket cannot be read.
    pub fn receive(&self, each: impl FnMut(&Change)) -> io::Result<()> {
        let mut buffer = [0u8; 32 << 10];
        // SAFETY: the buffer has the size that is passed.
        let read = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let mut each = each;
        let Ok(length) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOBUFS) => {
                    each(&Change::Lost);
                    Ok(())
                }
                Some(libc::EINTR) => Ok(()),
                _ => Err(error),
            };
        };
        for change in changes(buffer.get(..length).unwrap_or_default()) {
            each(&change);
        }
        Ok(())
    }
}

/// `struct nlmsghdr` and `struct ifinfomsg`: include/uapi/linux/netlink.h and rtnetlink.h.
pub(crate) const HEADER: usize = 16;
const INFO: usize = 16;

/// What a datagram of netlink messages says. Nothing of it can be wrong but its end.
fn changes(mut bytes: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some(length) = word(bytes, 0).map(|length| length as usize)
        && let Some(message) = bytes.get(..length)
        && length >= HEADER
    {
        changes.extend(change(message));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

fn change(message: &[u8]) -> Option<Change> {
    let kind = half(message, 4)?;
    // A bridge's word on its ports is something else: one that leaves its bridge is not gone.
    if *message.get(HEADER)? != libc::AF_UNSPEC as u8 {
        return None;
    }
    let (device, ifindex) = (half(message, HEADER + 2)?, word(message, HEADER + 4)?);
    match kind {
        libc::RTM_DELLINK => Some(Change::Gone { ifindex }),
        libc::RTM_NEWLINK => {
            let name = attribute(message.get(HEADER + INFO..)?, libc::IFLA_IFNAME)?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            Some(Change::Is { ifindex, name, ethernet: device == ARPHRD_ETHER })
        }
        _ => None,
    }
}

/// The value of an attribute.
pub(crate) fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, kind) = (usize::from(half(bytes, 0)?), half(bytes, 2)?);
        let attribute = bytes.get(..length)?;
        if kind == wanted {
            return attribute.get(4..);
        }
        if length < 4 {
            return None;
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether a shell pattern with `*` and `?` matches a whole name.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.chars().next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            name.char_indices().map(|(at, _)| &name[at..]).any(|tail| matches(rest, tail))
                || matches(rest, "")
        }
        Some(first) => match name.chars().next() {
            Some(found) if first == '?' || first == found => {
                matches(&pattern[first.len_utf8()..], &name[found.len_utf8()..])
            }
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, family: u8, device: u16, ifindex: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 0];
        body.extend(device.to_ne_bytes());
        body.extend(ifindex.to_ne_bytes());
        body.extend([0; 8]);
        for (kind, value) in attributes {
            body.extend((4 + value.len() as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = (HEADER as u32 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn messages_about_devices_are_understood_and_those_about_ports_passed_over() {
        let mtu = 1500u32.to_ne_bytes();
        let datagram = [
            message(
                libc::RTM_NEWLINK,
                0,
                ARPHRD_ETHER,
                7,
                &[(libc::IFLA_MTU, &mtu), (libc::IFLA_IFNAME, b"tap0\0")],
            ),
            message(libc::RTM_DELLINK, libc::AF_BRIDGE as u8, ARPHRD_ETHER, 7, &[]),
            message(libc::RTM_NEWADDR, 0, ARPHRD_ETHER, 7, &[]),
            message(libc::RTM_NEWLINK, 0, 65534, 8, &[(libc::IFLA_IFNAME, b"tun0\0")]),
            message(libc::RTM_DELLINK, 0, ARPHRD_ETHER, 9, &[]),
        ]
        .concat();
        let is = |ifindex, name: &str, ethernet| Change::Is { ifindex, name: name.to_owned(), ethernet };
        let all = [is(7, "tap0", true), is(8, "tun0", false), Change::Gone { ifindex: 9 }];
        assert_eq!(changes(&datagram), all);
        // However it is cut off.
        for end in 0..datagram.len() {
            let found = changes(&datagram[..end]);
            assert_eq!(found, all[..found.len()]);
        }
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(
            matches("tap*", "tap0")
                && matches("tap*", "tap")
                && matches("*", "")
                && matches("v??t*", "vnet1")
        );
        assert!(!matches("tap*", "xtap0") && !matches("tap?", "tap") && !matches("tap", "tap0"));
    }
}
