//! What a driver says of its device (include/uapi/linux/ethtool.h).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// `SIOCETHTOOL`, include/uapi/linux/sockios.h.
const SIOCETHTOOL: u64 = 0x8946;
const GET_DRIVER: u32 = 0x03;
const GET_TSO: u32 = 0x1e;
const GET_GSO: u32 = 0x23;

/// `struct ethtool_drvinfo`
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?))
    }

    /// The driver's name; `None` if the device has none to tell.
    pub fn driver(&self, device: &str) -> Option<String> {
        let mut info = DriverInfo { command: GET_DRIVER, driver: [0; 32], rest: [0; 160] };
        self.ask(device, &mut info)?;
        let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(name).into_owned()).filter(|name| !name.is_empty())
    }

    /// Whether packets of many segments pass the device whole: software's, and TCP's in hardware.
    pub fn segments(&self, device: &str) -> (Option<bool>, Option<bool>) {
        let get = |command| {
            let mut value = Value { command, data: 0 };
            self.ask(device, &mut value)?;
            Some(value.data != 0)
        };
        (get(GET_GSO), get(GET_TSO))
    }

    fn ask<T>(&self, device: &str, what: &mut T) -> Option<()> {
        // SAFETY: zeros are a valid `ifreq`.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if device.len() >= request.ifr_name.len() {
            return None;
        }
        for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = std::ptr::from_mut(what).cast();
        // SAFETY: the request points to a structure as the command in its first word wants it.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        (result == 0).then_some(())
    }
}
