//! How far long work has come: on standard error, if that is a terminal, and nothing elsewhere.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(200);

/// Work of which nobody knows how long it is: what is done, since when, and how many rows it has brought.
pub fn rows(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}: {pos} rows, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// Whether a person watches.
pub fn is_watched() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Runs a command to its end of which nobody knows how long it takes. What it prints stands above a line that says since when it
/// runs, and at which part: a line `== part` of its output begins one.
pub fn told(what: &str, command: &mut Command) -> Result<ExitStatus> {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot be run")?;
    let (printed, complaints) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in lines(complaints) {
                bar.suspend(|| eprintln!("{line}"));
            }
        });
        for line in lines(printed) {
            if let Some(part) = line.strip_prefix("== ") {
                bar.set_message(format!("{what}: {part}"));
            }
            bar.suspend(|| println!("{line}"));
        }
    });
    let status = child.wait()?;
    bar.finish_and_clear();
    Ok(status)
}

fn lines(pipe: Option<impl io::Read>) -> impl Iterator<Item = String> {
    pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok)
}

/// Runs a command to its end that tells in a file how many cases there are and how many are done (`sg_oracle::progress`). What it
/// prints stands above the bar.
pub fn cases(what: &str, command: &mut Command, scratch: &Path) -> Result<ExitStatus> {
    let told = scratch.join("progress");
    File::create(&told)?;
    let bar = ProgressBar::new(0).with_message(what.to_owned());
    let template = "{msg}: {bar:30} {human_pos} of {human_len}, {per_sec}, {elapsed}, {eta} to go";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut child =
        command.env("SGD_PROGRESS", &told).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let printed = child.stdout.take();
    let mut told = File::open(&told)?;
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in lines(printed) {
                bar.suspend(|| println!("{line}"));
            }
        });
        let mut rest = String::new();
        loop {
            let status = child.try_wait()?;
            let mut news = String::new();
            told.read_to_string(&mut news)?;
            rest += &news;
            // The last line may not be whole yet.
            let (lines, half) = rest.rsplit_once('\n').unwrap_or(("", &rest));
            for (word, number) in lines.lines().filter_map(|line| line.split_once(' ')) {
                let number = number.parse().unwrap_or_default();
                if word == "of" { bar.inc_length(number) } else { bar.inc(number) }
            }
            rest = half.to_owned();
            if let Some(status) = status {
                return Ok::<_, io::Error>(status);
            }
            std::thread::sleep(TICK);
        }
    })?;
    bar.finish_and_clear();
    Ok(status)
}
