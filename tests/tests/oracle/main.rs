//! The compiler and the loaded programs against an oracle that was written from SPEC.md and shares no code with them.
//!
//! `SGD_ORACLE_CASES` sets how many sequences of packets are tried instead of the default, `SGD_ORACLE_POLICIES` how many
//! random policies each property about policies takes, and `SGD_ORACLE_STEPS` how far small worlds are followed. A case that
//! fails is written next to its test (`*.proptest-regressions`) and is tried first from then on; keep such files.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test program: a panic is how it says what is wrong"
)]

#[path = "../packets/bench.rs"]
#[expect(dead_code, reason = "the packet tests use the rest")]
mod bench;
mod compiled;
mod explain;
mod filter;
mod loaded;
mod sequences;
mod small;

use proptest::test_runner::{Config, FileFailurePersistence, TestError};
use sg_oracle::{frame, rules, world};

/// How many sequences of packets a property takes.
fn cases(usual: u32) -> u32 {
    chosen("SGD_ORACLE_CASES", usual)
}

/// How many policies a property takes.
fn policies(usual: u32) -> u32 {
    chosen("SGD_ORACLE_POLICIES", usual)
}

/// What the environment says, or else what is usual.
fn chosen(name: &str, usual: u32) -> u32 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// How a property of `file` runs. Failures are kept beside it.
fn config(file: &'static str, cases: u32) -> Config {
    Config {
        cases,
        source_file: Some(file),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        max_shrink_iters: 4096,
        ..Config::default()
    }
}

/// Fails with what the smallest case says; the case itself is long and says less.
fn told<T>(result: Result<(), TestError<T>>) {
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, _) | TestError::Abort(reason)) => panic!("{reason}"),
    }
}

/// The policy as the daemon reads it.
fn load(directory: &std::path::Path, files: &[serde_json::Value]) -> sg_daemon::policy::model::Model {
    let paths: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(index, file)| {
            let path = directory.join(format!("{index}.json"));
            std::fs::write(&path, file.to_string()).unwrap();
            path
        })
        .collect();
    match sg_daemon::policy::load(&paths) {
        Ok(loaded) => std::sync::Arc::unwrap_or_clone(loaded.model),
        Err(error) => panic!("the oracle makes valid policies only: {error}"),
    }
}
