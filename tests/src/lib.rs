//! The laboratory: network namespaces, real sockets and a real daemon, for the tests and for `cargo xtask demo` and `attack`.
//!
//! ```no_run
//! use sg_tests::{Daemon, Probe, Topology, patience};
//!
//! # fn main() -> anyhow::Result<()> {
//! let site = Topology::new()?;
//! let guest = site.guest(0)?;
//! let _servers = guest.netns.serve_tcp(&[(guest.v4, 80).into()])?;
//! let daemon = Daemon::start(&site, r#"{ "version": 1, … }"#)?;
//! let outcome = Probe::tcp(&site.outside, (guest.v4, 80)).run(patience::ALLOWED)?;
//! assert!(outcome.answered());
//! daemon.apply(r#"{ "version": 1, … }"#)?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything a lab makes (namespaces, processes, pins, files) goes away when its value is dropped, on a panic, and on SIGINT and
//! SIGTERM. What an earlier process could not remove because it was killed is removed by the next one ([`sweep`]).
//! All of it needs root, and says so.

pub mod bpf;
mod count;
mod daemon;
pub mod figures;
mod lab;
mod netns;
pub mod patience;
mod probe;
mod process;
mod registry;
mod screen;
mod serve;
mod socket;
mod terminal;
mod topology;
mod wire;

pub use count::{Counter, Way};
pub use daemon::{Daemon, binary};
pub use lab::{Lab, PinDirectory, sweep};
pub use netns::Netns;
pub use probe::{Connection, Outcome, Probe, run_all};
pub use process::{Finished, Process, write as write_file};
pub use screen::Screen;
pub use serve::Servers;
pub use socket::Transport;
pub use terminal::on_terminal;
pub use topology::{Guest, Topology, outside};
pub use wire::End;
