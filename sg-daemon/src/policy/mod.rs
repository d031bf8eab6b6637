//! Policy: the operator's JSON in, a checked [`model::Model`] out.
//!
//! [`load`] reads files and reports; everything behind it is pure. A file goes through four steps, each in its own
//! module: `read` (bytes to syntax tree), `walk` (tree to typed parts with their places), `resolve` (parts of all
//! files to one model), `lint` (advice about a model that is right). A policy with one fault is refused whole, so
//! whoever holds a [`model::Model`] holds one that satisfies every rule of the format.

pub mod diagnostic;
pub mod edit;
mod fields;
pub mod find;
mod lint;
pub mod model;
pub(crate) mod names;
mod raw;
mod read;
pub mod render;
mod resolve;
pub mod schema;
mod source;
pub(crate) mod values;
pub mod view;
mod walk;

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use serde::Serialize;

use diagnostic::Findings;
pub use diagnostic::{Diagnostic, Severity};
pub use lint::{METADATA_RULE, reaches_metadata};
use model::{FileId, Model};
pub(crate) use names::{nearest, suggestion};
use raw::RawFile;
use read::Files;
pub(crate) use read::is_policy_name;

/// A policy that may be enforced, and advice about it.
#[derive(Debug)]
pub struct Loaded {
    pub model: Model,
    /// Warnings and notes, in reading order.
    pub lints: Vec<Diagnostic>,
    /// How many more there were beyond [`diagnostic::MOST_DIAGNOSTICS`].
    pub omitted: usize,
    pub counts: Counts,
    /// What each of [`Model::files`] said when it was read, without a byte order mark.
    pub texts: Vec<String>,
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
    loaded(read::read(paths))
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
    let Files { sources, faults, .. } = read::read(paths);
    Texts {
        files: sources.into_iter().map(|source| (source.path, source.text, source.bom)).collect(),
        faults: faults.iter().map(ToString::to_string).collect(),
    }
}

/// A number that is another one, most probably, once the files or what they say have changed.
pub fn fingerprint(paths: &[PathBuf]) -> u64 {
    let files = read::read(paths);
    let mut hasher = DefaultHasher::new();
    for source in &files.sources {
        (&source.path, &source.text).hash(&mut hasher);
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
    loaded(decoded(files))
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

fn loaded(files: Files) -> Result<Loaded, LoadError> {
    let loaded = check(&files)?;
    Ok(Loaded { texts: files.sources.into_iter().map(|source| source.text).collect(), ..loaded })
}

/// The pure part of [`load`]; the texts stay with the caller.
fn check(files: &Files) -> Result<Loaded, LoadError> {
    let Files { sources, faults, unreadable, .. } = files;
    let mut faults = faults.clone();
    let mut findings = Findings::new(sources);
    let mut walked = Vec::with_capacity(sources.len());
    let mut room = read::MOST_TREE;
    for (index, source) in sources.iter().enumerate() {
        let file = FileId(index);
        let tree = read::parse(file, source, &mut room, &mut findings);
        walked.extend(tree.and_then(|tree| walk::document(file, &tree, &mut findings)));
    }
    let mut counts = count(&walked);
    counts.files = sources.len();
    let complete = faults.is_empty() && walked.len() == sources.len();
    let resolved = resolve::resolve(&walked, sources, complete, &mut findings);
    let (diagnostics, omitted) = findings.finish();
    faults.extend(diagnostics);
    if !faults.is_empty() {
        return Err(LoadError { diagnostics: faults, omitted, unreadable: *unreadable, counts });
    }
    let mut findings = Findings::new(sources);
    lint::lint(&resolved, sources, &mut findings);
    let (lints, omitted) = findings.finish();
    Ok(Loaded { model: resolved.model, lints, omitted, counts, texts: Vec::new() })
}

fn count(files: &[RawFile]) -> Counts {
    let mut counts = Counts::default();
    for file in files {
        counts.groups += file.groups.len();
        counts.interfaces += file.interfaces.len();
        counts.peers += file.peers.len();
        for group in &file.groups {
            let rules = |rules: &Option<Vec<_>>| rules.as_ref().map_or(0, Vec::len);
            counts.rules += rules(&group.inbound) + rules(&group.outbound);
        }
    }
    counts
}
