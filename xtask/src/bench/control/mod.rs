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
        Ok(())
    }
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
