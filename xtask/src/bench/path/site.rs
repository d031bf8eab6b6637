//! Where packets are forwarded:
//!
//! ```text
//!   guest                          host                              outside
//!   eth0 10.0.0.5      tap0 ── routed or bridged ── up0      eth0, and addresses in 198.18.0.0/15
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use serde_json::{Value, json};
use sg_tests::bpf::{self, Kind};
use sg_tests::{Daemon, Guest, Lab, Netns, Topology};

use super::super::filters::{DEVICE, GUEST, Other, Peer, Rules};

pub const UPLINK: &str = "up0";
pub const GUEST_MAC: &str = "52:54:00:00:00:05";
pub const OUTSIDE_MAC: &str = "52:54:00:00:00:01";
const UPLINK_MAC: &str = "52:54:00:00:00:02";
const TAP_MAC: &str = "52:54:00:00:00:03";
/// The client's.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// With tables for very many connections: a sixteenth is one interface's, and has room for those of the programs' sockets beside them.
const FOR_MANY: [&str; 2] = ["--live-flows", "1600000"];

/// What stands between.
#[derive(Debug, Clone, Copy)]
pub enum Filter {
    /// `many`: with tables for more connections than there are by default.
    Ours {
        many: bool,
        ports: Ports,
    },
    /// On the guest's device by clsact, with such tables.
    Clsact,
    /// Programs that pass everything, on the guest's device.
    Empty,
    Peer(Peer),
}

/// Where ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// On the guest's device.
    One,
    /// On that from which packets come to it too.
    Both,
    /// And they go past the bridge.
    FastPath,
}

pub struct Site {
    /// Dropped first.
    _daemon: Option<Daemon>,
    /// Empty programs, until these are closed.
    _attached: Vec<OwnedFd>,
    pub host: Netns,
    pub guest: Netns,
    pub outside: Netns,
    /// Where a frame from outside is sent to.
    pub towards_guest: &'static str,
    /// Where one of the guest's is.
    pub towards_outside: &'static str,
    _topology: Topology,
}

impl Site {
    pub fn new(bridged: bool, filter: Option<(Filter, &Rules)>) -> Result<Self> {
        let lab = Lab::new()?;
        let [host, guest, outside] = ["host", "g0", "outside"].map(|role| lab.netns(role));
        let (host, guest, outside) = (host?, guest?, outside?);
        for netns in [&host, &guest, &outside] {
            netns.silence()?;
        }
        host.ip(&format!(
            "link add {DEVICE} address {TAP_MAC} type veth peer name eth0 address {GUEST_MAC} netns {}\n\
             link add {UPLINK} address {UPLINK_MAC} type veth peer name eth0 address {OUTSIDE_MAC} netns {}\n\
             link set {DEVICE} up\nlink set {UPLINK} up",
            guest.name(),
            outside.name()
        ))?;
        let towards = |netns: &Netns, lines: &str| netns.ip(&format!("link set eth0 up\n{lines}"));
        let (towards_guest, towards_outside) =
            if bridged { (GUEST_MAC, OUTSIDE_MAC) } else { (UPLINK_MAC, TAP_MAC) };
        towards(
            &guest,
            &format!(
                "address add {GUEST}/32 dev eth0\nroute add 10.0.0.1 dev eth0\nroute add default via 10.0.0.1\n\
                 neigh replace 10.0.0.1 lladdr {towards_outside} dev eth0 nud permanent"
            ),
        )?;
        towards(
            &outside,
            &format!(
                "address add {CLIENT}/32 dev eth0\nroute add 192.0.2.1 dev eth0\nroute add {GUEST}/32 via 192.0.2.1 src {CLIENT}\n\
                 neigh replace 192.0.2.1 lladdr {towards_guest} dev eth0 nud permanent"
            ),
        )?;
        if bridged {
            host.bridge_without_netfilter()?;
            host.ip(&format!(
                "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up\n\
                 link set {DEVICE} master br0\nlink set {UPLINK} master br0"
            ))?;
        } else {
            set(&host, "ipv4/ip_forward", "1")?;
            host.ip(&format!(
                "route add {GUEST}/32 dev {DEVICE}\nneigh replace {GUEST} lladdr {GUEST_MAC} dev {DEVICE} nud permanent\n\
                 route add 192.0.2.2 dev {UPLINK}\nroute add 198.18.0.0/15 via 192.0.2.2\n\
                 neigh replace 192.0.2.2 lladdr {OUTSIDE_MAC} dev {UPLINK} nud permanent"
            ))?;
        }
        let topology = topology(lab, &host, &outside, &guest)?;
        let mut attached = Vec::new();
        let daemon = match filter {
            None => None,
            Some((Filter::Empty, _)) => {
                attached = host.run(|| {
                    let (program, ifindex) = (bpf::empty(Kind::Tc)?, if_nametoindex(DEVICE)?);
                    anyhow::Ok(vec![
                        bpf::attach(&program, Kind::Tc, ifindex)?,
                        bpf::attach_egress(&program, ifindex)?,
                    ])
                })??;
                None
            }
            Some((Filter::Ours { many, ports }, rules)) => {
                let extra: &[&str] = if many { &FOR_MANY } else { &[] };
                let fast_path = ports == Ports::FastPath;
                let other = (ports != Ports::One).then_some(Other { device: UPLINK, fast_path });
                let daemon = Daemon::start_with(&topology, &rules.sgd(other).to_string(), extra)?;
                if fast_path {
                    wait_for_fast_path(&daemon)?;
                }
                Some(daemon)
            }
            Some((Filter::Clsact, rules)) => {
                let extra = [&FOR_MANY[..], &["--tc", "clsact"]].concat();
                Some(Daemon::start_with(&topology, &rules.sgd(None).to_string(), &extra)?)
            }
            Some((Filter::Peer(peer), rules)) => {
                peer.apply(&host, rules, topology.lab.directory())?;
                // A network card has looked at checksums before. Injected frames are right, but nobody vouches for them.
                set(&host, "netfilter/nf_conntrack_checksum", "0")?;
                if peer.is_bridged() {
                    set(&host, "bridge/bridge-nf-call-iptables", "1")?;
                }
                None
            }
        };
        Ok(Self {
            _daemon: daemon,
            _attached: attached,
            host,
            guest,
            outside,
            towards_guest,
            towards_outside,
            _topology: topology,
        })
    }
}

/// A setting of a namespace below /proc/sys/net.
fn set(netns: &Netns, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    netns.run(|| fs::write(&path, value))?.with_context(|| format!("cannot write {path}"))
}

/// The lab's type of a site, with these namespaces in it: that is where its daemon runs.
pub fn topology(lab: Lab, host: &Netns, outside: &Netns, guest: &Netns) -> Result<Topology> {
    let member = Guest {
        netns: guest.clone(),
        device: DEVICE.to_owned(),
        mac: GUEST_MAC.to_owned(),
        v4: GUEST.parse()?,
        v6: std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    Ok(Topology { host: host.clone(), outside: outside.clone(), guests: vec![member], lab })
}

fn wait_for_fast_path(daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let status = daemon.status()?;
        let interfaces = status.get("interfaces").and_then(Value::as_array);
        let fast_path = interfaces
            .and_then(|all| all.iter().find(|found| found.get("name") == Some(&json!(UPLINK))))
            .and_then(|found| found.get("fast_path"));
        if fast_path.and_then(|fast_path| fast_path.get("direct")) == Some(&json!(true)) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no fast path: {fast_path:?}");
        sleep(Duration::from_millis(50));
    }
}
