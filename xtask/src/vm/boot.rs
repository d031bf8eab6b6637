//! One virtual machine and what it does.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::fetch::Tree;
use super::image;
use crate::setup;

/// What a guest does.
pub struct Job {
    /// Files of this machine and their places in the guest. Programs bring their libraries along.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Programs that are in PATH here, and in /bin there.
    pub programs: Vec<&'static str>,
    /// Before the first step, in the shell of each of them: for busybox' sh.
    pub environment: String,
    pub steps: Vec<Step>,
}

/// A part of a job. The next one follows however it has ended.
pub struct Step {
    pub name: String,
    /// For busybox' sh; its exit code is the step's.
    pub script: String,
}

pub struct Outcome {
    /// The exit codes of the steps, as far as the guest has come.
    pub codes: Vec<i32>,
    pub console: String,
}

/// Emulated processors are slow, and the verifier has much to do: for one step.
const PATIENCE: Duration = Duration::from_secs(900);

/// Boots a kernel, lets it do the job, and waits for its end. `each` hears of every step that is over, with its exit code and how
/// long it has taken; the first is taken longer by the boot.
pub fn run(tree: &Tree, job: &Job, mut each: impl FnMut(&Step, i32, Duration)) -> Result<Outcome> {
    let scratch = tempfile::tempdir()?;
    let [initrd, console, codes] = ["initrd.gz", "console", "codes"].map(|name| scratch.path().join(name));
    image::write(tree, job, scratch.path(), &initrd)?;
    let mut qemu = Command::new(setup::program("qemu-system-x86_64")?);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2", "-machine", "q35"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", codes.display()))
        .arg("-kernel")
        .arg(&tree.image)
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(scratch.path().join("qemu"))?);
    let mut guest = Guest(qemu.spawn().context("cannot run qemu-system-x86_64")?);
    let mut ended: Vec<i32> = Vec::new();
    let mut begin = Instant::now();
    loop {
        let is_over = guest.0.try_wait()?.is_some();
        let text = fs::read_to_string(&codes).unwrap_or_default();
        // A line that is not whole yet is read later.
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
        let found: Vec<i32> = whole.lines().filter_map(|line| line.trim().parse().ok()).collect();
        for (step, &code) in job.steps.iter().zip(&found).skip(ended.len()) {
            each(step, code, begin.elapsed());
            ended.push(code);
            begin = Instant::now();
        }
        if is_over || begin.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(guest);
    let read = |path: &PathBuf| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let said = read(&scratch.path().join("qemu")).unwrap_or_default();
    Ok(Outcome { codes: ended, console: format!("{said}{}", read(&console).unwrap_or_default()) })
}

/// Ends with the value.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
