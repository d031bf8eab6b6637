//! Long lists that follow one another: in chunks, and those in groups, which two lists share but for where they differ.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// So many elements are put into a chunk.
const CHUNK: usize = 256;
/// So many chunks are put into a group: who shares a list counts itself in for each group of it, not for each chunk.
const GROUP: usize = 16;

/// A list, with something (`About`) that is known of each chunk once somebody has asked for it.
pub struct Chunks<T, About = ()> {
    /// None of them empty, each with how many elements are before it.
    groups: Vec<(usize, Arc<Group<T, About>>)>,
    len: usize,
}

struct Group<T, About> {
    /// None of them empty, each with how many elements of the group are before it.
    chunks: Vec<(usize, Arc<Chunk<T, About>>)>,
    len: usize,
}

struct Chunk<T, About> {
    items: Vec<T>,
    about: OnceLock<About>,
}

/// As a list: where it is cut, and what somebody has asked of it, tells nothing.
impl<T: fmt::Debug, About> fmt::Debug for Chunks<T, About> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T, About> Clone for Chunks<T, About> {
    fn clone(&self) -> Self {
        Self { groups: self.groups.clone(), len: self.len }
    }
}

impl<T, About> Clone for Group<T, About> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T, About> Chunk<T, About> {
    fn of(items: Vec<T>) -> Arc<Self> {
        Arc::new(Self { items, about: OnceLock::new() })
    }
}

/// Its elements are about to change, so nothing is known of it.
impl<T: Clone, About> Clone for Chunk<T, About> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), about: OnceLock::new() }
    }
}

impl<T, About> Group<T, About> {
    fn of(chunks: impl IntoIterator<Item = Arc<Chunk<T, About>>>) -> Self {
        let mut group = Self { chunks: Vec::new(), len: 0 };
        chunks.into_iter().for_each(|chunk| group.push(chunk));
        group
    }

    fn push(&mut self, chunk: Arc<Chunk<T, About>>) {
        let before = self.len;
        self.len += chunk.items.len();
        self.chunks.push((before, chunk));
    }
}

impl<T, About> Default for Chunks<T, About> {
    fn default() -> Self {
        Self { groups: Vec::new(), len: 0 }
    }
}

impl<T: PartialEq, About> PartialEq for Chunks<T, About> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T, About> FromIterator<T> for Chunks<T, About> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut list = Self::default();
        list.extend(items);
        list
    }
}

impl<T, About> Extend<T> for Chunks<T, About> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            self.push_chunk(items.by_ref().take(CHUNK).collect());
        }
    }
}

