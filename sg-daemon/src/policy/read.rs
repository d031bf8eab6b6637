//! From paths to texts, and from a text to a syntax tree. The only part of the loader that touches the disk.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::mem::size_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jsonc_parser::ast::{ObjectProp, Value};
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::diagnostic::{Diagnostic, Fault, Findings, Severity};
use super::memo::{Memo, Stamp};
use super::model::FileId;
use super::source::{SourceFile, Span, Splice};

/// Of all files together. A policy of 100,000 peers is about 10 MiB.
pub(crate) const MOST_BYTES: u64 = 64 << 20;
/// Of one policy.
pub(crate) const MOST_FILES: usize = 4096;
/// How much memory the syntax trees of all files may take together: for `{"x":1}` that is seventy times its text. A
/// policy of 100,000 peers takes somewhat more than half of it.
pub(crate) const MOST_TREE: usize = 160 << 20;
/// The format nests seven deep. The parser recurses, so this also bounds its stack.
pub(crate) const MOST_NESTING: usize = 64;

/// The files that could be read, in order, and what was wrong with the others.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub sources: Vec<Arc<SourceFile>>,
    pub faults: Vec<Diagnostic>,
    /// Whether a path could not be read at all, as opposed to read and found wanting.
    pub unreadable: bool,
    /// How many bytes all of them have.
    bytes: u64,
    pub memo: Memo,
}

/// Reads every file the paths name: a file itself, or the `*.json` of a directory by name. A file named twice is read once.
pub(crate) fn read(paths: &[PathBuf], memo: &Memo) -> Files {
    let mut files = Files::after(memo);
    let mut seen = HashSet::new();
    for path in paths {
        match expand(path) {
            Ok(found) => {
                for path in found {
                    if seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone()))
                        && files.has_room(&path)
                    {
                        files.add(path);
                    }
                }
            }
            Err(error) => files.unreadable(path, &error),
        }
    }
    if paths.is_empty() {
        files.unreadable(Path::new(""), &io::Error::other("no policy was named"));
    }
    files
}

impl Files {
    /// None yet.
    pub(crate) fn after(memo: &Memo) -> Self {
        Self { memo: memo.clone(), ..Self::default() }
    }

    /// Complains of the first file that is one too many.
    pub(crate) fn has_room(&mut self, path: &Path) -> bool {
        let files = self.sources.len() + self.faults.len();
        if files == MOST_FILES {
            self.faults.push(whole_file(path, format!("the policy has more than {MOST_FILES} files")));
        }
        files < MOST_FILES
    }

    /// The same with another text in one of them, which may make them too large.
    pub(crate) fn with(&self, file: usize, splice: Splice) -> Self {
        let (mut sources, mut faults) = (self.sources.clone(), self.faults.clone());
        let mut bytes = self.bytes;
        if let Some(source) = sources.get_mut(file) {
            let before = source.len() as u64;
            // What was looked at once is not taken apart again.
            let known = self.memo.follower(source, &splice);
            *source = known.unwrap_or_else(|| Arc::new(source.followed_by(splice)));
            bytes = bytes.saturating_sub(before) + source.len() as u64;
        }
        if bytes > MOST_BYTES {
            let path = sources.get(file).map_or(Path::new(""), |source| &source.path);
            faults.push(too_large(path, self.sources.len() == 1));
        }
        Self { sources, faults, bytes, unreadable: self.unreadable, memo: self.memo.clone() }
    }

    fn add(&mut self, path: PathBuf) {
        let room = MOST_BYTES.saturating_sub(self.bytes);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.unreadable(&path, &error),
        };
        if let Some(source) = self.memo.unread(&path, &metadata).filter(|_| metadata.len() <= room) {
            self.bytes += metadata.len();
            return self.sources.push(source);
        }
        let stamp = Stamp::safe(&metadata);
        match read_at_most(file, &metadata, room) {
            Ok(Some(bytes)) => {
                let before = self.sources.len();
                self.decode(path, bytes);
                if let (Some(source), Some(stamp)) = (self.sources.get(before), stamp) {
                    self.memo.was_read(source, stamp);
                }
            }
            Ok(None) => self.too_large(&path),
            Err(error) => self.unreadable(&path, &error),
        }
    }

    /// Takes what a file holds.
    pub(crate) fn decode(&mut self, path: PathBuf, bytes: Vec<u8>) {
        if bytes.len() as u64 > MOST_BYTES.saturating_sub(self.bytes) {
            return self.too_large(&path);
        }
        self.bytes += bytes.len() as u64;
        if let Some(source) = self.memo.source(&path, &bytes) {
            self.sources.push(source);
            return;
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.sources.push(Arc::new(SourceFile::new(path, text))),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let bytes = error.into_bytes();
                let before = String::from_utf8_lossy(bytes.get(..at).unwrap_or_default()).into_owned();
                let (line, column) = SourceFile::new(path.clone(), before).position(at);
                let byte = bytes.get(at).copied().unwrap_or_default();
                let message = format!("byte 0x{byte:02x} is not UTF-8");
                self.faults.push(Diagnostic {
                    line: Some(line),
                    column: Some(column),
                    expected: Some("JSON text in UTF-8".to_owned()),
                    ..whole_file(&path, message)
                });
            }
        }
    }

    fn too_large(&mut self, path: &Path) {
        self.faults.push(too_large(path, self.bytes == 0));
    }

    fn unreadable(&mut self, path: &Path, error: &io::Error) {
        self.unreadable = true;
        self.faults.push(whole_file(path, format!("cannot read: {error}")));
    }
}

