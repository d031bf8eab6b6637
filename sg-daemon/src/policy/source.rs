//! The text of the files and where things stand in it.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use super::diagnostic::Excerpt;
use super::model::{FileId, Source};

/// A byte range of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub file: FileId,
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// Told from the start of the object that it is in.
    pub fn within(self, object: usize) -> Within {
        Within { start: self.start.saturating_sub(object), end: self.end.saturating_sub(object) }
    }
}

/// A byte range told from the start of the object that it is in: the same wherever in its file the object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Within {
    pub start: usize,
    pub end: usize,
}

impl Within {
    /// In the file, where the object is there.
    pub fn of(self, object: Span) -> Span {
        Span { file: object.file, start: object.start + self.start, end: object.start + self.end }
    }
}

/// A value and the place it was written at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

/// What takes the place of `start..end` of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Splice {
    pub start: usize,
    pub end: usize,
    pub insert: String,
}

impl Splice {
    /// Without what stays as it is at its ends.
    fn trimmed(mut self, text: &SourceFile) -> Self {
        let Some(old) = text.slice(self.start..self.end) else { return self };
        let same = |(old, new): &(char, char)| old == new;
        let front = old.chars().zip(self.insert.chars()).take_while(same);
        let front: usize = front.map(|(same, _)| same.len_utf8()).sum();
        let (old, insert) = (old.get(front..).unwrap_or_default(), self.insert.split_off(front));
        let back = old.chars().rev().zip(insert.chars().rev()).take_while(same);
        let back: usize = back.map(|(same, _)| same.len_utf8()).sum();
        self.start += front;
        self.end -= back;
        self.insert = insert;
        self.insert.truncate(self.insert.len() - back);
        self
    }
}

/// One file of the policy, decoded. A text that follows another one by a [`Splice`] shares its parts, and costs what is new.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub path: PathBuf,
    /// Whether the file began with a byte order mark; an edit has to write it again.
    pub bom: bool,
    /// Of the text without the byte order mark, so that the first column is the first one a person sees. None is empty, and there is
    /// at least one unless the text is.
    pieces: Vec<Piece>,
    all: Counts,
    /// In one piece, if somebody has asked for that.
    text: OnceLock<String>,
    follows: Option<(Weak<Self>, Splice)>,
    fingerprint: OnceLock<u64>,
    with_bom: OnceLock<Vec<u8>>,
}

const BOM: char = '\u{feff}';
const BOM_BYTES: &[u8] = "\u{feff}".as_bytes();
/// A text of more pieces is put into one: some hundred edits after it was read.
const MOST_PIECES: usize = 512;

/// What there is of a text up to some place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    bytes: usize,
    line_feeds: usize,
    chars: usize,
}

impl Counts {
    /// With what is between two places.
    fn and(self, from: Self, to: Self) -> Self {
        Self {
            bytes: self.bytes + to.bytes - from.bytes,
            line_feeds: self.line_feeds + to.line_feeds - from.line_feeds,
            chars: self.chars + to.chars - from.chars,
        }
    }
}

/// A part of a buffer, and of a text.
#[derive(Debug, Clone)]
struct Piece {
    buffer: Arc<Buffer>,
    /// In the buffer.
    start: Counts,
    end: Counts,
    /// In the text.
    before: Counts,
}

impl Piece {
    fn text(&self) -> &str {
        self.buffer.text.get(self.start.bytes..self.end.bytes).unwrap_or_default()
    }

    fn end_in_text(&self) -> usize {
        self.before.bytes + self.end.bytes - self.start.bytes
    }

    fn bytes(&self, in_text: Range<usize>) -> &[u8] {
        let range = self.inside(in_text.start)..self.inside(in_text.end);
        self.buffer.text.as_bytes().get(range).unwrap_or_default()
    }

    /// The place in the buffer of one in the text.
    fn inside(&self, offset: usize) -> usize {
        (self.start.bytes + offset.saturating_sub(self.before.bytes)).min(self.end.bytes)
    }
}

/// A text as it was read or put in, and where in it lines and characters are.
#[derive(Debug)]
struct Buffer {
    text: String,
    /// Line feeds before each block of [`BLOCK`] bytes. Not the start of every line: there may be as many as bytes.
    lines: Vec<usize>,
    /// Characters before each block: a column in a line of many megabytes costs one block to count, not the line.
    chars: Vec<usize>,
}

