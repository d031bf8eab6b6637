//! `cargo xtask vm-test`: the demo and a choice of the tests in Debian's kernels, in virtual machines without hardware support, so
//! that it works wherever QEMU does.

mod boot;
mod fetch;
mod image;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::boot::{Job, Outcome};
use crate::paint::paint;
use crate::{cargo, setup};

#[derive(Debug, Args)]
pub struct VmTest {
    /// Which kernels; may be given several times
    #[arg(long, value_enum, default_value = "all")]
    kernel: Vec<Which>,
    /// Only what has NAME in its name; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only the demo
    #[arg(long)]
    short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    #[value(name = "5.10")]
    V5_10,
    #[value(name = "6.1")]
    V6_1,
    #[value(name = "6.12")]
    V6_12,
    #[value(name = "7.3")]
    V7_3,
    All,
}

/// A kernel of Debian's.
struct Kernel {
    which: Which,
    /// Where its newest build is.
    suite: &'static str,
    /// Whether it has TCX; else clsact has to do.
    tcx: bool,
    /// What `sgd` says it lacks; nothing if it has all that is needed.
    lacks: Option<&'static str>,
}

const KERNELS: [Kernel; 4] = [
    Kernel { which: Which::V5_10, suite: "bullseye", tcx: false, lacks: Some("Linux 5.18") },
    Kernel { which: Which::V6_1, suite: "bookworm", tcx: false, lacks: None },
    Kernel { which: Which::V6_12, suite: "bookworm-backports", tcx: true, lacks: None },
    Kernel { which: Which::V7_3, suite: "trixie-backports", tcx: true, lacks: None },
];

/// What runs in each kernel: loading, attaching, verdicts on real packets, swaps under traffic, taking over.
const TESTS: [&str; 6] = [
    "spec_d21_changing_the_hook_of_an_interface_leaves_no_gap",
    "spec_d20_the_filter_outlives_the_daemon_and_is_taken_over",
    "spec_d20_the_filter_outlives_the_daemon_with_clsact_filters_too",
    "spec_k10_a_changed_rule_applies_to_every_interface_of_its_group",
    "spec_k11_existing_connections_outlive_their_rule_in_both_directions",
    "spec_d23_a_managed_device_is_closed_unless_a_policy_names_it",
];

impl VmTest {
    pub fn run(&self) -> Result<ExitCode> {
        setup::install()?;
        setup::install_vm()?;
        let guest = Guest::build()?;
        let begin = Instant::now();
        let mut wrong = Vec::new();
        println!(
            "\n{}",
            paint(
                "  kernel                     what                                                     s  outcome",
                "2"
            )
        );
        for kernel in KERNELS.iter().filter(|kernel| self.wants(kernel.which)) {
            let tree = fetch::fetch(kernel.suite)?;
            for (name, job) in self.jobs(kernel, &guest) {
                let begin = Instant::now();
                let outcome = boot::run(&tree, &job)?;
                let took = begin.elapsed().as_secs();
                let right = outcome.code == Some(0);
                let mark = if right { paint("✓", "32") } else { paint("✗", "1;31") };
                let short: String = name.chars().take(56).collect();
                println!("  {:<26} {short:<56} {took:>4}  {mark}", tree.release);
                if !right {
                    tell(&outcome);
                    wrong.push(format!("{}: {name}", tree.release));
                }
            }
        }
        let took = begin.elapsed().as_secs();
        if wrong.is_empty() {
            println!("\nall as expected, in {took} s");
            return Ok(ExitCode::SUCCESS);
        }
        println!("\nnot as expected, in {took} s:\n  {}", wrong.join("\n  "));
        Ok(ExitCode::FAILURE)
    }

    fn wants(&self, kernel: Which) -> bool {
        self.kernel.iter().any(|&wanted| wanted == kernel || wanted == Which::All)
    }

    fn jobs(&self, kernel: &Kernel, guest: &Guest) -> Vec<(String, Job)> {
        if let Some(lacks) = kernel.lacks {
            return vec![("sgd refuses, and says what is missing".to_owned(), guest.refusal(lacks))];
        }
        let hook = if kernel.tcx { "tcx" } else { "clsact" };
        let mut jobs = vec![(format!("demo, with {hook}"), guest.demo(hook))];
        if !self.short {
            jobs.extend(TESTS.iter().map(|name| ((*name).to_owned(), guest.test(name))));
        }
        jobs.retain(|(name, _)| {
            self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
        });
        jobs
    }
}

/// The last of what the guest has said.
fn tell(outcome: &Outcome) {
    let lines: Vec<_> = outcome.console.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(40)) {
        println!("      {line}");
    }
    match outcome.code {
        Some(code) => println!("      (exit code {code})"),
        None => println!("      (the guest has not come to an end: a panic, or it was too slow)"),
    }
}

/// What goes into every guest.
struct Guest {
    binaries: PathBuf,
    tests: PathBuf,
}

impl Guest {
    fn build() -> Result<Self> {
        // Optimised, as it is installed.
        cargo::run(&["build", "--release", "--package", "sg-daemon", "--bins"])?;
        cargo::run(&["build", "--package", "xtask"])?;
        let tests = test_program("daemon")?;
        Ok(Self { binaries: cargo::target().join("release"), tests })
    }

    fn job(&self, script: &str) -> Job {
        let file = |path: PathBuf, name: &str| (path, PathBuf::from("/bin").join(name));
        let repository = cargo::workspace();
        let mut files = vec![
            file(self.binaries.join("sgd"), "sgd"),
            file(self.binaries.join("sgctl"), "sgctl"),
            file(cargo::target().join("debug/xtask"), "xtask"),
            file(self.tests.clone(), "daemon-tests"),
        ];
        let policy = "examples/demo.json";
        files.push((repository.join(policy), Path::new("/work").join(policy)));
        // The tests wait as long as a machine of this kind needs.
        let script = format!("export SGD_BIN_DIR=/bin SGD_PATIENCE=10 SGD_WORKSPACE=/work\n{script}");
        Job { files, programs: vec!["ip", "nsenter", "tcpdump"], script }
    }

    fn demo(&self, hook: &str) -> Job {
        self.job(&format!(
            "xtask demo --prebuilt > /tmp/demo 2>&1; code=$?\ncat /tmp/demo\n\
             [ $code = 0 ] && grep -q 'by sgctl status .*{hook}' /tmp/demo"
        ))
    }

    fn test(&self, name: &str) -> Job {
        self.job(&format!(
            "daemon-tests --test-threads=1 {name} > /tmp/test 2>&1; code=$?\ncat /tmp/test\n\
             [ $code = 0 ] && grep -q 'test result: ok. 1 passed' /tmp/test"
        ))
    }

    fn refusal(&self, lacks: &str) -> Job {
        self.job(&format!(
            "sgd --policy /work/examples/demo.json > /tmp/sgd 2>&1; code=$?\ncat /tmp/sgd\n\
             [ $code != 0 ] && grep -qF '{lacks}' /tmp/sgd"
        ))
    }
}

/// A test program of `sg-tests`, built.
fn test_program(name: &str) -> Result<PathBuf> {
    let arguments = [
        "test",
        "--no-run",
        "--package",
        "sg-tests",
        "--test",
        name,
        "--message-format",
        "json-render-diagnostics",
    ];
    let output = cargo::cargo(&arguments)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the tests cannot be built ({})", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let path = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name").and_then(|found| found.as_str()) == Some(name))
        .find_map(|message| message.get("executable")?.as_str().map(PathBuf::from));
    path.with_context(|| format!("cargo does not say where it has put {name}"))
}
