//! `cargo xtask demo`: real traffic, filtered.
//!
//! Two guests and an outside in network namespaces; `sgd` on the host between them, with `examples/demo.json`, one guest on XDP
//! and the other on TC. Before the filter is on, every probe must get through: a denial shown later is then the filter's work
//! and not a hole in the topology.

pub mod edit;
mod scenes;
pub mod table;

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sg_tests::{Daemon, Outcome, Probe, Topology, patience, run_all};

use crate::{cargo, setup};
use scenes::{Row, World};
use table::Table;

pub fn run(unfiltered: bool, prebuilt: bool) -> Result<()> {
    if !prebuilt {
        setup::install()?;
    }
    if !unfiltered && !prebuilt {
        cargo::run(&["build", "--package", "sg-daemon"])?;
    }
    let begin = Instant::now();
    let path = cargo::workspace().join("examples/demo.json");
    let policy = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let site = Topology::new()?;
    let world = World::new(&site)?;

    let open = [world.as_written(), world.after_rule_change(), world.after_second_group()].concat();
    let held = world.held();
    let all: Vec<_> = open.iter().map(|row| &row.probe).chain(&held).cloned().collect();
    let _servers = site.serve(&all)?;
    baseline(&all)?;
    if unfiltered {
        return Ok(());
    }

    world.introduce();
    let daemon = Daemon::start(&site, &policy)?;
    let mut table = Table::default();

    table.heading("examples/demo.json: web-1 (XDP) in web-server, app-1 (TC) in backend");
    hooks(&mut table, &daemon.status()?);
    show(&mut table, &world.as_written());

    let mut connections = Vec::new();
    for probe in &held {
        connections.push((probe, probe.hold(patience::allowed())?));
    }
    daemon.apply(&edit::remove_rules_and_open_metadata(&policy)?)?;
    table.heading(
        "rules for SSH and telemetry removed while both were in use; metadata rule added to backend",
    );
    for (probe, connection) in &mut connections {
        let outcome = connection.exchange(patience::allowed());
        table.probe("K11", &world.describe(probe, "open since before"), true, &outcome);
    }
    show(&mut table, &world.after_rule_change());

    daemon.apply(&edit::add_default_group(&policy)?)?;
    table.heading("group default added to both interfaces, live");
    show(&mut table, &world.after_second_group());

    drop(daemon);
    let took = begin.elapsed().as_secs_f32();
    ensure!(table.wrong() == 0, "{} of {} rows are not as expected", table.wrong(), table.rows());
    println!("\n{} rows, all as expected, in {took:.1} s", table.rows());
    Ok(())
}

/// Every probe without the filter.
fn baseline(probes: &[Probe]) -> Result<()> {
    let begin = Instant::now();
    let patient: Vec<_> = probes.iter().map(|probe| (probe.clone(), patience::allowed())).collect();
    let mut broken = Vec::new();
    for (probe, outcome) in probes.iter().zip(run_all(&patient)) {
        match outcome {
            Ok(Outcome::Answered) => {}
            Ok(outcome) => broken.push(format!("{probe}: {outcome}")),
            Err(error) => broken.push(format!("{error:#}")),
        }
    }
    if !broken.is_empty() {
        bail!("without the filter these paths should be open:\n  {}", broken.join("\n  "));
    }
    let took = begin.elapsed().as_millis();
    println!("\nWithout the filter all {} probes get through ({took} ms).", probes.len());
    Ok(())
}

/// That the two guests really are on different hooks.
fn hooks(table: &mut Table, status: &Value) {
    let interfaces = status.get("interfaces").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (device, expected, kinds) in [("tap0", "xdp", &["xdp"][..]), ("tap1", "tc", &["tcx", "clsact"])] {
        let interface = interfaces.iter().find(|interface| interface.get("name") == Some(&device.into()));
        let seen = interface.and_then(|interface| interface.get("ingress")).and_then(Value::as_str);
        let seen = seen.unwrap_or("nothing");
        table.row("", &format!("hook on {device}, by sgctl status"), expected, seen, kinds.contains(&seen));
    }
}

/// Sends all probes of a scene side by side and prints their rows.
fn show(table: &mut Table, rows: &[Row]) {
    let probes: Vec<_> = rows
        .iter()
        .map(|row| (row.probe.clone(), if row.allowed { patience::allowed() } else { patience::DENIED }))
        .collect();
    for (row, outcome) in rows.iter().zip(run_all(&probes)) {
        table.probe(row.spec, &row.text, row.allowed, &outcome);
    }
}
