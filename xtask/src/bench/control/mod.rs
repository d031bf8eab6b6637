//! The control plane: what it takes to change the policy, what traffic notices of it, and what memory things take.

mod api;
mod members;
mod memory;
mod swaps;
mod traffic;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::{Value, json};
use sg_tests::figures::{Figures, Spread};
use sg_tests::{Daemon, Lab, Netns, Topology};

use super::filters::{Peer, Rules};
use super::report::bars::{OURS, Run, number, rows};

/// So many changes are made one behind the other, too: each may have to wait for what the one before has left to be done …
const IN_A_ROW: usize = 20;
/// … but the first.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct Control {
    /// Fewer sizes and rounds
    #[arg(long)]
    quick: bool,
    /// Only one part of it; may be given several times
    #[arg(long, value_enum)]
    only: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// All rules, and one more
    Swaps,
    /// What traffic notices of swaps
    Traffic,
    /// One member more, and memory
    Members,
}

impl Control {
    pub fn run(&self) -> Result<()> {
        if super::again_with_daemon(true)? {
            return Ok(());
        }
        let mut figures = Figures::open()?;
        let wanted = |part| self.only.is_empty() || self.only.contains(&part);
        let rounds = if self.quick { 5 } else { 9 };
        let counts: &[usize] = if self.quick { &[10, 10_000] } else { &[10, 100, 1000, 10_000] };
        if wanted(Part::Swaps) {
            swaps::measure(counts, rounds, &mut figures)?;
        }
        if wanted(Part::Traffic) {
            traffic::measure(if self.quick { 20 } else { 200 }, &mut figures)?;
        }
        if wanted(Part::Members) {
            members::measure(if self.quick { 10_000 } else { 100_000 }, rounds, &mut figures)?;
        }
        bars(&figures);
        Ok(())
    }
}

/// What was measured against what it is held to.
fn bars(figures: &Figures) {
    for row in rows(&Run(figures.taken().to_vec())) {
        if let Some(ours) = row.ours {
            let (must, goal) = (row.must.text(), row.goal.text());
            println!(
                "{:<44} {} {}: must be {must}, the goal is {goal}: {}",
                row.figure,
                number(ours),
                row.unit,
                row.met()
            );
        }
    }
}

/// What the last change took of the daemon: writes to the kernel's maps, and milliseconds of CPU since `before`, as
/// [`cpu`] told it.
fn cost(daemon: &Daemon, before: f64) -> Result<(f64, f64)> {
    let spent = cpu(daemon)? - before;
    let status = daemon.status()?;
    let writes = status.pointer("/tables/map_writes_of_last_change").and_then(Value::as_f64);
    Ok((writes.context("sgd does not tell of its writes")?, spent))
}

/// Milliseconds of CPU of all threads of the daemon that there are.
fn cpu(daemon: &Daemon) -> Result<f64> {
    let pid = daemon.pid().context("sgd does not run")?;
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // Time on a CPU, time in its queue, and turns: Documentation/scheduler/sched-stats.rst.
        let Ok(times) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let spent = times.split_whitespace().next().and_then(|time| time.parse::<f64>().ok());
        nanoseconds += spent.context("no time in schedstat")?;
    }
    Ok(nanoseconds / 1e6)
}

/// sgd under rules on a site of its own.
fn ours(rules: &Rules) -> Result<(Topology, Daemon)> {
    let site = Topology::with_guests(1)?;
    let daemon = Daemon::start(&site, &rules.sgd(None).to_string())?;
    Ok((site, daemon))
}

/// A namespace for somebody else's filter, and the directory for its files.
fn theirs() -> Result<(Netns, Lab)> {
    let lab = Lab::new()?;
    Ok((lab.netns("host")?, lab))
}

/// One line of what is printed, and the figure.
fn tell(
    figures: &mut Figures,
    figure: &str,
    unit: &str,
    (filter, along, number): (&str, &str, usize),
    values: &[f64],
) -> Result<()> {
    let words = format!("{figure}, {number} {along}");
    println!("{words:<44} {filter:<28} {} {unit}", Spread::of(values));
    figures.add(figure, unit, &json!({ "filter": filter, along: number }), values)
}
