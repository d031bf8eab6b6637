//! The raw parts of a text that follows another one: only the objects around the change are parsed and walked.
//!
//! Two texts that begin and end alike differ between. If that lies inside one of the lists at the top of the file, the
//! objects of the list before and behind it are what they were, and what is from the last one before it to the first one
//! behind it is a list of its own. That part is parsed strictly, so if it is whole, so is the file: everything around it
//! stood in a whole file in the same place. Whatever is not as it should be, faults first of all, is left to a walk of
//! the whole file, which says it best.

use std::ops::Range;
use std::sync::Arc;

use jsonc_parser::ast::Value;
use jsonc_parser::{CollectOptions, parse_to_ast};

use super::diagnostic::Findings;
use super::model::{FileId, Offset, Source};
use super::raw::{Known, List, RawFile, RawGroup, RawInterface, RawPeer, RawRemote, RawRule, RawRules};
use super::read::{MOST_TREE, STRICT, weigh};
use super::source::{SourceFile, Span, Spanned, Within};
use super::walk;

/// A file as it was walked.
#[derive(Debug)]
pub(crate) struct Walked {
    pub raw: RawFile,
    /// How much memory its tree takes at most, of [`MOST_TREE`].
    pub weight: usize,
}

/// The raw parts of `new`, which stands where `old` stood; `None` if all of it has to be walked.
pub(crate) fn rewalk(
    file: FileId,
    (old, walked): (&SourceFile, &Walked),
    sources: &[Arc<SourceFile>],
) -> Option<Walked> {
    let new = sources.get(file.0)?;
    let change = Change::between(old, new)?;
    let RawFile { groups, interfaces, peers, settings_at, .. } = &walked.raw;
    let work = Work { file, sources, old, new };
    // Whatever stands behind the change moves; settings say in too many places where they stand.
    if settings_at.is_some_and(|span| span.end > change.start) {
        return None;
    }
    let mut raw = RawFile {
        project: walked.raw.project.clone(),
        vpc: walked.raw.vpc.clone(),
        ipv6: walked.raw.ipv6.clone().map(|ipv6| Spanned { span: change.moved(ipv6.span), ..ipv6 }),
        settings: Arc::clone(&walked.raw.settings),
        settings_at: *settings_at,
        groups: groups.moved(&change),
        interfaces: interfaces.moved(&change),
        peers: peers.moved(&change),
    };
    let weight = if change.is_in(groups) {
        match work.group(groups, &change, &mut raw.groups) {
            Some(weight) => weight,
            None => work.list(groups, &change, &mut raw.groups)?,
        }
    } else if change.is_in(interfaces) {
        work.list(interfaces, &change, &mut raw.interfaces)?
    } else if change.is_in(peers) {
        work.list(peers, &change, &mut raw.peers)?
    } else {
        return None;
    };
    let weight = walked.weight.checked_add_signed(weight).filter(|weight| *weight <= MOST_TREE)?;
    Some(Walked { raw, weight })
}

/// Where two texts differ: between what they begin and what they end with.
pub(crate) struct Change {
    start: usize,
    /// In the old text.
    end: usize,
    /// How much longer the new text is.
    longer: isize,
    /// Line and column of the change's end, in the old text and in the new one.
    before: (u32, u32),
    after: (u32, u32),
}

impl Change {
    fn between(old: &SourceFile, new: &SourceFile) -> Option<Self> {
        let Range { start, end } = new.change(old);
        let longer = new.len() as isize - old.len() as isize;
        let before = old.position(end);
        let after = new.position(end.checked_add_signed(longer)?);
        Some(Self { start, end, longer, before, after })
    }

    /// Inside of the brackets.
    fn is_in<T>(&self, list: &List<T>) -> bool {
        list.span.is_some_and(|span| span.start < self.start && self.end < span.end)
    }

    /// Whether what stands behind the change has another place now.
    fn moves(&self) -> bool {
        self.longer != 0 || self.before != self.after
    }

    fn moved(&self, span: Span) -> Span {
        let at = |offset: usize| {
            if offset >= self.end { offset.saturating_add_signed(self.longer) } else { offset }
        };
        Span { start: at(span.start), end: at(span.end), ..span }
    }

    /// The place of an object behind the change, counted on from where it was.
    fn moved_known(&self, known: &Known) -> Known {
        let moved = Known::default();
        let on = |number: u32, (before, after): (u32, u32)| number.checked_sub(before)?.checked_add(after);
        if let Some((line, column)) = known.get()
            && let Some(now) = on(line, (self.before.0, self.after.0))
            && let Some(column) =
                if line == self.before.0 { on(column, (self.before.1, self.after.1)) } else { Some(column) }
        {
            moved.set(now, column);
        }
        moved
    }
}