/// `None` if there are more bytes. One that is known to be too large is not read at all, and of what never ends, as a
/// device may, one byte more than allowed.
fn read_at_most(file: File, metadata: &Metadata, room: u64) -> io::Result<Option<Vec<u8>>> {
    if metadata.len() > room {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(room + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= room).then_some(bytes))
}

fn too_large(path: &Path, alone: bool) -> Diagnostic {
    let limit = MOST_BYTES >> 20;
    whole_file(
        path,
        if alone {
            format!("the file is larger than {limit} MiB, the most that a policy may have")
        } else {
            format!("with this file the policy is larger than {limit} MiB, the most that it may have")
        },
    )
}

fn whole_file(path: &Path, message: String) -> Diagnostic {
    Diagnostic {
        file: path.to_owned(),
        line: None,
        column: None,
        field: String::new(),
        severity: Severity::Error,
        message,
        expected: None,
        suggestion: None,
        related: Vec::new(),
        excerpt: None,
    }
}

/// Whether a file of that name in a directory of policies is one of them.
pub(crate) fn is_policy_name(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    !hidden && Path::new(name).extension().is_some_and(|extension| extension == "json")
}

/// The files behind a path: itself, or what a directory holds.
fn expand(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.metadata()?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in path.read_dir()? {
        let file = entry?.path();
        // A symbolic link that leads nowhere is kept: that it cannot be read must be said.
        let other = file.metadata().is_ok_and(|metadata| !metadata.is_file());
        if !other && file.file_name().is_some_and(is_policy_name) {
            found.push(file);
        }
    }
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the directory has no *.json file"));
    }
    found.sort();
    Ok(found)
}

/// The tree of one file, strict JSON only, or `None` after reporting why there is none. `room` is what is left of
/// [`MOST_TREE`].
pub(crate) fn parse<'s>(
    file: FileId,
    source: &'s SourceFile,
    room: &mut usize,
    findings: &mut Findings<'_>,
) -> Option<Value<'s>> {
    let span = |start: usize, end: usize| Span { file, start, end };
    let mut refuse = |start: usize, end: usize, fault: Fault| findings.report(span(start, end), &"", fault);
    match weigh(source.text().as_bytes(), *room) {
        Ok(weight) => *room -= weight,
        Err((at, TooMuch::Depth)) => {
            refuse(at, at + 1, Fault::error(format!("nested more than {MOST_NESTING} deep")));
            return None;
        }
        Err((at, TooMuch::Weight)) => {
            // What is beyond the limit in one file is so in the next.
            *room = 0;
            let message = format!(
                "the policy has too many values: to read those up to here takes {} MiB of memory, the most that it may",
                MOST_TREE >> 20
            );
            let fault = Fault::error(message).expected("a policy, with about 200,000 peers at most");
            refuse(at, at + 1, fault);
            return None;
        }
    }
    // The tree builder takes a few things for JSON that are not (control characters in strings, leading zeros, other
    // white space), so a strict parser goes first; it also has the better words for what is wrong.
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(source.text()) {
        let at = source.offset(error.line(), error.column());
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        let hint = not_json(source.text(), at);
        refuse(at, at + 1, Fault::error(format!("not JSON: {message}")).suggest_opt(hint));
        return None;
    }
    match parse_to_ast(source.text(), &CollectOptions::default(), &STRICT) {
        Ok(tree) => tree.value,
        Err(error) => {
            let range = error.range();
            refuse(range.start, range.end, Fault::error(format!("not JSON: {}", error.kind())));
            None
        }
    }
}

/// Every permission of the parser, refused.
pub(crate) const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TooMuch {
    Depth,
    Weight,
}

/// How much memory the tree of a text takes at most, or where it first exceeds a limit. Counts brackets and commas
/// outside of strings; that is exact for JSON, and for what is not JSON an upper bound on how far a parser can go before
/// it notices.
pub(crate) fn weigh(bytes: &[u8], room: usize) -> Result<usize, (usize, TooMuch)> {
    // A vector begins with room for four and doubles.
    let member = |objects: u128| {
        if objects & 1 == 1 { size_of::<ObjectProp<'_>>() } else { size_of::<Value<'_>>() }
    };
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    // The brackets that are open, the innermost last: 1 for an object.
    let (mut open, mut weight) = (0_u128, size_of::<Value<'_>>());
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                open = (open << 1) | u128::from(*byte == b'{');
                weight += 4 * member(open);
            }
            b']' | b'}' if !in_string => {
                depth = depth.saturating_sub(1);
                open >>= 1;
            }
            b',' if !in_string => weight += 2 * member(open),
            _ => {}
        }
        if depth > MOST_NESTING {
            return Err((at, TooMuch::Depth));
        }
        if weight > room {
            return Err((at, TooMuch::Weight));
        }
    }
    Ok(weight)
}

/// A word about the habits of JSON's relatives.
fn not_json(text: &str, at: usize) -> Option<String> {
    let rest = text.get(at..)?;
    let hint = if rest.starts_with("//") || rest.starts_with("/*") || rest.starts_with('#') {
        "JSON has no comments; rules and groups have a \"description\""
    } else if rest.starts_with('\'') {
        "JSON strings stand in double quotes"
    } else if rest.starts_with(['}', ']']) && text.get(..at)?.trim_end().ends_with(',') {
        "remove the comma before it: JSON has none after the last element"
    } else {
        return None;
    };
    Some(hint.to_owned())
}
