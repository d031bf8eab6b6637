//! The table of attacks, and what each row is held to.

use std::fmt;
use std::io::{IsTerminal, Write as _};

use anyhow::Result;

use crate::paint::paint;

/// What is longer moves the rest of its own line only.
const NAME_WIDTH: usize = 64;

/// How many packets must come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    Nothing,
    All,
    /// All but one in a hundred: what goes at full speed overruns a queue somewhere, whoever filters.
    Most,
    Exactly(u64),
    AtMost(u64),
    AtLeast(u64),
    /// Those to the open port, and nothing else; counted apart.
    OpenPort,
}

impl Through {
    fn holds(self, sent: u64, through: u64) -> bool {
        match self {
            Self::Nothing => through == 0,
            Self::All => through == sent,
            Self::Most => through <= sent && through >= sent - sent / 100,
            Self::Exactly(number) => through == number,
            Self::AtMost(number) => through <= number,
            Self::AtLeast(number) => through >= number,
            Self::OpenPort => through > 0 && through < sent,
        }
    }
}

impl fmt::Display for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.pad("none"),
            Self::All => f.pad("all"),
            Self::Most => f.pad("≥ 99 %"),
            Self::Exactly(number) => f.pad(&number.to_string()),
            Self::AtMost(number) => f.pad(&format!("≤ {number}")),
            Self::AtLeast(number) => f.pad(&format!("≥ {number}")),
            Self::OpenPort => f.pad("open port"),
        }
    }
}

/// What was seen of one attack.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub sent: u64,
    pub through: u64,
    /// What is wrong besides the number of packets.
    pub faults: Vec<String>,
}

impl Seen {
    pub fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    pub fn check(&mut self, right: bool, text: impl FnOnce() -> String) {
        if !right {
            self.faults.push(text());
        }
    }
}

/// Prints rows as they come and remembers how many were not as expected.
#[derive(Debug)]
pub struct Table {
    only: Vec<String>,
    section: String,
    rows: usize,
    wrong: Vec<String>,
}

impl Table {
    /// `only`: parts of the names of rows that are wanted; none means all.
    pub fn new(only: &[String]) -> Self {
        Self {
            only: only.iter().map(|part| part.to_lowercase()).collect(),
            section: String::new(),
            rows: 0,
            wrong: Vec::new(),
        }
    }

    pub fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }

    pub fn heading(&mut self, text: &str) {
        clear();
        text.clone_into(&mut self.section);
        println!("\n{}", paint(text, "1"));
        let line = format!("  {:<NAME_WIDTH$} {:>9} {:>9}  {:<9}", "attack", "sent", "through", "expected");
        println!("{}", paint(line.trim_end(), "2"));
    }

    /// Runs a row if it is wanted.
    pub fn row(&mut self, name: &str, expected: Through, work: impl FnOnce() -> Result<Seen>) {
        if !self.wants(name) {
            return;
        }
        progress(name);
        let seen = work();
        self.show(name, expected, seen);
    }

    pub fn show(&mut self, name: &str, expected: Through, seen: Result<Seen>) {
        clear();
        self.rows += 1;
        let mut seen =
            seen.unwrap_or_else(|error| Seen { faults: vec![format!("{error:#}")], ..Seen::default() });
        if seen.faults.is_empty() && seen.sent == 0 {
            seen.fault("nothing was sent");
        }
        let right = seen.faults.is_empty() && expected.holds(seen.sent, seen.through);
        let mark = if right { paint("✓", "32") } else { paint("✗", "1;31") };
        println!("  {name:<NAME_WIDTH$} {:>9} {:>9}  {expected:<9} {mark}", seen.sent, seen.through);
        for fault in &seen.faults {
            println!("      {fault}");
        }
        if !right {
            self.wrong.push(format!("{}: {name}", self.section));
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The names of rows that were not as expected.
    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

/// What is being done, where somebody watches.
pub fn progress(text: &str) {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K  … {text}");
        let _ = std::io::stdout().flush();
    }
}

fn clear() {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[K");
    }
}
