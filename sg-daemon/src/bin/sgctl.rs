//! `sgctl`: checks and edits policies, asks the daemon.

use std::process::ExitCode;

use clap::Parser;
use sg_daemon::cli::Sgctl;

fn main() -> ExitCode {
    Sgctl::complete();
    Sgctl::parse().run()
}
