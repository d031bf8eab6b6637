//! What must not cost a connection, a wrong verdict or an open port: crashes, swaps, upgrades. The tests take the short form;
//! `cargo xtask chaos` the long one, and makes a table of what they report.

mod kills;
mod swaps;
mod traffic;
mod upgrade;

use std::fs::File;
use std::io::Write as _;

use serde_json::json;

/// Whether this is the long form.
pub fn long() -> bool {
    std::env::var("SGD_CHAOS").is_ok_and(|form| form == "long")
}

/// What was done, how often, and what it has cost.
#[derive(Debug)]
pub struct Toll<'a> {
    pub fault: &'a str,
    pub times: u64,
    /// Connections and packets.
    pub lost: u64,
    /// Verdicts.
    pub wrong: u64,
    /// Anything else worth saying, such as how long it took.
    pub note: String,
}

/// The row of a test that stops at the first thing that is lost or wrong, and has come to its end.
#[track_caller]
pub fn survived(fault: &str, times: usize, note: &str) {
    Toll { fault, times: times as u64, lost: 0, wrong: 0, note: note.to_owned() }.settle();
}

impl Toll<'_> {
    /// Writes the row for whoever asked for a table, and fails if it is not zeros.
    #[track_caller]
    pub fn settle(self) {
        if let Some(path) = std::env::var_os("SGD_CHAOS_TABLE") {
            let Self { fault, times, lost, wrong, note } = &self;
            let row = json!({ "fault": fault, "times": times, "lost": lost, "wrong": wrong, "note": note });
            let mut table = File::options().append(true).create(true).open(path).unwrap();
            writeln!(table, "{row}").unwrap();
        }
        assert!(self.times > 0 && self.lost == 0 && self.wrong == 0, "{self:?}");
    }
}
