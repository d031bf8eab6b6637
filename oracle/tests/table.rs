//! The table of flows against a hash map, and against itself: from many threads at once.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{HashMap, HashSet};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use sg_common::abi::{FLOW_LIVE, Flow, FlowTags};
use sg_common::table::{
    self, BUCKET, BUSY, DAEMON, EXISTS, GOING, HALF, Memory, NOWHERE, SECRETS, Shape, Taken, WORDS_V4,
    WORDS_V6,
};

/// A table in memory of this process, whose keys have so many words.
struct Table<const WORDS: usize> {
    tags: Vec<UnsafeCell<FlowTags>>,
    /// Each a key, a flow, and what is behind it.
    slots: Vec<UnsafeCell<[u64; 12]>>,
    secret: [u64; SECRETS],
}

// SAFETY: that is what is tested; words are only touched by volatile or atomic accesses.
unsafe impl<const WORDS: usize> Sync for Table<WORDS> {}

impl<const WORDS: usize> Table<WORDS> {
    fn new(buckets: u32, seed: u64) -> Self {
        let mut random = Random(seed);
        Self {
            tags: (0..buckets).map(|_| UnsafeCell::new(FlowTags { tags: [0; 16] })).collect(),
            slots: (0..buckets * BUCKET).map(|_| UnsafeCell::new([0; 12])).collect(),
            secret: [(); SECRETS].map(|()| random.next()),
        }
    }

    /// One with a secret for which all keys of these tests have the same hash: they are put into the same bucket, with the same print.
    fn of_one_hash(buckets: u32) -> Self {
        Self { secret: [0; SECRETS], ..Self::new(buckets, 0) }
    }

    /// Key, flow and tag of every slot that is not free.
    fn all(&self) -> Vec<([u64; WORDS], Flow, u32)> {
        let mut all = Vec::new();
        for (number, slot) in self.slots.iter().enumerate() {
            // SAFETY: no thread is at it.
            let (tags, slot) =
                unsafe { (*self.tags[number / 16].get(), NonNull::new_unchecked(slot.get()).cast::<u64>()) };
            let tag = tags.tags[number % 16];
            let mut key = [0; WORDS];
            // SAFETY: a slot begins with a key.
            (0..WORDS).for_each(|word| key[word] = unsafe { slot.add(word).read() });
            assert_eq!(key[0] == 0, tag == 0, "a free slot has no key");
            if tag != 0 {
                all.push((key, table::flow::<WORDS>(slot).copy(), tag));
            }
        }
        all
    }
}

impl<const WORDS: usize> Memory<WORDS> for Table<WORDS> {
    const SIDE: u32 = 0;

    fn shape(&self) -> Option<Shape<'_>> {
        Some(Shape { secret: &self.secret, buckets: self.tags.len() as u32 })
    }

    fn tags(&self, bucket: u32) -> Option<NonNull<FlowTags>> {
        NonNull::new(self.tags.get(bucket as usize)?.get())
    }

    fn slot(&self, slot: u32) -> Option<NonNull<u64>> {
        NonNull::new(self.slots.get(slot as usize)?.get()).map(NonNull::cast)
    }

    unsafe fn exchange(&self, tag: NonNull<u32>, old: u32, new: u32) -> u32 {
        // SAFETY: as promised.
        let tag = unsafe { AtomicU32::from_ptr(tag.as_ptr()) };
        match tag.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(was) | Err(was) => was,
        }
    }
}

/// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

fn flow(place: u32, policy: u32) -> Flow {
    Flow { expires: 1, created: 2, place, policy, state: 9, flags: 0, tcp: 0, sequence: [0; 6] }
}

