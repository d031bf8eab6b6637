//! The interface of the starter policy, and a guest behind it.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use sg_tests::{Lab, Netns, Probe, Servers};

/// What the starter policy names.
pub const DEVICE: &str = "sg-try0";
pub const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// TCP: the starter policy has a rule, and has none.
pub const OPEN: u16 = 80;
pub const CLOSED: u16 = 8080;

pub struct Site {
    pub host: Netns,
    pub guest: Netns,
    _servers: Servers,
}

impl Site {
    pub fn new(lab: &Lab) -> Result<Self> {
        let (host, guest) = (lab.netns("host")?, lab.netns("guest")?);
        host.ip(&format!(
            "link add {DEVICE} type veth peer name eth0 netns {}\nlink set {DEVICE} up\n\
             address add {HOST}/24 dev {DEVICE}",
            guest.name()
        ))?;
        guest.ip(&format!("link set eth0 up\naddress add {GUEST}/24 dev eth0"))?;
        let servers = guest.serve_tcp(&[OPEN, CLOSED].map(|port| (GUEST, port).into()))?;
        Ok(Self { host, guest, _servers: servers })
    }

    /// From the host to the guest: inbound.
    pub fn tcp(&self, port: u16) -> Probe {
        Probe::tcp(&self.host, (GUEST, port))
    }
}
