//! A start of the daemon. The bench itself is in `tests/benches/start`.

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{cargo, setup};

#[derive(Debug, Args)]
pub struct Start {
    /// With how many interfaces; may be given more than once
    #[arg(long, value_name = "N", default_values_t = [1, 100, 500],
          value_parser = clap::value_parser!(u16).range(1..=511))]
    interfaces: Vec<u16>,
}

impl Start {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        // What is measured is the program that would be installed; what measures it may be any.
        cargo::run(&["build", "--release", "-p", "sg-daemon"])?;
        let counts: Vec<String> = self.interfaces.iter().map(ToString::to_string).collect();
        let bench = ["bench", "--profile", "dev", "-p", "sg-tests", "--bench", "start", "--"];
        let arguments: Vec<&str> = bench.into_iter().chain(counts.iter().map(String::as_str)).collect();
        let status = cargo::cargo(&arguments)
            .env("SGD_BIN_DIR", cargo::target().join("release"))
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "the bench failed ({status})");
        Ok(())
    }
}
