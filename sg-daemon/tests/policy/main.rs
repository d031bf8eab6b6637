//! The policy loader, `sgctl check`, `sgctl schema` and `sgctl group copy`, from outside.
//! Test names begin with the line of the specification they hold to, where there is one.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod audit;
mod baseline;
mod check;
mod copy;
mod edit;
mod faults;
mod files;
mod hostile;
mod lints;
mod model;
mod schema;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sg_daemon::policy::{self, Diagnostic, LoadError, Loaded};
use tempfile::TempDir;

/// Files in a directory of their own.
fn files(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn load_files(texts: &[(&str, &str)]) -> Result<Loaded, LoadError> {
    let directory = files(texts);
    policy::load(&[directory.path().to_owned()])
}

fn load(text: &str) -> Result<Loaded, LoadError> {
    load_files(&[("policy.json", text)])
}

/// A policy of project shop, VPC main, with further fields.
fn policy(fields: &str) -> String {
    format!("{{\n\"version\": 1, \"project\": \"shop\", \"vpc\": \"main\",\n{fields}\n}}")
}

/// A policy whose one group has these inbound rules, from line 4 on.
fn inbound(rules: &str) -> String {
    policy(&format!("\"security_groups\": [{{ \"name\": \"group\", \"inbound\": [\n{rules}\n] }}]"))
}

/// All findings in short: `line:column field: message`.
fn short(diagnostics: &[Diagnostic]) -> Vec<String> {
    let place = |d: &Diagnostic| format!("{}:{}", d.line.unwrap_or(0), d.column.unwrap_or(0));
    diagnostics.iter().map(|d| format!("{} {}: {}", place(d), d.field, d.message)).collect()
}

fn faults(text: &str) -> Vec<String> {
    short(&load(text).expect_err("the policy should be refused").diagnostics)
}

/// The only fault of a policy.
fn fault(text: &str) -> Diagnostic {
    let mut diagnostics = load(text).expect_err("the policy should be refused").diagnostics;
    assert_eq!(diagnostics.len(), 1, "{:#?}", short(&diagnostics));
    diagnostics.remove(0)
}

fn good(text: &str) -> Loaded {
    load(text).unwrap_or_else(|error| panic!("{error}"))
}

fn sgctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sgctl")).args(arguments).output().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn here(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}
