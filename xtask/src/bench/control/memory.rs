//! What memory things take: the daemon, the kernel's tables, a flow.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use sg_common::abi::{ABI_VERSION, map};
use sg_tests::figures::Figures;
use sg_tests::{Daemon, bpf};

use super::{OURS, tell};

/// The daemon's own memory, and all of its maps.
pub fn daemon(daemon: &Daemon, (along, number): (&str, usize), figures: &mut Figures) -> Result<()> {
    let pid = daemon.pid().context("sgd does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = number_behind(&status, "VmRSS:").context("no VmRSS in /proc/PID/status")?;
    tell(figures, "memory of the daemon", "MiB", (OURS, along, number), &[resident / 1024.0])?;
    let mut all = 0.0;
    for entry in fs::read_dir(maps(daemon))? {
        all += charged(&entry?.path())?.0;
    }
    tell(figures, "memory of all tables", "MiB", (OURS, along, number), &[all / f64::from(1 << 20)])
}

/// What a flow takes, with all that the table has beside it: slots that stay free, and tags.
pub fn flow(daemon: &Daemon, figures: &mut Figures) -> Result<()> {
    let figure = "memory of a flow";
    for (family, slots, tags) in
        [("IPv4", map::FLOWS_V4, map::TAGS_V4), ("IPv6", map::FLOWS_V6, map::TAGS_V6)]
    {
        let [(slots, entries), (tags, _)] =
            [charged(&maps(daemon).join(slots))?, charged(&maps(daemon).join(tags))?];
        // A quarter of the slots stays free.
        let (bytes, entries) = (slots + tags, entries * 0.75);
        // Only IPv4 is held against a bar.
        let figure = if family == "IPv4" { figure.to_owned() } else { format!("{figure} of {family}") };
        println!("{figure:<44} {OURS:<28} {:.0} bytes", bytes / entries);
        figures.add(&figure, "bytes", &json!({ "filter": OURS, "family": family }), &[bytes / entries])?;
    }
    // The name, objects in use, objects, and an object's bytes: slabinfo(5). The hash table and extensions come on top.
    let slabs = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let object = slabs
        .lines()
        .filter(|line| line.starts_with("nf_conntrack ") || line.starts_with("nf_conntrack_"))
        .find(|line| !line.contains("expect"))
        .and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
    if let Some(bytes) = object {
        println!("{figure:<44} {:<28} {bytes:.0} bytes", "nf_conntrack");
        figures.add(figure, "bytes", &json!({ "filter": "nf_conntrack", "family": "either" }), &[bytes])?;
    }
    Ok(())
}

fn maps(daemon: &Daemon) -> std::path::PathBuf {
    daemon.pin_dir().join(format!("v{ABI_VERSION}/maps"))
}

/// Bytes that the kernel charges for a map, and how many entries there is room for.
fn charged(path: &Path) -> Result<(f64, f64)> {
    let map = bpf::pinned(path)?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let number =
        |name: &str| number_behind(&info, name).with_context(|| format!("no {name} of {}", path.display()));
    Ok((number("memlock:")?, number("max_entries:")?))
}

fn number_behind(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
