//! `sgctl apply`, `confirm` and `rollback`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;

use super::output::{Tone, complain, counted, paint, print};
use super::progress::during;
use super::times::seconds_within_a_day;
use super::{NO, Outcome, candidate, refused};
use crate::api::candidate::{ApplyAnswer, Candidate};
use crate::api::client::{ClientError, call_within};

/// A large policy on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Put a policy in force, and answer with the outcome.
///
/// The files of the candidate take the place of those that sgd was started with: of the one file, if it was started with
/// one, or of all *.json of the one directory. A crash at any moment leaves the old policy or the new one, whole. Without
/// PATH, sgd reads its own files now.
///
/// With --confirm the candidate is in force at once, but replaces no file until `sgctl confirm`; without that it is rolled
/// back when the time is over, and also if sgd ends before. Connections that it has admitted live on then.
///
/// Exit code: 0 in force, 1 refused (faults, it does not fit, another policy waits to be confirmed) and the policy before
/// is in force, 2 trouble (unreadable files, sgd cannot be reached or did not answer).
#[derive(Debug, Args)]
pub struct Apply {
    /// Policy files, or directories of *.json files; all of them together are one policy
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Roll back unless `sgctl confirm` follows within this time, such as 90, 60s or 5m
    #[arg(long, value_name = "TIME", value_parser = seconds_within_a_day, requires = "paths")]
    confirm: Option<u64>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Keep the policy that was applied with --confirm, and write it to the policy files.
///
/// Exit code: 0 kept, 1 there is none that waits (any more), or it cannot be kept, 2 sgd cannot be reached.
#[derive(Debug, Args)]
pub struct Confirm {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Go back to the policy before the one that was applied with --confirm, at once.
///
/// Exit code: 0 the policy before is in force, 1 there is none to go back from, 2 sgd cannot be reached.
#[derive(Debug, Args)]
pub struct Rollback {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Apply {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let candidate = match candidate::read_only(&self.paths, NO) {
            Ok(candidate) => Candidate { confirm_seconds: self.confirm, ..candidate },
            Err(code) => return Ok(code),
        };
        let asked = ask(socket, "/v1/policy/apply", &candidate);
        // Faults are told best where the person is.
        if asked.is_err()
            && let Some(code) = candidate::faults(&candidate, NO)
        {
            return Ok(code);
        }
        done(refused(asked)?, self.json, "in force")
    }
}

impl Confirm {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        order(socket, "/v1/policy/confirm", &(), self.json, "confirmed")
    }
}

impl Rollback {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        order(socket, "/v1/policy/rollback", &(), self.json, "rolled back")
    }
}

fn order<B: serde::Serialize>(socket: &Path, path: &str, body: &B, json: bool, what: &str) -> Outcome {
    done(refused(ask(socket, path, body))?, json, what)
}

fn ask<B: serde::Serialize>(socket: &Path, path: &str, body: &B) -> Result<ApplyAnswer, ClientError> {
    during("sgd changes the policy in force", || {
        call_within(PATIENCE, socket, Method::POST, path, Some(body))
    })
}

fn done(answer: Result<ApplyAnswer, ExitCode>, json: bool, done: &str) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        Err(code) => return Ok(code),
    };
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let ApplyAnswer { generation, changed, written, deleted, revoked, unconfirmed, warning } = &answer;
    let mut text = format!("{}: generation {generation}", paint(Tone::Good, done));
    if *changed {
        text += &format!(
            ", {} written, {deleted} deleted",
            counted(*written, "entry").replace("entrys", "entries")
        );
        if *revoked > 0 {
            text += &format!(", {} cut", counted(*revoked, "connection"));
        }
    } else if done == "in force" {
        text += ", nothing has changed";
    }
    text.push('\n');
    if let Some(seconds) = unconfirmed {
        let warning = format!("Rolled back in {seconds} s unless `sgctl confirm` is run before.");
        text += &format!("{}\n", paint(Tone::Warning, &warning));
    }
    print(&text)?;
    if let Some(warning) = warning {
        complain(warning);
    }
    Ok(ExitCode::SUCCESS)
}
