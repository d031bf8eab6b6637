//! `sgctl openapi`.

use std::process::ExitCode;

use clap::Args;

use super::Outcome;
use super::output::print;
use crate::api::openapi::document;

/// Print the OpenAPI document of the daemon's API, for other programs. No daemon is asked.
#[derive(Debug, Args)]
pub struct OpenApi {}

impl OpenApi {
    pub(super) fn run(self) -> Outcome {
        print(&format!("{}\n", serde_json::to_string_pretty(document())?))?;
        Ok(ExitCode::SUCCESS)
    }
}
