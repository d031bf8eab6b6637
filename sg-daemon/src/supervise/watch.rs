//! What the daemon waits for: policy files that change, network devices that come and go.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout, timeout_at};

use crate::enforce::gate::Gate;
use crate::enforce::links::Messages;
use crate::policy::is_policy_name;

/// Editors write in several steps: changes are acted on when there was none for this long …
const QUIET: Duration = Duration::from_millis(50);
/// … but no later than this after the first.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long nobody listens after an event: less than it has to be quiet.
const REST: Duration = Duration::from_millis(10);
/// As many links as the kernel follows in one path (man 7 path_resolution).
const MOST_LINKS: usize = 40;
/// How often the way to the policy may change while it is being watched.
const MOST_ROUNDS: usize = 8;

/// Watches files and directories of policies.
pub struct FileWatch {
    paths: Vec<PathBuf>,
    changes: Receiver<()>,
    sender: Sender<()>,
    /// When the first change was that has not been acted on.
    since: Option<Instant>,
    /// Watches as long as it lives.
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    pub fn new(paths: &[PathBuf]) -> notify::Result<Self> {
        let (sender, changes) = channel(1);
        let watcher = watch(paths, &sender)?;
        Ok(Self { paths: paths.to_vec(), changes, sender, since: None, _watcher: watcher })
    }

    /// Returns when something has changed and is quiet again. Cancel-safe: a change is forgotten only on return.
    pub async fn changed(&mut self) {
        let since = match self.since {
            Some(since) => since,
            None => {
                if self.changes.recv().await.is_none() {
                    return super::never().await;
                }
                *self.since.insert(Instant::now())
            }
        };
        let settle = async { while let Ok(Some(())) = timeout(QUIET, self.changes.recv()).await {} };
        let _ = timeout_at(since + PATIENCE, settle).await;
        // The change may have been to where the files are. They are read after this, so nothing falls in between.
        match watch(&self.paths, &self.sender) {
            Ok(watcher) => self._watcher = watcher,
            Err(error) => tracing::warn!(%error, "a later change of the policy files may go unnoticed"),
        }
        self.since = None;
    }
}

/// Begins to watch what the paths name now.
fn watch(paths: &[PathBuf], sender: &Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut scope = Scope::of(paths);
    for _ in 1..MOST_ROUNDS {
        let watcher = scope.watch(sender);
        // What changed before it was watched would not be heard of.
        let now = Scope::of(paths);
        if now == scope {
            return watcher;
        }
        scope = now;
    }
    scope.watch(sender)
}

/// Where a change can be one of the policy. Paths free of links.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Scope {
    /// Every name that is looked up on the way to a file of the policy, through links; whether it exists or not.
    names: BTreeSet<PathBuf>,
    /// Directories of policies: any policy in them counts.
    directories: BTreeSet<PathBuf>,
}

impl Scope {
    fn of(paths: &[PathBuf]) -> Self {
        let mut scope = Self::default();
        for path in paths {
            let end = scope.follow(path);
            // A directory that cannot be read is the loader's to complain of.
            let Ok(entries) = end.read_dir() else { continue };
            for entry in entries.flatten() {
                if is_policy_name(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_symlink())
                {
                    scope.follow(&entry.path());
                }
            }
            scope.directories.insert(end);
        }
        scope
    }

    /// Notes the way to a path; returns where it ends.
    fn follow(&mut self, path: &Path) -> PathBuf {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut rest = reversed(&absolute);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == "/" {
                at = PathBuf::from("/");
            } else if name == ".." {
                at.pop();
            } else if name != "." {
                let next = at.join(name);
                match fs::read_link(&next) {
                    Ok(target) if links < MOST_LINKS => {
                        links += 1;
                        rest.extend(reversed(&target));
                        self.names.insert(next);
                    }
                    _ => {
                        self.names.insert(next.clone());
                        at = next;
                    }
                }
            }
        }
        at
    }

    /// Watches directories, not files: a file that is replaced by a rename is another file.
    fn watch(&self, sender: &Sender<()>) -> notify::Result<RecommendedWatcher> {
        let (scope, sender) = (self.clone(), sender.clone());
        let mut rested = None;
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may hide a change.
            if event.map_or(true, |event| scope.concerns(&event)) {
                // A full channel holds a wake-up already.
                let _ = sender.try_send(());
            }
            // Whoever changes a file has to wake this thread for an event, unless it is at rest: the first of several is enough.
            if rested.is_none_or(|rested: std::time::Instant| rested.elapsed() > REST) {
                std::thread::sleep(REST);
                rested = Some(std::time::Instant::now());
            }
        })?;
        let parents = self.names.iter().filter_map(|name| name.parent());
        let watched: BTreeSet<&Path> = parents.chain(self.directories.iter().map(PathBuf::as_path)).collect();
        for directory in watched.into_iter().filter(|directory| directory.is_dir()) {
            watcher.watch(directory, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }

    fn concerns(&self, event: &Event) -> bool {
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        // Events that were lost have no path.
        event.paths.is_empty()
            || event.paths.iter().any(|path| {
                self.names.contains(path)
                    || path.file_name().is_some_and(is_policy_name)
                        && path.parent().is_some_and(|parent| self.directories.contains(parent))
            })
    }
}

/// The last component first.
fn reversed(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|component| component.as_os_str().to_owned()).collect()
}

/// Watches the network devices of this namespace, on a thread of its own that first tells the gate.
pub struct LinkWatch {
    changes: Receiver<io::Result<()>>,
}

