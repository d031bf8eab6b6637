//! `sgctl export`: a policy in the words of a cloud's API.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::import::{cannot, eprint_text, tell, write};
use super::output::{color, complain, print};
use super::{NO, Outcome, TROUBLE};
use crate::carry::{aws, kakao, neutron};
use crate::policy;
use crate::policy::render::render;

/// Write a policy as a cloud's API would answer about it: groups and interfaces in one document.
///
/// What the cloud cannot say is listed, one line each, and then nothing is written unless --allow-loss says so. `sgctl
/// import` of the same cloud reads the document back; ids are made of names, so they are the same every time.
/// Exit code: 0 written, 1 not written (something would be lost, or the policy has faults), 2 a file cannot be read.
#[derive(Debug, Args)]
pub struct Export {
    cloud: Cloud,
    /// Policy files, or directories of policy files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A file, or "-" for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Write what can be carried although something else cannot
    #[arg(long)]
    allow_loss: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Cloud {
    Aws,
    Neutron,
    Kakao,
}

impl Export {
    pub(super) fn run(self) -> Outcome {
        let loaded = match policy::load(&self.paths) {
            Ok(loaded) => loaded,
            Err(error) => {
                for finding in &error.diagnostics {
                    eprint_text(&render(finding, color()));
                }
                complain("the policy has faults, see above; correct them first; nothing was written");
                return Ok(ExitCode::from(if error.unreadable { TROUBLE } else { NO }));
            }
        };
        let (text, report) = match self.cloud {
            Cloud::Aws => {
                let (document, report) = aws::export(&loaded.model);
                (serde_json::to_string_pretty(&document)?, report)
            }
            Cloud::Neutron => {
                let (document, report) = neutron::export(&loaded.model);
                (serde_json::to_string_pretty(&document)?, report)
            }
            Cloud::Kakao => {
                let (document, report) = kakao::export(&loaded.model);
                (serde_json::to_string_pretty(&document)?, report)
            }
        };
        tell(&report);
        if !report.losses.is_empty() && !self.allow_loss {
            complain(&format!(
                "{}, see above; nothing was written. --allow-loss writes the rest",
                cannot(&report)
            ));
            return Ok(ExitCode::from(NO));
        }
        let text = format!("{text}\n");
        if self.out == Path::new("-") {
            print(&text)?;
        } else if let Err(why) = write(&[(self.out, text)], self.force) {
            complain(&why);
            return Ok(ExitCode::from(TROUBLE));
        }
        Ok(ExitCode::SUCCESS)
    }
}
