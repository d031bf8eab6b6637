//! `cargo xtask guest-test`: two virtual machines behind taps, with virtio-net and its offloads, held to the demo's policy.
//!
//! Namespaces behind veths never hand over what a real guest does: packets of 64 KiB whose checksum nobody has written. What must
//! not come through is first shown to come through without the filter.

mod bulk;
mod golden;
mod machine;
mod moving;
mod spoofing;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use sg_tests::{Daemon, Servers, Topology, outside};

use self::machine::Machine;
use crate::demo::table::Table;
use crate::vm::fetch;
use crate::{cargo, setup};

#[derive(Debug, Args)]
pub struct GuestTest {
    /// Less bulk, and no move to another host
    #[arg(long)]
    short: bool,
}

/// Where an answer is expected, from an emulated machine.
pub const ALLOWED: Duration = Duration::from_secs(20);
/// Where silence is expected: a hundred times what an answer takes.
pub const DENIED: Duration = Duration::from_secs(2);

/// The host, its two guests and what is outside.
pub struct Site {
    /// Dropped first.
    pub daemon: Option<Daemon>,
    /// web-1, behind tap0 (XDP).
    pub web: Machine,
    /// app-1, behind tap1 (TC).
    pub app: Machine,
    pub topology: Topology,
    _servers: Servers,
}

pub const WEB_MAC: &str = "52:54:00:00:00:05";
pub const APP_MAC: &str = "52:54:00:00:00:06";

/// The shell line that gives a guest its addresses.
pub fn addresses(number: u8) -> String {
    format!(
        "ip link set eth0 up && ip address add 10.0.0.{number}/24 dev eth0 && \
         ip address add fd00::{number}/64 dev eth0 nodad && ip route add default via {} && \
         ip -6 route add default via {} dev eth0",
        outside::ROUTER,
        outside::ROUTER_V6
    )
}

impl GuestTest {
    pub fn run(&self) -> Result<()> {
        setup::install()?;
        setup::install_vm()?;
        setup::install_attackers()?;
        cargo::run(&["build", "--package", "sg-daemon"])?;
        let path = cargo::workspace().join("examples/demo.json");
        let policy =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let policy = golden::with_bulk(&policy)?;
        let tree = fetch::fetch("bookworm")?;
        let begin = Instant::now();
        let mut site = site(&tree)?;
        println!("two guests with Linux {} up in {} s", tree.release, begin.elapsed().as_secs());
        let mut table = Table::default();

        golden::open(&mut site)?;
        let open = spoofing::open(&mut site)?;
        println!("without the filter everything comes through, {open} forged packets among it");

        site.daemon = Some(Daemon::start(&site.topology, &policy)?);
        golden::run(&mut site, &mut table, &policy)?;
        bulk::run(&mut site, &mut table, if self.short { 1 } else { 3 })?;
        spoofing::run(&mut site, &mut table)?;
        if !self.short {
            moving::run(&mut site, &mut table, &policy)?;
        }
        let took = begin.elapsed().as_secs();
        ensure!(
            table.wrong() == 0,
            "{} of {} rows are not as expected ({took} s)",
            table.wrong(),
            table.rows()
        );
        println!("\n{} rows, all as expected, in {took} s", table.rows());
        Ok(())
    }
}

fn site(tree: &fetch::Tree) -> Result<Site> {
    let topology = Topology::with_guests(0)?;
    let directory = topology.lab.directory().to_owned();
    let start = |tap: &str, mac: &str| Machine::start(tree, &topology.host, tap, mac, &directory.join(tap));
    let (mut web, mut app) = (start("tap0", WEB_MAC)?, start("tap1", APP_MAC)?);
    web.ready(&addresses(5))?;
    app.ready(&addresses(6))?;
    web.must(&golden::serve(&golden::WEB_PORTS))?;
    app.must(&golden::serve(&golden::APP_PORTS))?;
    let servers = topology.outside.serve_tcp(&golden::servers())?;
    Ok(Site { daemon: None, web, app, topology, _servers: servers })
}

impl Site {
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon")
    }
}
