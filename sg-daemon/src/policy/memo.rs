//! What was read lately: a file that says what it said is not read twice, and one that has changed is read where it has.
//!
//! A text is told from another one by its bytes. That a file still has the text that was read from it is told by its inode and
//! the time of its last change, which nobody can set: but only where that time was long over when the file was read, so that
//! a change after that has another one, however coarse the clock.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use super::raw::RawGroup;
use super::rewalk::Walked;
use super::source::{SourceFile, Splice};
use super::{Counts, Diagnostic};
use crate::policy::model::{Group, Model};

/// A policy without a fault, and all that was made of it on the way.
#[derive(Debug)]
pub(crate) struct Known {
    pub sources: Vec<Arc<SourceFile>>,
    /// One for each of the sources.
    pub walked: Vec<Arc<Walked>>,
    pub model: Arc<Model>,
    pub lints: Vec<Diagnostic>,
    pub omitted: usize,
    pub counts: Counts,
}

impl Known {
    /// The groups that are written, with what was made of each: without a fault, they are the first ones of the model.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&RawGroup, &Group)> {
        self.walked.iter().flat_map(|walked| &walked.raw.groups).zip(&self.model.groups)
    }
}

/// The last policies that were read. Copies share what they know.
#[derive(Debug, Clone, Default)]
pub struct Memo(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    known: Vec<Arc<Known>>,
    /// Not known any more, and in memory until [`Memo::tidy`].
    gone: Vec<Arc<Known>>,
    /// What files were when they were read, and what they said.
    files: HashMap<PathBuf, (Stamp, Weak<SourceFile>)>,
}

/// What is another one when a file was written to, or another file was put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: (u64, u64),
    length: u64,
    changed: (i64, i64),
}

/// The kernel's clock for files has steps of ten milliseconds at most.
const LONG_OVER: Duration = Duration::from_millis(40);

impl Stamp {
    fn of(file: &Metadata) -> Self {
        let inode = (file.dev(), file.ino());
        Self { inode, length: file.len(), changed: (file.ctime(), file.ctime_nsec()) }
    }

    /// If whatever happens to the file from now on shows.
    pub(super) fn safe(file: &Metadata) -> Option<Self> {
        let stamp = Self::of(file);
        let changed = (u64::try_from(stamp.changed.0).ok()?, u32::try_from(stamp.changed.1).ok()?);
        let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::new(changed.0, changed.1))?;
        (SystemTime::now().duration_since(changed).ok()? > LONG_OVER).then_some(stamp)
    }
}

/// The policy in force and the one that is to be.
const KEPT: usize = 2;

impl Memo {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, the newest first.
    pub(super) fn known(&self) -> Vec<Arc<Known>> {
        self.lock().known.iter().rev().cloned().collect()
    }

    /// A file of this name and with these bytes, as it was taken apart before.
    pub(super) fn source(&self, path: &Path, bytes: &[u8]) -> Option<Arc<SourceFile>> {
        let known = self.known();
        let sources = known.iter().flat_map(|known| &known.sources);
        sources.into_iter().find(|source| source.path == path && source.is(bytes)).cloned()
    }

    /// What was made of a file by a splice before.
    pub(super) fn follower(&self, source: &Arc<SourceFile>, splice: &Splice) -> Option<Arc<SourceFile>> {
        let known = self.known();
        let sources = known.iter().flat_map(|known| &known.sources);
        sources.into_iter().find(|next| source.is_followed_by(splice, next)).cloned()
    }

    pub(super) fn remember(&self, known: Arc<Known>) {
        let mut remembered = self.lock();
        let all = &mut remembered.known;
        all.retain(|other| !Arc::ptr_eq(other, &known));
        let gone = (all.len() == KEPT).then(|| all.remove(0));
        all.push(known);
        // To take a large policy apart takes a while; of several, only one waits for it.
        drop(std::mem::replace(&mut remembered.gone, gone.into_iter().collect()));
        remembered.files.retain(|_, (_, source)| source.strong_count() > 0);
    }

    /// Frees the memory of what is not known any more.
    pub fn tidy(&self) {
        let gone = std::mem::take(&mut self.lock().gone);
        drop(gone);
    }

    /// What a file says, if that is known without reading it; `file` is what the system says of it now, through a descriptor of it.
    pub(super) fn unread(&self, path: &Path, file: &Metadata) -> Option<Arc<SourceFile>> {
        let remembered = self.lock();
        let (stamp, source) = remembered.files.get(path)?;
        (*stamp == Stamp::of(file)).then(|| source.upgrade())?
    }

    /// Remembers what a file says that was written before it was looked at.
    pub(super) fn was_written(&self, source: &Arc<SourceFile>, file: &Metadata) {
        self.was_read(source, Stamp::of(file));
    }

    /// Remembers what a file says that was read after it was looked at.
    pub(super) fn was_read(&self, source: &Arc<SourceFile>, stamp: Stamp) {
        self.lock().files.insert(source.path.clone(), (stamp, Arc::downgrade(source)));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes};
    use std::io::Write as _;
    use std::thread::sleep;

    use super::*;
    use crate::policy::read::read;

    /// Texts of one length, put in each other's place in every way, with the times of the one before.
    #[test]
    fn spec_k10_a_file_that_was_touched_is_read_again_whatever_its_size_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.json");
        let memo = Memo::default();
        let says = || {
            let files = read(std::slice::from_ref(&path), &memo);
            Arc::clone(&files.sources[0])
        };
        let over = |text: &str| fs::write(&path, text).unwrap();
        let into =
            |text: &str| File::options().write(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
        let by_rename = |text: &str| {
            let other = dir.path().join("other");
            fs::write(&other, text).unwrap();
            fs::rename(other, &path).unwrap();
        };
        over("text 0");
        let mut kept = vec![says()];
        for wait in [Duration::ZERO, LONG_OVER * 2] {
            for (number, write) in (1..).zip([&over as &dyn Fn(&str), &into, &by_rename]) {
                sleep(wait);
                let before = says();
                let same = says();
                assert!(wait.is_zero() || Arc::ptr_eq(&before, &same), "it is read once");
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                let text = format!("text {number}");
                write(&text);
                File::open(&path).unwrap().set_times(FileTimes::new().set_modified(modified)).unwrap();
                kept.push(says());
                assert_eq!(kept.last().unwrap().text(), text);
            }
        }
    }
}