impl LinkWatch {
    pub fn new(gate: Arc<Gate>) -> io::Result<Self> {
        let messages = Messages::new()?;
        gate.listens();
        let (sender, changes) = channel(1);
        let watch = move || {
            come_first();
            loop {
                let end = match messages.receive(|change| gate.hear(change)) {
                    // A full channel holds a wake-up already.
                    Ok(()) => matches!(sender.try_send(Ok(())), Err(TrySendError::Closed(_))),
                    Err(error) => {
                        let _ = sender.blocking_send(Err(error));
                        true
                    }
                };
                if end {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("devices".to_owned()).spawn(watch)?;
        Ok(Self { changes })
    }

    /// Returns when a device has appeared, gone or changed. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If nothing more is heard of devices.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.changes.recv().await.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into()))
    }
}

/// Lets this thread run before all others, if the service manager allows it (`LimitRTPRIO=`): while it waits for a processor, a
/// device is open. It never runs for long.
fn come_first() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter is a valid one, which the call only reads.
    if unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority)
    } != 0
    {
        tracing::debug!(error = %io::Error::last_os_error(), "the gate has no priority over other threads");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Far more than an event needs, for what must be heard; and how long silence has to last.
    const HEARD: Duration = Duration::from_secs(10);
    const SILENCE: Duration = Duration::from_millis(300);

    /// What is done to the files, and whether the policy is concerned.
    async fn check(paths: &[PathBuf], steps: &[(&str, bool, &dyn Fn())]) {
        let mut watch = FileWatch::new(paths).unwrap();
        for (what, concerns, step) in steps {
            step();
            let wait = if *concerns { HEARD } else { SILENCE };
            assert_eq!(timeout(wait, watch.changed()).await.is_ok(), *concerns, "{what}");
        }
    }

    #[tokio::test]
    async fn spec_k10_a_file_is_watched_whatever_it_is_replaced_by() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str| fs::write(at(name), "{}").unwrap();
        fs::create_dir(at("d")).unwrap();
        write("d/p.json");
        check(
            &[at("d/p.json")],
            &[
                ("write", true, &|| write("d/p.json")),
                ("a log beside it", false, &|| write("d/sgd.log")),
                ("another policy beside it", false, &|| write("d/q.json")),
                ("a read", false, &|| drop(fs::read(at("d/p.json")).unwrap())),
                ("rename over it", true, &|| fs::rename(at("d/q.json"), at("d/p.json")).unwrap()),
                ("remove", true, &|| fs::remove_file(at("d/p.json")).unwrap()),
                ("create", true, &|| write("d/p.json")),
                ("its directory goes", true, &|| fs::rename(at("d"), at("old")).unwrap()),
                ("what went", false, &|| write("old/p.json")),
                ("another directory comes", true, &|| {
                    fs::create_dir(at("new")).unwrap();
                    write("new/p.json");
                    fs::rename(at("new"), at("d")).unwrap();
                }),
                ("write in that one", true, &|| write("d/p.json")),
                ("it is removed", true, &|| fs::remove_dir_all(at("d")).unwrap()),
                ("and made anew", true, &|| fs::create_dir(at("d")).unwrap()),
                ("write in it", true, &|| write("d/p.json")),
            ],
        )
        .await;
    }

    #[tokio::test]
    async fn spec_k10_links_are_watched_at_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str| fs::write(at(name), "{}").unwrap();
        for name in ["etc", "v1", "v2"] {
            fs::create_dir(at(name)).unwrap();
            write(&format!("{name}/target.json"));
        }
        let point = |to: &str, name: &str| {
            symlink(to, at("tmp")).unwrap();
            fs::rename(at("tmp"), at(name)).unwrap();
        };
        // As in a Kubernetes volume: the file is a link through a link to a directory.
        point("../data/target.json", "etc/p.json");
        point("v1", "data");
        check(
            &[at("etc/p.json")],
            &[
                ("the target is written", true, &|| write("v1/target.json")),
                ("another file beside the target", false, &|| write("v1/other.json")),
                ("the link in the middle", true, &|| point("v2", "data")),
                ("the old target", false, &|| write("v1/target.json")),
                ("the new target", true, &|| write("v2/target.json")),
                ("the first link", true, &|| point("target.json", "etc/p.json")),
                ("its target", true, &|| write("etc/target.json")),
                ("a loop", true, &|| point("p.json", "etc/p.json")),
            ],
        )
        .await;
        point("../v1/target.json", "etc/p.json");
        check(
            &[at("etc")],
            &[("the target of a link in a directory of policies", true, &|| write("v1/target.json"))],
        )
        .await;
    }

    #[tokio::test]
    async fn spec_k10_a_directory_is_watched_for_policies() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str| fs::write(at(name), "{}").unwrap();
        check(
            &[at("d")],
            &[
                ("it appears", true, &|| fs::create_dir(at("d")).unwrap()),
                ("a policy", true, &|| write("d/a.json")),
                ("a hidden file", false, &|| write("d/.a.json")),
                ("a log", false, &|| write("d/a.log")),
                ("a directory", false, &|| fs::create_dir(at("d/old")).unwrap()),
                ("a policy below", false, &|| write("d/old/a.json")),
                ("no policy any more", true, &|| fs::rename(at("d/a.json"), at("d/a.off")).unwrap()),
                ("replaced", true, &|| {
                    fs::remove_dir_all(at("d")).unwrap();
                    fs::create_dir(at("d")).unwrap();
                }),
                ("a policy in the new one", true, &|| write("d/a.json")),
            ],
        )
        .await;
    }

    #[test]
    fn lost_events_count() {
        let scope = Scope::of(&[PathBuf::from("/none/p.json")]);
        let lost = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert!(scope.concerns(&lost));
    }
}
