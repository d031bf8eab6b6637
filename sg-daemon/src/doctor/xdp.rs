//! Whose driver runs XDP programs: Linux tells from 6.3 on, by generic netlink (include/uapi/linux/netdev.h,
//! Documentation/netlink/specs/netdev.yaml).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::enforce::links::{HEADER, attribute, half, word};

/// `struct genlmsghdr`
const GENERIC: usize = 4;
/// include/uapi/linux/genetlink.h
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GET_DEVICE: u8 = 1;
const DEVICE_IFINDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`
const BASIC: u64 = 1;

/// The indexes of the devices in this network namespace whose driver runs XDP programs.
///
/// # Errors
///
/// If the kernel does not say.
pub(super) fn features() -> io::Result<BTreeSet<u32>> {
    let socket = open()?;
    let name = b"netdev\0";
    let mut attributes = (4 + name.len() as u16).to_ne_bytes().to_vec();
    attributes.extend(FAMILY_NAME.to_ne_bytes());
    attributes.extend(name);
    attributes.resize(attributes.len().next_multiple_of(4), 0);
    let mut family = None;
    ask(&socket, CONTROLLER, GET_FAMILY, 0, &attributes, |attributes| {
        family = attribute(attributes, FAMILY_ID).and_then(|id| half(id, 0));
    })?;
    let family = family.ok_or(io::ErrorKind::Unsupported)?;
    let mut devices = BTreeSet::new();
    ask(&socket, family, GET_DEVICE, libc::NLM_F_DUMP, &[], |attributes| {
        let number = |kind| attribute(attributes, kind).and_then(|value| word(value, 0));
        // The lowest word of 64 bits has the bit, where bytes are in that order, as they are wherever this runs.
        if let (Some(ifindex), Some(features)) = (number(DEVICE_IFINDEX), number(DEVICE_XDP_FEATURES))
            && u64::from(features) & BASIC != 0
        {
            devices.insert(ifindex);
        }
    })?;
    Ok(devices)
}

fn open() -> io::Result<OwnedFd> {
    // SAFETY: plain integers in, a new descriptor or an error out.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_GENERIC) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Sends a request and hands the attributes of each answer to `each`, until the last.
fn ask(
    socket: &OwnedFd,
    family: u16,
    command: u8,
    flags: libc::c_int,
    attributes: &[u8],
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
    let mut request = ((HEADER + GENERIC + attributes.len()) as u32).to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    // Its number and who asks: the socket has one request at a time.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    // SAFETY: the buffer has the size that is passed.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    loop {
        let mut buffer = [0u8; 32 << 10];
        // SAFETY: likewise.
        let read = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(length) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
        if answers(buffer.get(..length).unwrap_or_default(), &mut each)? {
            return Ok(());
        }
    }
}

/// Whether that was the last of them.
fn answers(mut bytes: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (word(bytes, 0), half(bytes, 4)) {
        let length = length as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER) else { break };
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                return match word(message, HEADER).map_or(0, |error| error as i32) {
                    0 => Ok(true),
                    error => Err(io::Error::from_raw_os_error(-error)),
                };
            }
            _ => each(message.get(HEADER + GENERIC..).unwrap_or_default()),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i32, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend((kind as u16).to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn answers_end_with_the_kernels_word_and_errors_are_told() {
        let mut seen = Vec::new();
        let mut each = |attributes: &[u8]| seen.push(attributes.to_vec());
        let two = [message(20, &[1, 1, 0, 0, 7, 7, 7, 7]), message(20, &[1, 1, 0, 0])].concat();
        assert!(!answers(&two, &mut each).unwrap());
        assert!(answers(&message(libc::NLMSG_DONE, &[0; 4]), &mut each).unwrap());
        assert!(answers(&message(libc::NLMSG_ERROR, &[0; 20]), &mut each).unwrap());
        let error = answers(&message(libc::NLMSG_ERROR, &(-libc::ENOENT).to_ne_bytes()), &mut each);
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        // Cut off, or of no length: no more answers, and no endless loop.
        assert!(!answers(&two[..5], &mut each).unwrap());
        assert!(!answers(&[0; 32], &mut each).unwrap());
        assert_eq!(seen, [vec![7, 7, 7, 7], vec![]]);
    }
}
