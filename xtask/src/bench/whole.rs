//! All parts, one after the other, and the report.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sg_tests::figures::{FILE, Figure};

use super::report::{self, machine::Machine};
use crate::{cargo, setup};

/// Measures everything and writes the report into a directory.
pub fn run(quick: bool, directory: &Path) -> Result<()> {
    setup::install()?;
    setup::install_peers()?;
    super::build_daemon()?;
    // Built before anything is timed.
    let benches = ["packets", "collect", "start"];
    for bench in benches {
        cargo::run(&["bench", "--profile", "dev", "-p", "sg-tests", "--bench", bench, "--no-run"])?;
    }
    let began = Instant::now();
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("figures");
    let machine = Machine::look();
    part("packets in the programs");
    bench("packets", if quick { &["quick"] } else { &[] }, &file)?;
    part("in path, side by side");
    verb("path", quick, &file)?;
    part("hooks");
    verb("hooks", quick, &file)?;
    part("control plane");
    verb("control", quick, &file)?;
    part("the collector");
    bench("collect", if quick { &["1000000", "quick"] } else { &["1000000"] }, &file)?;
    part("starts");
    bench("start", if quick { &["100", "quick"] } else { &["1", "100", "500"] }, &file)?;
    let took = began.elapsed().as_secs();
    report::write(Figure::read(&file)?, &machine, quick, directory)?;
    println!("measured in {took} s");
    Ok(())
}

fn part(name: &str) {
    println!("\n== {name}\n");
}

/// A part that is a verb of its own.
fn verb(name: &str, quick: bool, figures: &Path) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", name]).args(quick.then_some("--quick"));
    command.env(FILE, figures).env("SGD_BIN_DIR", cargo::target().join("release"));
    let status = command.status().context("cannot run xtask once more")?;
    ensure!(status.success(), "the part {name} failed ({status})");
    Ok(())
}

/// A bench that is a program of its own.
fn bench(name: &str, arguments: &[&str], figures: &Path) -> Result<()> {
    let all = ["bench", "--profile", "dev", "--quiet", "-p", "sg-tests", "--bench", name, "--"];
    let status = cargo::cargo(&[&all, arguments].concat())
        .env(FILE, figures)
        .env("SGD_BIN_DIR", cargo::target().join("release"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the bench {name} failed ({status})");
    Ok(())
}
