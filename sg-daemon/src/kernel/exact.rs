//! The daemon's side of `sg_common::exact`: the tables of members and of what rules say of groups, as memory.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::Pod;
use sg_common::exact::{self, FREE, GONE, Memory, NOWHERE, PROBES, RESTING, WAYS};
use sg_common::table::{SECRETS, Shape, hash_of};

use super::mapped::Mapped;

/// The memory of buckets. Where it is not at hand, there is nothing in it.
pub trait Buckets {
    fn len(&self) -> u32;
    /// The first word of a bucket, which stays readable and writable; `None` if the memory is not at hand.
    fn first_word(&self, bucket: u32) -> Option<NonNull<u64>>;
    /// Sees to it that it is at hand.
    ///
    /// # Errors
    ///
    /// If it cannot be had.
    fn take(&mut self) -> io::Result<()>;
    /// It is not needed.
    fn let_go(&mut self);
}

/// The elements of an array map, in the daemon's memory from the first entry on: many hosts have no members, or none of IPv6.
#[derive(Debug)]
pub struct OnceNeeded<B> {
    map: OwnedFd,
    len: u32,
    mapped: Option<Mapped<B>>,
}

impl<B: Pod> OnceNeeded<B> {
    pub fn new(map: OwnedFd, len: u32) -> Self {
        Self { map, len, mapped: None }
    }
}

impl<B: Pod> Buckets for OnceNeeded<B> {
    fn len(&self) -> u32 {
        self.len
    }

    fn first_word(&self, bucket: u32) -> Option<NonNull<u64>> {
        self.mapped.as_ref()?.element(bucket).map(NonNull::cast)
    }

    fn take(&mut self) -> io::Result<()> {
        if self.mapped.is_none() {
            self.mapped = Some(Mapped::new(self.map.as_fd(), self.len)?);
        }
        Ok(())
    }

    fn let_go(&mut self) {
        self.mapped = None;
    }
}

/// A table whose entries have `ENTRY` words, of which the first `KEY` are the key.
#[derive(Debug)]
pub struct Exact<const KEY: usize, const ENTRY: usize, B> {
    memory: B,
    secret: [u64; SECRETS],
    /// How many keys were not put into a bucket of theirs because it was full, by bucket.
    passed: HashMap<u32, u32>,
    /// Numbers of entries whose place rests.
    resting: Vec<u32>,
}

impl<const KEY: usize, const ENTRY: usize, B: Buckets> Memory<KEY> for Exact<KEY, ENTRY, B> {
    const ENTRY: usize = ENTRY;

    fn shape(&self) -> Option<Shape<'_>> {
        Some(Shape { secret: &self.secret, buckets: self.memory.len() })
    }

    fn bucket(&self, bucket: u32) -> Option<NonNull<u64>> {
        self.memory.first_word(bucket)
    }
}

impl<const KEY: usize, const ENTRY: usize, B: Buckets> Exact<KEY, ENTRY, B> {
    /// A table as it is found. Nothing is used again that an earlier daemon deleted, until [`Self::reuse`].
    ///
    /// # Errors
    ///
    /// If its memory cannot be had.
    pub fn new(memory: B, secret: [u64; SECRETS]) -> io::Result<Self> {
        let mut table = Self { memory, secret, passed: HashMap::new(), resting: Vec::new() };
        table.memory.take()?;
        for bucket in 0..table.memory.len() {
            for position in 0..WAYS {
                let Some(entry) = table.entry(bucket * WAYS + position) else { continue };
                match load(entry, 0) {
                    FREE => {}
                    first if exact::is_key(first) => {
                        let key = table.key_of(entry);
                        let (_, probe) = exact::number_of(&table, &key);
                        table.passes(hash_of(&key, &table.secret), probe);
                    }
                    _ => {
                        store(entry, 0, RESTING);
                        table.resting.push(bucket * WAYS + position);
                    }
                }
            }
        }
        if table.resting.is_empty() && table.entries().next().is_none() {
            table.memory.let_go();
        }
        Ok(table)
    }

    /// The same memory once more, for who only looks.
    #[cfg(test)]
    fn reader(memory: B, secret: [u64; SECRETS]) -> Self {
        Self { memory, secret, passed: HashMap::new(), resting: Vec::new() }
    }

