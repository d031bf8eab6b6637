//! What rules say of each network: a map in order, which two policies share but for where they differ.
//!
//! A policy may speak of ten thousand networks, and one rule changes what it says of one. The networks stand in chunks, and
//! a policy that follows another one has the other's chunks but for those in which something has changed.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::image::Cells;

/// A chunk of so many is cut in two.
const LARGEST: usize = 256;

type Chunk<N> = Vec<(N, Cells)>;

/// What is said of each network that anything of its own is said of.
#[derive(Debug, Clone)]
pub struct Classes<N> {
    /// None of them empty.
    chunks: Vec<Arc<Chunk<N>>>,
    len: usize,
    /// The sum of a hash of each element: so it follows a change without a look at the others.
    digest: u64,
}

impl<N> Default for Classes<N> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0, digest: 0 }
    }
}

impl<N: PartialEq> PartialEq for Classes<N> {
    fn eq(&self, other: &Self) -> bool {
        let same = |(one, other): (&Arc<Chunk<N>>, &Arc<Chunk<N>>)| Arc::ptr_eq(one, other);
        (self.len, self.digest) == (other.len, other.digest)
            && ((self.chunks.len() == other.chunks.len() && self.chunks.iter().zip(&other.chunks).all(same))
                || self.iter().eq(other.iter()))
    }
}

impl<N: Eq> Eq for Classes<N> {}

impl<N> Hash for Classes<N> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.len, self.digest).hash(state);
    }
}

fn digest<N: Hash>(net: &N, cells: &Cells) -> u64 {
    let mut hasher = DefaultHasher::new();
    (net, cells).hash(&mut hasher);
    hasher.finish()
}

impl<N> Classes<N> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In the order of the networks: by address, shorter prefixes first.
    pub fn iter(&self) -> impl Iterator<Item = (&N, &Cells)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(net, cells)| (net, cells))
    }

    pub fn keys(&self) -> impl Iterator<Item = &N> {
        self.iter().map(|(net, _)| net)
    }

    pub fn values(&self) -> impl Iterator<Item = &Cells> {
        self.iter().map(|(_, cells)| cells)
    }
}

impl<N: Copy + Ord + Hash> Classes<N> {
    /// Where a network is, or would be: its chunk, and its place in there.
    fn find(&self, net: &N) -> (usize, Result<usize, usize>) {
        let behind = |chunk: &Arc<Chunk<N>>| chunk.first().is_some_and(|(first, _)| first <= net);
        let at = self.chunks.partition_point(behind).saturating_sub(1);
        let found = self.chunks.get(at).map(|chunk| chunk.binary_search_by(|(other, _)| other.cmp(net)));
        (at, found.unwrap_or(Err(0)))
    }

    pub fn get(&self, net: &N) -> Option<&Cells> {
        let (chunk, at) = self.find(net);
        self.chunks.get(chunk)?.get(at.ok()?).map(|(_, cells)| cells)
    }

    pub fn contains_key(&self, net: &N) -> bool {
        self.get(net).is_some()
    }

    /// From `net` on.
    pub fn from(&self, net: &N) -> impl Iterator<Item = (&N, &Cells)> {
        let (chunk, Ok(at) | Err(at)) = self.find(net);
        let chunks = self.chunks.iter().skip(chunk).flat_map(|chunk| chunk.iter());
        chunks.skip(at).map(|(net, cells)| (net, cells))
    }

