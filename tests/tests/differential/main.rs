//! sgd against nftables with conntrack: the same policy, the same packets, the same verdicts, but for the differences that
//! `docs/nftables.md` lists.
//!
//! Without more words the same random policies are tried each time, as conntrack has more corners than are known and a change
//! elsewhere should not fail for one. `SGD_DIFFERENTIAL_CASES` sets a number of new ones instead. A case that fails is
//! written next to this file (`*.proptest-regressions`) and is tried first from then on; keep such files.

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
mod classes;
mod examples;
mod nft;
mod policy;
mod run;
mod steps;
mod traffic;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;

use bench::Ingress;
use classes::Difference;
use policy::any_policy;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{
    Config, FileFailurePersistence, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner,
};
use run::{Case, Wires};
use sg_oracle::frame;
use steps::{any_conns, any_step};

/// Random policies of one run.
const CASES: u32 = 150;

fn any_case() -> impl Strategy<Value = Case> {
    (any_policy(), any_conns(), vec(any_step(), 1..=30)).prop_map(|(policy, conns, steps)| Case {
        policy,
        conns,
        steps,
    })
}

#[test]
fn both_filters_agree_but_for_the_differences_that_are_explained() {
    let chosen = std::env::var("SGD_DIFFERENTIAL_CASES").ok();
    let cases = match &chosen {
        Some(text) => text.parse().expect("SGD_DIFFERENTIAL_CASES is a number of cases"),
        None => CASES,
    };
    let config = Config {
        cases,
        source_file: Some(file!()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        max_shrink_iters: 1024,
        ..Config::default()
    };
    let mut runner = match chosen {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let (seen, result) = Wires::run(Ingress::Xdp, |wires| {
        let wires = RefCell::new(wires);
        let seen = RefCell::new(BTreeMap::<Difference, u32>::new());
        let result = runner.run(&any_case(), |case| {
            let differences = wires.borrow_mut().case(&case).map_err(TestCaseError::fail)?;
            for (_, difference) in differences {
                *seen.borrow_mut().entry(difference).or_default() += 1;
            }
            Ok(())
        });
        let result = result.map_err(|error| match error {
            TestError::Fail(reason, _) | TestError::Abort(reason) => reason.to_string(),
        });
        (seen.into_inner(), result)
    });
    for difference in Difference::EVERY {
        match seen.get(difference) {
            Some(count) => println!("{:<16} seen {count} times", difference.name()),
            None => println!("{:<16} not seen in this run", difference.name()),
        }
    }
    if let Err(reason) = result {
        panic!("{reason}");
    }
}

#[test]
fn every_difference_shows_in_its_example() {
    let cases: Vec<_> = examples::cases().collect();
    for difference in Difference::EVERY {
        assert!(cases.iter().any(|(_, shown)| shown == difference), "{} has no example", difference.name());
    }
    let faults = Wires::run(Ingress::Xdp, |wires| {
        let mut faults = Vec::new();
        for (case, difference) in cases {
            let last = case.steps.len() - 1;
            match wires.case(&case) {
                Ok(seen) if seen == [(last, difference)] => {}
                Ok(seen) => faults.push(format!("{}: {seen:?} in {:?}", difference.name(), case.steps)),
                Err(reason) => faults.push(format!("{}: {reason}", difference.name())),
            }
        }
        faults
    });
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn the_manual_tells_of_every_difference_and_of_no_other() {
    let manual =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/nftables.md")).unwrap();
    let told: Vec<&str> = manual
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `").and_then(|rest| rest.split_once('`')).map(|(name, _)| name)
        })
        .collect();
    let known: Vec<&str> = Difference::EVERY.iter().map(|difference| difference.name()).collect();
    assert_eq!(told, known, "docs/nftables.md against tests/tests/differential/classes.rs, in this order");
}