    /// How many entries there may be.
    pub fn capacity(&self) -> u32 {
        exact::capacity(self.memory.len())
    }

    /// Key and value of every entry. A key's first word may have more in it than the key: see `sg_common::exact`.
    pub fn entries(&self) -> impl Iterator<Item = [u64; ENTRY]> {
        (0..self.memory.len() * WAYS).filter_map(|number| {
            let entry = self.entry(number)?;
            exact::is_key(load(entry, 0)).then(|| std::array::from_fn(|word| load(entry, word)))
        })
    }

    /// The value of a key.
    pub fn value(&self, key: &[u64; KEY]) -> Option<NonNull<u64>> {
        exact::find(self, key)
    }

    /// Adds an entry, or gives the key another value while no packet looks. False if there is no room for it.
    ///
    /// # Errors
    ///
    /// If the first entry's memory cannot be had.
    pub fn insert(&mut self, key: &[u64; KEY], value: &[u64]) -> io::Result<bool> {
        self.memory.take()?;
        let hash = hash_of(key, &self.secret);
        let (mut number, _) = exact::number_of(self, key);
        if number == NOWHERE {
            let places =
                (0..PROBES).flat_map(|probe| self.places(hash, probe).map(move |place| (probe, place)));
            let usable = |number: u32| matches!(self.first(number), Some(FREE | GONE));
            let Some((probe, place)) = places.into_iter().find(|&(_, place)| usable(place)) else {
                return Ok(false);
            };
            self.passes(hash, probe);
            number = place;
        }
        let Some(entry) = self.entry(number) else { return Ok(false) };
        for (word, value) in value.iter().enumerate() {
            store(entry, KEY + word, *value);
        }
        for (word, value) in key.iter().enumerate().skip(1) {
            store(entry, word, *value);
        }
        // Last, as programs look for it.
        store(entry, 0, exact::first_word(key, hash));
        Ok(true)
    }

    /// Deletes an entry; its place rests. False if there is none.
    pub fn remove(&mut self, key: &[u64; KEY]) -> bool {
        let (number, probe) = exact::number_of(self, key);
        let Some(entry) = self.entry(number) else { return false };
        store(entry, 0, RESTING);
        self.resting.push(number);
        let hash = hash_of(key, &self.secret);
        for probe in 0..probe {
            let bucket = exact::bucket_of(hash, probe, self.memory.len());
            let Some(keys) = self.passed.get_mut(&bucket) else { continue };
            *keys -= 1;
            if *keys == 0 {
                self.passed.remove(&bucket);
                // Nobody needs to look further any more.
                for position in 0..WAYS {
                    let Some(entry) = self.entry(bucket * WAYS + position) else { continue };
                    if load(entry, 0) == GONE {
                        store(entry, 0, FREE);
                    }
                }
            }
        }
        true
    }

    /// Places that rest may be used again: no packet sees any more what was there.
    pub fn reuse(&mut self) {
        for number in std::mem::take(&mut self.resting) {
            let mark = if self.passed.contains_key(&(number / WAYS)) { GONE } else { FREE };
            if let Some(entry) = self.entry(number) {
                store(entry, 0, mark);
            }
        }
    }

    /// Notes that a key of this hash is in the bucket of this probe, and not in those before.
    fn passes(&mut self, hash: u64, probe: u32) {
        for probe in 0..probe {
            *self.passed.entry(exact::bucket_of(hash, probe, self.memory.len())).or_default() += 1;
        }
    }

    /// The numbers of the entries of one of a key's buckets.
    fn places(&self, hash: u64, probe: u32) -> std::ops::Range<u32> {
        let first = exact::bucket_of(hash, probe, self.memory.len()) * WAYS;
        first..first + WAYS
    }

    fn entry(&self, number: u32) -> Option<NonNull<u64>> {
        let bucket = self.memory.first_word(number / WAYS)?;
        // SAFETY: a bucket has so many entries.
        Some(unsafe { bucket.add((number % WAYS) as usize * ENTRY) })
    }

    fn first(&self, number: u32) -> Option<u64> {
        self.entry(number).map(|entry| load(entry, 0))
    }

