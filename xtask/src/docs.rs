//! `cargo xtask docs`: the pages of `docs/` that are made from a list in the code.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, ensure};
use sg_common::metrics::{EVERY, LABELS, Metric, PROCESS};
use sg_common::verdict::{Action, Reason};

use crate::cargo::{self, workspace};

const DROP_REASONS: &str = "docs/drop-reasons.md";
const METRICS: &str = "docs/metrics.md";
/// Around the part of a page that is made.
const MADE: [&str; 2] = ["<!-- The tables: made by `cargo xtask docs` -->\n", "<!-- The tables end. -->\n"];

/// Writes every page that is not what it should be.
pub fn write() -> Result<()> {
    put(DROP_REASONS, &drop_reasons())?;
    put(METRICS, &metrics()?)?;
    // The others are made of what sg-daemon says, which is not built into this program: the tests that hold them write them.
    cargo::run(&["build", "-p", "sg-daemon", "--bins"])?;
    let tests = ["test", "-p", "sg-tests", "--test", "docs", "--", "--nocapture", "made_pages"];
    let status = cargo::cargo(&tests).env("SGD_WRITE_DOCS", "1").status().context("cannot run cargo")?;
    ensure!(status.success(), "the pages of the policy and of the commands could not be made ({status})");
    Ok(())
}

fn put(name: &str, page: &str) -> Result<()> {
    let path = workspace().join(name);
    if fs::read_to_string(&path).is_ok_and(|written| written == page) {
        println!("unchanged  {name}");
        return Ok(());
    }
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    println!("written    {name}");
    Ok(())
}

/// The page with its tables as the list in sg-common/src/metrics.rs says; the rest of it is written by hand.
fn metrics() -> Result<String> {
    let path = workspace().join(METRICS);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let [begin, end] = MADE;
    let parts = page.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?.1)));
    let (before, after) =
        parts.with_context(|| format!("{METRICS} has not the lines {begin:?} and {end:?}"))?;
    Ok(format!("{before}{begin}{}{end}{after}", metric_tables()))
}

fn metric_tables() -> String {
    let mut tables = String::new();
    for (heading, metrics) in [("sgd", EVERY), ("The process", PROCESS)] {
        let _ = write!(tables, "\n## {heading}\n\n| metric | type | labels | |\n|---|---|---|---|\n");
        for Metric { name, kind, help, labels } in metrics {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            let _ = writeln!(tables, "| `{name}` | {} | {} | {help} |", kind.name(), labels.join(", "));
        }
    }
    let _ = write!(tables, "\n## Labels\n\n| label | values |\n|---|---|\n");
    for (label, values) in LABELS {
        let _ = writeln!(tables, "| `{label}` | {values} |");
    }
    tables.push('\n');
    tables
}

/// The reasons in the order of their numbers.
fn drop_reasons() -> String {
    let mut page = String::from(
        "<!-- Made by `cargo xtask docs` from sg-common/src/verdict.rs. Change the list there, not this page. -->\n\
         # Why a packet passed or was dropped\n\
         \n\
         Every packet is counted once, under one of these names: in `sgctl status`, in `sgctl explain`, and in JSON. The\n\
         numbers do not change; they index the counters in the kernel. [packets.md](packets.md) says when which applies.\n\
         On an interface in audit nothing is dropped: `would_drop` counts what passed there although one of the reasons below applied.\n",
    );
    for (action, heading) in [(Action::Allow, "Passed"), (Action::Drop, "Dropped")] {
        let mut reasons: Vec<Reason> =
            Reason::EVERY.iter().copied().filter(|reason| reason.action() == action).collect();
        reasons.sort_by_key(|reason| *reason as u8);
        let drops = action == Action::Drop;
        let (more, line) = if drops { (" what to do |", "---|") } else { ("", "") };
        let _ = write!(page, "\n## {heading}\n\n| number | name | |{more}\n|--:|---|---|{line}\n");
        for reason in reasons {
            page += &row(reason);
        }
    }
    page
}

fn row(reason: Reason) -> String {
    let escaped = |text: &str| text.replace('|', "\\|");
    let remedy = reason.remedy().map_or_else(String::new, |remedy| format!(" {} |", escaped(remedy)));
    format!("| {} | `{}` | {} |{remedy}\n", reason as u8, reason.name(), escaped(reason.text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_d24_the_page_of_reasons_is_what_the_list_says() {
        let written = fs::read_to_string(workspace().join(DROP_REASONS)).unwrap_or_default();
        assert!(
            written == drop_reasons(),
            "{DROP_REASONS} is not what the list in sg-common/src/verdict.rs says: run `cargo xtask docs`"
        );
    }

    #[test]
    fn the_page_of_metrics_is_what_the_list_says() {
        let written = fs::read_to_string(workspace().join(METRICS)).unwrap();
        assert!(
            written == metrics().unwrap(),
            "{METRICS} is not what the list in sg-common/src/metrics.rs says: run `cargo xtask docs`"
        );
        for metric in EVERY.iter().chain(PROCESS) {
            let line = format!("| `{}` | {} |", metric.name, metric.kind.name());
            assert_eq!(written.matches(&line).count(), 1, "{line}");
        }
    }

    #[test]
    fn every_reason_has_one_line_under_what_becomes_of_the_packet() {
        let page = drop_reasons();
        let (passed, dropped) = page.split_once("## Dropped").unwrap();
        for reason in Reason::EVERY {
            let line = row(*reason);
            assert!(
                line.contains(reason.text()) && line.contains(reason.remedy().unwrap_or_default()),
                "{line}"
            );
            let (here, there) = match reason.action() {
                Action::Allow => (passed, dropped),
                Action::Drop => (dropped, passed),
            };
            assert_eq!((here.matches(&line).count(), there.matches(&line).count()), (1, 0), "{line}");
        }
        assert_eq!(page.matches("\n| ").count(), Reason::EVERY.len() + 2, "two heads, and a line for each");
    }
}
