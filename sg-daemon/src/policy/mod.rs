//! Policy: the operator's JSON in, a checked [`model::Model`] out.
//!
//! [`load`] reads files and reports; everything behind it is pure. A file goes through four steps, each in its own
//! module: `read` (bytes to syntax tree), `walk` (tree to typed parts with their places), `resolve` (parts of all
//! files to one model), `lint` (advice about a model that is right). A policy with one fault is refused whole, so
//! whoever holds a [`model::Model`] holds one that satisfies every rule of the format.

pub mod chunks;
pub mod diagnostic;
pub mod edit;
mod fields;
pub mod find;
mod lint;
mod memo;
pub mod model;
pub(crate) mod names;
pub mod peers;
mod raw;
mod read;
pub mod render;
mod resolve;
mod rewalk;
#[cfg(test)]
mod rewalk_tests;
mod rules;
pub(crate) mod same;
pub mod schema;
mod source;
pub(crate) mod values;
pub mod view;
mod walk;

use std::fmt;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::uio::pwritev;
use serde::Serialize;

use diagnostic::Findings;
pub use diagnostic::{Diagnostic, Severity};
pub use lint::{METADATA_RULE, reaches_metadata};
use memo::Known;
pub use memo::Memo;
use model::{FileId, Model};
pub(crate) use names::{nearest, suggestion};
use raw::{RawFile, RawRules};
use read::Files;
pub(crate) use read::is_policy_name;
use rewalk::Walked;
use source::SourceFile;
pub(crate) use source::Splice;

/// The kernel takes so many parts in one call (UIO_MAXIOV, include/uapi/linux/uio.h).
const MOST_AT_ONCE: usize = 1024;

/// A policy that may be enforced, and advice about it.
#[derive(Debug)]
pub struct Loaded {
    pub model: Arc<Model>,
    /// Warnings and notes, in reading order.
    pub lints: Vec<Diagnostic>,
    /// How many more there were beyond [`diagnostic::MOST_DIAGNOSTICS`].
    pub omitted: usize,
    pub counts: Counts,
    /// What each of [`Model::files`] said when it was read, without a byte order mark.
    pub texts: Vec<Text>,
}

/// What was read, faulty or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub files: usize,
    /// Groups written; a `default` that no file writes is not counted.
    pub groups: usize,
    pub rules: usize,
    pub interfaces: usize,
    pub peers: usize,
}

/// Why a policy was refused: every fault of every file.
#[derive(Debug, thiserror::Error)]
pub struct LoadError {
    pub diagnostics: Vec<Diagnostic>,
    /// How many more there were beyond [`diagnostic::MOST_DIAGNOSTICS`].
    pub omitted: usize,
    /// Whether a path could not be read (missing, no permission, a directory without policies), as opposed to read
    /// and found faulty.
    pub unreadable: bool,
    pub counts: Counts,
}