/// What is larger is not walked by itself: it would be in memory twice.
const LARGEST_PART: usize = 1 << 20;

struct Work<'w> {
    file: FileId,
    sources: &'w [Arc<SourceFile>],
    old: &'w SourceFile,
    new: &'w SourceFile,
}

impl Work<'_> {
    /// Walks the objects of a list around the change; returns how much heavier they are.
    fn list<T: walk::Part + Item>(
        &self,
        old: &List<T>,
        change: &Change,
        moved: &mut List<T>,
    ) -> Option<isize> {
        let brackets = old.span?;
        let before = old.items.partition_point(|item| item.span().end <= change.start);
        let behind = old.items.partition_point(|item| item.span().start < change.end);
        let first = before.saturating_sub(1);
        let start = old.items.get(before.checked_sub(1).unwrap_or(usize::MAX));
        let start = start.map_or(brackets.start + 1, |item| item.span().start);
        let last = old.items.get(behind);
        let end = last.map_or(brackets.end - 1, |item| item.span().end);
        let rest = last.map_or(behind, |_| behind + 1);
        let new_end = end.checked_add_signed(change.longer)?;
        let part = self.part((start, end), new_end)?;
        let tree = part.tree()?;
        let Value::Array(array) = &tree else { return None };
        let mut findings = Findings::new(self.sources);
        let walked = walk::part::<T>(self.file, (&array.elements, part.base, first), &mut findings);
        if !findings.is_empty() || walked.len() != array.elements.len() {
            return None;
        }
        let more = walked.len() as isize - (rest - first) as isize;
        if more != 0 {
            moved.items.change(rest..moved.items.len(), |item| Arc::make_mut(item).add_index(more));
        }
        moved.items = moved.items.spliced(first..rest, walked);
        Some(part.heavier)
    }

    /// Of a group of which one rule more or less is the change: walks the rules around that, and not the group's others.
    fn group(&self, old: &List<RawGroup>, change: &Change, moved: &mut List<RawGroup>) -> Option<isize> {
        let at = old.items.partition_point(|group| group.span.end <= change.start);
        let is_around =
            |group: &&Arc<RawGroup>| group.span.start < change.start && change.end < group.span.end;
        let group = old.items.get(at).filter(is_around)?;
        let mut next = RawGroup::clone(group);
        next.span = change.moved(group.span);
        move_all(next.name.as_mut_slice(), change);
        let mut heavier = None;
        let lists = [(true, &group.inbound, &mut next.inbound), (false, &group.outbound, &mut next.outbound)];
        for (inbound, old, next) in lists {
            let (Some(old), Some(next)) = (old, next) else { continue };
            let behind = old.partition_point(|rule| rule.span.of(group.span).start < change.end);
            if behind < old.len() && change.moves() {
                let rules = Arc::make_mut(next).iter_mut().skip(behind);
                rules.for_each(|rule| rule.move_by(change, group));
            }
            if let Some((range, rules, weight)) = self.rules((group, old), change, inbound) {
                Arc::make_mut(next).splice(range, rules);
                heavier = Some(weight);
            }
        }
        let heavier = heavier?;
        moved.items = moved.items.spliced(at..at + 1, [Arc::new(next)]);
        Some(heavier)
    }

    /// The rules in the place of a range of those in a list, if the change is behind one of them and inside of the list's brackets.
    fn rules(
        &self,
        (group, old): (&RawGroup, &RawRules),
        change: &Change,
        inbound: bool,
    ) -> Option<(Range<usize>, Vec<RawRule>, isize)> {
        let span = |rule: &RawRule| rule.span.of(group.span);
        let first = old.partition_point(|rule| span(rule).end <= change.start).checked_sub(1)?;
        let behind = old.partition_point(|rule| span(rule).start < change.end);
        let start = span(old.get(first)?).start;
        let (end, rest) = match old.get(behind) {
            Some(next) => (span(next).end, behind + 1),
            None if change.end <= span(old.last()?).end => (change.end, old.len()),
            None => return None,
        };
        let part = self.part((start, end), end.checked_add_signed(change.longer)?)?;
        let tree = part.tree()?;
        let Value::Array(array) = &tree else { return None };
        let mut findings = Findings::new(self.sources);
        let values = (array.elements.as_slice(), part.base, group.span.start);
        let rules = walk::rules(self.file, values, inbound, &mut findings);
        findings.is_empty().then_some((first..rest, rules, part.heavier))
    }

    /// What is between two places of the old text and between the same of the new one, each a list of its own.
    fn part(&self, (start, end): (usize, usize), new_end: usize) -> Option<Part> {
        if end - start > LARGEST_PART || new_end.checked_sub(start)? > LARGEST_PART {
            return None;
        }
        let [old, text] = [self.old.slice(start..end)?, self.new.slice(start..new_end)?]
            .map(|part| ["[", &part, "]"].concat());
        let weigh = |text: &str| {
            weigh(text.as_bytes(), MOST_TREE).ok().and_then(|weight| isize::try_from(weight).ok())
        };
        let heavier = weigh(&text)? - weigh(&old)?;
        // One more for the bracket that was put before it.
        Some(Part { text, base: isize::try_from(start).ok()? - 1, heavier })
    }
}

