//! `cargo xtask test`: plain `cargo test`, counted.

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::{cargo, setup};

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds what a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …` says. Other lines say nothing.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in result.1.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

pub fn run(filter: &[String]) -> Result<ExitCode> {
    setup::install()?;
    // The tests start `sgd` and `sgctl`, which `cargo test` alone would not build anew.
    cargo::run(&["build", "--workspace"])?;

    let mut arguments = vec!["test", "--workspace", "--no-fail-fast", "--"];
    arguments.extend(filter.iter().map(String::as_str));
    let mut child = cargo::cargo(&arguments).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().context("stdout is piped")?).lines() {
        let line = line?;
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait()?;

    // The summary is the last line, whatever there is to complain about.
    let fault = if counts.ignored > 0 {
        Some(format!("{} tests are ignored; a test that does not run proves nothing", counts.ignored))
    } else if counts.passed + counts.failed == 0 {
        Some(format!("no test has {filter:?} in its name"))
    } else if !status.success() {
        Some(format!("cargo test failed ({status})"))
    } else {
        None
    };
    if let Some(fault) = &fault {
        eprintln!("error: {fault}");
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    Ok(if fault.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn counts_add_up_over_test_binaries() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out; finished in 0.00s",
        );
        counts.add(
            "test result: FAILED. 1 passed; 2 failed; 4 ignored; 0 measured; 0 filtered out; finished in 1s",
        );
        counts.add("test spec_k1 ... ok");
        assert_eq!(counts, Counts { passed: 4, failed: 2, ignored: 4 });
    }
}
