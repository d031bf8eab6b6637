//! A packet in the programs. The bench itself is in `tests/benches/packets`.

use anyhow::Result;
use clap::Args;

use crate::{cargo, setup};

#[derive(Debug, Args)]
pub struct Packets {
    /// Fewer sizes and rounds
    #[arg(long)]
    quick: bool,
}

impl Packets {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        // What takes the time is in the kernel, so what the tests are built with will do.
        let mut arguments = vec!["bench", "--profile", "dev", "-p", "sg-tests", "--bench", "packets"];
        if self.quick {
            arguments.extend(["--", "quick"]);
        }
        cargo::run(&arguments)
    }
}
