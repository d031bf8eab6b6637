//! One job in one virtual machine.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
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
    /// For busybox' sh; its exit code is the job's.
    pub script: String,
}

pub struct Outcome {
    /// Absent if the guest has not come to an end.
    pub code: Option<i32>,
    pub console: String,
}

/// Emulated processors are slow, and the verifier has much to do.
const PATIENCE: Duration = Duration::from_secs(600);

/// Boots a kernel, lets it do the job, and waits for its end.
pub fn run(tree: &Tree, job: &Job) -> Result<Outcome> {
    let scratch = tempfile::tempdir()?;
    let [initrd, console, code] = ["initrd.gz", "console", "code"].map(|name| scratch.path().join(name));
    image::write(tree, job, scratch.path(), &initrd)?;
    let mut qemu = Command::new(setup::program("qemu-system-x86_64")?);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2", "-machine", "q35"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", code.display()))
        .arg("-kernel")
        .arg(&tree.image)
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(scratch.path().join("qemu"))?);
    let mut child = qemu.spawn().context("cannot run qemu-system-x86_64")?;
    let begin = Instant::now();
    while child.try_wait()?.is_none() {
        if begin.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let read = |path: &PathBuf| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let said = read(&scratch.path().join("qemu")).unwrap_or_default();
    Ok(Outcome {
        code: read(&code).unwrap_or_default().trim().parse().ok(),
        console: format!("{said}{}", read(&console).unwrap_or_default()),
    })
}
