//! The syntax tree of a large file, as far as an edit looks at it: the objects that are edited, their neighbours, and the
//! ends of each list. A tree of 100,000 peers takes longer to make than everything else that is done to add one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use jsonc_parser::ast::{Object, ObjectPropName, Value};
use jsonc_parser::common;
use jsonc_parser::{CollectOptions, parse_to_ast};

use crate::policy::chunks::Chunks;
use crate::policy::raw::{RawFile, RawGroup, RawRule, RawRules};
use crate::policy::read::STRICT;
use crate::policy::source::{SourceFile, Span};

/// A text without the objects that nobody looks at, and where the rest of it stands in the file.
pub(super) struct Sparse {
    text: String,
    /// Pieces by their start in `text`, with their start in the file; the last ones first.
    pieces: Vec<(usize, usize)>,
}

impl Sparse {
    /// `keep` are the starts of the objects that are looked at; of a group's rules, the ends of each list are, or all of them.
    pub fn of(source: &SourceFile, raw: &RawFile, keep: &[usize], all_rules: bool) -> Option<Self> {
        let mut sparse = Self { text: String::new(), pieces: Vec::new() };
        let RawFile { groups, interfaces, peers, .. } = raw;
        let mut lists = [
            (groups.span, kept(&groups.items, keep, |group| group.span, |group| rules(group, all_rules))),
            (interfaces.span, kept(&interfaces.items, keep, |interface| interface.span, |_| Vec::new())),
            (peers.span, kept(&peers.items, keep, |peer| peer.span, |_| Vec::new())),
        ];
        lists.sort_by_key(|(span, _)| span.map(|span| span.start));
        let mut at = 0;
        for (brackets, items) in lists {
            let Some(brackets) = brackets.filter(|_| !items.is_empty()) else { continue };
            sparse.piece(source, at, brackets.start + 1)?;
            let mut after = None;
            for item in items {
                if let Some(end) = after {
                    sparse.put(end, ',');
                }
                let (span, gaps) = item;
                let mut start = span.start;
                for gap in gaps {
                    sparse.piece(source, start, gap.start)?;
                    sparse.put(gap.start, ',');
                    start = gap.end;
                }
                sparse.piece(source, start, span.end)?;
                after = Some(span.end);
            }
            if let Some(end) = after {
                sparse.put(end, ' ');
            }
            at = brackets.end - 1;
        }
        sparse.piece(source, at, source.len())?;
        Some(sparse)
    }

    fn piece(&mut self, source: &SourceFile, start: usize, end: usize) -> Option<()> {
        self.pieces.push((self.text.len(), start));
        self.text.write_str(&source.slice(start..end)?).ok()
    }

    /// Something that stands in the file otherwise, or not at all.
    fn put(&mut self, at: usize, separator: char) {
        self.pieces.push((self.text.len(), at));
        self.text.push(separator);
    }

    /// The tree, with the places that things have in the file.
    pub fn root(&self) -> Option<Object<'_>> {
        let mut tree = parse_to_ast(&self.text, &CollectOptions::default(), &STRICT).ok()?.value?;
        self.value(&mut tree);
        match tree {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    fn offset(&self, at: usize) -> usize {
        let piece = self.pieces.partition_point(|(start, _)| *start <= at).checked_sub(1);
        let (start, in_file) = piece.and_then(|piece| self.pieces.get(piece)).copied().unwrap_or((0, 0));
        in_file + (at - start)
    }

    fn range(&self, range: &mut common::Range) {
        range.start = self.offset(range.start);
        range.end = self.offset(range.end);
    }

    fn value(&self, value: &mut Value<'_>) {
        match value {
            Value::StringLit(literal) => self.range(&mut literal.range),
            Value::NumberLit(literal) => self.range(&mut literal.range),
            Value::BooleanLit(literal) => self.range(&mut literal.range),
            Value::NullKeyword(keyword) => self.range(&mut keyword.range),
            Value::Array(array) => {
                self.range(&mut array.range);
                array.elements.iter_mut().for_each(|element| self.value(element));
            }
            Value::Object(object) => {
                self.range(&mut object.range);
                for property in &mut object.properties {
                    self.range(&mut property.range);
                    match &mut property.name {
                        ObjectPropName::String(name) => self.range(&mut name.range),
                        ObjectPropName::Word(name) => self.range(&mut name.range),
                    }
                    self.value(&mut property.value);
                }
            }
        }
    }
}

/// The objects of a list that begin at these places, their neighbours, and the ends of the list, in order; with what of each is
/// between two elements of a list and not looked at.
fn kept<T>(
    items: &Chunks<Arc<T>>,
    keep: &[usize],
    span: impl Fn(&T) -> Span,
    gaps: impl Fn(&T) -> Vec<Range<usize>>,
) -> Vec<(Span, Vec<Range<usize>>)> {
    let mut indexes = BTreeSet::from([0, items.len().saturating_sub(1)]);
    for &start in keep {
        let at = items.partition_point(|item| span(item).start < start);
        if items.get(at).is_some_and(|item| span(item).start == start) {
            indexes.extend([at.saturating_sub(1), at, at + 1]);
        }
    }
    let items = indexes.into_iter().filter_map(|index| items.get(index));
    items.map(|item| (span(item), gaps(item))).collect()
}

/// From the end of each list's first rule to the start of its last one.
fn rules(group: &RawGroup, all: bool) -> Vec<Range<usize>> {
    let lists =
        [&group.inbound, &group.outbound].into_iter().flatten().filter(|rules| !all && rules.len() > 2);
    let span = |rule: &RawRule| rule.span.of(group.span);
    let gap = |rules: &RawRules| Some(span(rules.first()?).end..span(rules.last()?).start);
    let mut gaps: Vec<_> = lists.filter_map(gap).collect();
    gaps.sort_unstable_by_key(|gap| gap.start);
    gaps
}
