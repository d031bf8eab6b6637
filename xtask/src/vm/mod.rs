//! `cargo xtask vm-test`: the demo and a choice of the tests in Debian's kernels, in virtual machines without hardware support, so
//! that it works wherever QEMU does.

pub mod boot;
pub mod fetch;
pub mod image;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::boot::{Job, Outcome, Step};
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
    /// Only loading, the demo and `sgctl doctor`
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
    Kernel {
        which: Which::V5_10,
        suite: "bullseye",
        tcx: false,
        lacks: Some("atomic operations that return a value"),
    },
    Kernel { which: Which::V6_1, suite: "bookworm", tcx: false, lacks: None },
    Kernel { which: Which::V6_12, suite: "bookworm-backports", tcx: true, lacks: None },
    Kernel { which: Which::V7_3, suite: "trixie-backports", tcx: true, lacks: None },
];

/// What runs in each kernel after the demo, which has verdicts and changes of the policy: swaps under traffic, closing.
const TESTS: [&str; 2] = [
    "spec_d21_changing_the_hook_of_an_interface_leaves_no_gap",
    "spec_d23_a_managed_device_is_closed_unless_a_policy_names_it",
];
/// Taking over, by TCX and by clsact; a kernel has the one or the other by itself.
const TAKEN_OVER: [&str; 2] = [
    "spec_d20_the_filter_outlives_the_daemon_and_is_taken_over",
    "spec_d20_the_filter_outlives_the_daemon_with_clsact_filters_too",
];

impl VmTest {
    pub fn run(&self) -> Result<ExitCode> {
        setup::install()?;
        setup::install_vm()?;
        let guest = Guest::build()?;
        let begin = Instant::now();
        let mut wrong = Vec::new();
        let heading = format!("  {:<26} {:<71} {:>4}  outcome", "kernel", "what", "s");
        println!("\n{}", paint(&heading, "2"));
        for kernel in KERNELS.iter().filter(|kernel| self.wants(kernel.which)) {
            let tree = fetch::fetch(kernel.suite)?;
            let job = guest.job(self.steps(kernel));
            let outcome = boot::run(&tree, &job, |step, code, took| {
                show(&tree.release, &step.name, took.as_secs(), code == 0);
            })?;
            let failed = |number: usize| outcome.codes.get(number) != Some(&0);
            let names = job.steps.iter().enumerate().filter(|(number, _)| failed(*number));
            let names: Vec<String> =
                names.map(|(_, step)| format!("{}: {}", tree.release, step.name)).collect();
            if !names.is_empty() {
                tell(&outcome, job.steps.len());
            }
            wrong.extend(names);
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

    fn steps(&self, kernel: &Kernel) -> Vec<Step> {
        let hook = if kernel.tcx { "tcx" } else { "clsact" };
        let mut steps = match kernel.lacks {
            Some(lacks) => vec![refusal(lacks), doctor_refuses(lacks)],
            None => vec![loads(), doctor(hook), demo(hook)],
        };
        if !self.short && kernel.lacks.is_none() {
            let [tcx, clsact] = TAKEN_OVER;
            let taken_over = if kernel.tcx { tcx } else { clsact };
            steps.extend(TESTS.into_iter().chain([taken_over]).map(|name| test("daemon-tests", name)));
        }
        steps.retain(|step| {
            self.only.is_empty() || self.only.iter().any(|part| step.name.contains(part.as_str()))
        });
        steps
    }
}

fn show(release: &str, name: &str, took: u64, right: bool) {
    let mark = if right { paint("✓", "32") } else { paint("✗", "1;31") };
    println!("  {release:<26} {name:<71} {took:>4}  {mark}");
}

/// The last of what the guest has said.
fn tell(outcome: &Outcome, steps: usize) {
    let lines: Vec<_> = outcome.console.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(120)) {
        println!("      {line}");
    }
    if outcome.codes.len() < steps {
        println!("      (the guest has not come to its end: a panic, or it was too slow)");
    }
}

/// What goes into every guest.
struct Guest {
    binaries: PathBuf,
    tests: [(PathBuf, &'static str); 2],
}

impl Guest {
    fn build() -> Result<Self> {
        // As the tests are built too: what is verified is optimised either way.
        cargo::run(&["build", "--package", "sg-daemon", "--bins", "--package", "xtask"])?;
        let tests = [(test_program("daemon")?, "daemon-tests"), (test_program("budgets")?, "budgets-tests")];
        Ok(Self { binaries: cargo::target().join("debug"), tests })
    }

    fn job(&self, steps: Vec<Step>) -> Job {
        let file = |path: PathBuf, name: &str| (path, PathBuf::from("/bin").join(name));
        let mut files: Vec<_> =
            ["sgd", "sgctl", "xtask"].map(|name| file(self.binaries.join(name), name)).into();
        files.extend(self.tests.iter().map(|(path, name)| file(path.clone(), name)));
        let policy = "examples/demo.json";
        files.push((cargo::workspace().join(policy), Path::new("/sgd").join(policy)));
        // The tests wait as long as this machine needs.
        let environment =
            "export SGD_BIN_DIR=/bin SGD_PATIENCE=$(cat /tmp/patience) SGD_WORKSPACE=/sgd".to_owned();
        Job { files, programs: vec!["ip", "tc", "nsenter", "tcpdump"], environment, steps }
    }
}

fn step(name: &str, script: String) -> Step {
    Step { name: name.to_owned(), script }
}

/// Every program, by the test that asks for that.
fn loads() -> Step {
    test("budgets-tests", "the_kernel_takes_every_program")
}

fn test(program: &str, name: &str) -> Step {
    let script = format!(
        "{program} --test-threads=1 {name} > /tmp/test 2>&1; code=$?\ncat /tmp/test\n\
         [ $code = 0 ] && grep -q 'test result: ok. 1 passed' /tmp/test"
    );
    step(name, script)
}

fn demo(hook: &str) -> Step {
    let script = format!(
        "xtask demo --prebuilt > /tmp/demo 2>&1; code=$?\ncat /tmp/demo\n\
         [ $code = 0 ] && grep -q 'by sgctl status .*{hook}' /tmp/demo"
    );
    step(&format!("demo, with {hook}"), script)
}

/// Of a veth that is there for it.
fn doctor(hook: &str) -> Step {
    let script = format!(
        "ip link add doctor0 type veth peer name doctor1\n\
         sgctl doctor > /tmp/doctor 2>&1; code=$?\nip link del doctor0\ncat /tmp/doctor\n\
         [ $code = 0 ] && grep -q '^doctor0 .* {hook} ' /tmp/doctor && ! grep -q ' missing ' /tmp/doctor"
    );
    step(&format!("sgctl doctor finds nothing missing, and {hook}"), script)
}

fn doctor_refuses(lacks: &str) -> Step {
    let script = format!(
        "sgctl doctor > /tmp/doctor 2>&1; code=$?\ncat /tmp/doctor\n\
         [ $code = 1 ] && grep -q ' missing .*{lacks}' /tmp/doctor"
    );
    step("sgctl doctor says what is missing", script)
}

fn refusal(lacks: &str) -> Step {
    let script = format!(
        "mkdir /tmp/state\nsgd --policy /sgd/examples/demo.json --state-dir /tmp/state > /tmp/sgd 2>&1; code=$?\ncat /tmp/sgd\n\
         [ $code != 0 ] && grep -qF 'needs Linux 6.1 or later' /tmp/sgd && grep -qF '{lacks}' /tmp/sgd"
    );
    step("sgd refuses, and says what is missing", script)
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