    fn key_of(&self, entry: NonNull<u64>) -> [u64; KEY] {
        let print = |word, value| if word == 0 && KEY > 1 { exact::without_print(value) } else { value };
        std::array::from_fn(|word| print(word, load(entry, word)))
    }
}

fn load(entry: NonNull<u64>, word: usize) -> u64 {
    // SAFETY: callers have an entry, and a word of it; it is only ever changed by whole words.
    unsafe { AtomicU64::from_ptr(entry.add(word).as_ptr()) }.load(Ordering::Relaxed)
}

/// Not before anything that was stored earlier.
fn store(entry: NonNull<u64>, word: usize, value: u64) {
    fence(Ordering::SeqCst);
    // SAFETY: as in `load`.
    unsafe { AtomicU64::from_ptr(entry.add(word).as_ptr()) }.store(value, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io;
    use std::ptr::NonNull;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseError;
    use sg_common::abi::{Be32, MemberKeyV4};
    use sg_common::exact::{BUCKETS, FREE, WAYS, capacity, find, number_of};
    use sg_common::table::SECRETS;
    use zerocopy::transmute;

    use super::{Buckets, Exact};

    const ENTRY: usize = 4;

    /// Memory that two may have.
    #[derive(Debug, Clone)]
    struct Shared(Arc<Vec<AtomicU64>>);

    impl Shared {
        fn new(buckets: u32) -> Self {
            let words = buckets as usize * WAYS as usize * ENTRY;
            Self(Arc::new((0..words).map(|_| AtomicU64::new(FREE)).collect()))
        }

        /// No place has anything in it, nor was anything in it that matters.
        fn is_free(&self) -> bool {
            self.0.iter().step_by(ENTRY).all(|first| first.load(Ordering::Relaxed) == FREE)
        }
    }

    impl Buckets for Shared {
        fn len(&self) -> u32 {
            (self.0.len() / ENTRY) as u32 / WAYS
        }

        fn first_word(&self, bucket: u32) -> Option<NonNull<u64>> {
            let first = self.0.get(bucket as usize * WAYS as usize * ENTRY)?;
            NonNull::new(first.as_ptr())
        }

        fn take(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn let_go(&mut self) {}
    }

    const SECRET: [u64; SECRETS] = [
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
        0xbe54_66cf_34e9_0c6c,
        0xc0ac_29b7_c97c_50dd,
        0x3f84_d5b5_b547_0917,
        0x9216_d5d9_8979_fb1b,
        0xd131_0ba6_98df_b5ac,
        0x2ffd_72db_d01a_dfb7,
    ];

    type Table<const KEY: usize> = Exact<KEY, ENTRY, Shared>;

    fn table<const KEY: usize>(memory: &Shared) -> Table<KEY> {
        Exact::new(memory.clone(), SECRET).unwrap()
    }

    /// Keys as members have them: some differ in their last word only, some in their VPC.
    fn key<const KEY: usize>(number: u32) -> [u64; KEY] {
        let vpc = MemberKeyV4 {
            vpc: number % 3 + 1,
            address: Be32::from_host(if KEY == 1 { number / 3 } else { 0 }),
        };
        let first: [u64; 1] = transmute!(vpc);
        std::array::from_fn(|word| if word == 0 { first[0] } else { u64::from(number / 3) >> (2 - word) })
    }

    /// What programs find.
    fn found<const KEY: usize>(table: &Table<KEY>, key: &[u64; KEY]) -> Option<u64> {
        // SAFETY: the memory is there as long as the table, and its words are whole.
        find(table, key).map(|value| unsafe { value.read_volatile() })
    }

    #[derive(Debug, Clone)]
    enum Do {
        Insert(u32, u64),
        Remove(u32),
        Reuse,
        /// Another daemon takes over.
        Reopen,
    }

    fn any_steps() -> impl Strategy<Value = Vec<Do>> {
        let step = prop_oneof![
            8 => (0..20u32, 1..1000u64).prop_map(|(number, value)| Do::Insert(number, value)),
            6 => (0..20u32).prop_map(Do::Remove),
            2 => Just(Do::Reuse),
            1 => Just(Do::Reopen),
        ];
        vec(step, 1..200)
    }

    /// Against a map, in a table so small that most buckets are full.
    fn is_a_map<const KEY: usize>(steps: Vec<Do>) -> Result<(), TestCaseError> {
        let memory = Shared::new(2);
        let mut table = table::<KEY>(&memory);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Do::Insert(number, value) => {
                    let room = model.contains_key(&number) || model.len() + table.resting.len() < 8;
                    let done = table.insert(&key(number), &[value]).unwrap();
                    // Of a few buckets, a key has all of them.
                    prop_assert_eq!(done, room);
                    if done {
                        model.insert(number, value);
                    }
                }
                Do::Remove(number) => {
                    prop_assert_eq!(table.remove(&key(number)), model.remove(&number).is_some());
                }
                Do::Reuse => table.reuse(),
                Do::Reopen => table = Exact::new(memory.clone(), SECRET).unwrap(),
            }
            for number in 0..20 {
                prop_assert_eq!(found(&table, &key(number)), model.get(&number).copied(), "{}", number);
            }
            let entries: BTreeSet<u64> = table.entries().map(|entry| entry[KEY]).collect();
            prop_assert_eq!(entries, model.values().copied().collect::<BTreeSet<u64>>());
        }
        // Nothing is left of what was deleted: look-ups are as short as in the beginning.
        for number in model.into_keys() {
            table.remove(&key(number));
        }
        table.reuse();
        prop_assert!(memory.is_free() && table.passed.is_empty());
        Ok(())
    }

    proptest! {
        #[test]
        fn spec_d1_a_table_of_short_keys_is_a_map(steps in any_steps()) {
            is_a_map::<1>(steps)?;
        }

        #[test]
        fn spec_d1_a_table_of_long_keys_is_a_map(steps in any_steps()) {
            is_a_map::<3>(steps)?;
        }
    }

    #[test]
    fn spec_d4_there_is_room_for_as_many_as_there_may_be_and_for_most_in_the_first_bucket() {
        let memory = Shared::new(BUCKETS);
        let mut table = table::<1>(&memory);
        let full = capacity(BUCKETS);
        assert!(full >= 262_144);
        for number in 0..full {
            assert!(table.insert(&key(number), &[u64::from(number)]).unwrap(), "{number}");
        }
        let further = (0..full).filter(|&number| number_of(&table, &key(number)).1 > 0).count();
        assert!(further < full as usize / 7, "{further}");
        // Half of them go and others come, again and again.
        for round in 1..4 {
            for number in (round - 1) * full / 2..round * full / 2 {
                assert!(table.remove(&key(number)), "{number}");
                table.reuse();
                assert!(table.insert(&key(number + full), &[u64::from(number)]).unwrap(), "{number}");
            }
        }
        let found = (0..3 * full).filter(|&number| found(&table, &key(number)).is_some()).count();
        assert_eq!(found as u32, full);
    }

    #[test]
    fn spec_d21_whoever_looks_meanwhile_finds_what_is_there() {
        let memory = Shared::new(8);
        let mut table = table::<3>(&memory);
        // They stay.
        for number in 0..8 {
            assert!(table.insert(&key(number), &[u64::from(number)]).unwrap());
        }
        let over = AtomicBool::new(false);
        let looks = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let reader = Exact::<3, ENTRY, _>::reader(memory.clone(), SECRET);
                    while !over.load(Ordering::Relaxed) {
                        for number in 0..8 {
                            assert_eq!(found(&reader, &key(number)), Some(u64::from(number)));
                        }
                        // They come and go; what is found of one is its own.
                        for number in 8..24 {
                            assert!(
                                found(&reader, &key(number)).is_none_or(|value| value == u64::from(number))
                            );
                        }
                        for number in 24..48 {
                            assert_eq!(found(&reader, &key(number)), None);
                        }
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let mut rounds = 0;
            while rounds < 2000 || looks.load(Ordering::Relaxed) < 2000 {
                for number in 8..24 {
                    assert!(table.insert(&key(number), &[u64::from(number)]).unwrap());
                }
                for number in 8..24 {
                    assert!(table.remove(&key(number)));
                }
                // A grace period: whoever looked before is done.
                let before = looks.load(Ordering::Relaxed);
                while looks.load(Ordering::Relaxed) < before + 4 && !std::thread::panicking() {
                    std::thread::yield_now();
                }
                table.reuse();
                rounds += 1;
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
