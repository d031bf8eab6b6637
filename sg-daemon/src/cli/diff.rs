//! `sgctl diff`: what a policy would change.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use hyper::Method;

use super::output::{Tone, paint, print};
use super::progress::during;
use super::{NO, Outcome, TROUBLE, candidate};
use crate::api::candidate::DiffAnswer;
use crate::api::client::call;
use crate::diff::{Change, Part, What};

/// Compare policy files with the policy in force.
///
/// Compared is what is enforced: order, layout, descriptions and the split into files do not count. Nothing is changed.
///
/// Exit code, as of diff(1): 0 no difference, 1 differences, 2 trouble (faulty or unreadable files, sgd cannot be reached).
#[derive(Debug, Args)]
pub struct Diff {
    /// Policy files, or directories of *.json files; all of them together are one policy. None: those that sgd was started
    /// with, as they are now
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Diff {
    pub(super) fn run(self, socket: &Path) -> Outcome {
        let candidate = match candidate::read(&self.paths, TROUBLE) {
            Ok(candidate) => candidate,
            Err(code) => return Ok(code),
        };
        let ask = || call(socket, Method::POST, "/v1/policy/diff", Some(&candidate));
        let answer: DiffAnswer = during("sgd compares the policies", ask)?;
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        } else {
            let text = text(&answer.changes);
            print(if text.is_empty() { "no difference\n" } else { &text })?;
        }
        Ok(if answer.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }
}

/// One line a difference, under its group.
pub(super) fn text(changes: &[Change]) -> String {
    let mut text = String::new();
    let mut group = None;
    for change in changes {
        let Change { what, part, scope, name, field, before, after, at } = change;
        let sign = match what {
            What::Added => paint(Tone::Good, "+"),
            What::Removed => paint(Tone::Bad, "-"),
            What::Changed => paint(Tone::Warning, "~"),
        };
        let at = at.as_ref().map_or_else(String::new, |at| format!("  ({}:{})", at.file, at.line));
        let now = Some((scope, name));
        if *part == Part::Rule {
            if group != now {
                text += &format!("{} group {name:?} of {scope}\n", paint(Tone::Warning, "~"));
                group = now;
            }
            let words = after.as_deref().or(before.as_deref()).unwrap_or_default();
            text += &format!("  {sign} {}: {words}{at}\n", field.as_deref().unwrap_or_default());
            continue;
        }
        group = (*part == Part::Group).then_some((scope, name));
        let what = match part {
            Part::Setting => format!("settings.{name}"),
            Part::Vpc => format!("VPC {name}"),
            Part::Group => format!("group {name:?} of {scope}"),
            Part::Interface => format!("interface {name}"),
            Part::Peer => format!("peer {name} of {scope}"),
            Part::Rule => String::new(),
        };
        let field = field.as_ref().map_or_else(String::new, |field| format!(" {field}"));
        let values = match (before, after) {
            (Some(before), Some(after)) => format!("{before} → {after}"),
            (value, None) | (None, value) => value.clone().unwrap_or_default(),
        };
        text += &format!("{sign} {what}{field}: {values}{at}\n");
    }
    text
}
