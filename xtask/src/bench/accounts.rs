//! Counting packets flow by flow. The bench itself is in `tests/benches/accounts`.

use anyhow::Result;
use clap::Args;

use crate::{cargo, setup};

#[derive(Debug, Args)]
pub struct Accounts {}

impl Accounts {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        // What takes the time is in the kernel, so what the tests are built with will do.
        cargo::run(&["bench", "--profile", "dev", "-p", "sg-tests", "--bench", "accounts"])
    }
}
