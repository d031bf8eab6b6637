//! Programs on a terminal: what they say where a person watches.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::Process;

/// Runs a shell command on a terminal of its own, types `input` into it, and returns all that the terminal was told.
///
/// `environment` is added to what the command gets; what decides about colours is taken out before, and TERM is one with colours.
pub fn on_terminal(
    command: &str,
    environment: &[(&str, &str)],
    input: &str,
    patience: Duration,
) -> Result<String> {
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", command, "/dev/null"])
        .env_remove("NO_COLOR")
        .env_remove("CI") // whose logs anstream colours, whatever TERM says
        .env_remove("CLICOLOR")
        .env_remove("CLICOLOR_FORCE")
        .env("TERM", "xterm-256color")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let process =
        Process::spawn(script).context("script (the package bsdutils; `cargo xtask setup` installs it)")?;
    let (mut keyboard, mut screen) = process.pipes()?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = screen.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    keyboard.write_all(input.as_bytes())?;
    process.wait(patience)?;
    drop(keyboard);
    reader.join().ok().context("the terminal's reader has panicked")
}