impl<T, About> Chunks<T, About> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push_chunk(&mut self, items: Vec<T>) {
        let len = items.len();
        if len == 0 {
            return;
        }
        let chunk = Chunk::of(items);
        match self.groups.last_mut().and_then(|(_, group)| Arc::get_mut(group)) {
            Some(group) if group.chunks.len() < GROUP => {
                group.push(chunk);
                self.len += len;
            }
            _ => self.share_group(Arc::new(Group::of([chunk]))),
        }
    }

    fn share_group(&mut self, group: Arc<Group<T, About>>) {
        let before = self.len;
        self.len += group.len;
        self.groups.push((before, group));
    }

    /// One more at the end: in the last chunk, if that and its group are nobody else's and it has room, or in a new one.
    pub fn push(&mut self, item: T) {
        let group = self.groups.last_mut().and_then(|(_, group)| Arc::get_mut(group));
        let last = group.and_then(|group| Some((&mut group.len, group.chunks.last_mut()?)));
        match last.and_then(|(len, (_, chunk))| Some((len, Arc::get_mut(chunk)?))) {
            Some((len, chunk)) if chunk.items.len() < CHUNK => {
                chunk.about = OnceLock::new();
                chunk.items.push(item);
                *len += 1;
                self.len += 1;
            }
            _ => self.push_chunk(vec![item]),
        }
    }

    /// The chunks of some groups, each with how many elements are before it.
    fn chunks(
        &self,
        groups: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = (usize, &Arc<Chunk<T, About>>)> + Clone {
        self.groups.get(groups).unwrap_or_default().iter().flat_map(|(before, group)| {
            group.chunks.iter().map(move |(inside, chunk)| (before + inside, chunk))
        })
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.chunks(0..self.groups.len()).flat_map(|(_, chunk)| &chunk.items)
    }

    /// Chunk by chunk: how many are before each, its elements, and what is known of it or made of them now.
    pub fn each_about(&self, about: impl Fn(&[T]) -> About) -> impl Iterator<Item = (usize, &[T], &About)> {
        self.chunks(0..self.groups.len()).map(move |(before, chunk)| {
            (before, chunk.items.as_slice(), chunk.about.get_or_init(|| about(&chunk.items)))
        })
    }

    /// The group that an element is in, the chunk of that, and its place there.
    fn place(&self, index: usize) -> (usize, usize, usize) {
        let group = self.groups.partition_point(|(before, _)| *before <= index).saturating_sub(1);
        let Some((before, parts)) = self.groups.get(group) else { return (0, 0, index) };
        let index = index - before;
        let chunk = parts.chunks.partition_point(|(before, _)| *before <= index).saturating_sub(1);
        let before = parts.chunks.get(chunk).map_or(0, |(before, _)| *before);
        (group, chunk, index - before)
    }

    fn chunk(&self, group: usize, chunk: usize) -> Option<&Arc<Chunk<T, About>>> {
        Some(&self.groups.get(group)?.1.chunks.get(chunk)?.1)
    }

    pub fn get(&self, index: usize) -> Option<&T> {
        let (group, chunk, at) = self.place(index);
        self.chunk(group, chunk)?.items.get(at)
    }

    pub fn last(&self) -> Option<&T> {
        self.groups.last()?.1.chunks.last()?.1.items.last()
    }

    /// The elements of a range, which ends with the list at the latest.
    pub fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = &T> + Clone {
        let [(first, ..), (last, ..)] = [range.start, range.end].map(|index| self.place(index));
        self.chunks(first..(last + 1).min(self.groups.len())).flat_map(move |(before, chunk)| {
            let inside = |index: usize| index.saturating_sub(before).min(chunk.items.len());
            chunk.items.get(inside(range.start)..inside(range.end)).unwrap_or_default()
        })
    }

    /// How many elements are at the beginning of which `is` holds, if it holds of none behind one of which it does not.
    pub fn partition_point(&self, is: impl Fn(&T) -> bool) -> usize {
        let of_chunk = |(_, chunk): &(usize, Arc<Chunk<T, About>>)| chunk.items.first().is_some_and(&is);
        let of_group =
            |(_, group): &(usize, Arc<Group<T, About>>)| group.chunks.first().is_some_and(of_chunk);
        let found = || {
            let (before, group) = self.groups.get(self.groups.partition_point(of_group).checked_sub(1)?)?;
            let (inside, chunk) = group.chunks.get(group.chunks.partition_point(of_chunk).checked_sub(1)?)?;
            Some(before + inside + chunk.items.partition_point(&is))
        };
        found().unwrap_or(0)
    }

    /// With how many elements both begin that are in the same place of memory, or the `same`.
    pub fn same_front(&self, other: &Self, same: impl Fn(&T, &T) -> bool) -> usize {
        // Without a look into a group that is shared, or into a chunk: there may be very many.
        let groups = self.groups.iter().zip(&other.groups);
        let groups = groups.take_while(|((_, one), (_, other))| Arc::ptr_eq(one, other)).count();
        let [mine, others] = [self, other].map(|list| list.chunks(groups..list.groups.len()));
        let mut chunks = mine.zip(others);
        let differ = chunks.find(|((_, one), (_, other))| !Arc::ptr_eq(one, other));
        let front = differ.map_or(self.len.min(other.len), |((before, _), _)| before);
        let pairs = self.range(front..self.len).zip(other.range(front..other.len));
        front + pairs.take_while(|(one, other)| same(one, other)).count()
    }

    /// With how many they end likewise, beside the first `front`.
    pub fn same_back(&self, other: &Self, front: usize, same: impl Fn(&T, &T) -> bool) -> usize {
        let most = self.len.min(other.len) - front;
        let groups = self.groups.iter().rev().zip(other.groups.iter().rev());
        let groups = groups.take_while(|((_, one), (_, other))| Arc::ptr_eq(one, other)).count();
        let unshared = |list: &Self| list.groups.len() - groups;
        let begins = self.groups.get(unshared(self)).map_or(self.len, |(before, _)| *before);
        // The chunks of the groups before those.
        let [mine, others] = [self, other].map(|list| list.chunks(0..unshared(list)).rev());
        let shared = mine.zip(others).take_while(|((_, one), (_, other))| Arc::ptr_eq(one, other));
        let begins = shared.last().map_or(begins, |((before, _), _)| before);
        let back = (self.len - begins).min(most);
        let pairs = self.range(front..self.len - back).rev().zip(other.range(front..other.len - back).rev());
        back + pairs.take_while(|(one, other)| same(one, other)).count()
    }
}

