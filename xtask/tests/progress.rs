//! Long work shows that it goes on where a person watches, and nothing in a pipe.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sg_tests::on_terminal;

/// Setting up may have to look at many programs.
const PATIENCE: Duration = Duration::from_secs(600);
/// Stands for cargo: it takes its time, prints, and tells how many cases are done if somebody asks.
const SLOW: &str = r#"#!/bin/sh
echo "one row"
if [ -n "$SGD_PROGRESS" ]; then
    echo "of 40" >> "$SGD_PROGRESS"
    echo "done 10" >> "$SGD_PROGRESS"
fi
sleep 2
echo "another row"
"#;

fn slow_cargo(directory: &Path) -> String {
    let path = directory.join("cargo");
    fs::write(&path, SLOW).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn shows(verb: &[&str], words: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let cargo = slow_cargo(directory.path());
    let command = [&[env!("CARGO_BIN_EXE_xtask")], verb].concat().join(" ");
    let screen = on_terminal(&command, &[("CARGO", &cargo)], "", PATIENCE).unwrap();
    for word in words.iter().chain(&["one row", "another row"]) {
        assert!(screen.contains(word), "{verb:?}: {word:?} in {screen:?}");
    }
    assert!(screen.contains("\u{1b}["), "drawn over: {screen:?}");

    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(verb)
        .env("CARGO", &cargo)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (printed, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("one row") && printed.contains("another row"), "{printed}");
    for text in [&printed, &complaints] {
        assert!(
            !text.contains('\u{1b}') && words.iter().all(|word| !text.contains(word)),
            "{verb:?}: {text:?}"
        );
    }
}

#[test]
fn a_bench_shows_since_when_it_runs_on_a_terminal_and_nothing_in_a_pipe() {
    shows(&["bench", "packets"], &["bench, 1s"]);
}

#[test]
fn the_oracle_shows_how_many_cases_are_done_on_a_terminal_and_nothing_in_a_pipe() {
    shows(&["oracle", "--cases", "1"], &["10 of 40", "to go"]);
}
