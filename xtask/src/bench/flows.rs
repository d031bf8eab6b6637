//! Questions about very many connections. The bench itself is in `tests/benches/flows`.

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{cargo, setup};

#[derive(Debug, Args)]
pub struct Flows {
    /// How many connections live
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1024..=8_000_000))]
    flows: u32,
}

impl Flows {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        // What is measured are the programs that would be installed; what measures them may be any.
        cargo::run(&["build", "--release", "-p", "sg-daemon"])?;
        let flows = self.flows.to_string();
        let bench = ["bench", "--profile", "dev", "-p", "sg-tests", "--bench", "flows", "--", &flows];
        let status = cargo::cargo(&bench)
            .env("SGD_BIN_DIR", cargo::target().join("release"))
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "the bench failed ({status})");
        Ok(())
    }
}
