//! The table of probes.

use anyhow::Result;
use sg_tests::Outcome;

use crate::paint::paint;

/// What is longer moves the rest of its own line only.
const PROBE_WIDTH: usize = 66;

/// Prints rows as they come and remembers how many were not as expected.
#[derive(Debug, Default)]
pub struct Table {
    rows: usize,
    wrong: usize,
}

impl Table {
    pub fn heading(&mut self, text: &str) {
        println!("\n{}", paint(text, "1"));
        let line = format!("  {:<4} {:<PROBE_WIDTH$} {:<9} {:<11}", "spec", "probe", "expected", "seen");
        println!("{}", paint(line.trim_end(), "2"));
    }

    /// A denied probe must meet silence; a refusal would mean that it got through.
    pub fn probe(&mut self, spec: &str, probe: &str, allowed: bool, seen: &Result<Outcome>) {
        let (expected, wanted) =
            if allowed { ("allowed", Outcome::Answered) } else { ("denied", Outcome::TimedOut) };
        match seen {
            Ok(outcome) => self.row(spec, probe, expected, &outcome.to_string(), *outcome == wanted),
            Err(error) => self.row(spec, probe, expected, &format!("{error:#}"), false),
        }
    }

    pub fn row(&mut self, spec: &str, question: &str, expected: &str, seen: &str, right: bool) {
        self.rows += 1;
        let mark = if right {
            paint("✓", "32")
        } else {
            self.wrong += 1;
            paint("✗", "1;31")
        };
        println!("  {spec:<4} {question:<PROBE_WIDTH$} {expected:<9} {seen:<11} {mark}");
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn wrong(&self) -> usize {
        self.wrong
    }
}
