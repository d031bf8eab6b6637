//! Where the attacks happen: one site without the filter, to see that an attack would get through, and one with it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sg_tests::{Counter, Daemon, Guest, Netns, Topology, Way};

pub const POLICY: &str = include_str!("policy.json");

/// In every namespace.
pub const DEVICE: &str = "eth0";
pub const OUTSIDE_MAC: &str = "52:54:00:00:00:01";

/// How long kernels wait for the rest of a datagram, in seconds: longer than all rows take.
const REASSEMBLY_TIME: &str = "600";

#[derive(Debug)]
pub struct Site {
    /// Dropped first.
    pub daemon: Option<Daemon>,
    pub topology: Topology,
}

impl Site {
    /// Four guests: a (XDP) and b (TC) with rules, c without any, d with an address of one family only.
    pub fn new(filtered: bool) -> Result<Self> {
        let topology = Topology::with_guests(4)?;
        for netns in topology.guests.iter().map(|guest| &guest.netns).chain([&topology.outside]) {
            // Guests are to have the addresses that the policy lists, whoever advertises what.
            set(netns, "ipv6/conf/eth0/accept_ra", "0")?;
            // Datagrams that attacks leave in pieces are not complained of half a minute later, which would count in another row.
            set(netns, "ipv4/ipfrag_time", REASSEMBLY_TIME)?;
            set(netns, "ipv6/ip6frag_time", REASSEMBLY_TIME)?;
        }
        let daemon = filtered.then(|| Daemon::start(&topology, POLICY)).transpose()?;
        let site = Self { daemon, topology };
        if filtered {
            site.check_hooks()?;
        }
        Ok(site)
    }

    /// That guests a and b really are on different hooks, and b past the bridge.
    fn check_hooks(&self) -> Result<()> {
        for (device, kinds) in [("tap0", &["xdp"][..]), ("tap1", &["tcx", "clsact"])] {
            let status = self.status(device)?;
            let seen = status.get("ingress").and_then(Value::as_str).unwrap_or("nothing");
            ensure!(kinds.contains(&seen), "{device} is on {seen}, and not on {}", kinds.join(" or "));
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.status("tap1")?.pointer("/fast_path/direct") != Some(&json!(true)) {
            ensure!(Instant::now() < deadline, "tap1 is not on the fast path");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub fn guest(&self, index: usize) -> Result<&Guest> {
        self.topology.guest(index)
    }

    pub fn outside(&self) -> &Netns {
        &self.topology.outside
    }

    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("this site has no filter")
    }

    /// What `sgctl status` says of a guest's device; null without the filter.
    pub fn status(&self, device: &str) -> Result<Value> {
        let Some(daemon) = &self.daemon else { return Ok(Value::Null) };
        let status = daemon.status()?;
        let interfaces = status.get("interfaces").and_then(Value::as_array);
        let found = interfaces
            .into_iter()
            .flatten()
            .find(|interface| interface.get("name").and_then(Value::as_str) == Some(device));
        found.cloned().with_context(|| format!("sgctl status knows no {device}"))
    }
}

/// Packets of one reason in both directions.
pub fn reason(status: &Value, name: &str) -> u64 {
    ["inbound", "outbound"]
        .iter()
        .filter_map(|direction| status.get(direction)?.get("reasons")?.as_array())
        .flatten()
        .filter(|reason| reason.get("reason").and_then(Value::as_str) == Some(name))
        .filter_map(|reason| reason.get("packets")?.as_u64())
        .sum()
}

/// Packets dropped in both directions.
pub fn dropped(status: &Value) -> u64 {
    ["inbound", "outbound"]
        .iter()
        .filter_map(|direction| status.get(direction)?.get("dropped")?.as_u64())
        .sum()
}

/// What has been counted since, in words.
pub fn since(before: &Value, after: &Value) -> String {
    let mut words = Vec::new();
    for direction in ["inbound", "outbound"] {
        let counters = after.get(direction);
        let reasons = counters.and_then(|counters| counters.get("reasons")?.as_array());
        for name in reasons.into_iter().flatten().filter_map(|reason| reason.get("reason")?.as_str()) {
            let of = |status: &Value| reason(&json!({ direction: status.get(direction) }), name);
            let packets = of(after).saturating_sub(of(before));
            if packets > 0 {
                words.push(format!("{direction} {name} {packets}"));
            }
        }
    }
    words.join(", ")
}

/// A setting of a namespace below /proc/sys/net, which shows those of whoever looks.
pub fn set(netns: &Netns, name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    netns.run(|| fs::write(&path, value))?.with_context(|| format!("cannot write {path}"))
}

/// Counts an attack on both of its ends.
pub struct Ends {
    sent: Counter,
    through: Counter,
}

impl Ends {
    pub fn new(from: &Netns, to: &Netns, expression: &str) -> Result<Self> {
        Self::between(from, to, expression, expression)
    }

    /// With an expression for each end.
    pub fn between(from: &Netns, to: &Netns, sent: &str, through: &str) -> Result<Self> {
        Ok(Self {
            sent: from.count(DEVICE, Way::Sent, sent)?,
            through: to.count(DEVICE, Way::Received, through)?,
        })
    }

    /// Sent and received so far.
    pub fn now(&self) -> Result<(u64, u64)> {
        Ok((self.sent.read()?, self.through.read()?))
    }

    /// Sent and received, when all that is under way has arrived: once the numbers stand still.
    pub fn settled(&self) -> Result<(u64, u64)> {
        let mut last = (self.sent.read()?, self.through.read()?);
        loop {
            std::thread::sleep(Duration::from_millis(60));
            let now = (self.sent.read()?, self.through.read()?);
            if now == last {
                return Ok(now);
            }
            last = now;
        }
    }
}

/// Asks until the answer is yes.
pub fn wait_until(what: &str, patience: Duration, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !ready()? {
        ensure!(Instant::now() < deadline, "{what}: not in {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
