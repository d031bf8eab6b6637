//! `cargo run -p sg-fuzz-targets --example seeds DIRECTORY COUNT`: traffic of the oracle's kind as inputs of the target `packet`.

#![expect(clippy::unwrap_used, reason = "a tool for those who work on the targets")]

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sg_fuzz_targets::packet::{encode, traffic};
use sg_oracle::traffic::any_script;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = std::path::PathBuf::from(arguments.next().unwrap());
    let count: u16 = arguments.next().unwrap().parse().unwrap();
    std::fs::create_dir_all(&directory).unwrap();
    let mut runner = TestRunner::deterministic();
    for number in 0..count {
        let dice = number.to_be_bytes();
        let script = any_script().new_tree(&mut runner).unwrap().current();
        let bytes = encode(dice, number % 4 == 0, &traffic(dice, &script));
        std::fs::write(directory.join(format!("traffic-{number}")), bytes).unwrap();
    }
}
