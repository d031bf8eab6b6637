//! The text of the files and where things stand in it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::OnceLock;

use super::diagnostic::Excerpt;
use super::model::{FileId, Source};

/// A byte range of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub file: FileId,
    pub start: usize,
    pub end: usize,
}

/// A value and the place it was written at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

/// One file of the policy, decoded.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub path: PathBuf,
    /// Without the byte order mark, so that the first column is the first one a person sees.
    pub text: String,
    /// Whether the file began with a byte order mark; an edit has to write it again.
    pub bom: bool,
    /// Line feeds before each block of [`BLOCK`] bytes. Not the start of every line: there may be as many as bytes.
    lines: Vec<usize>,
    /// Characters before each block: a column in a line of many megabytes costs one block to count, not the line.
    chars: Vec<usize>,
    fingerprint: OnceLock<u64>,
    with_bom: OnceLock<Vec<u8>>,
}

const BLOCK: usize = 1024;
const BOM: char = '\u{feff}';
const BOM_BYTES: &[u8] = "\u{feff}".as_bytes();

impl SourceFile {
    pub fn new(path: PathBuf, mut text: String) -> Self {
        let bom = text.starts_with(BOM);
        if bom {
            text.drain(..BOM.len_utf8());
        }
        let before_each = |count: fn(&[u8]) -> usize| {
            let mut seen = 0;
            let before = text.as_bytes().chunks(BLOCK).map(|block| {
                let before = seen;
                seen += count(block);
                before
            });
            before.collect()
        };
        Self {
            lines: before_each(line_feeds),
            chars: before_each(char_starts),
            path,
            bom,
            text,
            fingerprint: OnceLock::new(),
            with_bom: OnceLock::new(),
        }
    }

    /// A number that is another one, most probably, for another text. Counted once.
    pub fn fingerprint(&self) -> u64 {
        *self.fingerprint.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.text.hash(&mut hasher);
            hasher.finish()
        })
    }

    /// Whether these bytes would be read as this file, byte order mark and all.
    pub fn is(&self, bytes: &[u8]) -> bool {
        let text = bytes.strip_prefix(BOM_BYTES);
        text.is_some() == self.bom && text.unwrap_or(bytes) == self.text.as_bytes()
    }

    /// Another text in its place, with a byte order mark if this has one.
    pub fn followed_by(&self, text: String) -> Self {
        Self { bom: self.bom, ..Self::new(self.path.clone(), text) }
    }

    /// What the file holds.
    pub fn whole(&self) -> &[u8] {
        if !self.bom {
            return self.text.as_bytes();
        }
        self.with_bom.get_or_init(|| [BOM_BYTES, self.text.as_bytes()].concat())
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
        let wanted = self.chars_before(start) + (column as usize).saturating_sub(1);
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
        let text = self.text.get(start..end).unwrap_or_default();
        let text = text.strip_suffix('\r').unwrap_or(text);
        let mark_start = at.saturating_sub(start).min(text.len());
        let mark_end = self.floor(span.end).saturating_sub(start).clamp(mark_start, text.len());
        Excerpt { mark: mark_start..mark_end, text: text.to_owned(), whole_start: start == line_start }
    }

    /// From `start` to the end of its line: what a finding about a whole object underlines.
    pub fn rest_of_line(&self, file: FileId, start: usize) -> Span {
        let end = self.line_end(self.feeds_before(start) + 1);
        Span { file, start, end: end.max(start) }
    }

    fn feeds_before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        // The end of a text that fills its last block has no block of its own.
        let block = (offset / BLOCK).min(self.lines.len().saturating_sub(1));
        let rest = self.text.as_bytes().get(block * BLOCK..offset).map_or(0, line_feeds);
        self.lines.get(block).copied().unwrap_or(0) + rest
    }

    /// Where a line begins, counted from 1; the end of the text if it has fewer.
    fn line_start(&self, line: usize) -> usize {
        match line.saturating_sub(1) {
            0 => 0,
            feeds => self.feed(feeds).map_or(self.text.len(), |at| at + 1),
        }
    }

    /// Where a line ends, without its line feed.
    fn line_end(&self, line: usize) -> usize {
        self.feed(line).unwrap_or(self.text.len())
    }

    /// The line feed of that number, counted from 1.
    fn feed(&self, number: usize) -> Option<usize> {
        let block = self.lines.partition_point(|&before| before < number).checked_sub(1)?;
        let from = block * BLOCK;
        let nth = number.checked_sub(*self.lines.get(block)?)?.checked_sub(1)?;
        let feeds = self.text.as_bytes().get(from..)?.iter().take(BLOCK).enumerate();
        feeds.filter(|(_, byte)| **byte == b'\n').nth(nth).map(|(at, _)| from + at)
    }

    fn chars_before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let block = offset / BLOCK;
        let Some(&before) = self.chars.get(block) else {
            // Only the end of a text that fills its last block.
            let last = self.chars.len().saturating_sub(1);
            let rest = self.text.as_bytes().get(last * BLOCK..).map_or(0, char_starts);
            return self.chars.last().copied().unwrap_or(0) + rest;
        };
        before + self.text.as_bytes().get(block * BLOCK..offset).map_or(0, char_starts)
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

/// How many characters begin in these bytes of UTF-8.
fn char_starts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

fn line_feeds(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile::new("p.json".into(), text.to_owned())
    }

    #[test]
    fn columns_count_characters_and_lines_survive_crlf() {
        let source = file("{\r\n  \"설명\": 1\r\n}");
        let at = source.text.find('1').unwrap();
        assert_eq!(source.position(at), (2, 9));
        assert_eq!(source.position(source.text.len()), (3, 2));
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

    #[test]
    fn a_byte_order_mark_takes_no_column() {
        let source = file("\u{feff}{}");
        assert!(source.bom);
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.text, "{}");
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
