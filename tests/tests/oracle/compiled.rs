//! The oracle against the compiled image, no kernel involved.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prop_assert_eq;
use proptest::test_runner::TestRunner;
use sg_daemon::compile::compile;
use sg_fuzz_targets::compiler::admits;
use sg_oracle::progress;

use crate::rules::{self, Question, Transport};
use crate::world::{any_seed, any_world};
use crate::{config, load, policies, told};

#[test]
fn spec_1_to_4_the_compiler_agrees_with_the_oracle() {
    let directory = tempfile::tempdir().unwrap();
    let mut seen = Tally::default();
    let tally = std::cell::RefCell::new(&mut seen);
    let cases = policies(1500);
    progress::of(cases.into());
    let mut runner = TestRunner::new(config(file!(), cases));
    let result = runner.run(&(any_world(), vec(any_seed(), 48)), |(world, seeds)| {
        let files = world.files();
        let image = compile(&load(directory.path(), &files));
        for seed in &seeds {
            let question = seed.question(&files);
            let expected = rules::allows(&files, &question);
            tally.borrow_mut().count(&question, expected);
            prop_assert_eq!(
                admits(&image, &question),
                expected,
                "the image's answer, then the oracle's, to {:?} in\n{}",
                question,
                serde_json::to_string_pretty(&files).unwrap()
            );
        }
        progress::done(1);
        Ok(())
    });
    told(result);
    seen.check();
}

/// Whether the questions were worth asking: no kind of them is answered alike nearly always.
#[derive(Debug, Default)]
struct Tally {
    kinds: std::collections::BTreeMap<(&'static str, bool), [u32; 2]>,
}

impl Tally {
    fn count(&mut self, question: &Question, allowed: bool) {
        let transport = match question.transport {
            Transport::Tcp { port: 80 } if rules::in_cidr(question.remote, "169.254.169.0/24") => "metadata",
            Transport::Tcp { .. } => "tcp",
            Transport::Udp { .. } => "udp",
            Transport::Icmp { .. } => "icmp",
            Transport::Other(_) => "other",
        };
        let v6 = matches!(question.remote, IpAddr::V6(_));
        self.kinds.entry((transport, v6)).or_default()[usize::from(allowed)] += 1;
    }

    fn check(&self) {
        println!("denied and allowed, by transport and whether IPv6: {self:?}");
        for (kind, [denied, allowed]) in &self.kinds {
            let rarer = denied.min(allowed);
            assert!(
                (denied + allowed) < 100 || rarer * 20 >= denied + allowed,
                "{kind:?} is lopsided: {self:?}"
            );
        }
    }
}
