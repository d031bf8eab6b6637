//! `sgctl schema`.

use std::process::ExitCode;

use clap::Args;

use super::Outcome;
use super::output::print;
use crate::policy::schema;

/// Print the JSON Schema of the policy format, for editors and other programs.
#[derive(Debug, Args)]
pub struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Outcome {
        let mut text = serde_json::to_string_pretty(&schema::schema())?;
        text.push('\n');
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