fn key<const WORDS: usize>(number: u64) -> [u64; WORDS] {
    // The first word is never 0, as no zone is.
    let mut key = [0; WORDS];
    key[0] = 1 << 8 | 17;
    key[WORDS - 1] = number;
    key
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Insert { key: u64, live: bool },
    MakeLive(u64),
    Remove(u64),
    RemoveHalfOpen(u64),
    PushOut { key: u64, place: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..60u64;
    prop_oneof![
        3 => (key.clone(), any::<bool>()).prop_map(|(key, live)| Step::Insert { key, live }),
        1 => key.clone().prop_map(Step::MakeLive),
        1 => key.clone().prop_map(Step::Remove),
        1 => key.clone().prop_map(Step::RemoveHalfOpen),
        1 => (key, 0..3u32).prop_map(|(key, place)| Step::PushOut { key, place }),
    ]
}

/// The places of half-open flows here, and the row of live ones.
const ROW: u32 = 7;

fn place_of(key: u64) -> u32 {
    (key % 3) as u32
}

fn agrees<const WORDS: usize>(table: &Table<WORDS>, steps: &[Step]) {
    let buckets = table.tags.len() as u32;
    let mut model: HashMap<u64, Flow> = HashMap::new();
    for (policy, step) in (0..).zip(steps) {
        match *step {
            Step::Insert { key: number, live } => {
                let flow = flow(if live { FLOW_LIVE | ROW } else { place_of(number) }, policy);
                let slot = table::insert(table, &key(number), &flow);
                assert_eq!(slot == EXISTS, model.contains_key(&number));
                if slot < EXISTS {
                    model.insert(number, flow);
                } else if slot == NOWHERE {
                    assert!(model.len() >= 16, "{} of {} is no full table", model.len(), buckets * BUCKET);
                }
            }
            Step::MakeLive(number) => {
                let there = model.get_mut(&number).filter(|flow| flow.is_half_open());
                assert_eq!(table::make_live(table, &key(number), ROW), there.is_some());
                there.into_iter().for_each(|flow| flow.place = FLOW_LIVE | ROW);
            }
            Step::Remove(number) => {
                let taken = table::remove(table, &key(number));
                let there = model.remove(&number);
                assert_eq!(taken.map(|taken| taken.place), there.map(|flow| flow.place));
                let row = there.filter(|flow| !flow.is_half_open()).map(|_| ROW);
                assert_eq!(taken.and_then(Taken::row), row);
                assert!(taken.is_none_or(|taken| taken.zone_protocol == 1 << 8 | 17));
            }
            Step::RemoveHalfOpen(number) => {
                let there = model.get(&number).is_some_and(Flow::is_half_open);
                assert_eq!(table::remove_half_open(table, &key(number)).is_some(), there);
                there.then(|| model.remove(&number));
            }
            Step::PushOut { key: number, place } => {
                let slot = (0..buckets * BUCKET).find(|slot| {
                    let slot = table.slot(*slot).unwrap();
                    // SAFETY: a slot begins with a key.
                    (0..WORDS).all(|word| unsafe { slot.add(word).read() } == key::<WORDS>(number)[word])
                });
                table::push_out(table, slot.unwrap_or(NOWHERE), place);
                if model.get(&number).is_some_and(|flow| flow.place == place) {
                    model.remove(&number);
                }
            }
        }
        for number in 0..60 {
            let found = table::find(table, &key(number)).map(|flow| flow.copy());
            assert_eq!(found, model.get(&number).copied(), "{number} after {step:?}");
        }
    }
    let all = table.all();
    assert_eq!(all.len(), model.len());
    for (_, flow, tag) in all {
        assert_eq!((tag & HALF != 0, tag & (BUSY | GOING)), (flow.is_half_open(), 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 256 }))]

    #[test]
    fn spec_d10_a_table_is_a_map_of_keys(seed: u64, buckets in 1..5u32, steps in vec(step(), 1..120)) {
        agrees(&Table::<WORDS_V4>::new(buckets, seed), &steps);
        agrees(&Table::<WORDS_V6>::new(buckets, seed), &steps);
    }

    #[test]
    fn spec_d10_keys_of_one_hash_are_told_apart(buckets in 1..3u32, steps in vec(step(), 1..120)) {
        agrees(&Table::<WORDS_V4>::of_one_hash(buckets), &steps);
        agrees(&Table::<WORDS_V6>::of_one_hash(buckets), &steps);
    }
}

#[test]
fn spec_d16_a_table_takes_as_many_flows_as_are_promised() {
    // Three quarters of the slots, whatever the keys have in common and however often others came and went.
    for (seed, stride) in [(1, 1), (2, 1 << 16), (3, 1 << 32), (4, 0x0001_0001_0001), (5, 1 << 48)] {
        let buckets = 4096;
        let table = Table::<WORDS_V4>::new(buckets, seed);
        let flows = u64::from(buckets * BUCKET / 4 * 3);
        for number in 0..4 * flows {
            let wide = number.wrapping_mul(stride) ^ number >> 16;
            if number >= flows {
                let oldest = number - flows;
                let oldest = oldest.wrapping_mul(stride) ^ oldest >> 16;
                assert!(table::remove(&table, &key(oldest)).is_some());
            }
            assert!(table::insert(&table, &key(wide), &flow(0, 0)) < EXISTS, "{number} of {flows}");
        }
        assert_eq!(table.all().len() as u64, flows);
    }
}

/// Which slots and lines of tags are asked for.
struct Watched<'t> {
    table: &'t Table<WORDS_V4>,
    slots: RefCell<Vec<u32>>,
    tags: RefCell<Vec<u32>>,
}

