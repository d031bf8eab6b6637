//! `cargo xtask chaos`: the long form of the tests that break things under traffic, as a table. The short form is part of the
//! tests.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::paint::paint;
use crate::{cargo, progress, setup};

#[derive(Debug, Args)]
pub struct Chaos {
    /// Only tests with NAME in their name; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// As much of everything as the tests do
    #[arg(long)]
    short: bool,
    /// The commit whose sgd is upgraded to this one's
    #[arg(long, value_name = "COMMIT", default_value = "HEAD~1")]
    from: String,
}

/// What is longer moves the rest of its own line only.
const FAULT_WIDTH: usize = 60;

/// The tests that report a row.
const TESTS: [&str; 4] = ["chaos::", "crash::", "bounds::", "appear::spec_d23_no_packet"];

impl Chaos {
    pub fn run(&self) -> Result<ExitCode> {
        setup::install()?;
        setup::install_attackers()?;
        // As it is installed: how soon it is ready again is one of the figures.
        cargo::run(&["build", "--release", "--package", "sg-daemon"])?;
        let crashing = ["--features", "crash-points", "--bin", "sgd-crash-points"];
        cargo::run(&[&["build", "--release", "--package", "sg-daemon"][..], &crashing].concat())?;
        cargo::run(&["test", "--no-run", "--package", "sg-tests", "--test", "daemon"])?;
        let scratch = tempfile::tempdir()?;
        let before = Before::build(&self.from, scratch.path())?;
        let table = scratch.path().join("table.json");
        let log = scratch.path().join("log");
        File::create(&table)?;

        let begin = Instant::now();
        let mut child = self
            .tests()
            .env("SGD_BIN_DIR", cargo::target().join("release"))
            .env("SGD_CHAOS", if self.short { "short" } else { "long" })
            .env("SGD_CHAOS_TABLE", &table)
            .env("SGD_BEFORE_BIN_DIR", &before.binaries)
            .stdout(File::create(&log)?)
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run cargo")?;
        let line =
            format!("  {:<FAULT_WIDTH$} {:>6} {:>6} {:>6}  expected", "fault", "times", "lost", "wrong");
        println!("\n{}", paint(&line, "2"));
        let bar = progress::rows("chaos");
        let (mut rows, mut bad) = (0, BTreeSet::new());
        let status = loop {
            let status = child.try_wait()?;
            for row in fs::read_to_string(&table)?.lines().skip(rows) {
                let row: Value = serde_json::from_str(row).context("a row of the table")?;
                bar.inc(1);
                if !bar.suspend(|| show(&row)) {
                    bad.insert(row.get("fault").map(Value::to_string));
                }
                rows += 1;
            }
            match status {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        bar.finish_and_clear();
        let took = begin.elapsed().as_secs();
        if status.success() && bad.is_empty() {
            ensure!(rows > 0, "no test has {:?} in its name", self.only);
            println!("\n{rows} rows, all as expected, in {took} s");
            return Ok(ExitCode::SUCCESS);
        }
        println!("\n{}", fs::read_to_string(&log)?);
        println!(
            "{rows} rows, {} of them not as expected, in {took} s; what failed is told above",
            bad.len()
        );
        Ok(ExitCode::FAILURE)
    }

    fn tests(&self) -> Command {
        let mut arguments = vec!["test", "--quiet", "--package", "sg-tests", "--test", "daemon", "--"];
        // One after the other: each wants the machine for itself.
        arguments.extend(["--test-threads=1"]);
        if self.only.is_empty() {
            arguments.extend(TESTS);
        }
        arguments.extend(self.only.iter().map(String::as_str));
        cargo::cargo(&arguments)
    }
}

/// Prints a row; whether it is as expected.
fn show(row: &Value) -> bool {
    let number = |name: &str| row.get(name).and_then(Value::as_u64);
    let (times, lost, wrong) = (number("times"), number("lost"), number("wrong"));
    let right = times > Some(0) && lost == Some(0) && wrong == Some(0);
    let mark = if right { paint("✓", "32") } else { paint("✗", "1;31") };
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let [times, lost, wrong] = [times, lost, wrong].map(Option::unwrap_or_default);
    println!("  {:<FAULT_WIDTH$} {times:>6} {lost:>6} {wrong:>6}  0, 0 {mark}", text("fault"));
    if !text("note").is_empty() {
        println!("      {}", paint(text("note"), "2"));
    }
    right
}

/// An earlier commit, checked out and built. Dropping it removes the checkout; what was built stays for the next time.
struct Before {
    checkout: PathBuf,
    binaries: PathBuf,
}

impl Before {
    fn build(commit: &str, scratch: &Path) -> Result<Self> {
        let checkout = scratch.join("before");
        let binaries = cargo::target().join("before");
        let before = Self { checkout, binaries: binaries.join("release") };
        git(&["worktree", "add", "--detach", "--force", &before.checkout.to_string_lossy(), commit])?;
        let status = cargo::cargo(&["build", "--release", "--package", "sg-daemon"])
            .current_dir(&before.checkout)
            .env("CARGO_TARGET_DIR", &binaries)
            .status()
            .context("cannot run cargo")?;
        ensure!(status.success(), "{commit} cannot be built ({status})");
        Ok(before)
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        // What stays is forgotten by git as soon as the directory is gone.
        let _ = git(&["worktree", "remove", "--force", &self.checkout.to_string_lossy()]);
    }
}

fn git(arguments: &[&str]) -> Result<()> {
    let output = Command::new("git")
        .current_dir(cargo::workspace())
        .args(arguments)
        .output()
        .context("cannot run git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git {}: {}", arguments.join(" "), said.trim());
    Ok(())
}