const BLOCK: usize = 1024;

impl Buffer {
    fn new(text: String) -> Self {
        let before_each = |count: fn(&[u8]) -> usize| {
            let mut seen = 0;
            let before = text.as_bytes().chunks(BLOCK).map(|block| {
                let before = seen;
                seen += count(block);
                before
            });
            before.collect()
        };
        Self { lines: before_each(line_feeds), chars: before_each(char_starts), text }
    }

    /// What is before a place.
    fn before(&self, offset: usize) -> Counts {
        let bytes = offset.min(self.text.len());
        // The end of a text that fills its last block has no block of its own.
        let block = (bytes / BLOCK).min(self.lines.len().saturating_sub(1));
        let rest = self.text.as_bytes().get(block * BLOCK..bytes).unwrap_or_default();
        let counted = |before: &[usize], more| before.get(block).copied().unwrap_or(0) + more;
        Counts {
            bytes,
            line_feeds: counted(&self.lines, line_feeds(rest)),
            chars: counted(&self.chars, char_starts(rest)),
        }
    }

    fn feeds_before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let block = (offset / BLOCK).min(self.lines.len().saturating_sub(1));
        let rest = self.text.as_bytes().get(block * BLOCK..offset).map_or(0, line_feeds);
        self.lines.get(block).copied().unwrap_or(0) + rest
    }

    fn chars_before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let block = (offset / BLOCK).min(self.chars.len().saturating_sub(1));
        let rest = self.text.as_bytes().get(block * BLOCK..offset).map_or(0, char_starts);
        self.chars.get(block).copied().unwrap_or(0) + rest
    }

    /// The line feed of that number, counted from 1.
    fn feed(&self, number: usize) -> Option<usize> {
        let block = self.lines.partition_point(|&before| before < number).checked_sub(1)?;
        let from = block * BLOCK;
        let nth = number.checked_sub(*self.lines.get(block)?)?.checked_sub(1)?;
        let feeds = self.text.as_bytes().get(from..)?.iter().take(BLOCK).enumerate();
        feeds.filter(|(_, byte)| **byte == b'\n').nth(nth).map(|(at, _)| from + at)
    }

    /// Where the character begins that has so many before it; the end if there are no more.
    fn char(&self, wanted: usize) -> usize {
        let block = self.chars.partition_point(|&before| before <= wanted).saturating_sub(1);
        let (from, before) = (self.floor(block * BLOCK), self.chars.get(block).copied().unwrap_or(0));
        // A character that straddles the block's edge counts for the block it starts in.
        let skipped = usize::from(from < block * BLOCK);
        let rest = self.text.get(from..).unwrap_or_default();
        let past = rest
            .char_indices()
            .nth((wanted - before).saturating_add(skipped))
            .map_or(rest.len(), |(at, _)| at);
        from + past
    }

    /// The nearest character boundary at or before `offset`.
    fn floor(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }
}

impl SourceFile {
    pub fn new(path: PathBuf, mut text: String) -> Self {
        let bom = text.starts_with(BOM);
        if bom {
            text.drain(..BOM.len_utf8());
        }
        Self::of(path, bom, text)
    }

    fn of(path: PathBuf, bom: bool, text: String) -> Self {
        let buffer = Arc::new(Buffer::new(text));
        let all = buffer.before(buffer.text.len());
        let piece = Piece { buffer, start: Counts::default(), end: all, before: Counts::default() };
        let pieces = if all.bytes == 0 { Vec::new() } else { vec![piece] };
        let (text, fingerprint, with_bom) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { path, bom, pieces, all, text, follows: None, fingerprint, with_bom }
    }

