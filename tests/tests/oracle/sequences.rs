//! Random traffic before the oracle, the decisions in memory, and the programs in the kernel: on XDP, then on TC.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::test_runner::{TestCaseError, TestRunner};
use serde_json::Value;
use sg_oracle::expect::Limits;
use sg_oracle::guarded::{any_guarded_world, any_limits};
use sg_oracle::progress;
use sg_oracle::traffic::{Ground, Script, Step, any_script};
use sg_oracle::trial::{Trial, each};

use crate::bench::{Bench, Ingress};
use crate::filter::Filter;
use crate::world::DEVICES;
use crate::{cases, config, told};

/// A case that took longer says nothing about times in the kernel, where the clock goes on: it is tried again.
const AT_ONCE: Duration = Duration::from_millis(500);

/// One policy, which both filter and trial have in force.
pub struct Policy<'p> {
    files: &'p [Value],
    limits: Limits,
    trial: Option<Trial>,
}

impl<'p> Policy<'p> {
    pub fn new(files: &'p [Value], limits: Limits) -> Self {
        Self { files, limits, trial: None }
    }

    /// Takes the steps as if none had been taken before, once on each hook, until it was quick enough or right.
    pub fn run(&mut self, filter: &mut Filter<'_>, steps: &[Step]) -> Result<(), String> {
        for ingress in [Ingress::Xdp, Ingress::Tc] {
            self.at_once(filter, ingress, steps).map_err(|error| format!("{ingress:?}: {error}"))?;
        }
        Ok(())
    }

    fn at_once(&mut self, filter: &mut Filter<'_>, ingress: Ingress, steps: &[Step]) -> Result<(), String> {
        for _ in 0..20 {
            let began = Instant::now();
            let trial = self.trial.take().unwrap_or_else(|| Trial::new(self.files, self.limits));
            let mut trial = trial.forget();
            filter.begin(ingress, trial.host());
            let result = each(steps, |step| filter.step(&mut trial, step));
            if result.is_ok() {
                self.trial = Some(trial);
                return Ok(());
            }
            if began.elapsed() < AT_ONCE {
                return result;
            }
        }
        Err(format!("this machine is too busy to take {} steps in half a second", steps.len()))
    }
}

#[test]
fn spec_d10_to_d16_and_6_the_loaded_programs_agree_with_oracle_and_decisions() {
    Bench::run(Ingress::Xdp, &DEVICES, |bench| {
        let filter = RefCell::new(Filter::new(bench));
        let sequences = cases(400);
        // To change the policy takes as long as thousands of packets.
        let of_a_world = (sequences / 200).clamp(50, 500);
        progress::of(u64::from(sequences.div_ceil(of_a_world) * of_a_world));
        let mut runner = TestRunner::new(config(file!(), sequences.div_ceil(of_a_world)));
        let scripts = vec(any_script(), of_a_world as usize);
        let worlds = (any_guarded_world(), any_guarded_world(), any_limits(), scripts);
        let result = runner.run(&worlds, |(world, next, limits, scripts)| {
            let mut filter = filter.borrow_mut();
            let (first, next) = (on_xdp(world.files()), on_xdp(next.files()));
            let (half, rest) = scripts.split_at(scripts.len() / 2);
            filter.apply(&first, limits);
            run(&mut filter, &first, limits, half)?;
            if let Some(script) = half.first() {
                // K11: flows go on under another policy.
                let steps = script.on(&Ground::new(&first));
                let (before, after) = steps.split_at(steps.len() / 2);
                let mut change = || {
                    filter.apply(&first, limits);
                    let mut trial = Trial::new(&first, limits);
                    filter.begin(Ingress::Xdp, trial.host());
                    each(before, |step| filter.step(&mut trial, step))?;
                    trial.set_policy(&next);
                    filter.apply(&next, limits);
                    each(after, |step| filter.step(&mut trial, step))
                        .map_err(|error| format!("{error}\nsince, before a change of policy, {before:#?}"))
                };
                change().map_err(|error| under(&next, limits, error))?;
            }
            run(&mut filter, &next, limits, rest)
        });
        told(result);
        let filter = filter.borrow();
        println!("{} packets through the kernel, {} of them in audit", filter.packets, filter.audited);
        assert!(filter.audited > 0, "no packet has met audit");
    });
}

/// Runs all scripts under the policy in force, on each hook.
fn run(
    filter: &mut Filter<'_>,
    files: &[Value],
    limits: Limits,
    scripts: &[Script],
) -> Result<(), TestCaseError> {
    let ground = Ground::new(files);
    let mut policy = Policy::new(files, limits);
    for script in scripts {
        policy.run(filter, &script.on(&ground)).map_err(|error| under(files, limits, error))?;
        progress::done(1);
    }
    let moved = filter.moved();
    if moved.is_empty() { Ok(()) } else { Err(under(files, limits, format!("counted unseen: {moved}"))) }
}

/// XDP can be test-run only where it is attached, TC anywhere.
pub fn on_xdp(mut files: Vec<Value>) -> Vec<Value> {
    let interfaces = files.iter_mut().filter_map(|file| file.get_mut("interfaces")?.as_array_mut());
    for interface in interfaces.flatten() {
        interface["hook"] = "xdp".into();
    }
    files
}

fn under(files: &[Value], limits: Limits, error: impl std::fmt::Display) -> TestCaseError {
    let files = serde_json::to_string_pretty(files).unwrap();
    TestCaseError::fail(format!("{error}\n{limits:?}\nunder {files}"))
}
