//! Random policies and random traffic before the oracle and the decisions of `sg-common`.
//!
//! `SGD_ORACLE_CASES` sets how many sequences of packets instead of the default. A case that fails is kept beside this file.
//! With `SGD_ORACLE_SEED`, a number, the cases are always the same, and one that fails is neither made smaller nor kept: for
//! those who only want to know whether one fails (docs/mutants.md).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test program: a panic is how it says what is wrong"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner};
use sg_common::verdict::Reason;
use sg_oracle::expect::Limits;
use sg_oracle::guarded::any_guarded_world;
use sg_oracle::progress;
use sg_oracle::traffic::{Ground, any_script};
use sg_oracle::trial::{ROOM, Trial};

/// Sequences of packets in each policy.
const OF_A_WORLD: usize = 20;

fn runner(sequences: u32) -> TestRunner {
    let sequences = match std::env::var("SGD_ORACLE_CASES") {
        Ok(text) => text.parse().expect("SGD_ORACLE_CASES is a number of cases"),
        Err(_) => sequences,
    };
    progress::of(u64::from(sequences.div_ceil(OF_A_WORLD as u32)) * OF_A_WORLD as u64);
    let config = Config { cases: sequences.div_ceil(OF_A_WORLD as u32), ..Config::default() };
    if let Ok(text) = std::env::var("SGD_ORACLE_SEED") {
        let seed = RngSeed::Fixed(text.parse().expect("SGD_ORACLE_SEED is a number"));
        let config = Config { rng_seed: seed, failure_persistence: None, max_shrink_iters: 0, ..config };
        return TestRunner::new(config);
    }
    TestRunner::new(Config {
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        max_shrink_iters: 20_000,
        ..config
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    let few = (0u64..=3, 0u64..=3, 0u64..=3, 1u64..=3);
    let few =
        few.prop_map(|(live, half_v4, half_v6, datagrams)| Limits { live, half_v4, half_v6, datagrams });
    prop_oneof![3 => Just(ROOM), 1 => few]
}

#[test]
fn spec_d10_to_d16_and_6_the_decisions_agree_with_the_oracle() {
    let reasons: RefCell<BTreeMap<Reason, u64>> = RefCell::default();
    let worlds = (any_guarded_world(), any_guarded_world(), limits(), vec(any_script(), OF_A_WORLD));
    let result = runner(6_000).run(&worlds, |(world, next, limits, scripts)| {
        let (files, next) = (world.files(), next.files());
        let (ground, next_ground) = (Ground::new(&files), Ground::new(&next));
        let mut trial = Trial::new(&files, limits);
        for script in &scripts {
            trial
                .steps(&script.on(&ground))
                .map_err(|error| told(&files, &format!("{error}\n{limits:?}")))?;
            trial = trial.forget();
        }
        // K11: flows go on under another policy.
        for script in scripts.iter().take(3) {
            let steps = script.on(&ground);
            let (before, after) = steps.split_at(steps.len() / 2);
            trial.steps(before).map_err(|error| told(&files, &error))?;
            trial.set_policy(&next);
            let since = |error| {
                told(&next, &format!("{error}\nsince, before a change of policy, {before:#?}\n{limits:?}"))
            };
            trial.steps(after).map_err(since)?;
            trial.steps(&script.on(&next_ground)).map_err(since)?;
            trial = trial.forget();
            trial.set_policy(&files);
        }
        for (reason, count) in &trial.reasons {
            *reasons.borrow_mut().entry(*reason).or_default() += count;
        }
        progress::done(scripts.len() as u64);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, _) | TestError::Abort(reason)) => panic!("{reason}"),
    }
    let reasons = reasons.into_inner();
    println!("{} packets: {reasons:?}", reasons.values().sum::<u64>());
}

fn told(files: &[serde_json::Value], error: &str) -> TestCaseError {
    TestCaseError::fail(format!("{error}\nunder {}", serde_json::to_string_pretty(files).unwrap()))
}
