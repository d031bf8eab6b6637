//! `cargo xtask fuzz`: builds the programs in `fuzz/` and runs each for a while.
//!
//! What libFuzzer finds goes to `target/fuzz`: inputs that reach something new to `corpus`, inputs that fail to `crashes`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::cargo::{cargo, workspace};
use crate::setup;

/// A run that takes longer than so many seconds is a fault; a thousandth of it is usual.
const TIMEOUT: u32 = 20;
/// A run that takes more memory is a fault; half of it is the sanitizer's own after millions of runs.
const MEMORY_MB: u32 = 2048;

#[derive(Debug, Args)]
pub struct Fuzz {
    /// All if none is named
    targets: Vec<String>,
    /// How long each runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Add those of the new inputs that reach something new to the corpora in the repository
    #[arg(long)]
    keep: bool,
}

impl Fuzz {
    pub fn run(&self) -> Result<ExitCode> {
        let targets = self.chosen()?;
        setup::fuzz()?;
        let toolchain = Toolchain::find()?;
        println!(
            "sanitizer   {}",
            if toolchain.asan { "address" } else { "none: the toolchain brings none" }
        );
        let only = if let [one] = targets.as_slice() { Some(one.as_str()) } else { None };
        toolchain.build(only)?;
        println!(
            "{:<10} {:>10} {:>8} {:>12} {:>9} {:>9}",
            "target", "runs", "runs/s", "new inputs", "slowest", "memory"
        );
        let mut crashed = false;
        for target in &targets {
            let fuzzer = Fuzzer::new(&toolchain, target)?;
            crashed |= fuzzer.run(self.seconds)?;
            if self.keep {
                fuzzer.keep()?;
            }
        }
        Ok(if crashed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn chosen(&self) -> Result<Vec<String>> {
        let mut known = Vec::new();
        for entry in fs::read_dir(workspace().join("fuzz/fuzz_targets"))? {
            known.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
        known.sort();
        if let Some(unknown) = self.targets.iter().find(|target| !known.contains(target)) {
            bail!("there is no target {unknown:?}, only {}", known.join(", "));
        }
        Ok(if self.targets.is_empty() { known } else { self.targets.clone() })
    }
}

/// Where all of it goes.
fn output() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), PathBuf::from)
        .join("fuzz")
}

/// The compiler that builds the fuzzers: any, stable too.
struct Toolchain {
    host: String,
    /// Whether it comes with the runtime of the address sanitizer.
    asan: bool,
}

impl Toolchain {
    fn find() -> Result<Self> {
        let rustc = |arguments: &[&str]| -> Result<String> {
            let output = Command::new("rustc").args(arguments).output().context("cannot run rustc")?;
            ensure!(output.status.success(), "`rustc {}` failed ({})", arguments.join(" "), output.status);
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let about = rustc(&["-vV"])?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.context("rustc does not say which host it is for")?.to_owned();
        let libraries =
            Path::new(rustc(&["--print", "sysroot"])?.trim()).join("lib/rustlib").join(&host).join("lib");
        let asan = fs::read_dir(&libraries)
            .with_context(|| format!("cannot list {}", libraries.display()))?
            .flatten()
            .any(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"));
        Ok(Self { host, asan })
    }

    fn build(&self, only: Option<&str>) -> Result<()> {
        let mut command = cargo(&["fuzz", "build", "--fuzz-dir", "fuzz", "--target", &self.host]);
        command.args(["--sanitizer", if self.asan { "address" } else { "none" }]);
        command.arg("--target-dir").arg(output().join("build")).args(only);
        // The flags of a fuzzer are unstable ones.
        command.env("RUSTC_BOOTSTRAP", "1");
        let status = command.status().context("cannot run cargo")?;
        ensure!(status.success(), "`cargo fuzz build` failed ({status}); its messages are above");
        Ok(())
    }
}

struct Fuzzer<'a> {
    target: &'a str,
    program: PathBuf,
    /// In the repository.
    corpus: PathBuf,
    /// Found here, by this run and those before.
    found: PathBuf,
    crashes: PathBuf,
    log: PathBuf,
}

impl<'a> Fuzzer<'a> {
    fn new(toolchain: &Toolchain, target: &'a str) -> Result<Self> {
        let fuzzer = Self {
            target,
            program: output().join("build").join(&toolchain.host).join("release").join(target),
            corpus: workspace().join("fuzz/corpus").join(target),
            found: output().join("corpus").join(target),
            crashes: output().join("crashes").join(target),
            log: output().join(format!("{target}.log")),
        };
        for directory in [&fuzzer.found, &fuzzer.crashes] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(fuzzer)
    }

    /// What libFuzzer says goes to the log.
    fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.arg(format!("-timeout={TIMEOUT}")).arg(format!("-rss_limit_mb={MEMORY_MB}"));
        Ok(command)
    }

