//! A guest that moves to another host, with a connection that no rule allows there.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sg_tests::{Daemon, Outcome, Probe, Topology, outside};

use super::golden::APP;
use super::{ALLOWED, DENIED, Site};
use crate::demo::table::Table;

/// On the other host nobody may open a connection to app-1.
fn closed(policy: &str) -> Result<String> {
    let mut policy: Value = serde_json::from_str(policy)?;
    for group in policy.get_mut("security_groups").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(group) = group.as_object_mut() else { continue };
        group.insert("inbound".to_owned(), json!([]));
        group.insert("outbound".to_owned(), json!([]));
    }
    Ok(serde_json::to_string_pretty(&policy)?)
}

pub fn run(site: &mut Site, table: &mut Table, policy: &str) -> Result<()> {
    table.heading("app-1 moves to another host while it is in use");
    let other = Topology::with_guests(0)?;
    // A cable between the bridges; what is outside is outside of both.
    other.host.ip("link del up0")?;
    site.topology.host.ip(&format!(
        "link add trunk type veth peer name trunk netns {}\nlink set trunk master br0 up",
        other.host.name()
    ))?;
    other.host.ip("link set trunk master br0 up")?;
    let daemon = Daemon::start(&other, &closed(policy)?)?;
    let to = SocketAddr::from((APP, 8080));
    let probe = Probe::tcp(&site.topology.outside, to).source(outside::STRANGER);
    let mut connection = probe.hold(ALLOWED)?;

    site.app.pause(true)?;
    let file = site.topology.lab.directory().join("flows.ndjson");
    let exported = succeeded(&site.daemon()?.sgctl(&[
        "flows",
        "export",
        "--interface",
        "tap1",
        "--output",
        &path(&file),
    ])?);
    exported?;
    // The machine goes on holding its tap, wherever that is.
    site.topology.host.ip(&format!("link set tap1 netns {}", other.host.name()))?;
    succeeded(&daemon.sgctl(&["interface", "wait", "tap1", "--timeout", "30s"])?)?;
    other.host.ip("link set tap1 master br0 up")?;
    site.app.pause(false)?;

    let mut row = |text: &str, expected: Outcome, seen: Result<Outcome>| {
        let right = seen.as_ref().is_ok_and(|seen| *seen == expected);
        let words = if expected == Outcome::Answered { "allowed" } else { "denied" };
        let seen = seen.map_or_else(|error| format!("{error:#}"), |seen| seen.to_string());
        table.row("K11", text, words, &seen, right);
    };
    row("the open connection, before its flow is there", Outcome::TimedOut, connection.exchange(DENIED));
    succeeded(&daemon.sgctl(&["flows", "import", "--interface", "tap1", &path(&file)])?)?;
    row("the open connection, with its flow", Outcome::Answered, connection.exchange(ALLOWED));
    row("a new connection, which no rule allows there", Outcome::TimedOut, probe.run(DENIED));
    Ok(())
}

fn path(file: &Path) -> String {
    file.display().to_string()
}

fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "sgctl: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
