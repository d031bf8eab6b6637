//! One virtual machine and what it does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use sg_tests::{Lab, Process};

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

/// Until a guest has said anything: now and then one hangs at boot before its console is there, with both processors busy.
const SILENCE: Duration = Duration::from_secs(240);
/// So many times a guest is started that says nothing.
const STARTS: usize = 3;

/// Without the exchange of 16 bytes: with two processors, QEMU 7.2 spoils registers where kernels use it (6.12 dies of it at boot).
const CPU: &str = "max,-cx16";

/// Boots a kernel, lets it do the job, and waits for its end. `each` hears of every step that is over, with its exit code and how
/// long it has taken; the first is taken longer by the boot.
pub fn run(tree: &Tree, job: &Job, mut each: impl FnMut(&Step, i32, Duration)) -> Result<Outcome> {
    let lab = Lab::new()?;
    let mut starts = 1;
    let mut scratch = lab.directory().join("1");
    let mut guest = start(tree, job, &scratch)?;
    let mut ended: Vec<i32> = Vec::new();
    let mut begin = Instant::now();
    loop {
        let is_over = guest.ended()?.is_some();
        let text = fs::read_to_string(scratch.join(CODES)).unwrap_or_default();
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
        let is_silent = fs::metadata(scratch.join(CONSOLE)).is_ok_and(|console| console.len() == 0);
        if is_silent && begin.elapsed() > SILENCE && starts < STARTS {
            eprintln!("nothing from the guest in {} s: started again", SILENCE.as_secs());
            drop(guest);
            starts += 1;
            scratch = lab.directory().join(starts.to_string());
            guest = start(tree, job, &scratch)?;
            begin = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(guest);
    let read = |name| {
        let bytes = fs::read(scratch.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(Outcome { codes: ended, console: read(QEMU) + &read(CONSOLE) })
}

/// Starts the machine in a directory that it makes.
fn start(tree: &Tree, job: &Job, scratch: &Path) -> Result<Process> {
    fs::create_dir(scratch)?;
    let mut guest =
        machine(tree, job, scratch, "2048", 2, Command::new(setup::program("qemu-system-x86_64")?))?;
    guest.stderr(File::create(scratch.join(QEMU))?);
    Process::spawn(guest)
}

/// What the guest says on its console, and the exit codes of its steps: files beside its image.
pub const CONSOLE: &str = "console";
const CODES: &str = "codes";
/// What QEMU itself says.
const QEMU: &str = "qemu";

/// The machine with the job in it, ready to be started. `qemu`: as it is to be run. The directory is the machine's alone.
pub fn machine(
    tree: &Tree,
    job: &Job,
    directory: &Path,
    megabytes: &str,
    processors: u32,
    qemu: Command,
) -> Result<Command> {
    let initrd = directory.join("initrd.gz");
    image::write(tree, job, directory, &initrd)?;
    let mut qemu = hardware(tree, &initrd, directory, megabytes, processors, "", qemu);
    qemu.arg("-no-reboot");
    Ok(qemu)
}

/// A machine that goes over to the disk, and that may reboot. `options`: of the kernel.
pub fn machine_with_disk(
    tree: &Tree,
    disk: &Path,
    directory: &Path,
    options: &str,
    qemu: Command,
) -> Result<Command> {
    let initrd = directory.join("initrd.gz");
    image::write_over(tree, directory, &initrd)?;
    let mut qemu = hardware(tree, &initrd, directory, "1024", 2, options, qemu);
    // What is written lasts as long as the machine.
    qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,snapshot=on", disk.display()));
    qemu.env("TMPDIR", directory);
    Ok(qemu)
}

fn hardware(
    tree: &Tree,
    initrd: &Path,
    directory: &Path,
    megabytes: &str,
    processors: u32,
    options: &str,
    mut qemu: Command,
) -> Command {
    let file = |name: &str| format!("file:{}", directory.join(name).display());
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-m", megabytes, "-machine", "q35"])
        .args(["-smp", &processors.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", &file(CONSOLE), "-serial", &file(CODES)])
        .arg("-kernel")
        .arg(&tree.image)
        .arg("-initrd")
        .arg(initrd)
        // On a busy machine no timer may tick for as long as the kernel looks whether one does.
        .args(["-append", &format!("console=ttyS0 quiet panic=-1 no_timer_check {options}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    qemu
}