impl<T: Clone, About> Chunks<T, About> {
    /// The same with other elements in the place of a range of them.
    pub fn spliced(&self, range: Range<usize>, items: impl IntoIterator<Item = T>) -> Self {
        let mut next = Self::default();
        let (first_group, first, at) = self.place(range.start);
        let (last_group, last, rest) = self.place(range.end);
        next.groups.reserve(self.groups.len() + 2);
        let shared = self.groups.iter().take(first_group);
        shared.for_each(|(_, group)| next.share_group(Arc::clone(group)));
        // What is left of the first and the last group, and of the first and the last chunk of those, is put together with what is new.
        let of = |group: usize| self.groups.get(group).map_or(&[][..], |(_, group)| group.chunks.as_slice());
        let mut chunks: Vec<_> =
            of(first_group).iter().take(first).map(|(_, chunk)| Arc::clone(chunk)).collect();
        let cut_first = self.chunk(first_group, first).filter(|_| at > 0);
        let cut_last = self.chunk(last_group, last).filter(|chunk| rest < chunk.items.len());
        let mut middle: Vec<T> = Vec::new();
        match cut_first {
            // So a list that grows at its end is not copied there again and again.
            Some(chunk) if at == CHUNK => chunks.push(Arc::clone(chunk)),
            Some(chunk) => middle.extend_from_slice(chunk.items.get(..at).unwrap_or_default()),
            None => {}
        }
        middle.extend(items);
        // Nor is one that grows at its beginning left with a chunk for each element.
        let fits = |chunk: &Chunk<T, About>| !middle.is_empty() && middle.len() + chunk.items.len() <= CHUNK;
        let whole = cut_last.filter(|chunk| rest == 0 && !fits(chunk));
        if let Some(chunk) = cut_last.filter(|_| whole.is_none()) {
            middle.extend_from_slice(chunk.items.get(rest..).unwrap_or_default());
        }
        chunks.extend(parts(middle, CHUNK).map(Chunk::of));
        chunks.extend(whole.cloned());
        chunks.extend(of(last_group).iter().skip(last + 1).map(|(_, chunk)| Arc::clone(chunk)));
        parts(chunks, GROUP).for_each(|chunks| next.share_group(Arc::new(Group::of(chunks))));
        let behind = self.groups.iter().skip(last_group + 1);
        behind.for_each(|(_, group)| next.share_group(Arc::clone(group)));
        next
    }

    /// Changes the elements of a range.
    pub fn change(&mut self, range: Range<usize>, mut change: impl FnMut(&mut T)) {
        let (first, ..) = self.place(range.start);
        for (before, group) in self.groups.iter_mut().skip(first) {
            if *before >= range.end || range.is_empty() {
                return;
            }
            let group = Arc::make_mut(group);
            for (inside, chunk) in &mut group.chunks {
                let before = *before + *inside;
                let within = |index: usize| index.saturating_sub(before).min(chunk.items.len());
                let within = within(range.start)..within(range.end);
                if within.is_empty() {
                    continue;
                }
                let chunk = Arc::make_mut(chunk);
                chunk.about = OnceLock::new();
                chunk.items.get_mut(within).into_iter().flatten().for_each(&mut change);
            }
        }
    }
}

/// In parts about as large as one another, of at most so many, so that they do not become smaller and smaller.
fn parts<T>(all: Vec<T>, most: usize) -> impl Iterator<Item = Vec<T>> {
    let part = all.len().div_ceil(all.len().div_ceil(most).max(1));
    let mut all = all.into_iter();
    std::iter::from_fn(move || {
        Some(all.by_ref().take(part).collect::<Vec<T>>()).filter(|part| !part.is_empty())
    })
}

impl<'c, T, About> IntoIterator for &'c Chunks<T, About> {
    type Item = &'c T;
    type IntoIter = Box<dyn Iterator<Item = &'c T> + 'c>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    type Numbers = Chunks<u32, u32>;

    fn all_chunks<T, About>(list: &Chunks<T, About>) -> Vec<&Arc<Chunk<T, About>>> {
        list.chunks(0..list.groups.len()).map(|(_, chunk)| chunk).collect()
    }

    /// By what is known of each chunk.
    fn sum(list: &Numbers) -> u32 {
        list.each_about(|items| items.iter().sum()).map(|(.., sum)| sum).sum()
    }

    /// Few, or several groups of them.
    fn numbers() -> impl Strategy<Value = Vec<u32>> {
        prop_oneof![
            Just(Vec::new()),
            prop::collection::vec(0..40u32, 0..300),
            prop::collection::vec(0..40u32, 0..12_000),
        ]
    }

    /// A place in a list; or, as often, where it is cut, or its end.
    fn place(list: &Numbers, (index, at_a_cut): (Index, bool)) -> usize {
        let groups = list.groups.iter().map(|(before, _)| *before);
        let chunks = list.chunks(0..list.groups.len()).map(|(before, _)| before);
        let cuts: Vec<usize> = groups.chain(chunks).chain([list.len()]).collect();
        if at_a_cut { *index.get(&cuts) } else { index.index(list.len() + 1) }
    }

