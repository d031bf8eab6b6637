//! What a guest may not send, sent by its own network stack.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sg_tests::Way;

use super::machine::Machine;
use super::{Site, addresses};
use crate::attack::site::{DEVICE, reason};
use crate::demo::table::Table;

/// A forgery.
struct Forgery {
    text: &'static str,
    /// One line of shell; whether it succeeds does not matter, what it sends does.
    script: String,
    /// By which its packets are known outside.
    expression: &'static str,
    /// Under which the filter counts it.
    reason: &'static str,
}

fn forgeries(number: u8) -> Vec<Forgery> {
    let neighbors = "ip neigh replace 10.0.0.1 lladdr 52:54:00:00:00:01 dev eth0; \
                     ip neigh replace fd00::1 lladdr 52:54:00:00:00:01 dev eth0; ";
    let again = addresses(number);
    vec![
        Forgery {
            text: "an IPv4 source that is not its own",
            script: format!(
                "{neighbors}ip address add 10.0.0.99/32 dev eth0; busybox ping -c 3 -W 1 -I 10.0.0.99 10.0.0.1; \
                 ip address del 10.0.0.99/32 dev eth0"
            ),
            expression: "icmp and src host 10.0.0.99",
            reason: "source_address",
        },
        Forgery {
            text: "an IPv6 source that is not its own",
            script: format!(
                "{neighbors}ip address add fd00::99/128 dev eth0 nodad; busybox ping6 -c 3 -W 1 -I fd00::99 fd00::1; \
                 ip address del fd00::99/128 dev eth0"
            ),
            expression: "ip6[6] = 58 and ip6[40] = 128 and src host fd00::99",
            reason: "source_address",
        },
        Forgery {
            text: "ARP for an address that is not its own",
            script: "ip address add 10.0.0.88/32 dev eth0; busybox arping -U -c 3 -w 4 -I eth0 10.0.0.88; \
                     ip address del 10.0.0.88/32 dev eth0"
                .to_owned(),
            expression: "arp and arp[14:4] = 0x0a000058",
            reason: "arp_spoof",
        },
        Forgery {
            text: "a hardware address that is not its own",
            script: format!(
                "ip link set eth0 down; mac=$(cat /sys/class/net/eth0/address); \
                 ip link set eth0 address 52:54:00:00:00:77; ip link set eth0 up; ip address flush dev eth0; {again}; \
                 {neighbors}busybox ping -c 3 -W 1 10.0.0.1; ip link set eth0 down; \
                 ip link set eth0 address $mac; ip address flush dev eth0; {again}"
            ),
            expression: "ether src 52:54:00:00:00:77 and icmp",
            reason: "source_mac",
        },
    ]
}

/// Both guests, and whatever else is asked of the site.
fn guest(site: &mut Site, web: bool) -> &mut Machine {
    if web { &mut site.web } else { &mut site.app }
}

/// Sends a forgery; how many of its packets came outside.
fn send(site: &mut Site, web: bool, forgery: &Forgery) -> Result<u64> {
    let counter = site.topology.outside.count(DEVICE, Way::Received, forgery.expression)?;
    guest(site, web).run(&forgery.script)?;
    counter.read()
}

/// Without the filter they come through. How many packets did.
pub fn open(site: &mut Site) -> Result<u64> {
    let mut all = 0;
    for (web, number) in [(true, 5), (false, 6)] {
        for forgery in forgeries(number) {
            let through = send(site, web, &forgery)?;
            ensure!(through > 0, "without the filter this should come through: {}", forgery.text);
            all += through;
        }
    }
    Ok(all)
}

pub fn run(site: &mut Site, table: &mut Table) -> Result<()> {
    for (web, number, device, name) in
        [(true, 5, "tap0", "web-1, by XDP"), (false, 6, "tap1", "app-1, by TC")]
    {
        table.heading(&format!("forged by the network stack of {name}"));
        for forgery in forgeries(number) {
            let counted = |site: &Site| -> Result<u64> {
                let status = site.daemon()?.status()?;
                let interfaces = status.get("interfaces").and_then(Value::as_array);
                let of = interfaces.into_iter().flatten().find(|of| of.get("name") == Some(&device.into()));
                Ok(reason(of.context("no such interface")?, forgery.reason))
            };
            let before = counted(site)?;
            let through = send(site, web, &forgery)?;
            let dropped = counted(site)? - before;
            let seen = format!("{through} through, {dropped} {}", forgery.reason);
            table.row("", forgery.text, "denied", &seen, through == 0 && dropped > 0);
        }
    }
    Ok(())
}
