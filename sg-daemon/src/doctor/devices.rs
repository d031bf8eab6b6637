//! The devices of this network namespace, and what the filter could do with each.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::ethtool::Ethtool;
use super::xdp;
use crate::enforce::links;

#[derive(Debug, Clone, Serialize)]
pub struct Device {
    pub name: String,
    pub ifindex: u32,
    /// `tap`, `tun`, `loopback`, a driver's name for what is virtual, else `ethernet` or `other`.
    pub kind: String,
    /// As ethtool has it; absent if the device does not tell.
    pub driver: Option<String>,
    /// Whether packets of many segments come whole (GSO); absent if the device does not tell.
    pub gso: Option<bool>,
    /// Whether the device takes TCP's (TSO).
    pub tso: Option<bool>,
    /// Whether `"hook": "xdp"` would work.
    pub xdp: Xdp,
    /// What `"hook": "auto"` comes to: `tcx`, `clsact` or `none`; absent if it is not known.
    pub hook: Option<&'static str>,
    /// Why.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Xdp {
    /// In the driver, which is what it takes.
    Driver,
    /// Only the kernel's own, behind the driver, which has no gain over TC and is not used.
    Generic,
    /// Linux tells from 6.3 on.
    Unknown,
}

impl Xdp {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic only",
            Self::Unknown => "not known",
        }
    }
}

/// `tcx`: whether the kernel has it, if that is known.
pub(super) fn examine(tcx: Option<bool>) -> io::Result<Vec<Device>> {
    let ethtool = Ethtool::new()?;
    let features = xdp::features();
    let mut devices = Vec::new();
    for (name, ifindex) in links::present()? {
        // Gone by now.
        let Ok(ethernet) = links::is_ethernet(&name) else { continue };
        let driver = ethtool.driver(&name);
        let kind = kind(&name, driver.as_deref(), ethernet);
        let (gso, tso) = ethtool.segments(&name);
        let xdp = match &features {
            Ok(features) if features.contains(&ifindex) => Xdp::Driver,
            Ok(_) => Xdp::Generic,
            Err(_) => Xdp::Unknown,
        };
        let (hook, why) = hook(&kind, ethernet, xdp, tcx);
        devices.push(Device { name, ifindex, kind, driver, gso, tso, xdp, hook, why });
    }
    devices.sort_by_key(|device| device.ifindex);
    Ok(devices)
}

/// docs/hooks.md has the measurements.
fn hook(kind: &str, ethernet: bool, xdp: Xdp, tcx: Option<bool>) -> (Option<&'static str>, String) {
    if kind == "loopback" {
        return (Some("none"), "the host's talk with itself; it is nobody's interface".to_owned());
    }
    if !ethernet {
        return (
            Some("none"),
            "it carries no Ethernet frames, which is all that the filter reads".to_owned(),
        );
    }
    let reason = match (kind, xdp) {
        ("veth", _) => {
            "by XDP every packet of a veth costs more, and one of many segments many times as much"
        }
        ("tap", _) => {
            "by XDP a tap's packets cost less only if they are dropped, and more if they have many segments"
        }
        (_, Xdp::Generic) => "the driver has no XDP of its own",
        _ => "it works on every Ethernet device, and what XDP would gain on this one nobody has measured",
    };
    let why = |how: &str| format!("\"auto\" is TC: {reason}; {how}");
    match tcx {
        Some(true) => (Some("tcx"), why("TCX, as this kernel has it")),
        Some(false) => (Some("clsact"), why("clsact, as this kernel has no TCX")),
        None => (None, why("whether by TCX or clsact is not known")),
    }
}

fn kind(name: &str, driver: Option<&str>, ethernet: bool) -> String {
    let path = Path::new("/sys/class/net").join(name);
    // Those of another network namespace may be mounted there; then this tells nothing.
    let ours = |file: &str| fs::read_to_string(path.join(file)).ok();
    if is_loopback(name) {
        return "loopback".to_owned();
    }
    if driver == Some("tun") {
        return if ethernet { "tap" } else { "tun" }.to_owned();
    }
    let named = ours("uevent")
        .and_then(|lines| lines.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).map(str::to_owned));
    let is_virtual = fs::canonicalize(&path).is_ok_and(|path| path.starts_with("/sys/devices/virtual"));
    match (named, driver) {
        (Some(named), _) => named,
        // These are never a card's.
        (None, Some(driver)) if is_virtual || matches!(driver, "veth" | "bridge" | "macvlan") => {
            driver.to_owned()
        }
        _ if ethernet => "ethernet".to_owned(),
        _ => "other".to_owned(),
    }
}

fn is_loopback(name: &str) -> bool {
    let flags = nix::ifaddrs::getifaddrs().into_iter().flatten();
    name == "lo"
        || flags
            .filter(|address| address.interface_name == name)
            .any(|address| address.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_the_tc_that_the_kernel_has_on_ethernet_only() {
        let of = |kind, ethernet, tcx| hook(kind, ethernet, Xdp::Driver, tcx).0;
        assert_eq!(of("tap", true, Some(true)), Some("tcx"));
        assert_eq!(of("tap", true, Some(false)), Some("clsact"));
        assert_eq!(of("tap", true, None), None);
        assert_eq!(of("tun", false, Some(true)), Some("none"));
        assert_eq!(of("loopback", true, Some(true)), Some("none"));
    }

    #[test]
    fn auto_says_why_it_is_no_xdp_on_each_kind_of_device() {
        let of = |kind, xdp| hook(kind, true, xdp, Some(true)).1;
        for (kind, xdp, reason) in [
            ("veth", Xdp::Driver, "every packet of a veth costs more"),
            // Before Linux 6.3 it is the same device.
            ("veth", Xdp::Unknown, "every packet of a veth costs more"),
            ("tap", Xdp::Driver, "only if they are dropped"),
            ("macvlan", Xdp::Generic, "the driver has no XDP of its own"),
            ("ethernet", Xdp::Driver, "nobody has measured"),
            ("ethernet", Xdp::Unknown, "nobody has measured"),
        ] {
            let why = of(kind, xdp);
            assert!(why.starts_with("\"auto\" is TC: ") && why.contains(reason), "{kind}: {why}");
        }
    }
}
