//! Long lists that follow one another: in chunks, which two lists share but for where they differ.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// So many elements are put into a chunk.
const CHUNK: usize = 256;

/// A list, with something (`About`) that is known of each chunk once somebody has asked for it.
pub struct Chunks<T, About = ()> {
    /// None of them empty, each with how many elements are before it.
    chunks: Vec<Place<T, About>>,
    len: usize,
}

type Place<T, About> = (usize, Arc<Chunk<T, About>>);

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
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T, About> Default for Chunks<T, About> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
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
        if !items.is_empty() {
            self.share_chunk(Arc::new(Chunk { items, about: OnceLock::new() }));
        }
    }

    fn share_chunk(&mut self, chunk: Arc<Chunk<T, About>>) {
        let before = self.len;
        self.len += chunk.items.len();
        self.chunks.push((before, chunk));
    }

    /// One more at the end; the last chunk must be nobody else's, or is left as it is.
    pub fn push(&mut self, item: T) {
        match self.chunks.last_mut().and_then(|(_, chunk)| Arc::get_mut(chunk)) {
            Some(chunk) if chunk.items.len() < CHUNK => {
                chunk.about = OnceLock::new();
                chunk.items.push(item);
                self.len += 1;
            }
            _ => self.push_chunk(vec![item]),
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.chunks.iter().flat_map(|(_, chunk)| &chunk.items)
    }

    /// Chunk by chunk: how many are before each, its elements, and what is known of it or made of them now.
    pub fn each_about(&self, about: impl Fn(&[T]) -> About) -> impl Iterator<Item = (usize, &[T], &About)> {
        self.chunks.iter().map(move |(before, chunk)| {
            (*before, chunk.items.as_slice(), chunk.about.get_or_init(|| about(&chunk.items)))
        })
    }

    /// The chunk that an element is in, and its place there.
    fn place(&self, index: usize) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|(before, _)| *before <= index).saturating_sub(1);
        let before = self.chunks.get(chunk).map_or(0, |(before, _)| *before);
        (chunk, index - before)
    }

    pub fn get(&self, index: usize) -> Option<&T> {
        let (chunk, at) = self.place(index);
        self.chunks.get(chunk)?.1.items.get(at)
    }

    pub fn last(&self) -> Option<&T> {
        self.chunks.last()?.1.items.last()
    }

    /// The elements of a range, which ends with the list at the latest.
    pub fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = &T> + Clone {
        let (first, _) = self.place(range.start);
        let chunks = self.chunks.get(first..).unwrap_or_default().iter();
        let chunks = chunks.take_while({
            let end = range.end;
            move |(before, _)| *before < end
        });
        // Collected, as what is taken while something holds has no end to begin at: there are few.
        let chunks: Vec<_> = chunks.collect();
        chunks.into_iter().flat_map(move |(before, chunk)| {
            let inside = |index: usize| index.saturating_sub(*before).min(chunk.items.len());
            chunk.items.get(inside(range.start)..inside(range.end)).unwrap_or_default()
        })
    }

    /// How many elements are at the beginning of which `is` holds, if it holds of none behind one of which it does not.
    pub fn partition_point(&self, is: impl Fn(&T) -> bool) -> usize {
        let first = |(_, chunk): &Place<T, About>| chunk.items.first().is_some_and(&is);
        let Some(at) = self.chunks.partition_point(first).checked_sub(1) else { return 0 };
        self.chunks.get(at).map_or(0, |(before, chunk)| before + chunk.items.partition_point(&is))
    }

    fn is_shared((one, other): &(&Place<T, About>, &Place<T, About>)) -> bool {
        Arc::ptr_eq(&one.1, &other.1)
    }

    /// With how many elements both begin that are in the same place of memory, or the `same`.
    pub fn same_front(&self, other: &Self, same: impl Fn(&T, &T) -> bool) -> usize {
        // Without a look into a chunk: there may be very many.
        let shared = self.chunks.iter().zip(&other.chunks).take_while(Self::is_shared).count();
        let front = self.chunks.get(shared).map_or(self.len, |(before, _)| *before);
        let pairs = self.range(front..self.len).zip(other.range(front..other.len));
        front + pairs.take_while(|(one, other)| same(one, other)).count()
    }

    /// With how many they end likewise, beside the first `front`.
    pub fn same_back(&self, other: &Self, front: usize, same: impl Fn(&T, &T) -> bool) -> usize {
        let most = self.len.min(other.len) - front;
        let shared =
            self.chunks.iter().rev().zip(other.chunks.iter().rev()).take_while(Self::is_shared).count();
        let first = self.chunks.len() - shared;
        let back = self.chunks.get(first).map_or(0, |(before, _)| self.len - before).min(most);
        let pairs = self.range(front..self.len - back).rev().zip(other.range(front..other.len - back).rev());
        back + pairs.take_while(|(one, other)| same(one, other)).count()
    }
}

