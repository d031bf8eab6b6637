//! All parts, one after the other, and the report.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sg_tests::figures::{FILE, Figure};

use super::report::{self, Made, machine::Machine};
use crate::{cargo, setup};

/// What measures something, and appends what it finds to the file of figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    /// A verb of `cargo xtask bench`.
    Verb(&'static str),
    /// A program of `tests/benches`, with its arguments: those of the quick form and those of the long one.
    Bench(&'static str, [&'static [&'static str]; 2]),
}

/// In this order.
const PARTS: [(&str, Program); 6] = [
    ("packets in the programs", Program::Bench("packets", [&["quick"], &[]])),
    ("in path, side by side", Program::Verb("path")),
    ("hooks", Program::Verb("hooks")),
    ("control plane", Program::Verb("control")),
    ("the collector", Program::Bench("collect", [&["1000000", "quick"], &["1000000"]])),
    // The rounds of the quick form do: seven cold starts with 500 interfaces take longer than any other part.
    ("starts", Program::Bench("start", [&["20", "quick"], &["1", "100", "500", "quick"]])),
];

/// Measures everything and writes the report into a directory. A part that fails takes nothing from the others.
pub fn run(quick: bool, directory: &Path) -> Result<()> {
    setup::install()?;
    setup::install_peers()?;
    super::build_daemon()?;
    // Built before anything is timed.
    for (_, program) in PARTS {
        if let Program::Bench(name, _) = program {
            cargo::run(&["bench", "--profile", "dev", "-p", "sg-tests", "--bench", name, "--no-run"])?;
        }
    }
    let began = Instant::now();
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("figures");
    File::create(&file).context("the file of figures")?;
    let machine = Machine::look();
    let failed = each(|program| program.run(quick, &file));
    let made = Made { quick, took: began.elapsed(), failed: &failed };
    report::write(Figure::read(&file)?, &machine, made, directory)?;
    ensure!(
        failed.is_empty(),
        "failed: {}; the report has what the other parts have measured",
        failed.join(", ")
    );
    Ok(())
}

/// Runs all parts, and names those that failed.
fn each(mut run: impl FnMut(Program) -> Result<()>) -> Vec<&'static str> {
    let mut took = Vec::new();
    let mut failed = Vec::new();
    for (name, program) in PARTS {
        println!("\n== {name}\n");
        let began = Instant::now();
        let result = run(program);
        took.push(format!("{name} {} s", began.elapsed().as_secs()));
        if let Err(error) = result {
            println!("{name}: FAILED: {error:#}");
            failed.push(name);
        }
    }
    println!("\ntook: {}", took.join(", "));
    failed
}

impl Program {
    fn run(self, quick: bool, figures: &Path) -> Result<()> {
        let mut command = match self {
            Self::Verb(name) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["bench", name]).args(quick.then_some("--quick"));
                command
            }
            Self::Bench(name, [of_quick, of_long]) => {
                let all: &[&str] =
                    &["bench", "--profile", "dev", "--quiet", "-p", "sg-tests", "--bench", name, "--"];
                cargo::cargo(&[all, if quick { of_quick } else { of_long }].concat())
            }
        };
        command.env(FILE, figures).env("SGD_BIN_DIR", cargo::target().join("release"));
        let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::{PARTS, Program, each};

    #[test]
    fn a_part_that_fails_is_named_and_the_others_are_run() {
        let mut ran = Vec::new();
        let failed = each(|program| {
            ran.push(program);
            if program == Program::Verb("hooks") { bail!("no tap") } else { Ok(()) }
        });
        assert_eq!(failed, ["hooks"]);
        assert_eq!(ran, PARTS.map(|(_, program)| program));
    }
}
