//! One network namespace.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::registry::{Held, Resource};

/// Where iproute2 keeps the names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A named network namespace. Clones are the same namespace, which goes away with the last of them.
#[derive(Debug, Clone)]
pub struct Netns {
    name: Arc<str>,
    _held: Arc<Held>,
}

impl Netns {
    pub(crate) fn create(name: String) -> Result<Self> {
        let make = || {
            run(Command::new("ip").args(["netns", "add", &name]), None)?;
            Ok(((), Resource::Netns(name.clone())))
        };
        let ((), held) = Held::make(make)?;
        let netns = Self { name: name.into(), _held: Arc::new(held) };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&*self.name)
    }

    /// Runs `ip` commands, one a line, inside the namespace, in one process.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name, "-batch", "-"]);
        run(&mut command, Some(lines)).with_context(|| format!("in namespace {}:\n{lines}", self.name))
    }

    /// What passes bridges is not shown to netfilter, which drops malformed packets and trims others: where its module is loaded, it
    /// sees all bridges by default.
    pub fn bridge_without_netfilter(&self) -> Result<()> {
        self.run(|| {
            for tables in ["iptables", "ip6tables", "arptables"] {
                let path = format!("/proc/sys/net/bridge/bridge-nf-call-{tables}");
                if Path::new(&path).exists() {
                    std::fs::write(&path, "0").with_context(|| format!("cannot write {path}"))?;
                }
            }
            Ok(())
        })?
    }

    /// A command that will run inside the namespace. `nsenter`, because `ip netns exec` also remounts `/sys` and so hides bpffs.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program.as_ref());
        command
    }

    /// Runs `work` inside the namespace, on a thread of its own. A socket made there stays there, wherever it is used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let enter_and_work = || {
            let path = self.path();
            let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", self.name))?;
            Ok(work())
        };
        std::thread::scope(|scope| {
            // A panic of the work is the caller's panic: tests assert inside.
            scope.spawn(enter_and_work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Runs a command to its end and fails with its stderr.
pub(crate) fn run(command: &mut Command, input: Option<&str>) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program} (`cargo xtask setup` installs what the lab needs)"))?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes()).map_err(|error| anyhow!("{program} does not read: {error}"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
