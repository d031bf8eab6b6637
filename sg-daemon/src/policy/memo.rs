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

use super::rewalk::Walked;
use super::source::SourceFile;
use super::{Counts, Diagnostic};
use crate::policy::model::Model;

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

    /// The same by its text.
    pub(super) fn text(&self, path: &Path, bom: bool, text: &str) -> Option<Arc<SourceFile>> {
        let known = self.known();
        let sources = known.iter().flat_map(|known| &known.sources);
        let is = |source: &&Arc<SourceFile>| source.path == path && source.bom == bom && source.text == text;
        sources.into_iter().find(is).cloned()
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

    /// Remembers what a file says that was read after it was looked at.
    pub(super) fn was_read(&self, source: &Arc<SourceFile>, stamp: Stamp) {
        self.lock().files.insert(source.path.clone(), (stamp, Arc::downgrade(source)));
    }
}
