//! `cargo xtask systemd-test`: the package on a host with a real systemd, which is a container in a network namespace of the lab:
//!
//! ```text
//!   host (Debian, systemd, sgd)          guest
//!   sg-try0 192.0.2.1 ────────────────── eth0 192.0.2.2
//! ```
//!
//! or a virtual machine, which really boots:
//!
//! ```text
//!   host (Debian, its kernel, systemd, sgd)         outside
//!   eth0 198.51.100.1, role host ─── virtio, tap ── machine0 198.51.100.2
//!   sg-try0, a veth
//! ```

mod container;
mod debian;
mod disk;
mod machine;
mod rootfs;
mod site;
mod steps;
mod traffic;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use sg_tests::Lab;

use crate::demo::table::Table;
use crate::package::Pack;
use crate::vm::{boot, fetch};
use crate::{package, setup};

#[derive(Debug, Args)]
pub struct SystemdTest {
    /// Install the debug build, which is there sooner; in a virtual machine, only that and a reboot
    #[arg(long)]
    short: bool,
    /// In a virtual machine instead, which boots, reboots, and loses its power
    #[arg(long)]
    vm: bool,
}

/// What is upgraded from, and to; where they are on the host.
const VERSIONS: [&str; 2] = [env!("CARGO_PKG_VERSION"), "99.0"];
const PACKAGES: [&str; 2] = ["/root/sgd.deb", "/root/newer.deb"];

impl SystemdTest {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        setup::install_systemd_test(self.vm)?;
        let binaries = package::build(self.short)?;
        let lab = Lab::new()?;
        let [package, newer] =
            VERSIONS.map(|version| package::make(&binaries, version, lab.directory(), Pack::Fast));
        let (package, newer) = (package?, newer?);
        let packages = [package.as_path(), newer.as_path()];
        let mut table = Table::default();
        let begin = if self.vm {
            let tree = fetch::fetch(rootfs::SUITE)?;
            let disk = disk::make(&lab, &tree)?;
            let begin = Instant::now();
            steps::in_machine(&lab, &tree, &disk, packages, self.short, &mut table).map_err(|error| {
                let console = std::fs::read(lab.directory().join(boot::CONSOLE)).unwrap_or_default();
                error.context(format!("the machine's console:\n{}", String::from_utf8_lossy(&console)))
            })?;
            begin
        } else {
            let root = rootfs::unpack_for_container(&lab)?;
            let begin = Instant::now();
            steps::in_container(&lab, &root, packages, &mut table).map_err(|error| told(error, &root))?;
            begin
        };
        let took = begin.elapsed().as_secs();
        ensure!(table.wrong() == 0, "{} of {} rows are not as expected", table.wrong(), table.rows());
        println!("\n{} rows, all as expected, in {took} s", table.rows());
        Ok(())
    }
}

/// With what the journal has about it.
fn told(error: anyhow::Error, root: &Path) -> anyhow::Error {
    let journal = ["journalctl", "--no-pager", "--unit", "sgd", "--lines", "40"];
    let journal = package::said(Command::new("chroot").arg(root).args(journal));
    error.context(format!("the journal of sgd:\n{}", journal.unwrap_or_default()))
}
