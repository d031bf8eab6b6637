//! A lab: a unique name, a directory, and the namespaces in it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::netns::{NETNS_DIR, Netns};
use crate::registry::{Held, Resource};

/// Every name that a lab gives starts with this, the process id and the time that process started (kernel ticks since boot), so
/// that the sweep knows a dead owner even when its process id has been given out again.
const PREFIX: &str = "sglab";

/// Where the kernel's pinned objects live.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// The owner of a set of namespaces and of a scratch directory.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: PathBuf,
    _held: Held,
}

impl Lab {
    /// Also sweeps up after labs whose process is gone.
    pub fn new() -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        ensure!(
            Uid::effective().is_root(),
            "network namespaces and BPF programs need root: run this as root (for example `sudo -E cargo xtask test`)"
        );
        sweep();
        let pid = std::process::id();
        let start = start_time(pid).context("cannot read /proc/self/stat")?;
        let name = format!("{PREFIX}-{pid}-{start}-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&name);
        let held = Held::directory(&directory)?;
        Ok(Self { name, directory, _held: held })
    }

    /// Unique on this machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A scratch directory of this lab alone.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A directory for pins, named like the lab, which goes with the value; not made yet.
    pub fn pins(&self) -> Result<PinDirectory> {
        let path = Path::new(BPFFS).join(&self.name);
        let make = || Ok(((), Resource::Directory(path.clone())));
        let ((), held) = Held::make(make)?;
        Ok(PinDirectory { path, _held: held })
    }

    /// A new namespace with its loopback up.
    pub fn netns(&self, role: &str) -> Result<Netns> {
        Netns::create(format!("{}-{role}", self.name))
    }
}

/// See [`Lab::pins`].
#[derive(Debug)]
pub struct PinDirectory {
    path: PathBuf,
    _held: Held,
}

impl PinDirectory {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes the namespaces, pins, files and processes of labs whose process is gone. Of a process it ends only those that sit
/// in such a namespace. Errors are passed over: another process may be sweeping too.
pub fn sweep() {
    for (name, _) in leftovers(Path::new(NETNS_DIR)) {
        if let Ok(output) = Command::new("ip").args(["netns", "pids", &name]).output() {
            for pid in
                String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse().ok())
            {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    }
    for directory in [PathBuf::from(BPFFS), std::env::temp_dir()] {
        for (_, path) in leftovers(&directory) {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

fn leftovers(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| {
            owner(name).is_some_and(|(pid, start)| !matches!(start_time(pid), Ok(now) if now == start))
        })
        .collect()
}

/// The process id and start time in a name that a lab gave.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Field 22 of `/proc/PID/stat`, proc_pid_stat(5).
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the command in parentheses and may contain anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields
        .split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("unexpected format"))
}

#[cfg(test)]
mod tests {
    use super::{owner, start_time};

    #[test]
    fn owner_reads_only_names_of_labs() {
        assert_eq!(owner("sglab-12-345-0-host"), Some((12, 345)));
        assert_eq!(owner("sglab-12"), None);
        assert_eq!(owner("sgd-12-345"), None);
        assert_eq!(owner("sglab-web-345-0"), None);
    }

    #[test]
    fn start_time_does_not_change() {
        let pid = std::process::id();
        assert_eq!(start_time(pid).unwrap(), start_time(pid).unwrap());
    }
}
