//! `sgctl schema`.

use std::process::ExitCode;

use clap::Args;

use super::Outcome;
use super::output::print;
use crate::flowlog::record::Record;
use crate::policy::schema;

/// Print the JSON Schema of the policy format, for editors and other programs.
#[derive(Debug, Args)]
pub struct Schema {
    /// That of a line of the flow log, instead
    #[arg(long)]
    flow_log: bool,
}

impl Schema {
    pub(super) fn run(self) -> Outcome {
        let mut text = if self.flow_log {
            serde_json::to_string_pretty(&schemars::schema_for!(Record))?
        } else {
            serde_json::to_string_pretty(&schema::schema())?
        };
        text.push('\n');
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
