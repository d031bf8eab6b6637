//! What the loader says about a policy: faults, advice and notes, each with its place in the files.
//!
//! A [`Diagnostic`] carries the bit of source it talks about, cut to a bounded length, so it can be kept, sent to a
//! client or printed long after the file changed, and a file of one endless line costs no more than any other.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::source::{SourceFile, Span};

/// So many are kept; the rest is counted. A file of a million mistakes is not read to its end by anybody.
pub const MOST_DIAGNOSTICS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy loads, but probably does not do what its author wants.
    Warning,
    /// Something to know.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    #[serde(serialize_with = "lossy_path")]
    pub file: PathBuf,
    /// Counts from 1; absent where the finding is about the file as a whole (unreadable, too large).
    pub line: Option<u32>,
    /// Counts characters from 1.
    pub column: Option<u32>,
    /// JSON path, for example `security_groups[0].inbound[2].port`; empty for the whole document.
    pub field: String,
    pub severity: Severity,
    pub message: String,
    /// What would have been right.
    pub expected: Option<String>,
    /// What to write instead, or which existing name is nearest.
    pub suggestion: Option<String>,
    /// Other places that belong to the finding, such as where a name was first written.
    pub related: Vec<Related>,
    #[serde(skip)]
    pub excerpt: Option<Excerpt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Related {
    #[serde(serialize_with = "lossy_path")]
    pub file: PathBuf,
    pub line: u32,
    pub column: u32,
    pub message: String,
    #[serde(skip)]
    pub excerpt: Excerpt,
}

/// At most one line of a file, shortened around the marked bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    pub text: String,
    /// Byte range inside `text`.
    pub mark: Range<usize>,
    /// Whether `text` begins with its line.
    pub whole_start: bool,
}

impl fmt::Display for Diagnostic {
    /// One line, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.file.to_string_lossy()))?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}: ", self.severity)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if let Some(expected) = &self.expected {
            write!(f, "; expected {expected}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, " ({suggestion})")?;
        }
        Ok(())
    }
}

fn lossy_path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// A finding before it has a place.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    severity: Severity,
    message: String,
    expected: Option<String>,
    suggestion: Option<String>,
    related: Vec<(Span, String)>,
}

impl Fault {
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message)
    }

    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message)
    }

    pub fn note(message: impl Into<String>) -> Self {
        Self::new(Severity::Note, message)
    }

    fn new(severity: Severity, message: impl Into<String>) -> Self {
        Self { severity, message: message.into(), expected: None, suggestion: None, related: Vec::new() }
    }

    /// The fault in one line, where there is no file to point at.
    pub fn to_line(&self) -> String {
        match &self.expected {
            Some(expected) => format!("{}; expected {expected}", self.message),
            None => self.message.clone(),
        }
    }

    pub fn expected(mut self, what: impl Into<String>) -> Self {
        self.expected = Some(what.into());
        self
    }

    pub fn suggest(mut self, what: impl Into<String>) -> Self {
        self.suggestion = Some(what.into());
        self
    }

    pub fn suggest_opt(mut self, what: Option<String>) -> Self {
        self.suggestion = what.or(self.suggestion);
        self
    }

    pub fn related(mut self, span: Span, message: impl Into<String>) -> Self {
        self.related.push((span, message.into()));
        self
    }
}

/// Collects findings while the files are walked and gives them back in reading order.
pub(crate) struct Findings<'s> {
    sources: &'s [Arc<SourceFile>],
    list: Vec<(Span, Diagnostic)>,
    omitted: usize,
}

impl<'s> Findings<'s> {
    pub fn new(sources: &'s [Arc<SourceFile>]) -> Self {
        Self { sources, list: Vec::new(), omitted: 0 }
    }

    pub fn report(&mut self, span: Span, field: &dyn fmt::Display, fault: Fault) {
        if self.is_full() {
            self.omitted += 1;
            return;
        }
        let Some(source) = self.sources.get(span.file.0) else { return };
        let (line, column) = source.position(span.start);
        let related = fault
            .related
            .into_iter()
            .filter_map(|(span, message)| {
                let source = self.sources.get(span.file.0)?;
                let (line, column) = source.position(span.start);
                Some(Related {
                    file: source.path.clone(),
                    line,
                    column,
                    message,
                    excerpt: source.excerpt(span),
                })
            })
            .collect();
        self.list.push((
            span,
            Diagnostic {
                file: source.path.clone(),
                line: Some(line),
                column: Some(column),
                field: field.to_string(),
                severity: fault.severity,
                message: fault.message,
                expected: fault.expected,
                suggestion: fault.suggestion,
                related,
                excerpt: Some(source.excerpt(span)),
            },
        ));
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.omitted == 0
    }

    /// Whether further findings are only counted; spares the work of searching for suggestions.
    pub fn is_full(&self) -> bool {
        self.list.len() >= MOST_DIAGNOSTICS
    }

    /// The findings by file and position, and how many more there were.
    pub fn finish(mut self) -> (Vec<Diagnostic>, usize) {
        self.list.sort_by_key(|(span, _)| (span.file, span.start));
        (self.list.into_iter().map(|(_, diagnostic)| diagnostic).collect(), self.omitted)
    }
}

/// Text from a file, fit for a message: quoted, on one line, without control characters, cut if long.
pub(crate) fn quote(text: &str) -> String {
    const MOST_CHARS: usize = 60;
    let cut = text.chars().nth(MOST_CHARS).is_some();
    let shown: String = text.chars().take(MOST_CHARS).collect();
    format!("\"{}{}\"", printable(&shown), if cut { "…" } else { "" })
}

/// `text` with everything a terminal could obey escaped.
pub(crate) fn printable(text: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