struct Part {
    text: String,
    /// Where in the file its text begins.
    base: isize,
    heavier: isize,
}

impl Part {
    fn tree(&self) -> Option<Value<'_>> {
        serde_json::from_str::<serde::de::IgnoredAny>(&self.text).ok()?;
        parse_to_ast(&self.text, &CollectOptions::default(), &STRICT).ok()?.value
    }
}

/// What an object of a list says of where it stands.
pub(crate) trait Item: Clone {
    fn span(&self) -> Span;
    fn add_index(&mut self, more: isize);
    fn move_by(&mut self, change: &Change);
}

impl<T: Item> List<T> {
    fn moved(&self, change: &Change) -> Self {
        let mut items = self.items.clone();
        if change.moves() {
            let behind = items.partition_point(|item| item.span().start < change.end);
            items.change(behind..items.len(), |item| Arc::make_mut(item).move_by(change));
        }
        // From the inner side of its bracket on, a list that has the change in it is longer.
        Self { span: self.span.map(|span| change.moved(span)), items }
    }
}

fn move_all<T>(spanned: &mut [Spanned<T>], change: &Change) {
    spanned.iter_mut().for_each(|spanned| spanned.span = change.moved(spanned.span));
}

impl Item for RawPeer {
    fn span(&self) -> Span {
        self.span
    }

    fn add_index(&mut self, more: isize) {
        self.index = self.index.saturating_add_signed(more);
    }

    fn move_by(&mut self, change: &Change) {
        self.span = change.moved(self.span);
        self.at = change.moved_known(&self.at);
        move_all(self.address.as_mut_slice(), change);
        move_all(&mut self.groups, change);
    }
}

impl Item for RawInterface {
    fn span(&self) -> Span {
        self.span
    }

    fn add_index(&mut self, more: isize) {
        self.index = self.index.saturating_add_signed(more);
    }

    fn move_by(&mut self, change: &Change) {
        self.span = change.moved(self.span);
        self.at = change.moved_known(&self.at);
        move_all(self.name.as_mut_slice(), change);
        move_all(&mut self.addresses, change);
        move_all(&mut self.allowed_addresses, change);
        move_all(&mut self.groups, change);
        self.timeouts.iter_mut().for_each(|timeout| move_all(timeout.as_mut_slice(), change));
    }
}

impl Item for RawGroup {
    fn span(&self) -> Span {
        self.span
    }

    fn add_index(&mut self, more: isize) {
        self.index = self.index.saturating_add_signed(more);
    }

    fn move_by(&mut self, change: &Change) {
        self.span = change.moved(self.span);
        self.at = change.moved_known(&self.at);
        move_all(self.name.as_mut_slice(), change);
        // Its rules stand where they did in it, as the change is before it.
    }
}

impl RawRule {
    /// Behind a change in its group, which begins before that.
    fn move_by(&mut self, change: &Change, group: &RawGroup) {
        let moved = |at: Within| change.moved(at.of(group.span)).within(group.span.start);
        self.span = moved(self.span);
        if let Some(RawRemote::Group { at, .. }) = &mut self.remote {
            *at = moved(*at);
        }
        let source = |(line, column)| Source { file: group.span.file, line, column };
        let home = group.at.get().map(source);
        let known = Known::default();
        if let (Some(home), Some((lines, columns))) = (home, self.at.get()) {
            let Source { line, column, .. } = Offset { lines, columns }.of(home);
            known.set(line, column);
        }
        self.at = Known::default();
        if let (Some(home), Some(at)) = (home, change.moved_known(&known).get()) {
            let Offset { lines, columns } = Offset::within(home, source(at));
            self.at.set(lines, columns);
        }
    }
}
