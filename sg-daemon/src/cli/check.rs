//! `sgctl check`: would the daemon take this policy, and is it what its author means?

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{Tone, color, counted, paint, print};
use super::progress::during;
use super::{NO, Outcome, TROUBLE};
use crate::policy::diagnostic::{Diagnostic, Severity};
use crate::policy::render::{render, to_json};
use crate::policy::{self, Counts};

/// Check policy files without touching a running daemon.
///
/// Lists every fault of every file with its line, and advice on what is valid but probably not meant.
/// Exit code: 0 the policy is good (there may be advice), 1 it has faults, 2 a path cannot be read.
#[derive(Debug, Args)]
pub struct Check {
    /// Policy files, or directories of *.json files; all of them together are one policy
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print a JSON array of findings instead of text
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Outcome {
        let (findings, omitted, counts, code) =
            match during("the policy is read and checked", || policy::load(&self.paths)) {
                Ok(loaded) => (loaded.lints, loaded.omitted, loaded.counts, 0),
                Err(error) => {
                    let code = if error.unreadable { TROUBLE } else { NO };
                    (error.diagnostics, error.omitted, error.counts, code)
                }
            };
        if self.json {
            print(&to_json(&findings)?)?;
        } else {
            let color = color();
            for finding in &findings {
                print(&format!("{}\n", render(finding, color)))?;
            }
            print(&summary(&findings, omitted, counts, code == 0))?;
        }
        Ok(ExitCode::from(code))
    }
}

fn summary(findings: &[Diagnostic], omitted: usize, counts: Counts, good: bool) -> String {
    let of = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let parts = [
        counted(counts.files, "file"),
        counted(counts.groups, "group"),
        counted(counts.rules, "rule"),
        counted(counts.interfaces, "interface"),
        counted(counts.peers, "peer"),
        counted(of(Severity::Error), "error"),
        counted(of(Severity::Warning), "warning"),
    ];
    let more = if omitted == 0 { String::new() } else { format!(" ({omitted} more findings not shown)") };
    let outcome = if good { paint(Tone::Good, "ok") } else { paint(Tone::Bad, "refused") };
    format!("{outcome}: {}{more}\n", parts.join(", "))
}