impl<T: Clone, About> Chunks<T, About> {
    /// The same with other elements in the place of a range of them.
    pub fn spliced(&self, range: Range<usize>, items: impl IntoIterator<Item = T>) -> Self {
        let mut next = Self::default();
        let (first, at) = self.place(range.start);
        let (last, rest) = self.place(range.end);
        next.chunks.reserve(self.chunks.len() + 2);
        // The chunks that are cut are put together with what is new.
        let cut_first = self.chunks.get(first).filter(|_| at > 0);
        let cut_last = self.chunks.get(last).filter(|(_, chunk)| rest < chunk.items.len());
        let shared = self.chunks.iter().take(first);
        shared.for_each(|(_, chunk)| next.share_chunk(Arc::clone(chunk)));
        let mut middle: Vec<T> = Vec::new();
        match cut_first {
            // So a list that grows at its end is not copied there again and again.
            Some((_, chunk)) if at == CHUNK => next.share_chunk(Arc::clone(chunk)),
            Some((_, chunk)) => middle.extend_from_slice(chunk.items.get(..at).unwrap_or_default()),
            None => {}
        }
        middle.extend(items);
        let whole = cut_last.filter(|_| rest == 0);
        if let Some((_, chunk)) = cut_last.filter(|_| rest > 0) {
            middle.extend_from_slice(chunk.items.get(rest..).unwrap_or_default());
        }
        // In equal parts, so that they do not become smaller and smaller.
        let part = middle.len().div_ceil(middle.len().div_ceil(CHUNK).max(1)).max(1);
        let mut middle = middle.into_iter();
        while middle.len() > 0 {
            next.push_chunk(middle.by_ref().take(part).collect());
        }
        whole.into_iter().for_each(|(_, chunk)| next.share_chunk(Arc::clone(chunk)));
        let behind = self.chunks.iter().skip(last + 1);
        behind.for_each(|(_, chunk)| next.share_chunk(Arc::clone(chunk)));
        next
    }

    /// Changes the elements of a range.
    pub fn change(&mut self, range: Range<usize>, mut change: impl FnMut(&mut T)) {
        let (first, _) = self.place(range.start);
        for (before, chunk) in self.chunks.iter_mut().skip(first) {
            if *before >= range.end || range.is_empty() {
                return;
            }
            if Arc::get_mut(chunk).is_none() {
                *chunk = Arc::new(Chunk { items: chunk.items.clone(), about: OnceLock::new() });
            }
            let Some(chunk) = Arc::get_mut(chunk) else { continue };
            chunk.about = OnceLock::new();
            let inside = |index: usize| index.saturating_sub(*before).min(chunk.items.len());
            let inside = inside(range.start)..inside(range.end);
            chunk.items.get_mut(inside).into_iter().flatten().for_each(&mut change);
        }
    }
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

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_list_that_a_vector_is(
            mut plain in prop::collection::vec(0..40u32, 0..1500),
            splices in prop::collection::vec(
                (any::<prop::sample::Index>(), 0..600usize, prop::collection::vec(0..40u32, 0..600)), 0..8),
        ) {
            let mut list: Chunks<u32, u32> = plain.iter().copied().collect();
            for (at, gone, new) in splices {
                let (old_plain, old) = (plain.clone(), list.clone());
                let sums = |list: &Chunks<u32, u32>| -> u32 { list.each_about(|items| items.iter().sum()).map(|(.., sum)| sum).sum() };
                prop_assert_eq!(sums(&list), plain.iter().sum::<u32>());
                let start = at.index(plain.len() + 1);
                let end = (start + gone).min(plain.len());
                plain.splice(start..end, new.iter().copied());
                list = list.spliced(start..end, new);
                prop_assert!(list.iter().eq(&plain));
                prop_assert!(list.iter().rev().eq(plain.iter().rev()));
                prop_assert!(list.chunks.iter().all(|(_, chunk)| !chunk.items.is_empty()));
                prop_assert_eq!(sums(&list), plain.iter().sum::<u32>());
                prop_assert!(old.iter().eq(&old_plain));
                let front = old.same_front(&list, |one, other| one == other);
                let back = old.same_back(&list, front, |one, other| one == other);
                let wanted = old_plain.iter().zip(&plain).take_while(|(one, other)| one == other).count();
                prop_assert_eq!(front, wanted);
                let left = old_plain.len().min(plain.len()) - front;
                let pairs = old_plain.iter().rev().zip(plain.iter().rev()).take(left);
                prop_assert_eq!(back, pairs.take_while(|(one, other)| one == other).count());
                prop_assert_eq!(list.get(start), plain.get(start));
                prop_assert_eq!((list.get(plain.len()), list.last(), list.len()), (None, plain.last(), plain.len()));
                prop_assert!(list.range(start..plain.len()).eq(&plain[start..]));
                prop_assert!(list.range(end.min(start)..start).eq(&plain[end.min(start)..start]));
                let end = (start + 300).min(plain.len());
                list.change(start..end, |item| *item += 1);
                plain[start..end].iter_mut().for_each(|item| *item += 1);
                prop_assert!(list.iter().eq(&plain));
                prop_assert_eq!(sums(&list), plain.iter().sum::<u32>());
                prop_assert!(old.iter().eq(&old_plain), "who shares them keeps what was there");
            }
            plain.sort_unstable();
            let sorted: Chunks<u32> = plain.iter().copied().collect();
            prop_assert_eq!(sorted.partition_point(|item| *item < 20), plain.partition_point(|item| *item < 20));
            list.push(7);
            prop_assert_eq!(list.iter().last(), Some(&7));
        }

        #[test]
        fn a_list_that_grows_shares_all_but_its_end(more in 1..600usize) {
            let mut list: Chunks<usize> = (0..10_000).collect();
            for number in 0..more {
                let next = list.spliced(list.len()..list.len(), [number]);
                let other = next.chunks.iter().filter(|(_, chunk)| list.chunks.iter().all(|(_, old)| !Arc::ptr_eq(chunk, old)));
                prop_assert_eq!(other.count(), 1);
                list = next;
            }
            prop_assert!(list.chunks.len() <= 10_000 / CHUNK + more / CHUNK + 2);
        }
    }
}
