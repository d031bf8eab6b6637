//! The devices of this network namespace.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

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

/// A socket that becomes readable whenever a device appears, goes or changes (man 7 rtnetlink).
///
/// # Errors
///
/// If the kernel refuses the socket.
pub fn watch() -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain integers in, a new descriptor or an error out.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_ROUTE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: zeros are a valid `sockaddr_nl`.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = libc::RTMGRP_LINK as u32;
    let size = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: the address is a `sockaddr_nl` of the size that is passed.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

/// Empties a socket of [`watch`]: what the messages say does not matter, the devices are looked at anew.
pub fn drain(socket: &OwnedFd) {
    let mut buffer = [0u8; 8192];
    loop {
        // SAFETY: the buffer has the size that is passed.
        let read = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let overrun = read < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOBUFS);
        if read <= 0 && !overrun {
            return;
        }
    }
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
