//! `cargo xtask attack`: what real attackers' and everyday programs get through the filter.
//!
//! Packets are counted where they leave and where they arrive, by the kernel and not by the filter. Whatever must not come
//! through is first sent on a second site, the same but without the filter, where it must.

mod cases;
mod evasions;
mod flood;
mod floods;
mod identity;
pub mod leases;
mod narrow;
mod scans;
mod scapy;
mod services;
pub mod site;
mod syn;
mod table;

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::{cargo, setup};
use site::Site;
use table::Table;

/// Let real attackers' and everyday programs loose on the filter.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only rows with NAME in their name; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// A smaller flood
    #[arg(long)]
    short: bool,
}

pub fn run(options: &Options) -> Result<()> {
    setup::install()?;
    setup::install_attackers()?;
    cargo::run(&["build", "--package", "sg-daemon"])?;
    let begin = Instant::now();
    let mut table = Table::new(&options.only);
    let (bare, filtered) = (Site::new(false)?, Site::new(true)?);
    scans::run(&mut table, &bare, &filtered)?;
    floods::run(&mut table, &bare, &filtered, options.short)?;
    evasions::run(&mut table, &bare, &filtered)?;
    leases::run(&mut table, &bare, &filtered)?;
    narrow::run(&mut table, &filtered)?;
    services::run(&mut table, &bare, &filtered)?;
    flood::run(&mut table, &bare, options.short)?;
    let took = begin.elapsed().as_secs();
    ensure!(table.rows() > 0, "no row has {:?} in its name", options.only);
    ensure!(
        table.wrong().is_empty(),
        "{} of {} rows are not as expected ({took} s):\n  {}",
        table.wrong().len(),
        table.rows(),
        table.wrong().join("\n  ")
    );
    println!("\n{} rows, all as expected, in {took} s", table.rows());
    Ok(())
}
