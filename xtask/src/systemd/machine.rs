//! A root file system, booted in a virtual machine.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sg_tests::{Finished, Lab, Process};

use super::debian::Debian;
use super::disk::{END, ERRORS, UP};
use super::site::{MAC, Site, TAP};
use crate::package::said;
use crate::setup::program;
use crate::vm::boot;
use crate::vm::fetch::Tree;

/// To boot, to stop, or for one command, on a busy machine that emulates processors.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(100);

/// A running virtual machine. Dropping it turns it off.
pub struct Machine {
    process: Process,
    /// A shell of the machine's, behind a serial port.
    shell: Mutex<BufReader<UnixStream>>,
    console: PathBuf,
}

impl Machine {
    /// Boots behind a tap of the site, with the packages on its second disk, and waits until all units have started.
    pub fn boot(lab: &Lab, tree: &Tree, disk: &Path, site: &Site, packages: [&Path; 2]) -> Result<Self> {
        let directory = lab.directory();
        let second = directory.join("packages.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create").arg("--file").arg(&second);
        for package in packages {
            let parent = package.parent().context("a package is in a directory")?;
            tar.arg("--directory").arg(parent).arg(package.file_name().context("a package has a name")?);
        }
        said(&mut tar)?;

        let qemu = site.netns.command(program("qemu-system-x86_64")?);
        let mut qemu = boot::machine_with_disk(tree, disk, directory, "net.ifnames=0", qemu)?;
        let socket = directory.join("shell");
        qemu.arg("-serial")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-drive")
            .arg(format!("file={},if=virtio,format=raw,readonly=on", second.display()))
            .arg("-netdev")
            .arg(format!("tap,id=net0,ifname={TAP},script=no,downscript=no,vhost=off"))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=net0,mac={MAC}"))
            .stderr(fs::File::create(directory.join("qemu"))?);
        let process = Process::spawn(qemu)?;
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    let said = fs::read_to_string(directory.join("qemu")).unwrap_or_default();
                    ensure!(process.ended()?.is_none(), "QEMU has ended: {}", said.trim());
                    ensure!(Instant::now() < deadline, "no serial port: {error}");
                    sleep(POLL);
                }
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        let shell = Mutex::new(BufReader::new(stream));
        let machine = Self { process, shell, console: directory.join(boot::CONSOLE) };
        machine.up()?;
        let names = packages.map(|package| package.file_name().unwrap_or_default().to_string_lossy());
        for (name, to) in names.iter().zip(super::PACKAGES) {
            machine.said(&["tar", "--extract", "--file", "/dev/vdb", "--directory", "/root", name])?;
            machine.said(&["mv", &format!("/root/{name}"), to])?;
        }
        Ok(machine)
    }

    /// Ends what it runs, and starts anew.
    pub fn reboot(&self) -> Result<()> {
        self.send("systemctl reboot")?;
        self.up()
    }

    /// Starts anew as after a failure of its power: nothing is told to end, and nothing written.
    pub fn fail(&self) -> Result<()> {
        self.send("echo b > /proc/sysrq-trigger")?;
        self.up()
    }

    /// Stops it as an administrator would, and waits.
    pub fn power_off(self) -> Result<()> {
        self.send("systemctl poweroff")?;
        let status = self.process.wait(PATIENCE)?;
        ensure!(status.success(), "QEMU has ended with {status}");
        Ok(())
    }

    /// Waits until its shell is there, and all units have started.
    fn up(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let come = || -> Result<()> {
            self.until(UP)?;
            while !self.is_up()? {
                ensure!(Instant::now() < deadline, "some units have not started");
                sleep(POLL);
            }
            Ok(())
        };
        come().map_err(|error| {
            let console = fs::read(&self.console).unwrap_or_default();
            error.context(format!("the machine does not boot:\n{}", String::from_utf8_lossy(&console)))
        })
    }

    /// A command for the shell, of whatever lines, in one: printf makes them of it.
    fn send(&self, script: &str) -> Result<()> {
        let line = script.replace('\\', "\\\\").replace('\n', "\\n");
        let mut shell = self.shell.lock().map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
        shell.get_mut().write_all(format!("{line}\n").as_bytes()).context("the machine does not listen")
    }

    /// What comes before a line that starts so, and the rest of that line.
    fn until(&self, mark: &str) -> Result<(String, String)> {
        let mut shell = self.shell.lock().map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            ensure!(shell.read_until(b'\n', &mut line)? > 0, "the machine has ended");
            let line = String::from_utf8_lossy(&line);
            if let Some(rest) = line.trim_end().strip_prefix(mark) {
                // The line's end before it is not of the text.
                text.pop();
                return Ok((text, rest.trim().to_owned()));
            }
            text += &line;
        }
    }
}

impl Debian for Machine {
    fn run(&self, words: &[&str]) -> Result<Finished> {
        let quoted: Vec<String> =
            words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let answer = || -> Result<Finished> {
            self.send(&quoted.join(" "))?;
            let (stdout, _) = self.until(ERRORS)?;
            let (stderr, code) = self.until(END)?;
            let Ok(code) = code.parse::<i32>() else { bail!("no exit code: {code}") };
            // As wait(2) tells of it.
            Ok(Finished { status: ExitStatus::from_raw(code << 8), stdout, stderr })
        };
        answer().with_context(|| format!("in the machine: {}", words.join(" ")))
    }

    fn slowness(&self) -> u32 {
        10
    }
}
