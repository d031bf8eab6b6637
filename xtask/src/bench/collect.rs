//! The collector. The bench itself is in `tests/benches/collect`: it needs the eBPF object, and xtask must build without
//! what `cargo xtask setup` installs.

use anyhow::Result;
use clap::Args;

use crate::{cargo, setup};

#[derive(Debug, Args)]
pub struct Collect {
    /// How many live connections of IPv4 the table holds
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1024..=16_000_000))]
    flows: u32,
}

impl Collect {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        // What takes the time is in the kernel, so what the tests are built with will do.
        let flows = self.flows.to_string();
        cargo::run(&["bench", "--profile", "dev", "-p", "sg-tests", "--bench", "collect", "--", &flows])
    }
}