impl<'t> Watched<'t> {
    fn new(table: &'t Table<WORDS_V4>) -> Self {
        Self { table, slots: RefCell::default(), tags: RefCell::default() }
    }

    /// How many slots and lines of tags a look-up has touched, each once.
    fn touched(&self) -> (usize, usize) {
        let count = |numbers: &RefCell<Vec<u32>>| numbers.take().into_iter().collect::<HashSet<_>>().len();
        (count(&self.slots), count(&self.tags))
    }
}

impl Memory<WORDS_V4> for Watched<'_> {
    const SIDE: u32 = 0;

    fn shape(&self) -> Option<Shape<'_>> {
        self.table.shape()
    }

    fn tags(&self, bucket: u32) -> Option<NonNull<FlowTags>> {
        let there = self.table.tags(bucket);
        self.tags.borrow_mut().extend(there.map(|_| bucket));
        there
    }

    fn slot(&self, slot: u32) -> Option<NonNull<u64>> {
        let there = self.table.slot(slot);
        self.slots.borrow_mut().extend(there.map(|_| slot));
        there
    }

    unsafe fn exchange(&self, tag: NonNull<u32>, old: u32, new: u32) -> u32 {
        // SAFETY: as promised.
        unsafe { self.table.exchange(tag, old, new) }
    }
}

#[test]
fn spec_d10_a_look_up_touches_few_lines_of_memory() {
    let buckets = 1024;
    let table = Table::<WORDS_V4>::new(buckets, 3);
    let flows = u64::from(buckets * BUCKET / 4 * 3);
    for number in 0..flows {
        assert!(table::insert(&table, &key(number), &flow(0, 0)) < EXISTS);
    }
    let watched = Watched::new(&table);
    let (mut own, mut first, mut second) = (0, 0, 0);
    for number in 0..flows {
        assert!(table::find(&watched, &key(number)).is_some());
        let once = watched.tags.borrow().len() == 1;
        match watched.touched() {
            (1, 1) if once => own += 1,
            (2, 1) => first += 1,
            (2, 2) => second += 1,
            more => panic!("{number} touches {more:?} slots and lines of tags"),
        }
    }
    assert_eq!(own + first + second, flows);
    assert!(own * 100 > flows * 60, "{own} of {flows} flows are in their own slots");
    assert!(second * 100 < flows * 25, "{second} of {flows} flows are in their second bucket");
    for number in flows..2 * flows {
        assert!(table::find(&watched, &key(number)).is_none());
        // Of a few keys both buckets are one.
        let touched = watched.touched();
        assert!(touched == (1, 2) || touched == (1, 1), "{number}, which is nowhere, touches {touched:?}");
    }
    // Looking ahead is at what pushing out takes, and at nothing if there is no such slot.
    table::look_ahead(&watched, 37);
    assert_eq!((watched.slots.take(), watched.tags.take()), (vec![37], vec![2]));
    table::look_ahead(&watched, NOWHERE);
    assert_eq!(watched.touched(), (0, 0));
}

/// What threads have counted.
#[derive(Default)]
struct Counts {
    /// Flows of a key: those that were put in, less those that were taken out.
    there: [AtomicI64; KEYS as usize],
    live: AtomicI64,
    twice: AtomicI64,
}

const KEYS: u64 = 24;

#[test]
fn spec_d16_whatever_threads_do_at_once_every_flow_is_there_once_and_counted_once() {
    for seed in 0..20 {
        // As narrow as it gets: every key meets every other.
        let table = Table::<WORDS_V4>::new(2, seed);
        let counts = Counts::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (table, counts) = (&table, &counts);
                scope.spawn(move || {
                    let mut random = Random(seed << 8 | thread);
                    for _ in 0..20_000 {
                        at_random(table, counts, &mut random);
                    }
                });
            }
        });
        let all = table.all();
        for number in 0..KEYS {
            let entries = all.iter().filter(|(key, ..)| *key == self::key(number)).count();
            let there = counts.there[number as usize].load(Ordering::SeqCst);
            assert_eq!(entries as i64, there, "{number} of {seed}");
            assert!(entries <= 1, "{number} of {seed} is there {entries} times");
            assert_eq!(table::find(&table, &key(number)).is_some(), entries == 1);
        }
        let live = all.iter().filter(|(_, flow, _)| !flow.is_half_open()).count();
        assert_eq!(live as i64, counts.live.load(Ordering::SeqCst), "{seed}");
        for (_, flow, tag) in &all {
            assert_eq!((tag & HALF != 0, tag & (BUSY | GOING)), (flow.is_half_open(), 0), "{seed}");
        }
        assert_eq!(counts.twice.load(Ordering::SeqCst), 0);
    }
}

