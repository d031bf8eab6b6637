//! What the daemon waits for: policy files that change, network devices that come and go.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{sleep, timeout};

use crate::enforce::links;

/// Editors write in several steps: changes are acted on when there was none for this long …
const QUIET: Duration = Duration::from_millis(50);
/// … but no later than this after the first.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches files and directories of policies. Directories are watched, not files: a file that is replaced by a rename
/// is another file.
pub struct FileWatch {
    changes: Receiver<()>,
    /// Watches as long as it lives.
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    pub fn new(paths: &[PathBuf]) -> notify::Result<Self> {
        let (sender, changes) = channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let reading = event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_)));
            if !reading {
                // A full channel holds a wake-up already.
                let _ = sender.try_send(());
            }
        })?;
        let mut directories: Vec<&Path> = paths.iter().map(|path| directory(path)).collect();
        directories.sort_unstable();
        directories.dedup();
        for directory in directories {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { changes, _watcher: watcher })
    }

    /// Returns when something has changed and is quiet again.
    pub async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            return super::never().await;
        }
        let settle = async { while let Ok(Some(())) = timeout(QUIET, self.changes.recv()).await {} };
        let _ = timeout(PATIENCE, settle).await;
    }
}

fn directory(path: &Path) -> &Path {
    if path.is_dir() {
        return path;
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Watches the network devices of this namespace.
pub struct LinkWatch {
    socket: AsyncFd<OwnedFd>,
}

impl LinkWatch {
    pub fn new() -> io::Result<Self> {
        // SAFETY: an `OwnedFd` owns its descriptor, which is open and the same until it is dropped.
        Ok(Self { socket: unsafe { AsyncFd::register(links::watch()?)? } })
    }

    /// Returns when a device has appeared, gone or changed.
    pub async fn changed(&self) {
        match self.socket.readable().await {
            Ok(mut ready) => {
                links::drain(ready.get_inner());
                ready.clear_ready();
            }
            // Better late than never, and not in a busy loop.
            Err(_) => sleep(PATIENCE).await,
        }
    }
}
