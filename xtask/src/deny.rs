//! `cargo xtask deny`: holds what is built from other people's crates to `deny.toml`.

use anyhow::Result;

use crate::{cargo, setup};

pub fn run() -> Result<()> {
    setup::install_deny()?;
    cargo::run(&["deny", "--workspace", "check", "bans", "licenses", "sources"])
}