    pub(super) fn insert(&mut self, net: N, cells: Cells) {
        if self.chunks.is_empty() {
            self.chunks.push(Arc::default());
        }
        let (at, place) = self.find(&net);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        self.digest = self.digest.wrapping_add(digest(&net, &cells));
        let items = Arc::make_mut(chunk);
        match place {
            Ok(place) => {
                if let Some(known) = items.get_mut(place) {
                    self.digest = self.digest.wrapping_sub(digest(&known.0, &known.1));
                    known.1 = cells;
                }
            }
            Err(place) => {
                items.insert(place, (net, cells));
                self.len += 1;
                if items.len() > LARGEST {
                    let half = items.split_off(items.len() / 2);
                    self.chunks.insert(at + 1, Arc::new(half));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, net: &N) {
        let (at, Ok(place)) = self.find(net) else { return };
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        let items = Arc::make_mut(chunk);
        let (net, cells) = items.remove(place);
        if items.is_empty() {
            self.chunks.remove(at);
        }
        self.len -= 1;
        self.digest = self.digest.wrapping_sub(digest(&net, &cells));
    }

    /// What `after` says otherwise than `self`, as soon as it is found, with what it says: chunks that both share are passed
    /// over.
    pub fn differences<'c>(&'c self, after: &'c Self) -> impl Iterator<Item = (N, Option<&'c Cells>)> {
        let (mut old, mut new) = (Cursor::new(self), Cursor::new(after));
        let next = move || {
            loop {
                old.pass_shared(&mut new);
                match (old.peek(), new.peek()) {
                    (Some((net, cells)), Some((other, others))) if net == other => {
                        old.step();
                        new.step();
                        if cells != others {
                            return Some((*other, Some(others)));
                        }
                    }
                    (Some((net, _)), after) if after.is_none_or(|(other, _)| net < other) => {
                        old.step();
                        return Some((*net, None));
                    }
                    (_, Some((net, cells))) => {
                        new.step();
                        return Some((*net, Some(cells)));
                    }
                    // Neither has any more: the guard above has had those of the old one alone.
                    (_, None) => return None,
                }
            }
        };
        std::iter::from_fn(next)
    }
}

/// Elements that come in order.
impl<N: Copy + Ord + Hash> FromIterator<(N, Cells)> for Classes<N> {
    fn from_iter<I: IntoIterator<Item = (N, Cells)>>(sorted: I) -> Self {
        let mut classes = Self::default();
        let mut chunk: Chunk<N> = Vec::new();
        for (net, cells) in sorted {
            classes.len += 1;
            classes.digest = classes.digest.wrapping_add(digest(&net, &cells));
            chunk.push((net, cells));
            // With room for some more.
            if chunk.len() == LARGEST / 2 {
                classes.chunks.push(Arc::new(std::mem::take(&mut chunk)));
            }
        }
        if !chunk.is_empty() {
            classes.chunks.push(Arc::new(chunk));
        }
        classes
    }
}

struct Cursor<'c, N> {
    chunks: &'c [Arc<Chunk<N>>],
    /// In the first of them.
    at: usize,
}

impl<'c, N> Cursor<'c, N> {
    fn new(classes: &'c Classes<N>) -> Self {
        Self { chunks: &classes.chunks, at: 0 }
    }

    fn peek(&self) -> Option<&'c (N, Cells)> {
        self.chunks.first()?.get(self.at)
    }

    fn step(&mut self) {
        self.at += 1;
        if let Some((first, rest)) = self.chunks.split_first()
            && self.at == first.len()
        {
            (self.chunks, self.at) = (rest, 0);
        }
    }

    fn pass_shared(&mut self, other: &mut Self) {
        while let ((0, Some((mine, rest))), (0, Some((theirs, others)))) =
            ((self.at, self.chunks.split_first()), (other.at, other.chunks.split_first()))
            && Arc::ptr_eq(mine, theirs)
        {
            self.chunks = rest;
            other.chunks = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::compile::ranges::Ranges;

    fn cells(port: u16) -> Cells {
        Cells { tcp: Ranges::range(port, port), ..Cells::default() }
    }

    proptest! {
        #[test]
        fn it_says_what_a_map_of_the_standard_library_says(
            first in prop::collection::btree_map(0..2000u16, 0..3u16, 0..1500),
            changes in prop::collection::vec((0..2000u16, prop::option::of(0..3u16)), 0..40),
        ) {
            let mut expected: BTreeMap<u16, Cells> = first.into_iter().map(|(net, port)| (net, cells(port))).collect();
            let before: Classes<u16> = expected.clone().into_iter().collect();
            let (old, mut classes) = (expected.clone(), before.clone());
            for (net, port) in changes {
                match port {
                    Some(port) => {
                        classes.insert(net, cells(port));
                        expected.insert(net, cells(port));
                    }
                    None => {
                        classes.remove(&net);
                        expected.remove(&net);
                    }
                }
                prop_assert_eq!(classes.get(&net), expected.get(&net));
            }
            prop_assert_eq!(classes.len(), expected.len());
            prop_assert!(classes.iter().eq(expected.iter()));
            prop_assert!(classes.from(&1000).eq(expected.range(1000..)));
            let anew: Classes<u16> = expected.clone().into_iter().collect();
            prop_assert_eq!(anew.digest, classes.digest);
            prop_assert_eq!(&anew, &classes);
            let differences: BTreeMap<u16, Option<Cells>> =
                before.differences(&classes).map(|(net, cells)| (net, cells.cloned())).collect();
            let keys = old.keys().chain(expected.keys()).filter(|net| old.get(net) != expected.get(net));
            let wanted: BTreeMap<u16, Option<Cells>> = keys.map(|net| (*net, expected.get(net).cloned())).collect();
            prop_assert_eq!(&differences, &wanted);
            prop_assert_eq!(differences.is_empty(), before == classes);
        }
    }
}
