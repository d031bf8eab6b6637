//! `sgctl man`: the manual pages.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_mangen::{Man, generate_to};

use super::{Outcome, Sgctl};
use crate::arguments::Sgd;

/// Write the manual pages of sgd and of sgctl with all its verbs into a directory.
#[derive(Debug, Args)]
pub struct Manual {
    /// An existing directory: sgd.8, sgctl.1, sgctl-status.1, …
    directory: PathBuf,
}

impl Manual {
    pub(super) fn run(self) -> Outcome {
        // The long version is of this build, and a page is of all.
        let sgd = Sgd::command().long_version(env!("CARGO_PKG_VERSION"));
        generate_to(Sgctl::command(), &self.directory)
            .and_then(|()| Man::new(sgd).section("8").generate_to(&self.directory))
            .map_err(|error| {
                let directory = self.directory.display();
                format!("cannot write to {directory}: {error}; name a directory that exists")
            })?;
        Ok(ExitCode::SUCCESS)
    }
}