impl fmt::Display for LoadError {
    /// One line a fault, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.diagnostics.len() + self.omitted;
        write!(f, "the policy is refused, {total} {}", if total == 1 { "fault" } else { "faults" })?;
        for diagnostic in &self.diagnostics {
            write!(f, "\n{diagnostic}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n… and {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// Loads one policy from files and directories (all `*.json` in them, by name, hidden files left out).
///
/// # Errors
/// Everything that is wrong in any of the files, at once; the caller's running policy is not touched (K2, D22).
pub fn load(paths: &[PathBuf]) -> Result<Loaded, LoadError> {
    load_next(paths, &Memo::default())
}

/// The same, sparing what was read before.
///
/// # Errors
/// As [`load`].
pub fn load_next(paths: &[PathBuf], memo: &Memo) -> Result<Loaded, LoadError> {
    loaded(&read::read(paths, memo))
}

/// What the files say, faulty or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Path, text without its byte order mark, and whether there is one.
    pub files: Vec<(PathBuf, String, bool)>,
    /// Why some cannot be read.
    pub faults: Vec<String>,
}

/// Reads the files of [`load`], and only reads them.
pub fn texts(paths: &[PathBuf]) -> Texts {
    let Files { sources, faults, .. } = read::read(paths, &Memo::default());
    Texts {
        files: sources
            .iter()
            .map(|source| (source.path.clone(), source.text().to_owned(), source.bom))
            .collect(),
        faults: faults.iter().map(ToString::to_string).collect(),
    }
}

/// A number that is another one, most probably, once the files or what they say have changed.
pub fn fingerprint(paths: &[PathBuf], memo: &Memo) -> u64 {
    let files = read::read(paths, memo);
    let mut hasher = DefaultHasher::new();
    for source in &files.sources {
        (&source.path, source.fingerprint()).hash(&mut hasher);
    }
    for fault in &files.faults {
        fault.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// As [`load`], of files that are in memory already. The paths are names only.
///
/// # Errors
/// As [`load`].
pub fn load_bytes(files: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> Result<Loaded, LoadError> {
    loaded(&decoded(files))
}

fn decoded(contents: impl IntoIterator<Item = (PathBuf, Vec<u8>)>) -> Files {
    let mut files = Files::default();
    for (path, bytes) in contents {
        if files.has_room(&path) {
            files.decode(path, bytes);
        }
    }
    files
}

fn loaded(files: &Files) -> Result<Loaded, LoadError> {
    let known = check(files)?;
    Ok(Loaded {
        model: Arc::clone(&known.model),
        lints: known.lints.clone(),
        omitted: known.omitted,
        counts: known.counts,
        texts: known.sources.iter().cloned().map(Text).collect(),
    })
}

/// The pure part of [`load`].
fn check(files: &Files) -> Result<Arc<Known>, LoadError> {
    let Files { sources, faults, unreadable, memo, .. } = files;
    let before = memo.known();
    let same = |known: &&Arc<Known>| {
        let pairs = known.sources.iter().zip(sources);
        faults.is_empty()
            && known.sources.len() == sources.len()
            && pairs.into_iter().all(|(one, other)| Arc::ptr_eq(one, other))
    };
    if let Some(known) = before.iter().find(same) {
        memo.remember(Arc::clone(known));
        return Ok(Arc::clone(known));
    }
    let mut faults = faults.clone();
    let mut findings = Findings::new(sources);
    let mut walked = Vec::with_capacity(sources.len());
    let mut room = read::MOST_TREE;
    for (index, source) in sources.iter().enumerate() {
        let file = FileId(index);
        let spared = before.iter().find_map(|known| walked_before(file, known, sources));
        if let Some(spared) = spared.filter(|spared| spared.weight <= room) {
            room -= spared.weight;
            walked.push(spared);
            continue;
        }
        let left = room;
        let tree = read::parse(file, source, &mut room, &mut findings);
        let raw = tree.and_then(|tree| walk::document(file, &tree, &mut findings));
        walked.extend(raw.map(|raw| Arc::new(Walked { raw, weight: left - room })));
    }
    let raw: Vec<&RawFile> = walked.iter().map(|walked| &walked.raw).collect();
    let mut counts = count(&raw);
    counts.files = sources.len();
    let complete = faults.is_empty() && walked.len() == sources.len();
    let resolved = resolve::resolve(&raw, sources, complete, before.first().map(Arc::as_ref), &mut findings);
    let (diagnostics, omitted) = findings.finish();
    faults.extend(diagnostics);
    if !faults.is_empty() {
        return Err(LoadError { diagnostics: faults, omitted, unreadable: *unreadable, counts });
    }
    let mut findings = Findings::new(sources);
    lint::lint(&resolved, sources, &mut findings);
    let (lints, omitted) = findings.finish();
    let model = Arc::new(resolved.model);
    let known = Arc::new(Known { sources: sources.clone(), walked, model, lints, omitted, counts });
    memo.remember(Arc::clone(&known));
    Ok(known)
}

/// What was walked of a file before, if it stands in the same place.
fn walked_before(file: FileId, known: &Known, sources: &[Arc<SourceFile>]) -> Option<Arc<Walked>> {
    let (source, old) = (sources.get(file.0)?, known.sources.get(file.0)?);
    let walked = known.walked.get(file.0)?;
    // By another name it says the same: a candidate that has become the policy.
    if source.same_text(old) {
        return Some(Arc::clone(walked));
    }
    rewalk::rewalk(file, (old, walked), sources).map(Arc::new)
}

fn count(files: &[&RawFile]) -> Counts {
    let mut counts = Counts::default();
    for file in files {
        counts.groups += file.groups.items.len();
        counts.interfaces += file.interfaces.items.len();
        counts.peers += file.peers.items.len();
        for group in &file.groups {
            let rules = |rules: &Option<RawRules>| rules.as_ref().map_or(0, |rules| rules.len());
            counts.rules += rules(&group.inbound) + rules(&group.outbound);
        }
    }
    counts
}

/// What a file of a policy said when it was read: as text without its byte order mark, as bytes with it.
#[derive(Debug, Clone)]
pub struct Text(Arc<SourceFile>);

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (&self.0, &other.0);
        Arc::ptr_eq(one, other) || one.bom == other.bom && one.path == other.path && one.same_text(other)
    }
}

impl Text {
    /// Whether its file still says this.
    pub(crate) fn is_current(&self, memo: &Memo) -> bool {
        let read = || {
            let file = File::open(&self.0.path)?;
            let known = memo.unread(&self.0.path, &file.metadata()?);
            if known.is_some_and(|known| Arc::ptr_eq(&known, &self.0)) {
                return Ok(true);
            }
            self.is_in(&file)
        };
        read().unwrap_or(false)
    }

    /// Whether a file says this and nothing else.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(crate) fn is_in(&self, file: &File) -> io::Result<bool> {
        const AT_ONCE: usize = 64 << 10;
        let mut bytes = vec![0; AT_ONCE];
        let mut at = 0;
        for part in self.0.parts_from(0).flat_map(|part| part.chunks(AT_ONCE)) {
            let Some(bytes) = bytes.get_mut(..part.len()) else { return Ok(false) };
            match file.read_exact_at(bytes, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read?,
            }
            if bytes != part {
                return Ok(false);
            }
            at += part.len() as u64;
        }
        Ok(file.metadata()?.len() == at)
    }

    /// Notes that its file says this, which the system tells as of `file`. Only where whatever happens to the file from now on shows there.
    pub(crate) fn was_written(&self, memo: &Memo, file: &Metadata) {
        memo.was_written(&self.0, file);
    }

    /// How long its file is.
    pub(crate) fn file_len(&self) -> usize {
        self.0.file_offset(self.0.len())
    }

    /// Writes what the file holds from a place of the text on.
    pub(crate) fn write_from(&self, file: &File, start: usize) -> io::Result<()> {
        self.write_range(file, start..self.0.len())
    }

    /// The same, to the end of a range.
    pub(crate) fn write_range(&self, file: &File, range: Range<usize>) -> io::Result<()> {
        let mut at = if range.start == 0 { 0 } else { self.0.file_offset(range.start) };
        let mut left = self.0.file_offset(range.end) - at;
        let mut parts = Vec::new();
        for part in self.0.parts_from(range.start) {
            let part = part.get(..part.len().min(left)).unwrap_or_default();
            left -= part.len();
            parts.extend((!part.is_empty()).then(|| IoSlice::new(part)));
        }
        // In as few calls as there can be: each is an event for those who watch the directory.
        let mut parts = parts.as_mut_slice();
        while !parts.is_empty() {
            let most = parts.get(..parts.len().min(MOST_AT_ONCE)).unwrap_or_default();
            let offset = at.try_into().map_err(io::Error::other)?;
            match pwritev(file, most, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What it is made of `before` by.
    pub(crate) fn splice(&self, before: &Self) -> Splice {
        self.0.splice(&before.0)
    }

    /// What of `before` has another text in its place here.
    pub(crate) fn change(&self, before: &Self) -> Range<usize> {
        self.0.change(&before.0)
    }

    pub(crate) fn has_bom(&self) -> bool {
        self.0.bom
    }
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.whole()
    }
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.text()
    }
}