fn at_random(table: &Table<WORDS_V4>, counts: &Counts, random: &mut Random) {
    let number = random.next() % KEYS;
    let (key, place) = (key(number), place_of(number));
    let there = &counts.there[number as usize];
    match random.next() % 8 {
        0..3 => {
            if table::insert(table, &key, &flow(place, number as u32)) < EXISTS {
                there.fetch_add(1, Ordering::SeqCst);
            }
        }
        3 | 4 => {
            if table::make_live(table, &key, ROW) {
                counts.live.fetch_add(1, Ordering::SeqCst);
            }
        }
        5 => {
            if let Some(taken) = table::remove(table, &key) {
                there.fetch_sub(1, Ordering::SeqCst);
                counts.live.fetch_sub(taken.row().map_or(0, |_| 1), Ordering::SeqCst);
            }
        }
        6 => {
            if let Some(taken) = table::remove_half_open(table, &key) {
                there.fetch_sub(1, Ordering::SeqCst);
                // A live flow is never pushed out.
                counts.twice.fetch_add(taken.row().map_or(0, |_| 1), Ordering::SeqCst);
            }
        }
        _ => {
            // Whatever is found is a flow that was put in under this key, or the one that has its slot now.
            let policy = table::find(table, &key).map(|flow| flow.policy());
            assert!(policy.is_none_or(|policy| u64::from(policy) < KEYS));
        }
    }
}

#[test]
fn spec_d16_what_a_daemon_leaves_half_done_is_cleaned_up() {
    let table = Table::<WORDS_V4>::new(1, 9);
    for (number, place) in [(1, 3), (2, FLOW_LIVE | ROW), (3, 4)] {
        assert!(table::insert(&table, &key(number), &flow(place, 0)) < EXISTS);
    }
    let set = |slot: u32, bits: u32| {
        // SAFETY: no thread is at it.
        unsafe { (*table.tags[0].get()).tags[slot as usize] |= bits };
    };
    let slot_of = |place: u32| {
        let at = |slot: u32| table::flow::<WORDS_V4>(table.slot(slot).unwrap()).place();
        (0..16).find(|slot| at(*slot) == place).unwrap()
    };
    set(slot_of(3), GOING | DAEMON);
    set(slot_of(FLOW_LIVE | ROW), GOING | DAEMON);
    assert!(
        !table::make_live(&table, &key(1), ROW) && table::remove(&table, &key(1)).is_none(),
        "it is going"
    );
    let gone: Vec<_> = (0..16).filter_map(|slot| table::abandoned(&table, slot)).collect();
    assert_eq!(gone.len(), 1, "a live one, which is counted: {gone:?}");
    assert_eq!(gone[0].row(), Some(ROW));
    let all = table.all();
    assert_eq!((all.len(), all[0].0), (1, key(3)), "what is whole stays");
    // One that was being filled was never counted.
    set(slot_of(4), BUSY | DAEMON);
    assert!(
        !table::make_live(&table, &key(3), ROW) && table::remove(&table, &key(3)).is_none(),
        "it is coming"
    );
    assert_eq!((0..16).find_map(|slot| table::abandoned(&table, slot)), None);
    assert_eq!(table.all().len(), 0);
}

/// Another CPU does something just before one of the steps that this one takes.
struct Meanwhile<'t, F> {
    table: &'t Table<WORDS_V4>,
    steps: Cell<usize>,
    what: F,
}

impl<F: Fn()> Memory<WORDS_V4> for Meanwhile<'_, F> {
    const SIDE: u32 = 0;

    fn shape(&self) -> Option<Shape<'_>> {
        self.table.shape()
    }

    fn tags(&self, bucket: u32) -> Option<NonNull<FlowTags>> {
        Memory::<WORDS_V4>::tags(self.table, bucket)
    }

    fn slot(&self, slot: u32) -> Option<NonNull<u64>> {
        Memory::<WORDS_V4>::slot(self.table, slot)
    }

    unsafe fn exchange(&self, tag: NonNull<u32>, old: u32, new: u32) -> u32 {
        self.steps.set(self.steps.get().wrapping_sub(1));
        if self.steps.get() == 0 {
            (self.what)();
        }
        // SAFETY: as promised.
        unsafe { Memory::<WORDS_V4>::exchange(self.table, tag, old, new) }
    }
}

