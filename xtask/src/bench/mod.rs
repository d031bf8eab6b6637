//! `cargo xtask bench`: what the filter costs. Figures, no verdicts: those would be the machine's.

mod collect;

use anyhow::Result;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Measure what collecting connections that are over costs, and how long packets wait meanwhile
    Collect(collect::Collect),
}

impl Bench {
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Collect(collect) => collect.run(),
        }
    }
}
