//! `sgd`: enforces security groups on the network interfaces of this host.

use std::process::ExitCode;

use clap::Parser;
use sg_daemon::arguments::Sgd;

pub(crate) fn main() -> ExitCode {
    Sgd::parse().run()
}