    /// Runs it and says how it went; true if it failed.
    fn run(&self, seconds: u32) -> Result<bool> {
        let mut command = self.command()?;
        command.args(["-print_final_stats=1", &format!("-max_total_time={seconds}")]);
        command.arg(format!("-artifact_prefix={}/", self.crashes.display()));
        let words = workspace().join("fuzz").join(format!("{}.dict", self.target));
        if words.exists() {
            command.arg(format!("-dict={}", words.display()));
        }
        command.arg(&self.found).arg(&self.corpus);
        // What failed once is where to look for more.
        let kept = workspace().join("fuzz/crashes").join(self.target);
        if kept.exists() {
            command.arg(kept);
        }
        let status = command.status().with_context(|| format!("cannot run {}", self.program.display()))?;
        let mut log = Log::default();
        for line in BufReader::new(File::open(&self.log)?).split(b'\n') {
            log.add(&String::from_utf8_lossy(&line?));
        }
        println!(
            "{:<10} {:>10} {:>8} {:>12} {:>7} s {:>6} MB",
            self.target, log.runs, log.runs_a_second, log.new, log.slowest, log.memory
        );
        if status.success() {
            ensure!(log.runs > 0, "{} did not run once; see {}", self.target, self.log.display());
            return Ok(false);
        }
        let Some(input) = log.input else {
            bail!("{} failed ({status}) without an input; see {}", self.target, self.log.display());
        };
        let input = Path::new(&input);
        println!("    failed: {}", log.reason.trim());
        println!("    input:  {}", here(input));
        println!("    log:    {}", here(&self.log));
        println!(
            "    As a test: mkdir -p fuzz/crashes/{0} && cp {1} fuzz/crashes/{0}/WHAT-IT-IS",
            self.target,
            here(input)
        );
        println!("    and `cargo test -p sg-fuzz-targets WHAT-IT-IS` fails until it is mended.");
        Ok(true)
    }

    fn keep(&self) -> Result<()> {
        let before = count(&self.corpus)?;
        let status = self.command()?.arg("-set_cover_merge=1").args([&self.corpus, &self.found]).status()?;
        ensure!(status.success(), "{} cannot merge ({status}); see {}", self.target, self.log.display());
        println!(
            "    {} new files in {}",
            count(&self.corpus)?.saturating_sub(before),
            self.corpus.display()
        );
        Ok(())
    }
}

/// As seen from the root of the repository, if it is in there.
fn here(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

fn count(directory: &Path) -> Result<usize> {
    Ok(fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?.count())
}

/// What is worth knowing of libFuzzer's many words.
#[derive(Debug, Default, PartialEq, Eq)]
struct Log {
    runs: u64,
    runs_a_second: u64,
    new: u64,
    slowest: u64,
    memory: u64,
    /// A panic's place and first line, or the summary of another failure.
    reason: String,
    panicked: bool,
    input: Option<String>,
}

impl Log {
    fn add(&mut self, line: &str) {
        if let Some((what, number)) = line.strip_prefix("stat::").and_then(|stat| stat.split_once(':')) {
            let number = number.trim().parse().unwrap_or(0);
            match what {
                "number_of_executed_units" => self.runs = number,
                "average_exec_per_sec" => self.runs_a_second = number,
                "new_units_added" => self.new = number,
                "slowest_unit_time_sec" => self.slowest = number,
                "peak_rss_mb" => self.memory = number,
                _ => {}
            }
        } else if line.starts_with("thread ") && line.contains("panicked at") {
            // What is wrong stands on the next line.
            self.reason = line.to_owned();
            self.panicked = true;
        } else if self.panicked {
            self.reason.push(' ');
            self.reason.push_str(line);
            self.panicked = false;
        } else if let Some(summary) = line.strip_prefix("SUMMARY: ") {
            if self.reason.is_empty() {
                self.reason = summary.to_owned();
            }
        } else if let Some((_, input)) = line.split_once("Test unit written to ") {
            self.input = Some(input.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        let mut log = Log::default();
        text.lines().for_each(|line| log.add(line));
        log
    }

    const STATS: &str = "#2\tINITED cov: 9\nDone 1200 runs in 11 second(s)\nstat::number_of_executed_units: 1200\n\
        stat::average_exec_per_sec:     109\nstat::new_units_added:          7\nstat::slowest_unit_time_sec:    1\n\
        stat::peak_rss_mb:              80\n";

    #[test]
    fn figures_are_read_from_the_last_lines() {
        let wanted = Log { runs: 1200, runs_a_second: 109, new: 7, slowest: 1, memory: 80, ..Log::default() };
        assert_eq!(log(STATS), wanted);
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_its_input() {
        let text = format!(
            "\nthread '<unnamed>' (7) panicked at src/policy.rs:3:5:\nno line 3\nstack backtrace:\n\
             SUMMARY: libFuzzer: deadly signal\n\
             artifact_prefix='a/'; Test unit written to a/crash-1\n{STATS}"
        );
        let log = log(&text);
        assert_eq!(log.reason, "thread '<unnamed>' (7) panicked at src/policy.rs:3:5: no line 3");
        assert_eq!((log.input.as_deref(), log.runs), (Some("a/crash-1"), 1200));
    }

    #[test]
    fn without_a_panic_the_summary_is_the_reason() {
        let log = log("SUMMARY: libFuzzer: timeout\n");
        assert_eq!((log.reason.as_str(), log.input), ("libFuzzer: timeout", None));
    }
}
