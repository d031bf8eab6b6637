//! What this process has made and must take away again.
//!
//! One list for the whole process, because a signal ends all labs at once. Things are made while the list is locked: the
//! thread that cleans up after a signal takes the lock and keeps it until the process is gone, so nothing can be made
//! behind its back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A thing outside of this process's memory.
#[derive(Debug, Clone)]
pub enum Resource {
    /// A named network namespace.
    Netns(String),
    /// A directory with all that is in it; on bpffs too, where removing a pinned link detaches its program.
    Directory(PathBuf),
    Process(Arc<Mutex<Child>>),
    /// A process that leads a group of its own, with that group.
    Group(Arc<Mutex<Child>>),
}

impl Resource {
    /// Best effort: the thing may be gone already, and nobody could act on an error.
    fn destroy(&self) {
        match self {
            Self::Netns(name) => {
                let _ = Command::new("ip")
                    .args(["netns", "delete", name])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
            }
            Self::Directory(path) => {
                let _ = std::fs::remove_dir_all(path);
            }
            Self::Group(child) => {
                let mut child = lock(child);
                // Once it has been waited for, its number may be somebody else's.
                if matches!(child.try_wait(), Ok(None))
                    && let Ok(group) = i32::try_from(child.id())
                {
                    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                    let _ = child.wait();
                }
            }
            Self::Process(child) => {
                let mut child = lock(child);
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

static REGISTRY: Mutex<Entries> = Mutex::new(Entries { next: 0, live: Vec::new() });
static SIGNALS: Once = Once::new();

struct Entries {
    next: u64,
    live: Vec<(u64, Resource)>,
}

/// Owns one [`Resource`]; dropping it destroys the resource.
#[derive(Debug)]
pub struct Held(u64);

impl Held {
    /// Makes something and remembers it. `make` must undo itself when it fails.
    pub fn make<T>(make: impl FnOnce() -> Result<(T, Resource)>) -> Result<(T, Self)> {
        watch_signals();
        let mut entries = lock(&REGISTRY);
        let (value, resource) = make()?;
        let id = entries.next;
        entries.next += 1;
        entries.live.push((id, resource));
        Ok((value, Self(id)))
    }

    /// A new directory at `path`.
    pub fn directory(path: &Path) -> Result<Self> {
        let make = || {
            std::fs::create_dir(path).with_context(|| format!("cannot create {}", path.display()))?;
            Ok(((), Resource::Directory(path.to_owned())))
        };
        Ok(Self::make(make)?.1)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut entries = lock(&REGISTRY);
        if let Some(position) = entries.live.iter().position(|(id, _)| *id == self.0) {
            let (_, resource) = entries.live.remove(position);
            drop(entries);
            resource.destroy();
        }
    }
}

fn watch_signals() {
    SIGNALS.call_once(|| {
        let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
        let clean_up = move || {
            let Some(signal) = signals.forever().next() else { return };
            let mut entries = lock(&REGISTRY);
            // Newest first: a daemon before its pins, its pins before the namespace that they are attached in.
            while let Some((_, resource)) = entries.live.pop() {
                resource.destroy();
            }
            // Ends the process the way the signal would have, with the lock still held.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
            drop(entries);
        };
        let _ = std::thread::Builder::new().name("lab-signals".to_owned()).spawn(clean_up);
    });
}

/// A panic elsewhere does not make the list wrong: every change to it is one push or one remove.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
