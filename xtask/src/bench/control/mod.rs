//! The control plane: what it takes to change the policy, what traffic notices of it, and what memory things take.

mod api;
mod members;
mod memory;
mod swaps;
mod traffic;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use sg_tests::figures::{Figures, Spread};
use sg_tests::{Daemon, Lab, Netns, Topology};

use super::filters::{Peer, Rules};
use super::report::bars::OURS;

#[derive(Debug, Args)]
pub struct Control {
    /// Fewer sizes and rounds
    #[arg(long)]
    quick: bool,
}

impl Control {
    pub fn run(&self) -> Result<()> {
        if super::again_with_daemon(true)? {
            return Ok(());
        }
        measure(self.quick, &mut Figures::open()?)
    }
}

/// To be called in a process that knows where sgd is: see [`super::again_with_daemon`].
fn measure(quick: bool, figures: &mut Figures) -> Result<()> {
    let rounds = if quick { 5 } else { 9 };
    let counts: &[usize] = if quick { &[10, 10_000] } else { &[10, 100, 1000, 10_000] };
    swaps::measure(counts, rounds, figures)?;
    traffic::measure(if quick { 20 } else { 200 }, figures)?;
    members::measure(if quick { 10_000 } else { 100_000 }, rounds, figures)
}

/// sgd under rules on a site of its own.
fn ours(rules: &Rules) -> Result<(Topology, Daemon)> {
    let site = Topology::with_guests(1)?;
    let daemon = Daemon::start(&site, &rules.sgd().to_string())?;
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
