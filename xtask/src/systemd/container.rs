//! A root file system, booted in a container.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sg_tests::{Finished, Lab, Netns, Process};

use super::debian::Debian;

/// To boot, or to stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);

/// A running systemd. Dropping it kills it with all that it runs.
pub struct Container {
    process: Process,
    /// Its first process, by the number that it has here.
    leader: u32,
}

impl Container {
    /// Boots, and waits until all units have started.
    pub fn boot(lab: &Lab, root: &Path, netns: &Netns) -> Result<Self> {
        let log = lab.directory().join("console");
        let process = Process::serve(nspawn(lab, root, netns)?, &log)?;
        let console = || fs::read_to_string(&log).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        let leader = loop {
            if let Some(leader) = leader(root)? {
                break leader;
            }
            if process.ended()?.is_some() || Instant::now() > deadline {
                bail!("the container does not start:\n{}", console());
            }
            sleep(POLL);
        };
        let container = Self { process, leader };
        while !container.is_up()? {
            if container.process.ended()?.is_some() || Instant::now() > deadline {
                bail!("the container does not boot:\n{}", console());
            }
            sleep(POLL);
        }
        Ok(container)
    }

    /// Stops it as an administrator would, and waits.
    pub fn power_off(self) -> Result<()> {
        self.run(&["systemctl", "poweroff"])?;
        let status = self.process.wait(PATIENCE)?;
        ensure!(status.success(), "the container has ended with {status}");
        Ok(())
    }
}

impl Debian for Container {
    fn run(&self, words: &[&str]) -> Result<Finished> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]).args(words);
        // As somebody has it who logs in.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        Process::finish(command, PATIENCE)
    }

    fn slowness(&self) -> u32 {
        1
    }
}

/// The container's manager of the container's own Debian, with its libraries: none needs to be installed here.
fn nspawn(lab: &Lab, root: &Path, netns: &Netns) -> Result<Command> {
    let libraries = fs::read_dir(root.join("usr/lib"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.join("systemd").is_dir() && path.join("libc.so.6").exists())
        .context("there is no C library in the root file system")?;
    let loader = fs::read_dir(&libraries)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
        .with_context(|| format!("there is no loader in {}", libraries.display()))?;
    let mut command = Command::new(loader);
    let (libraries, private) = (libraries.display(), libraries.join("systemd"));
    command.arg("--library-path").arg(format!("{libraries}:{}", private.display()));
    command.arg(root.join("usr/bin/systemd-nspawn"));
    command.args(["--quiet", "--register=no", "--keep-unit", "--boot", "--console=pipe"]);
    command.arg(format!("--machine={}", lab.name())).arg("--directory").arg(root);
    command.arg(format!("--network-namespace-path={}", netns.path().display()));
    // What a machine's systemd has, and a container's not by itself.
    command.arg("--capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON,CAP_SYS_ADMIN,CAP_SYS_RESOURCE");
    command.arg("--system-call-filter=bpf perf_event_open");
    command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1");
    Ok(command)
}

/// The process that is the first one of a process namespace and has this root directory.
fn leader(root: &Path) -> Result<Option<u32>> {
    let identity = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).map(|found| (found.dev(), found.ino()))
    };
    let wanted = identity(root)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let first = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .is_some_and(|numbers| numbers.split_whitespace().skip(1).last() == Some("1"));
        if first && identity(&entry.path().join("root")).is_ok_and(|found| found == wanted) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}
