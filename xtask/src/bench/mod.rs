//! `cargo xtask bench`: what the filter costs. Figures, no verdicts on a change: those would be the machine's.

mod accounts;
mod collect;
mod control;
mod filters;
mod flows;
mod hooks;
mod packets;
mod path;
mod report;
mod start;
mod whole;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};

use crate::{cargo, progress, setup};

/// Measure what the filter costs: everything, side by side with other filters, with a report, which takes up to half an hour on two
/// busy CPUs; or one part
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
    /// Fewer sizes and rounds: some minutes
    #[arg(long)]
    quick: bool,
    /// Where the report goes
    #[arg(long, value_name = "DIRECTORY", default_value = "docs/benchmarks")]
    out: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Measure what it costs a packet to be counted in the account of its flow, for the flow log
    Accounts(accounts::Accounts),
    /// Measure what collecting connections that are over costs, and how long packets wait meanwhile
    Collect(collect::Collect),
    /// Measure what changing the policy takes, what traffic notices of it, and what memory things take
    Control(control::Control),
    /// Measure how long listing, filtering and counting connections takes, and what traffic notices of it
    Flows(flows::Flows),
    /// Measure what packets of a guest cost behind TC and behind XDP, on a veth and on a tap: what `"hook": "auto"` is chosen by
    Hooks(hooks::Hooks),
    /// Measure what a packet costs in the programs: established, reply, new, denied; few rules and many; one flow and a million
    Packets(packets::Packets),
    /// Measure what forwarding costs without a filter, with this one and with others
    Path(path::Path),
    /// Measure how long sgd takes to be ready: cold, and after it was killed
    Start(start::Start),
}

/// Set for the program that measures while another one shows how far it is.
const SHOWN: &str = "SGD_BENCH_SHOWN";

impl Bench {
    pub fn run(&self) -> Result<()> {
        // What measures may print whatever it likes, so whoever draws is another program.
        if progress::is_watched() && std::env::var_os(SHOWN).is_none() {
            let mut again = Command::new(std::env::current_exe()?);
            again.args(std::env::args_os().skip(1)).env(SHOWN, "1");
            let status = progress::told("bench", &mut again)?;
            ensure!(status.success(), "the bench failed, see above ({status})");
            return Ok(());
        }
        match &self.part {
            None => whole::run(self.quick, &self.out),
            Some(Part::Accounts(accounts)) => accounts.run(),
            Some(Part::Collect(collect)) => collect.run(),
            Some(Part::Control(control)) => control.run(),
            Some(Part::Flows(flows)) => flows.run(),
            Some(Part::Hooks(hooks)) => hooks.run(),
            Some(Part::Packets(packets)) => packets.run(),
            Some(Part::Path(path)) => path.run(),
            Some(Part::Start(start)) => start.run(),
        }
    }
}

/// The programs as they would be installed.
fn build_daemon() -> Result<()> {
    cargo::run(&["build", "--release", "-p", "sg-daemon"])
}

/// Where the laboratory finds these programs is said by the environment, which only a new process can be given: unless it has been
/// said, everything needed is installed and built, and this program runs once more with the same arguments.
fn again_with_daemon(peers: bool) -> Result<bool> {
    const NAME: &str = "SGD_BIN_DIR";
    if std::env::var_os(NAME).is_some() {
        return Ok(false);
    }
    setup::install()?;
    if peers {
        setup::install_peers()?;
    }
    build_daemon()?;
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(NAME, cargo::target().join("release"))
        .status()
        .context("cannot run xtask once more")?;
    ensure!(status.success(), "the bench failed ({status})");
    Ok(true)
}