    fn check(list: &Numbers, plain: &[u32]) {
        assert!(list.iter().eq(plain));
        assert!(list.iter().rev().eq(plain.iter().rev()));
        assert_eq!(sum(list), plain.iter().sum::<u32>());
        assert_eq!((list.get(plain.len()), list.last(), list.len()), (None, plain.last(), plain.len()));
        let groups = || list.groups.iter().map(|(_, group)| group);
        assert!(groups().all(|group| !group.chunks.is_empty() && group.chunks.len() <= GROUP));
        assert!(all_chunks(list).iter().all(|chunk| !chunk.items.is_empty() && chunk.items.len() <= CHUNK));
        let other = list.clone();
        let front = list.same_front(&other, |_, _| false);
        assert_eq!((front, list.same_back(&other, 0, |_, _| false)), (plain.len(), plain.len()));
    }

    proptest! {
        #[test]
        fn it_is_the_list_that_a_vector_is(
            mut plain in numbers(),
            splices in prop::collection::vec((any::<[(Index, bool); 4]>(), numbers()), 0..6),
            more in 0..300u32,
        ) {
            let mut list: Numbers = plain.iter().copied().collect();
            check(&list, &plain);
            for (places, new) in splices {
                let (old_plain, old) = (plain.clone(), list.clone());
                let [a, b, c, d] = places.map(|at| place(&list, at));
                let (start, end) = (a.min(b), a.max(b));
                plain.splice(start..end, new.iter().copied());
                list = list.spliced(start..end, new);
                check(&list, &plain);
                // What is far from the change is shared.
                let unlike = |_: &u32, _: &u32| false;
                let front = old.same_front(&list, unlike);
                prop_assert!(front + CHUNK > start.min(plain.len()) && front <= plain.len().min(old_plain.len()));
                let back = old.same_back(&list, front, unlike);
                prop_assert!(back + front + 2 * CHUNK > (front + old_plain.len() - end).min(plain.len()));
                let front = old.same_front(&list, |one, other| one == other);
                let back = old.same_back(&list, front, |one, other| one == other);
                let wanted = old_plain.iter().zip(&plain).take_while(|(one, other)| one == other).count();
                prop_assert_eq!(front, wanted);
                let left = old_plain.len().min(plain.len()) - front;
                let pairs = old_plain.iter().rev().zip(plain.iter().rev()).take(left);
                prop_assert_eq!(back, pairs.take_while(|(one, other)| one == other).count());
                let (start, end) = (c.min(d).min(plain.len()), c.max(d).min(plain.len()));
                prop_assert_eq!(list.get(start), plain.get(start));
                prop_assert!(list.range(start..end).eq(&plain[start..end]));
                prop_assert!(list.range(start..end).rev().eq(plain[start..end].iter().rev()));
                let before = list.clone();
                let before_plain = plain.clone();
                list.change(start..end, |item| *item += 1);
                plain[start..end].iter_mut().for_each(|item| *item += 1);
                check(&list, &plain);
                check(&before, &before_plain);
                check(&old, &old_plain);
            }
            let (old_plain, old) = (plain.clone(), list.clone());
            for number in 0..more {
                list.push(number);
                plain.push(number);
                if number % 64 == 0 {
                    check(&list, &plain);
                }
            }
            check(&list, &plain);
            check(&list.spliced(0..0, [7]), &[&[7], plain.as_slice()].concat());
            check(&old, &old_plain);
            plain.sort_unstable();
            let sorted = list.spliced(0..list.len(), plain.iter().copied());
            for most in [0, 1, 20, 40, 400] {
                prop_assert_eq!(sorted.partition_point(|item| *item < most), plain.partition_point(|item| *item < most));
            }
        }

        #[test]
        fn a_list_that_grows_shares_all_but_where_it_does(more in 1..600usize, at_the_end in any::<bool>()) {
            const MANY: usize = 12_000;
            let mut list: Chunks<usize> = (0..MANY).collect();
            for number in 0..more {
                let at = if at_the_end { list.len() } else { 0 };
                let next = list.spliced(at..at, [number]);
                let (old, new) = (all_chunks(&list), all_chunks(&next));
                let others = new.iter().filter(|chunk| old.iter().all(|old| !Arc::ptr_eq(chunk, old)));
                prop_assert_eq!(others.count(), 1);
                let is_old = |group: &Arc<_>| list.groups.iter().any(|(_, old)| Arc::ptr_eq(group, old));
                prop_assert!(next.groups.iter().filter(|(_, group)| !is_old(group)).count() <= 2);
                list = next;
            }
            prop_assert!(all_chunks(&list).len() <= MANY / CHUNK + more / CHUNK + 2);
        }
    }
}
