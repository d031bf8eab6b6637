//! The standard site: a hypervisor with guests on a bridge, and the world outside.
//!
//! ```text
//!   guest 0            guest 1                        outside
//!   eth0 10.0.0.5      eth0 10.0.0.6                  eth0 10.0.0.1, fd00::1 and the addresses below
//!        fd00::5            fd00::6                    │
//!    │                  │                              │
//!   tap0 ────────────  tap1 ─────────── br0 ───────── up0        (the host's namespace)
//! ```
//!
//! Guests reach everything that is not on their own link through `outside`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::netns::Netns;

/// Who answers and asks at the addresses of the `outside` namespace.
pub mod outside {
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// On the guests' own link: their router.
    pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    /// The administrator, in the public range that rules trust (203.0.113.0/24, 2001:db8:a::/64).
    pub const ADMIN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    pub const ADMIN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10);
    /// Anybody.
    pub const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
    pub const STRANGER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 7);
    /// A database in 10.0.8.0/24.
    pub const SQL_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 8, 10);
    /// A database in 10.0.9.0/24.
    pub const MYSQL: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 10);
    /// The cloud's metadata service.
    pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
    /// A public name server.
    pub const DNS: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);
    pub const DNS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53);

    pub(super) const V4: [Ipv4Addr; 6] = [ADMIN, STRANGER, SQL_SERVER, MYSQL, METADATA, DNS];
    pub(super) const V6: [Ipv6Addr; 3] = [ADMIN_V6, STRANGER_V6, DNS_V6];
}

/// A running site. Dropping it removes everything.
#[derive(Debug)]
pub struct Topology {
    /// The hypervisor: its devices `tap0`, `tap1`, … are what policies name.
    pub host: Netns,
    pub outside: Netns,
    pub guests: Vec<Guest>,
    /// What names and files hang on.
    pub lab: Lab,
}

/// An instance on the site.
#[derive(Debug, Clone)]
pub struct Guest {
    pub netns: Netns,
    /// Its device on the host.
    pub device: String,
    pub mac: String,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Topology {
    /// Two guests.
    pub fn new() -> Result<Self> {
        Self::with_guests(2)
    }

    pub fn with_guests(count: u8) -> Result<Self> {
        let lab = Lab::new()?;
        let host = lab.netns("host")?;
        host.bridge_without_netfilter()?;
        // Ports forward at once, and the bridge does not withhold the multicast that neighbour discovery needs.
        host.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up")?;

        let outside = lab.netns("outside")?;
        plug(&host, "up0", &outside, "52:54:00:00:00:01", outside::ROUTER, outside::ROUTER_V6)?;
        let mut addresses = String::new();
        for address in outside::V4 {
            writeln!(addresses, "address add {address}/32 dev eth0")?;
        }
        for address in outside::V6 {
            writeln!(addresses, "address add {address}/128 dev eth0 nodad")?;
        }
        outside.ip(&addresses)?;

        let guests = (0..count).map(|index| plug_guest(&lab, &host, index)).collect::<Result<_>>()?;
        Ok(Self { host, outside, guests, lab })
    }

    pub fn guest(&self, index: usize) -> Result<&Guest> {
        self.guests.get(index).with_context(|| format!("the site has {} guests", self.guests.len()))
    }

    /// One more namespace on the bridge, at a port of the host that no policy names.
    pub fn plug(&self, role: &str, port: &str, mac: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<Netns> {
        let netns = self.lab.netns(role)?;
        plug(&self.host, port, &netns, mac, v4, v6)?;
        Ok(netns)
    }

    /// The namespace that holds an address.
    pub fn owner(&self, address: IpAddr) -> &Netns {
        let guest = self.guests.iter().find(|guest| guest.v4 == address || guest.v6 == address);
        guest.map_or(&self.outside, |guest| &guest.netns)
    }
}

fn plug_guest(lab: &Lab, host: &Netns, index: u8) -> Result<Guest> {
    let number = index + 5;
    let netns = lab.netns(&format!("g{index}"))?;
    let device = format!("tap{index}");
    let mac = format!("52:54:00:00:00:{number:02x}");
    let v4 = Ipv4Addr::new(10, 0, 0, number);
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into());
    plug(host, &device, &netns, &mac, v4, v6)?;
    netns.ip(&format!(
        "route add default via {}\nroute add default via {} dev eth0",
        outside::ROUTER,
        outside::ROUTER_V6
    ))?;
    Ok(Guest { netns, device, mac, v4: v4.into(), v6: v6.into() })
}

/// A cable from a port of the host's bridge to `eth0` in `netns`.
fn plug(host: &Netns, port: &str, netns: &Netns, mac: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    host.ip(&format!(
        "link add {port} type veth peer name eth0 address {mac} netns {}\nlink set {port} master br0 up",
        netns.name()
    ))?;
    netns.ip(&format!("link set eth0 up\naddress add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad"))
}