    /// The text in its place that a splice makes of it, with a byte order mark if this has one.
    pub fn followed_by(self: &Arc<Self>, splice: Splice) -> Self {
        let splice = splice.trimmed(self);
        let mut parts: Vec<(Arc<Buffer>, Counts, Counts)> = Vec::with_capacity(self.pieces.len() + 2);
        let buffer = Arc::new(Buffer::new(splice.insert.clone()));
        let mut insert = Some((buffer.before(buffer.text.len()), buffer));
        let mut put = |parts: &mut Vec<_>| {
            if let Some((end, buffer)) = insert.take().filter(|(end, _)| end.bytes > 0) {
                parts.push((buffer, Counts::default(), end));
            }
        };
        for piece in &self.pieces {
            let (from, to) = (piece.before.bytes, piece.end_in_text());
            let cut = |offset| piece.buffer.before(piece.inside(offset));
            if from < splice.start {
                let end = if to <= splice.start { piece.end } else { cut(splice.start) };
                parts.push((Arc::clone(&piece.buffer), piece.start, end));
            }
            if to > splice.end {
                put(&mut parts);
                let start = if from >= splice.end { piece.start } else { cut(splice.end) };
                parts.push((Arc::clone(&piece.buffer), start, piece.end));
            }
        }
        put(&mut parts);
        let mut all = Counts::default();
        let pieces = parts.into_iter().map(|(buffer, start, end)| {
            let before = all;
            all = all.and(start, end);
            Piece { buffer, start, end, before }
        });
        let pieces: Vec<Piece> = pieces.collect();
        let follows = Some((Arc::downgrade(self), splice));
        let (text, fingerprint, with_bom) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let next = Self {
            path: self.path.clone(),
            bom: self.bom,
            pieces,
            all,
            text,
            follows,
            fingerprint,
            with_bom,
        };
        if next.pieces.len() <= MOST_PIECES {
            return next;
        }
        let whole = Self::of(next.path.clone(), next.bom, next.text().to_owned());
        Self { follows: next.follows, ..whole }
    }

    /// The splice that this follows `other` by, if it was made so.
    pub fn splice_of(&self, other: &Self) -> Option<&Splice> {
        let (followed, splice) = self.follows.as_ref()?;
        std::ptr::eq(followed.as_ptr(), other).then_some(splice)
    }

    /// Whether this is what would follow `other` by a splice.
    pub fn is_followed_by(self: &Arc<Self>, splice: &Splice, next: &Self) -> bool {
        next.splice_of(self).is_some_and(|by| *by == splice.clone().trimmed(self))
    }

    pub fn len(&self) -> usize {
        self.all.bytes
    }

    /// In one piece: it is put into one, if it is not.
    pub fn text(&self) -> &str {
        match self.pieces.as_slice() {
            [] => "",
            [piece] => piece.text(),
            pieces => self.text.get_or_init(|| pieces.iter().map(Piece::text).collect()),
        }
    }

