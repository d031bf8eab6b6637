//! What was read lately: a file that says what it said is not read twice, and one that has changed is read where it has.
//!
//! A policy is told from another one by its bytes, never by times or sizes of files.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
pub struct Memo(Arc<Mutex<Vec<Arc<Known>>>>);

/// The policy in force and the one that is to be.
const KEPT: usize = 2;

impl Memo {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, the newest first.
    pub(super) fn known(&self) -> Vec<Arc<Known>> {
        self.lock().iter().rev().cloned().collect()
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
        let mut all = self.lock();
        all.retain(|other| !Arc::ptr_eq(other, &known));
        if all.len() == KEPT {
            all.remove(0);
        }
        all.push(known);
    }
}