#[test]
fn spec_d10_a_flow_that_two_begin_at_once_is_there_once() {
    for number in 0..200 {
        for step in 1..=2 {
            let table = Table::<WORDS_V4>::new(2, number);
            let key = key(number);
            let other = Cell::new(NOWHERE);
            let what = || other.set(table::insert(&table, &key, &flow(1, 1)));
            let memory = Meanwhile { table: &table, steps: Cell::new(step), what };
            let one = table::insert(&memory, &key, &flow(2, 2));
            let both = [one, other.get()];
            let begun = both.into_iter().filter(|slot| *slot < EXISTS).count();
            assert_eq!((begun, table.all().len()), (1, 1), "{number} {step}: {both:?}");
            assert!(both.contains(&EXISTS) && table::find(&table, &key).is_some());
        }
    }
}

#[test]
fn spec_d16_what_becomes_live_while_it_is_taken_out_is_one_or_the_other() {
    for number in 0..50 {
        let table = Table::<WORDS_V4>::new(2, number);
        let key = key(number);
        assert!(table::insert(&table, &key, &flow(3, 0)) < EXISTS);
        let what = || assert!(table::make_live(&table, &key, ROW));
        let memory = Meanwhile { table: &table, steps: Cell::new(1), what };
        assert_eq!(table::remove_half_open(&memory, &key), None, "it is live");
        assert_eq!(table::find(&table, &key).map(|flow| flow.place()), Some(FLOW_LIVE | ROW));
        // And the other way round.
        let table = Table::<WORDS_V4>::new(2, number);
        assert!(table::insert(&table, &key, &flow(3, 0)) < EXISTS);
        let what = || assert!(table::remove_half_open(&table, &key).is_some());
        let memory = Meanwhile { table: &table, steps: Cell::new(1), what };
        assert!(!table::make_live(&memory, &key, ROW), "it is gone");
        assert_eq!(table.all().len(), 0);
    }
}

#[test]
fn spec_d16_a_slot_that_is_anothers_by_now_is_left_alone() {
    // The same slot, print and state: only the key says that it is another flow.
    let table = Table::<WORDS_V4>::of_one_hash(2);
    let (one, other) = (key(1), key(2));
    assert!(table::insert(&table, &one, &flow(3, 0)) < EXISTS);
    let what = || {
        assert!(table::remove(&table, &one).is_some());
        assert!(table::insert(&table, &other, &flow(3, 0)) < EXISTS);
    };
    let memory = Meanwhile { table: &table, steps: Cell::new(1), what };
    assert_eq!(table::remove(&memory, &one), None, "it was gone already");
    assert!(table::find(&table, &other).is_some());
    // And one whose tag says live already, but not yet its place, which says where it is counted.
    // SAFETY: no thread is at it.
    unsafe { (*table.tags[0].get()).tags[0] &= !HALF };
    assert_eq!(table::remove(&table, &other), None);
    let all = table.all();
    assert_eq!((all.len(), all[0].2 & (HALF | GOING)), (1, 0), "what was taken is given back");
}

#[test]
fn spec_d10_of_two_that_fill_slots_for_a_key_the_lower_stays() {
    let tag = |table: &Table<WORDS_V4>, slot: usize| {
        // SAFETY: no thread is at it.
        unsafe { (*table.tags[0].get()).tags[slot] }
    };
    // Every print is this one.
    const PRINT: u32 = 1;
    for (other, stays) in [(0, false), (5, true)] {
        let table = Table::<WORDS_V4>::of_one_hash(1);
        // SAFETY: as above.
        unsafe { (*table.tags[0].get()).tags[other] = PRINT | BUSY };
        let slot = table::insert(&table, &key(1), &flow(3, 0));
        assert_eq!(slot, if stays { 0 } else { EXISTS });
        assert_eq!(tag(&table, other), if stays { PRINT | BUSY | GOING } else { PRINT | BUSY });
        assert_eq!(tag(&table, 1 - other.min(1)), if stays { PRINT | HALF } else { 0 });
    }
}

#[test]
fn spec_d10_every_word_of_a_key_counts() {
    fn told_apart<const WORDS: usize>() {
        let table = Table::<WORDS>::of_one_hash(1);
        let one = key::<WORDS>(5);
        assert!(table::insert(&table, &one, &flow(0, 0)) < EXISTS);
        for word in 0..WORDS {
            let mut other = one;
            other[word] ^= 2;
            assert!(table::find(&table, &other).is_none(), "{word} of {WORDS}");
            // Nor do two differences make up for each other.
            for another in word + 1..WORDS {
                let mut other = other;
                other[another] ^= 2;
                assert!(table::find(&table, &other).is_none(), "{word} and {another} of {WORDS}");
            }
        }
        assert!(table::find(&table, &one).is_some());
    }
    told_apart::<WORDS_V4>();
    told_apart::<WORDS_V6>();
}