    /// A part of the text; `None` if it has none there, or no characters begin and end there.
    pub fn slice(&self, range: Range<usize>) -> Option<Cow<'_, str>> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        if range.is_empty() {
            return Some(Cow::Borrowed(""));
        }
        let first = self.piece_at(range.start)?;
        if range.end <= first.before.bytes + first.text().len() {
            return first
                .buffer
                .text
                .get(first.inside(range.start)..first.inside(range.end))
                .map(Cow::Borrowed);
        }
        let mut text = String::with_capacity(range.len());
        for piece in self.pieces_from(range.start) {
            if piece.before.bytes >= range.end {
                break;
            }
            text += piece.buffer.text.get(piece.inside(range.start)..piece.inside(range.end))?;
        }
        Some(Cow::Owned(text))
    }

    fn index_at(&self, offset: usize) -> usize {
        self.pieces.partition_point(|piece| piece.before.bytes <= offset).saturating_sub(1)
    }

    fn pieces_from(&self, offset: usize) -> &[Piece] {
        self.pieces.get(self.index_at(offset)..).unwrap_or_default()
    }

    /// The piece that a place is in; the last one, if it is the end.
    fn piece_at(&self, offset: usize) -> Option<&Piece> {
        self.pieces.get(self.index_at(offset))
    }

    /// Whether both say the same.
    pub fn same_text(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.all == other.all && self.same_front(other) == self.len()
    }

    /// With how many equal bytes both begin. Parts that they share are not looked at.
    fn same_front(&self, other: &Self) -> usize {
        let (mut mine, mut theirs) = (self.pieces.as_slice(), other.pieces.as_slice());
        let mut at = 0;
        while let ([one, my_rest @ ..], [two, their_rest @ ..]) = (mine, theirs) {
            let (my_end, their_end) = (one.end_in_text(), two.end_in_text());
            let end = my_end.min(their_end);
            let is_shared = Arc::ptr_eq(&one.buffer, &two.buffer) && one.inside(at) == two.inside(at);
            if !is_shared {
                let same = same_front(one.bytes(at..end), two.bytes(at..end));
                if same < end - at {
                    return at + same;
                }
            }
            at = end;
            mine = if my_end == end { my_rest } else { mine };
            theirs = if their_end == end { their_rest } else { theirs };
        }
        at
    }

    /// With how many equal bytes both end, not counting the first `front` of either.
    fn same_back(&self, other: &Self, front: usize) -> usize {
        let (mut mine, mut theirs) = (self.pieces.as_slice(), other.pieces.as_slice());
        let most = self.len().min(other.len()).saturating_sub(front);
        let mut back = 0;
        while let ([my_rest @ .., one], [their_rest @ .., two]) = (mine, theirs) {
            let (my_end, their_end) = (self.len() - back, other.len() - back);
            let [my_left, their_left] = [my_end - one.before.bytes, their_end - two.before.bytes];
            let step = my_left.min(their_left);
            let is_shared =
                Arc::ptr_eq(&one.buffer, &two.buffer) && one.inside(my_end) == two.inside(their_end);
            if !is_shared {
                let same =
                    same_back(one.bytes(my_end - step..my_end), two.bytes(their_end - step..their_end));
                if same < step {
                    return most.min(back + same);
                }
            }
            back += step;
            mine = if my_left == step { my_rest } else { mine };
            theirs = if their_left == step { their_rest } else { theirs };
        }
        most.min(back)
    }

    /// What this is made of `before` by.
    pub fn splice(&self, before: &Self) -> Splice {
        let Range { start, end } = self.change(before);
        let insert = self.slice(start..self.len() - (before.len() - end)).unwrap_or_default();
        Splice { start, end, insert: insert.into_owned() }
    }

    /// What of `before` has another text in its place here.
    pub fn change(&self, before: &Self) -> Range<usize> {
        if let Some(splice) = self.splice_of(before) {
            return splice.start..splice.end;
        }
        let front = before.same_front(self);
        let start = before.floor(front).min(self.floor(front));
        let mut back = before.same_back(self, start);
        let is_inside = |text: &Self, back: usize| text.floor(text.len() - back) < text.len() - back;
        while is_inside(before, back) || is_inside(self, back) {
            back -= 1;
        }
        start..before.len() - back
    }

    /// A number that is another one, most probably, for another text. Counted once.
    pub fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.text().hash(&mut hasher);
            hasher.finish()
        })
    }

    /// Whether these bytes would be read as this file, byte order mark and all.
    pub fn is(&self, bytes: &[u8]) -> bool {
        let text = bytes.strip_prefix(BOM_BYTES);
        let (has_bom, bytes) = (text.is_some(), text.unwrap_or(bytes));
        let same = |piece: &Piece| {
            let text = piece.text().as_bytes();
            bytes.get(piece.before.bytes..piece.before.bytes + text.len()) == Some(text)
        };
        has_bom == self.bom && bytes.len() == self.len() && self.pieces.iter().all(same)
    }

    /// What the file holds, in one piece.
    pub fn whole(&self) -> &[u8] {
        if !self.bom {
            return self.text().as_bytes();
        }
        self.with_bom.get_or_init(|| [BOM_BYTES, self.text().as_bytes()].concat())
    }

    /// Where in the file a place of the text is, and its end.
    pub fn file_offset(&self, offset: usize) -> usize {
        if self.bom { offset + BOM_BYTES.len() } else { offset }
    }

    /// What the file holds from a place of the text on, in parts; from its start, with the byte order mark.
    pub fn parts_from(&self, offset: usize) -> impl Iterator<Item = &[u8]> {
        let bom = (self.bom && offset == 0).then_some(BOM_BYTES);
        let pieces = if offset < self.len() { self.pieces_from(offset) } else { &[] };
        let part = move |piece: &'_ Piece| piece.inside(offset)..piece.end.bytes;
        let pieces = pieces.iter().filter_map(move |piece| piece.buffer.text.as_bytes().get(part(piece)));
        bom.into_iter().chain(pieces)
    }

    /// Line and column of a byte offset, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let line = self.feeds_before(offset) + 1;
        let start = self.line_start(line);
        let column = self.chars_before(offset).saturating_sub(self.chars_before(start)) + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    pub fn source(&self, span: Span) -> Source {
        let (line, column) = self.position(span.start);
        Source { file: span.file, line, column }
    }

    /// Byte offset of a line and a byte column, both from 1, as serde_json reports them.
    pub fn offset(&self, line: usize, byte_column: usize) -> usize {
        let start = self.line_start(line);
        self.floor(start.saturating_add(byte_column.saturating_sub(1)))
    }

    /// Byte offset of a line and a character column, both from 1: the inverse of [`Self::position`].
    pub fn offset_of(&self, line: u32, column: u32) -> usize {
        let start = self.line_start(line as usize);
        let wanted = self.chars_before(start).saturating_add((column as usize).saturating_sub(1));
        let piece = self.pieces.partition_point(|piece| piece.before.chars <= wanted).saturating_sub(1);
        let Some(piece) = self.pieces.get(piece).filter(|_| wanted < self.all.chars) else {
            return self.len();
        };
        let at = piece.buffer.char(wanted - piece.before.chars + piece.start.chars);
        piece.before.bytes + at - piece.start.bytes
    }

    /// The first line of `span`, or a window of it where the line is long.
    pub fn excerpt(&self, span: Span) -> Excerpt {
        const BEFORE: usize = 60;
        const LENGTH: usize = 160;
        let at = self.floor(span.start);
        let line = self.feeds_before(at) + 1;
        let (line_start, line_end) = (self.line_start(line), self.line_end(line));
        let (start, end) = if line_end - line_start <= LENGTH {
            (line_start, line_end)
        } else {
            let start = self.floor(at.saturating_sub(BEFORE).max(line_start));
            (start, self.floor((start + LENGTH).min(line_end)))
        };
        let text = self.slice(start..end).unwrap_or_default();
        let text = text.strip_suffix('\r').unwrap_or(&text);
        let mark_start = at.saturating_sub(start).min(text.len());
        let mark_end = self.floor(span.end).saturating_sub(start).clamp(mark_start, text.len());
        Excerpt { mark: mark_start..mark_end, text: text.to_owned(), whole_start: start == line_start }
    }

    /// From `start` to the end of its line: what a finding about a whole object underlines.
    pub fn rest_of_line(&self, file: FileId, start: usize) -> Span {
        let end = self.line_end(self.feeds_before(start) + 1);
        Span { file, start, end: end.max(start) }
    }

    /// Without the white space that JSON knows, where does the text before `offset` end?
    pub fn space_before(&self, offset: usize) -> Cow<'_, str> {
        const AT_ONCE: usize = 256;
        let mut start = offset;
        while start > 0 {
            let from = self.floor(start.saturating_sub(AT_ONCE));
            let part = self.slice(from..start).unwrap_or_default();
            let rest = part.trim_end_matches([' ', '\t', '\r', '\n']).len();
            start = from + rest;
            if rest > 0 || part.is_empty() {
                break;
            }
        }
        self.slice(start..offset).unwrap_or_default()
    }

    fn feeds_before(&self, offset: usize) -> usize {
        self.piece_at(offset).map_or(0, |piece| {
            piece.before.line_feeds + piece.buffer.feeds_before(piece.inside(offset)) - piece.start.line_feeds
        })
    }

    /// Where a line begins, counted from 1; the end of the text if it has fewer.
    fn line_start(&self, line: usize) -> usize {
        match line.saturating_sub(1) {
            0 => 0,
            feeds => self.feed(feeds).map_or(self.len(), |at| at + 1),
        }
    }

    /// Where a line ends, without its line feed.
    fn line_end(&self, line: usize) -> usize {
        self.feed(line).unwrap_or(self.len())
    }

    /// The line feed of that number, counted from 1.
    fn feed(&self, number: usize) -> Option<usize> {
        let piece = self.pieces.partition_point(|piece| piece.before.line_feeds < number).checked_sub(1)?;
        let piece = self.pieces.get(piece).filter(|_| number <= self.all.line_feeds)?;
        let at = piece.buffer.feed(number - piece.before.line_feeds + piece.start.line_feeds)?;
        Some(piece.before.bytes + at - piece.start.bytes)
    }

    fn chars_before(&self, offset: usize) -> usize {
        self.piece_at(offset).map_or(0, |piece| {
            piece.before.chars + piece.buffer.chars_before(piece.inside(offset)) - piece.start.chars
        })
    }

    /// The nearest character boundary at or before `offset`.
    fn floor(&self, offset: usize) -> usize {
        self.piece_at(offset).map_or(0, |piece| {
            piece.before.bytes + piece.buffer.floor(piece.inside(offset)).max(piece.start.bytes)
                - piece.start.bytes
        })
    }
}

