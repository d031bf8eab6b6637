//! `cargo xtask systemd-test`: the package on a host with a real systemd, which is a container in a network namespace of the lab.
//!
//! ```text
//!   host (Debian, systemd, sgd)          guest
//!   sg-try0 192.0.2.1, fd02::1 ───────── eth0 192.0.2.2, fd02::2
//! ```

mod container;
mod rootfs;
mod site;
mod steps;
mod traffic;

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use sg_tests::Lab;

use crate::demo::table::Table;
use crate::package::Pack;
use crate::{package, setup};

#[derive(Debug, Args)]
pub struct SystemdTest {
    /// Install the debug build, which is there sooner
    #[arg(long)]
    short: bool,
}

/// What is upgraded from, and to.
const VERSIONS: [&str; 2] = [env!("CARGO_PKG_VERSION"), "99.0"];

impl SystemdTest {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        setup::install_systemd_test()?;
        let binaries = package::build(self.short)?;
        let lab = Lab::new()?;
        let [package, newer] =
            VERSIONS.map(|version| package::make(&binaries, version, lab.directory(), Pack::Fast));
        let (package, newer) = (package?, newer?);
        let root = rootfs::unpack(&lab)?;

        let begin = Instant::now();
        let mut table = Table::default();
        if let Err(error) = steps::all(&lab, &root, &package, &newer, &mut table) {
            let journal = ["journalctl", "--no-pager", "--unit", "sgd", "--lines", "40"];
            let journal = package::said(Command::new("chroot").arg(&root).args(journal));
            return Err(error.context(format!("the journal of sgd:\n{}", journal.unwrap_or_default())));
        }
        let took = begin.elapsed().as_secs();
        ensure!(table.wrong() == 0, "{} of {} rows are not as expected", table.wrong(), table.rows());
        println!("\n{} rows, all as expected, in {took} s", table.rows());
        Ok(())
    }
}
