//! A virtual machine behind a tap, and a shell in it that does not need its network.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use sg_tests::{Netns, Process};

use crate::setup::program;
use crate::vm::boot::{self, Job, Step};
use crate::vm::fetch::Tree;

/// Reads lines from a serial port, runs each, and says what it said and how it ended.
const SHELL: &str = "exec 3<>/dev/ttyS2\n\
    busybox stty -F /dev/ttyS2 raw -echo\n\
    echo === 0 >&3\n\
    while read -r line <&3; do\n\
    busybox sh -c \"$line\" > /tmp/said 2>&1 < /dev/null; code=$?\n\
    cat /tmp/said >&3; echo; echo \"=== $code\" >&3\n\
    done";

/// Of a command in the guest; emulated processors are slow.
const PATIENCE: Duration = Duration::from_secs(120);
/// Until the guest's shell is there.
const BOOT: Duration = Duration::from_secs(300);

pub struct Machine {
    process: Process,
    shell: BufReader<UnixStream>,
    /// What it says on its console, and QEMU of it.
    logs: [PathBuf; 2],
}

impl Machine {
    /// Starts it behind a new tap, a port of the host's bridge. It has no addresses yet, and its device is down.
    pub fn start(tree: &Tree, host: &Netns, tap: &str, mac: &str, directory: &Path) -> Result<Self> {
        host.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr\nlink set {tap} master br0 up"))?;
        std::fs::create_dir_all(directory)?;
        let job = Job {
            files: Vec::new(),
            programs: vec!["ip", "iperf3"],
            environment: String::new(),
            steps: vec![Step { name: "shell".to_owned(), script: SHELL.to_owned() }],
        };
        let socket = directory.join("shell");
        let qemu = host.command(program("qemu-system-x86_64")?);
        let mut qemu = boot::machine(tree, &job, directory, "512", 1, qemu)?;
        qemu.arg("-serial")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-netdev")
            .arg(format!("tap,id=net0,ifname={tap},script=no,downscript=no,vhost=off"))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=net0,mac={mac}"))
            .stderr(std::fs::File::create(directory.join("qemu"))?);
        let process = Process::spawn(qemu)?;
        let deadline = Instant::now() + BOOT;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    let said = std::fs::read_to_string(directory.join("qemu")).unwrap_or_default();
                    ensure!(process.ended()?.is_none(), "QEMU has ended: {}", said.trim());
                    ensure!(Instant::now() < deadline, "no serial port: {error}");
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        };
        stream.set_read_timeout(Some(BOOT))?;
        let logs = [directory.join("qemu"), directory.join(boot::CONSOLE)];
        Ok(Self { process, shell: BufReader::new(stream), logs })
    }

    /// Waits until it has booted and sets its device up. Two machines boot side by side.
    pub fn ready(&mut self, addresses: &str) -> Result<()> {
        if let Err(error) = self.answer() {
            let texts = self.logs.iter().filter_map(|path| std::fs::read(path).ok());
            let texts: Vec<_> = texts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
            bail!("the guest has not come up: {error:#}\n{}", texts.concat());
        }
        self.shell.get_ref().set_read_timeout(Some(PATIENCE))?;
        self.must(addresses).map(drop)
    }

    /// Runs one line of shell and returns its exit code and what it has said.
    pub fn run(&mut self, line: &str) -> Result<(i32, String)> {
        ensure!(!line.contains('\n'), "one line");
        self.shell.get_mut().write_all(format!("{line}\n").as_bytes())?;
        self.answer().with_context(|| format!("in the guest: {line}"))
    }

    /// The same, and it must succeed.
    pub fn must(&mut self, line: &str) -> Result<String> {
        match self.run(line)? {
            (0, said) => Ok(said),
            (code, said) => bail!("in the guest: {line}: exit code {code}: {}", said.trim()),
        }
    }

    fn answer(&mut self) -> Result<(i32, String)> {
        let mut said = String::new();
        loop {
            let mut line = Vec::new();
            ensure!(self.shell.read_until(b'\n', &mut line)? > 0, "the machine has ended");
            let line = String::from_utf8_lossy(&line);
            match line.trim().strip_prefix("=== ") {
                Some(code) => return Ok((code.parse().context("no exit code")?, said)),
                None => said += &line,
            }
        }
    }

    /// Stops it, or lets it go on.
    pub fn pause(&self, pause: bool) -> Result<()> {
        self.process.signal(if pause { Signal::SIGSTOP } else { Signal::SIGCONT })
    }
}