/// So many bytes are compared at once.
const AT_ONCE: usize = 4096;

/// With how many equal bytes they begin.
fn same_front(one: &[u8], other: &[u8]) -> usize {
    let blocks = one.chunks_exact(AT_ONCE).zip(other.chunks_exact(AT_ONCE));
    let whole = blocks.take_while(|(one, other)| one == other).count() * AT_ONCE;
    let rest = one.iter().skip(whole).zip(other.iter().skip(whole));
    whole + rest.take_while(|(one, other)| one == other).count()
}

/// With how many they end.
fn same_back(one: &[u8], other: &[u8]) -> usize {
    let blocks = one.rchunks_exact(AT_ONCE).zip(other.rchunks_exact(AT_ONCE));
    let whole = blocks.take_while(|(one, other)| one == other).count() * AT_ONCE;
    let rest = one.iter().rev().skip(whole).zip(other.iter().rev().skip(whole));
    whole + rest.take_while(|(one, other)| one == other).count()
}

/// How many characters begin in these bytes of UTF-8.
fn char_starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

fn line_feeds(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile::new("p.json".into(), text.to_owned())
    }

    #[test]
    fn columns_count_characters_and_lines_survive_crlf() {
        let source = file("{\r\n  \"설명\": 1\r\n}");
        let at = source.text().find('1').unwrap();
        assert_eq!(source.position(at), (2, 9));
        assert_eq!(source.position(source.text().len()), (3, 2));
    }

    #[test]
    fn positions_agree_with_counting_on_long_mixed_text() {
        let text: String = (0..3000)
            .map(|n| {
                if n % 97 == 0 {
                    '\n'
                } else if n % 3 == 0 {
                    '한'
                } else {
                    'a'
                }
            })
            .collect();
        let source = file(&text);
        for (offset, _) in text.char_indices() {
            let before = &text[..offset];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            assert_eq!(source.position(offset), (line as u32, column as u32), "offset {offset}");
            assert_eq!(source.offset_of(line as u32, column as u32), offset);
        }
    }

    #[test]
    fn lines_are_found_at_the_edges_of_blocks() {
        for length in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let text = format!("{}\n{}", "a".repeat(length), "\n".repeat(2 * BLOCK));
            let source = file(&text);
            let feeds: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
            for (number, &at) in feeds.iter().enumerate() {
                assert_eq!(source.position(at).0 as usize, number + 1);
                assert_eq!(source.position(at + 1), (number as u32 + 2, 1));
                assert_eq!(source.line_end(number + 1), at);
                assert_eq!(source.offset(number + 2, 1), at + 1);
            }
            assert_eq!(source.offset(feeds.len() + 2, 1), text.len());
            assert_eq!(source.line_end(feeds.len() + 1), text.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_text_that_follows_another_one_is_as_if_it_had_been_read(
            first in "[a가\n ]{0,3000}",
            splices in prop::collection::vec((any::<prop::sample::Index>(), 0..1200usize, "[a나\n,]{0,40}|[b\n]{1500}"), 1..12),
        ) {
            let mut text = format!("{BOM}{first}");
            let mut source = Arc::new(file(&text));
            let mut all = vec![Arc::clone(&source), Arc::new(file(&text))];
            text.drain(..BOM.len_utf8());
            for (at, gone, insert) in splices {
                let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                let start = at.index(bounds.len());
                let end = (start + gone).min(bounds.len() - 1);
                let splice = Splice { start: bounds[start], end: bounds[end], insert };
                text.replace_range(splice.start..splice.end, &splice.insert);
                let next = Arc::new(source.followed_by(splice.clone()));
                prop_assert!(source.is_followed_by(&splice, &next));
                let by = next.splice_of(&source).unwrap().clone();
                let mut again = source.text().to_owned();
                again.replace_range(by.start..by.end, &by.insert);
                prop_assert_eq!(&again, &text);
                let read = file(&format!("{BOM}{text}"));
                prop_assert_eq!(source.same_text(&next), source.text() == text);
                prop_assert!(next.same_text(&read) && read.same_text(&next));
                prop_assert!(next.is(read.whole()) && next.whole() == read.whole());
                prop_assert_eq!(next.parts_from(0).collect::<Vec<_>>().concat(), read.whole());
                prop_assert_eq!((next.len(), next.all), (text.len(), read.all));
                let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                for &offset in bounds.iter().step_by(7).chain(bounds.last()).chain([&by.start]) {
                    let (line, column) = read.position(offset);
                    prop_assert_eq!(next.position(offset), (line, column));
                    prop_assert_eq!(next.offset_of(line, column), offset);
                    prop_assert_eq!(next.offset(line as usize, 3), read.offset(line as usize, 3));
                    let span = Span { file: FileId(0), start: offset, end: offset + 2 };
                    prop_assert_eq!(next.excerpt(span), read.excerpt(span));
                    prop_assert_eq!(next.rest_of_line(FileId(0), offset), read.rest_of_line(FileId(0), offset));
                    prop_assert_eq!(next.space_before(offset), read.space_before(offset));
                    let before = text[..offset].trim_end_matches([' ', '\t', '\r', '\n']).len();
                    prop_assert_eq!(next.space_before(offset), &text[before..offset]);
                    let from = if offset == 0 { read.whole() } else { &text.as_bytes()[offset..] };
                    prop_assert_eq!(next.parts_from(offset).collect::<Vec<_>>().concat(), from);
                    prop_assert_eq!(next.slice(by.start.min(offset)..offset).unwrap(), &text[by.start.min(offset)..offset]);
                }
                prop_assert_eq!(next.slice(0..text.len() + 1), None);
                // From any text before, whether or not they share parts, and back.
                for other in &all {
                    for (before, after) in [(other, &next), (&next, other)] {
                        let Splice { start, end, insert } = after.splice(before);
                        let (old, new) = (before.text(), after.text());
                        prop_assert_eq!([&old[..start], &insert, &old[end..]].concat(), new);
                        if after.splice_of(before).is_none() {
                            let same = |(one, two): &(char, char)| one == two;
                            let front = old.chars().zip(new.chars()).take_while(same);
                            prop_assert_eq!(start, front.map(|(same, _)| same.len_utf8()).sum::<usize>());
                            let back = old[start..].chars().rev().zip(new[start..].chars().rev()).take_while(same);
                            prop_assert_eq!(old.len() - end, back.map(|(same, _)| same.len_utf8()).sum::<usize>());
                        }
                    }
                }
                all.push(Arc::clone(&next));
                source = next;
            }
        }
    }

    #[test]
    fn a_text_of_very_many_pieces_is_put_into_one() {
        let mut source = Arc::new(file(&"a".repeat(10_000)));
        let mut text = source.text().to_owned();
        for number in 0..MOST_PIECES {
            let at = number * 7 % text.len();
            text.insert_str(at, "b\n");
            let next = source.followed_by(Splice { start: at, end: at, insert: "b\n".to_owned() });
            assert!(next.pieces.len() <= MOST_PIECES && next.splice_of(&source).is_some());
            source = Arc::new(next);
        }
        assert_eq!(
            (source.text(), source.position(text.len())),
            (text.as_str(), file(&text).position(text.len()))
        );
    }

    #[test]
    fn a_byte_order_mark_takes_no_column() {
        let source = file("\u{feff}{}");
        assert!(source.bom);
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.text(), "{}");
    }

    #[test]
    fn an_excerpt_of_a_line_of_megabytes_stays_short_and_keeps_its_mark() {
        let mut text = "가".repeat(1 << 20);
        let at = text.len();
        text.push_str("HERE");
        text.push_str(&"나".repeat(1 << 20));
        let source = file(&text);
        let excerpt = source.excerpt(Span { file: FileId(0), start: at, end: at + 4 });
        assert!(excerpt.text.len() <= 160, "{}", excerpt.text.len());
        assert_eq!(&excerpt.text[excerpt.mark], "HERE");
    }
}
