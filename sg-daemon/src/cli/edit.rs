//! What the editing verbs share: where the policy is, and telling what became of it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::output::{color, complain, counted, print};
use super::{NO, Outcome, TROUBLE, diff, names, refused};
use crate::api::client::{call, call_within, escaped};
use crate::api::edit::{EditAnswer, Edits};
use crate::policy::edit::{Edit, EditError, apply_to};
use crate::policy::find::{self, Missing};
use crate::policy::model::Model;
use crate::policy::render::render;
use crate::policy::{self, Diagnostic, LoadError};

/// A large policy on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which policy, and how to answer.
#[derive(Debug, Args)]
pub struct Which {
    /// Files that no daemon reads: a policy file, or a directory of *.json files. Without this sgd is asked
    #[arg(long, value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Which of several.
#[derive(Debug, Args)]
pub struct Scope {
    /// The VPC, where several have what is named
    #[arg(long, value_name = "NAME", add = names::vpcs())]
    pub vpc: Option<String>,
    /// The project, where several have what is named
    #[arg(long, value_name = "NAME", add = names::projects())]
    pub project: Option<String>,
}

/// How to edit.
#[derive(Debug, Args)]
pub struct How {
    #[command(flatten)]
    which: Which,
    /// Tell what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl How {
    /// The files to edit without a daemon, if that was asked for, and nothing else.
    pub fn plain_files(&self) -> Option<&Path> {
        match self {
            Self { which: Which { policy, json: false }, dry_run: false } => match policy.as_slice() {
                [path] => Some(path),
                _ => None,
            },
            _ => None,
        }
    }

    /// Has edits carried out, all or none.
    pub fn edit(self, socket: &Path, edits: Vec<Edit>) -> Outcome {
        let Self { which: Which { policy, json }, dry_run } = self;
        let answer = if policy.is_empty() {
            let edits = Edits { edits, dry_run };
            match refused(call_within(PATIENCE, socket, Method::POST, "/v1/policy/edit", Some(&edits)))? {
                Ok(answer) => answer,
                Err(code) => return Ok(code),
            }
        } else {
            match apply_to(&policy, &edits, dry_run) {
                Ok(edited) => EditAnswer::of(&edited, dry_run),
                Err(error) => return Ok(complained(&error)),
            }
        };
        if json {
            print(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        } else {
            print(&text(&answer))?;
        }
        if let Some(warning) = &answer.warning {
            complain(warning);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(answer: &EditAnswer) -> String {
    let mut text = String::new();
    for done in &answer.done {
        text += &format!("{}:{}: {}\n", done.file, done.line, done.text);
    }
    if answer.dry_run {
        text += &diff::text(&answer.changes);
        text += "dry run: nothing was changed\n";
    } else if !answer.done.iter().any(|done| done.changed) {
        text += "nothing to do\n";
    } else if let Some(generation) = answer.generation {
        text += &format!("in force: generation {generation}");
        if answer.revoked > 0 {
            text += &format!(", {} cut", counted(answer.revoked, "connection"));
        }
        text.push('\n');
    }
    text
}

/// Tells why nothing was edited; the exit code for that.
fn complained(error: &EditError) -> ExitCode {
    match error {
        EditError::Before(faults) => {
            show(&faults.diagnostics);
            complain("the policy files have faults already; mend them first; nothing was changed");
        }
        EditError::After(faults) => {
            show(&faults.diagnostics);
            complain(
                "the policy would be refused with this edit in it, see above; edit it otherwise; nothing was changed",
            );
        }
        other => complain(&other.to_string()),
    }
    ExitCode::from(if error.is_trouble() { TROUBLE } else { NO })
}

fn show(findings: &[Diagnostic]) {
    for finding in findings {
        let _ = print(&format!("{}\n", render(finding, color())));
    }
}

impl Which {
    /// What the daemon answers, or what the files say.
    pub fn get<T: DeserializeOwned>(
        &self,
        socket: &Path,
        path: &str,
        of_files: impl FnOnce(&Model) -> Result<T, Missing>,
    ) -> Result<Result<T, ExitCode>, Box<dyn std::error::Error + Send + Sync>> {
        if self.policy.is_empty() {
            return Ok(refused(call::<(), T>(socket, Method::GET, path, None))?);
        }
        match policy::load(&self.policy) {
            Ok(loaded) => Ok(of_files(&loaded.model).map_err(|missing| {
                let (Missing::None(why) | Missing::Several(why)) = missing;
                complain(&why);
                ExitCode::from(NO)
            })),
            Err(LoadError { diagnostics, unreadable, .. }) => {
                show(&diagnostics);
                complain("the policy has faults, see above; correct them first (`sgctl check`)");
                Ok(Err(ExitCode::from(if unreadable { TROUBLE } else { NO })))
            }
        }
    }

    /// Prints an answer as JSON if that was asked for, else as text.
    pub fn tell<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T) -> String) -> Outcome {
        if self.json {
            print(&format!("{}\n", serde_json::to_string_pretty(answer)?))?;
        } else {
            print(&text(answer))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Scope {
    pub fn find(&self) -> find::Scope<'_> {
        find::Scope { project: self.project.as_deref(), vpc: self.vpc.as_deref() }
    }

    /// As the query of a URL.
    pub fn query(&self) -> String {
        let pairs = [("project", &self.project), ("vpc", &self.vpc)];
        let pairs: Vec<String> = pairs
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", escaped(value.as_deref()?))))
            .collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}

/// `file:line`, or that it is written nowhere.
pub fn place(file: Option<&str>, line: Option<u32>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => "not written".to_owned(),
    }
}

/// `a, b`, or a dash.
pub fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
