//! `cargo xtask oracle`: the long form of the comparison with the oracle. The short form is part of the tests.

use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::{cargo, progress, setup};

#[derive(Debug, Args)]
pub struct Oracle {
    /// How many random sequences of packets; each is judged by the oracle, by the decisions on the host, and by the loaded
    /// programs on XDP and on TC
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    cases: u32,
    /// How many steps far all that can happen in a small world is tried in the kernel, and one more on the host
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=5))]
    steps: u32,
}

/// A policy takes much longer than a sequence: to compile it, and to put it into force.
const SEQUENCES_FOR_ONE_COMPILED: u32 = 40;
const SEQUENCES_FOR_ONE_LOADED: u32 = 10_000;

impl Oracle {
    pub fn run(&self) -> Result<ExitCode> {
        setup::install()?;
        let begin = Instant::now();
        let Self { cases, steps } = *self;
        let compiled = (cases / SEQUENCES_FOR_ONE_COMPILED).max(1);
        let loaded = (cases / SEQUENCES_FOR_ONE_LOADED).max(1);
        let host = ["-p", "sg-oracle", "--test", "sequences", "--test", "small_worlds"];
        let kernel = ["-p", "sg-tests", "--test", "oracle"];
        // Policies, cases and steps; filters: what is about packets, about the compiler, about policies in force.
        let rows = [
            ("packets, oracle and decisions", &host[..], &[][..], (0, cases, steps + 1)),
            ("packets, and the kernel", &kernel, &["sequences::", "small::"], (0, cases, steps)),
            ("policies, oracle and compiler", &kernel, &["compiled::"], (compiled, 0, 0)),
            ("policies, and the kernel", &kernel, &["loaded::"], (loaded, 0, 0)),
        ];
        let scratch = tempfile::tempdir()?;
        let mut failed = Vec::new();
        for (what, tests, filters, numbers) in rows {
            println!("\n{what}:");
            let status = progress::cases(what, &mut command(tests, filters, numbers), scratch.path())?;
            if !status.success() {
                failed.push(what);
            }
        }
        let took = begin.elapsed().as_secs();
        if failed.is_empty() {
            println!("\n{cases} cases, 0 mismatches, {took} s");
            return Ok(ExitCode::SUCCESS);
        }
        println!("\n{cases} cases, {took} s; what is told above fails: {}", failed.join("; "));
        Ok(ExitCode::FAILURE)
    }
}

fn command(tests: &[&str], filters: &[&str], (policies, cases, steps): (u32, u32, u32)) -> Command {
    // Without harness options the tests of one program run side by side.
    let arguments = [&["test", "--quiet"], tests, &["--", "--nocapture"], filters].concat();
    let mut command = cargo::cargo(&arguments);
    for (name, number) in
        [("SGD_ORACLE_POLICIES", policies), ("SGD_ORACLE_CASES", cases), ("SGD_ORACLE_STEPS", steps)]
    {
        if number > 0 {
            command.env(name, number.to_string());
        }
    }
    command
}
