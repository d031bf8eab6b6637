//! Bulk TCP both ways, in packets as large as virtio-net makes them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sg_tests::{Counter, Netns, Process, Way, outside};

use super::Site;
use super::golden::{APP, APP_V6, WEB};
use crate::demo::table::Table;
use crate::setup::program;

/// Bytes that no Ethernet frame of 1,500 has.
const SUPER: &str = "greater 3000";

pub fn run(site: &mut Site, table: &mut Table, seconds: u64) -> Result<()> {
    table.heading("bulk TCP: iperf3 in the guests, packets of many segments");
    site.web.must("(iperf3 -s -p 443 > /tmp/iperf 2>&1 &)")?;
    site.app.must("(iperf3 -s -p 5201 > /tmp/iperf 2>&1 &)")?;
    let outside_v4 = outside::ADMIN.to_string();
    let outside_v6 = outside::ADMIN_V6.to_string();
    let (web, app, app_v6) = (WEB.to_string(), APP.to_string(), APP_V6.to_string());
    for (text, device, way, source, to, port, reverse) in [
        ("into web-1 (XDP)", "tap0", Way::Sent, &outside_v4, &web, "443", false),
        ("out of web-1 (XDP)", "tap0", Way::Received, &outside_v4, &web, "443", true),
        ("into app-1 (TC)", "tap1", Way::Sent, &outside_v4, &app, "5201", false),
        ("out of app-1 (TC)", "tap1", Way::Received, &outside_v4, &app, "5201", true),
        ("out of app-1 (TC), IPv6", "tap1", Way::Received, &outside_v6, &app_v6, "5201", true),
    ] {
        let counter = site.topology.host.count(device, way, SUPER)?;
        let bytes = iperf(&site.topology.outside, source, to, port, seconds, reverse);
        show(table, text, bytes, &counter)?;
    }
    let counter = site.topology.host.count("tap1", Way::Received, SUPER)?;
    let said = site.app.must(&format!("iperf3 -J -c {web} -p 443 -t {seconds}"));
    show(table, "app-1 to web-1, guest to guest", said.and_then(|said| received(&said)), &counter)?;
    let status = site.daemon()?.status()?;
    let interfaces = status.get("interfaces").and_then(Value::as_array);
    let app = interfaces.into_iter().flatten().find(|found| found.get("name") == Some(&json!("tap1")));
    let fast_path = app.and_then(|app| app.get("fast_path")).context("app-1 is to be on the fast path")?;
    let packets = fast_path.get("packets").and_then(Value::as_u64).unwrap_or(0);
    let why = fast_path.get("why").and_then(Value::as_str).unwrap_or("past the bridge");
    table.row("", "app-1 to web-1, fast path", "some", &format!("{packets} packets, {why}"), packets > 0);
    Ok(())
}

fn show(table: &mut Table, text: &str, bytes: Result<u64>, counter: &Counter) -> Result<()> {
    let supers = counter.read()?;
    let right = supers > 0 && bytes.as_ref().is_ok_and(|&bytes| bytes > 0);
    let seen = match bytes {
        Ok(bytes) => format!("{} MB, {supers} super-packets", bytes / 1_000_000),
        Err(error) => format!("{error:#}"),
    };
    table.row("", text, "some", &seen, right);
    Ok(())
}

fn iperf(from: &Netns, source: &str, to: &str, port: &str, seconds: u64, reverse: bool) -> Result<u64> {
    let mut command = from.command(program("iperf3")?);
    command.args(["-J", "-B", source, "-c", to, "-p", port, "-t", &seconds.to_string()]);
    if reverse {
        command.arg("-R");
    }
    let run = Process::finish(command, std::time::Duration::from_secs(60 + seconds))?.success("iperf3")?;
    received(&run.stdout)
}

/// What iperf3 says has arrived, in bytes.
fn received(said: &str) -> Result<u64> {
    let report: Value = serde_json::from_str(said.trim()).with_context(|| format!("iperf3 said {said}"))?;
    let bytes = report.pointer("/end/sum_received/bytes").and_then(Value::as_u64);
    let bytes = bytes.with_context(|| format!("iperf3 said {said}"))?;
    ensure!(bytes > 0, "nothing has arrived");
    Ok(bytes)
}
