//! The tables of flows: hash tables in array maps, shared by all CPUs and the daemon without locks.
//!
//! **Layout.** A *slot* holds a flow's key and the flow; 16 slots make a *bucket*, and beside each bucket there is a line of
//! *tags*, a word for each slot. A key has two buckets, and in the first of them a slot of its own. A flow is put into that
//! slot if it is free and the bucket has a few others, otherwise into the emptier bucket. So most look-ups touch two lines of
//! memory, neither of which has to be waited for before the other: the tags of the first bucket, and the slot. The others wait for the
//! tags, and then for another slot or the second bucket's tags. With three quarters of the slots in use and flows that come and go, 7 of
//! 100 million insertions found both buckets full, which is as if the table were full: nothing is pushed out for it.
//!
//! Which slots a key has depends on a secret, and by the universal hash below no two keys meet more often than by chance
//! (Black, Halevi, Krawczyk, Krovetz, Rogaway, "UMAC", CRYPTO 1999): who does not know it cannot aim at a bucket.
//!
//! **Tags.** 0 is a free slot. Otherwise a tag has 28 bits of the hash, the *print*, and says what becomes of the slot. It
//! is changed by compare-and-swap only, and decides who may do what:
//!
//! | tag | the slot |
//! |---|---|
//! | print, [`BUSY`] | is being filled by whoever took it |
//! | print, [`HALF`] | holds a half-open flow |
//! | print | holds a live flow |
//! | print, [`GOING`] | is being emptied by whoever set the bit |
//! | print, [`BUSY`], [`GOING`] | must be given back by whoever is filling it |
//!
//! A flow becomes live by losing [`HALF`], and is taken out by winning [`GOING`]: so a live flow is never pushed out in place of
//! the half-open one that it was, and whoever takes a live flow out is one, and takes it off its share. With [`GOING`] set a slot
//! is nobody else's, and whoever has it looks once more whether it still holds what was to go; if not, the bit is taken back.
//!
//! **Twice the same key.** Who has taken a slot looks for other tags with the same print. If another slot holds the
//! key, it gives its own back. If another is being filled, one of the two must: the one with the higher number, which either sees
//! the other itself, or is told so by [`GOING`], and then its last compare-and-swap fails. As each takes a slot before it looks,
//! with a full barrier between the two, one of them sees the other.
//!
//! **Readers** take no part in this: they compare keys. A tag only tells them which: the print is in it before the slot has the key, and
//! goes after it. A slot is emptied by its key's first word becoming 0, and filled with
//! that word last; it is read before and after the others. As in the kernel's own hash (kernel/bpf/hashtab.c), what was found may
//! be taken out at any time, and its slot be given to another flow; what is then stored is a time, a state or flags that a flow of
//! the table may have, and all of them were admitted. On processors that reorder loads, a flow that appears this very moment
//! may be read as the one before it in the slot: it is then over, or judged by what the other was, and stays admitted.

#![expect(
    clippy::indexing_slicing,
    reason = "words of keys and of the secret, whose numbers the compiler knows"
)]

use core::ptr::NonNull;

use crate::abi::{FLOW_LIVE, Flow, FlowTags};
use crate::conntrack::FlowRef;

/// Slots of a bucket.
pub const BUCKET: u32 = 16;
/// Words of a key, by family.
pub const WORDS_V4: usize = 2;
/// Likewise.
pub const WORDS_V6: usize = 5;
/// Words of the secret: two for each word of a key, and one.
pub const SECRETS: usize = 2 * WORDS_V6 + 1;

/// The slot is being filled.
pub const BUSY: u32 = 1 << 31;
/// The slot is being emptied.
pub const GOING: u32 = 1 << 30;
/// With [`BUSY`] or [`GOING`]: by the daemon, which may die over it. The next one cleans up, see [`abandoned`].
pub const DAEMON: u32 = 1 << 29;
/// The flow is half-open.
pub const HALF: u32 = 1 << 28;
const PRINT: u32 = HALF - 1;
/// In every print, so that none is 0, and tags can be counted.
const IN_USE: u32 = 1;

/// Of a bucket with fewer free slots than these, none is given to a key because it is the key's own: if buckets are not filled evenly,
/// both of a key's are full a hundred times as often.
const SPARE: u32 = 4;

/// No slot has this number.
pub const NOWHERE: u32 = u32::MAX;
/// Answer of [`insert`]: the key is there, or is being put there by another CPU.
pub const EXISTS: u32 = u32::MAX - 1;

/// What does not change as long as a table is there.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    pub secret: &'a [u64; SECRETS],
    pub buckets: u32,
}

/// The memory of a table, whose keys have so many words of eight bytes.
pub trait Memory<const WORDS: usize> {
    /// [`GOING`] and [`BUSY`], as this side sets them: with [`DAEMON`] or without.
    const SIDE: u32;

    fn shape(&self) -> Option<Shape<'_>>;
    /// The tags of a bucket; `None` if there is no such bucket.
    fn tags(&self, bucket: u32) -> Option<NonNull<FlowTags>>;
    /// A slot, which begins with the key, behind which there is a [`Flow`]; `None` if there is no such slot.
    fn slot(&self, slot: u32) -> Option<NonNull<u64>>;
    /// Stores `new` if there is `old`, with a full barrier; returns what there was.
    ///
    /// # Safety
    ///
    /// `tag` must be a tag of this table.
    unsafe fn exchange(&self, tag: NonNull<u32>, old: u32, new: u32) -> u32;

    /// [`elsewhere`], or what comes to the same.
    #[inline(always)]
    fn elsewhere(&self, key: &[u64; WORDS], hash: u64) -> u32
    where
        Self: Sized,
    {
        elsewhere(self, key, hash)
    }
}

/// Where a key belongs.
#[derive(Debug, Clone, Copy)]
struct Hash(u64);

/// A number below `n`, evenly.
#[inline(always)]
pub(crate) const fn scaled(number: u32, n: u32) -> u32 {
    ((number as u64 * n as u64) >> 32) as u32
}

impl Hash {
    /// The upper half of the sum is universal; what follows spreads it over all bits, of which the fields below are made.
    #[inline(always)]
    fn of<const WORDS: usize>(key: &[u64; WORDS], secret: &[u64; SECRETS]) -> Self {
        const { assert!(2 * WORDS < SECRETS) };
        let mut sum = secret[2 * WORDS];
        let mut word = 0;
        while word < WORDS {
            let part = part(key, word);
            let low = secret[2 * word].wrapping_add(part & 0xffff_ffff);
            let high = secret[2 * word + 1].wrapping_add(part >> 32);
            sum = sum.wrapping_add(low.wrapping_mul(high));
            word += 1;
        }
        sum ^= sum >> 32;
        Self(sum.wrapping_mul(0x9fb2_1c65_1e98_df25))
    }

    /// [`Self::of`], where the stack has no room for it: long keys are hashed by a function of their own.
    #[inline(always)]
    fn new<const WORDS: usize, M: Memory<WORDS>>(memory: &M, shape: &Shape<'_>, key: &[u64; WORDS]) -> Self {
        if WORDS > WORDS_V4 { Self(hash_apart(memory, key)) } else { Self::of(key, shape.secret) }
    }

    #[inline(always)]
    const fn first(self, buckets: u32) -> u32 {
        scaled((self.0 >> 32) as u32, buckets)
    }

    #[inline(always)]
    const fn second(self, buckets: u32) -> u32 {
        scaled((self.0 as u32).wrapping_mul(0x9e37_79b1), buckets)
    }

    #[inline(always)]
    const fn bucket(self, choice: u32, buckets: u32) -> u32 {
        if choice == 0 { self.first(buckets) } else { self.second(buckets) }
    }

    /// The key's own slot in its first bucket.
    #[inline(always)]
    const fn position(self) -> u32 {
        self.0 as u32 & (BUCKET - 1)
    }

    /// A number of a slot, to be passed from one function to another; and back. The verifier forgets where in its bucket a slot is:
    /// else it would follow each place separately from then on.
    #[inline(always)]
    const fn veiled(self, number: u32) -> u32 {
        number ^ self.0 as u32
    }

    #[inline(always)]
    const fn print(self) -> u32 {
        (self.0 as u32 >> 4) | IN_USE
    }
}

/// The hash of a key, for [`crate::exact`].
#[inline(always)]
pub fn hash_of<const WORDS: usize>(key: &[u64; WORDS], secret: &[u64; SECRETS]) -> u64 {
    Hash::of(key, secret).0
}

#[inline(never)]
fn hash_apart<const WORDS: usize, M: Memory<WORDS>>(memory: &M, key: &[u64; WORDS]) -> u64 {
    memory.shape().map_or(0, |shape| Hash::of(key, shape.secret).0)
}

#[inline(always)]
fn tag_at(tags: NonNull<FlowTags>, position: u32) -> NonNull<u32> {
    // SAFETY: `FlowTags` has so many words.
    unsafe { tags.cast::<u32>().add((position & (BUCKET - 1)) as usize) }
}

#[inline(always)]
fn load(tag: NonNull<u32>) -> u32 {
    // SAFETY: a tag of a table is aligned and stays readable.
    unsafe { tag.read_volatile() }
}

/// The first position whose tag is `wanted` under `mask`, or [`BUCKET`].
#[inline(always)]
fn position_of(tags: NonNull<FlowTags>, mask: u32, wanted: u32) -> u32 {
    let mut position = 0;
    while position < BUCKET {
        if load(tag_at(tags, position)) & mask == wanted {
            break;
        }
        position += 1;
    }
    position
}

/// 1 in each half of a word.
const ONES: u64 = 1 << 32 | 1;

/// Two tags of a bucket at a time.
#[inline(always)]
fn two(tags: NonNull<FlowTags>, pair: u32) -> u64 {
    // SAFETY: `FlowTags` has so many words, and is aligned for them.
    unsafe { tags.cast::<u64>().add(pair as usize).read_volatile() }
}

/// In the highest bit of each half, whether this tag has another print than `wanted` says in each half.
#[inline(always)]
const fn apart(two: u64, wanted: u64) -> u64 {
    // A half that is not 0 is below 2²⁸, so its highest bit is set and nothing is carried into the other half.
    ((two & (PRINT as u64 * ONES)) ^ wanted) + ((u32::MAX >> 1) as u64 * ONES)
}

/// Whether any tag has this print. Without a branch, of which the verifier would follow both ways.
#[inline(always)]
fn has_print(tags: NonNull<FlowTags>, print: u32) -> bool {
    let wanted = u64::from(print) * ONES;
    let (mut all, mut pair) = (u64::MAX, 0);
    while pair < BUCKET / 2 {
        all &= apart(two(tags, pair), wanted);
        pair += 1;
    }
    all & (ONES << 31) != ONES << 31
}

/// How many tags have this print.
#[inline(always)]
fn prints(tags: NonNull<FlowTags>, print: u32) -> u32 {
    let wanted = u64::from(print) * ONES;
    let (mut others, mut pair) = (0, 0);
    while pair < BUCKET / 2 {
        others += apart(two(tags, pair), wanted) >> 31 & ONES;
        pair += 1;
    }
    BUCKET - sum_of_halves(others)
}

#[inline(always)]
const fn sum_of_halves(word: u64) -> u32 {
    (word >> 32) as u32 + word as u32
}

/// A word of a key. Of a long one it is loaded each time, as there is no room for it on the stack of who looks it up.
#[inline(always)]
fn part<const WORDS: usize>(key: &[u64; WORDS], word: usize) -> u64 {
    // SAFETY: a reference is valid and aligned.
    if WORDS > WORDS_V4 { unsafe { (&raw const key[word]).read_volatile() } } else { key[word] }
}

/// Whether the slot holds the key.
#[inline(always)]
fn holds<const WORDS: usize>(slot: NonNull<u64>, key: &[u64; WORDS]) -> bool {
    // One comparison in the end: the verifier would follow each separately.
    // SAFETY: a slot begins with a key, is aligned and stays readable.
    unsafe {
        let mut apart = slot.read_volatile() ^ part(key, 0);
        let mut word = 1;
        while word < WORDS {
            apart |= slot.add(word).read_volatile() ^ part(key, word);
            word += 1;
        }
        apart | (slot.read_volatile() ^ part(key, 0)) == 0
    }
}

/// The flow of a slot.
#[inline(always)]
pub const fn flow<'m, const WORDS: usize>(slot: NonNull<u64>) -> FlowRef<'m> {
    // SAFETY: behind the key there is a flow, to which nobody makes references; and a table's memory stays.
    unsafe { FlowRef::new(slot.add(WORDS).cast()) }
}

/// The first word of the key in a slot: `zone << 8 | protocol`, or 0 if the slot is free.
#[inline(always)]
pub fn zone_protocol(slot: NonNull<u64>) -> u32 {
    // SAFETY: a slot begins with a key, and that with this word.
    unsafe { slot.cast::<u32>().read_volatile() }
}

/// Begins to load the end of a slot: where keys are long, that is another line of memory than its beginning.
#[inline(always)]
fn load_end<const WORDS: usize>(slot: NonNull<u64>) {
    if WORDS > WORDS_V4 {
        let last = WORDS + size_of::<Flow>() / size_of::<u64>() - 1;
        // SAFETY: a slot has a key, behind which there is a flow; it is aligned and stays readable.
        unsafe { slot.add(last).read_volatile() };
    }
}

/// The flow of a key.
#[inline(always)]
pub fn find<'m, const WORDS: usize, M: Memory<WORDS>>(
    memory: &'m M,
    key: &[u64; WORDS],
) -> Option<FlowRef<'m>> {
    let shape = memory.shape()?;
    let hash = Hash::of(key, shape.secret);
    let (bucket, position) = (hash.first(shape.buckets), hash.position());
    let own = memory.slot(bucket * BUCKET + position)?;
    let tags = memory.tags(bucket)?;
    // The slot is on its way while the tag says whether to wait for it: sixteen tags are in a line, so they are mostly nearer. And
    // if the key is nowhere, its flow is mostly put into this slot next.
    zone_protocol(own);
    if load(tag_at(tags, position)) & PRINT == hash.print() && holds(own, key) {
        return Some(flow::<WORDS>(own));
    }
    let Some(slot) = memory.slot(hash.veiled(memory.elsewhere(key, hash.0))) else {
        // The rest of what is mostly filled next.
        load_end::<WORDS>(own);
        return None;
    };
    Some(flow::<WORDS>(slot))
}

/// The slot of a key that is not in its own slot, or [`NOWHERE`], in a form that only this module understands.
#[inline(always)]
pub fn elsewhere<const WORDS: usize, M: Memory<WORDS>>(memory: &M, key: &[u64; WORDS], hash: u64) -> u32 {
    let hash = Hash(hash);
    let Some(shape) = memory.shape() else { return hash.veiled(NOWHERE) };
    let mut choice = 0;
    while choice < 2 {
        let bucket = hash.bucket(choice, shape.buckets);
        let Some(tags) = memory.tags(bucket) else { return hash.veiled(NOWHERE) };
        // Mostly it is nowhere.
        if has_print(tags, hash.print()) {
            let first = position_of(tags, PRINT, hash.print()) % BUCKET;
            let number = bucket * BUCKET + first;
            if memory.slot(number).is_some_and(|slot| holds(slot, key)) {
                return hash.veiled(number);
            }
            // Another key has the same print. From the beginning, as the verifier would follow each place to begin at.
            let mut position = 0;
            while position < BUCKET {
                let number = bucket * BUCKET + position;
                if load(tag_at(tags, position)) & PRINT == hash.print()
                    && memory.slot(number).is_some_and(|slot| holds(slot, key))
                {
                    return hash.veiled(number);
                }
                position += 1;
            }
        }
        choice += 1;
    }
    hash.veiled(NOWHERE)
}

/// The slot of a key, or [`NOWHERE`].
#[inline(always)]
fn number_of<const WORDS: usize, M: Memory<WORDS>>(memory: &M, key: &[u64; WORDS]) -> u32 {
    let Some(shape) = memory.shape() else { return NOWHERE };
    let hash = Hash::new(memory, &shape, key);
    let own = hash.first(shape.buckets) * BUCKET + hash.position();
    match memory.slot(own) {
        Some(slot) if holds(slot, key) => own,
        _ => hash.veiled(memory.elsewhere(key, hash.0)),
    }
}

/// Adds a flow, half-open or live as its place says. Returns its slot, [`EXISTS`], or [`NOWHERE`] if there is no room.
#[inline(always)]
pub fn insert<const WORDS: usize, M: Memory<WORDS>>(memory: &M, key: &[u64; WORDS], flow: &Flow) -> u32 {
    let Some(shape) = memory.shape() else { return NOWHERE };
    let hash = Hash::new(memory, &shape, key);
    let busy = hash.print() | BUSY | M::SIDE;
    let number = hash.veiled(claim(memory, hash.0, busy));
    let (Some(tags), Some(slot)) = (memory.tags(number / BUCKET), memory.slot(number)) else {
        let is_there = has_like(memory, hash.0, NOWHERE) && is_double(memory, key, hash.0, NOWHERE);
        return if is_there { EXISTS } else { NOWHERE };
    };
    let tag = tag_at(tags, number);
    if has_like(memory, hash.0, number) && is_double(memory, key, hash.0, number) {
        give_back(memory, tag, slot, busy);
        return EXISTS;
    }
    // SAFETY: a slot begins with a key, behind which there is a flow; it is aligned, and this side's alone.
    unsafe {
        let mut word = 0;
        while word < size_of::<Flow>() / size_of::<u64>() {
            let from = core::ptr::from_ref(flow).cast::<u64>().add(word);
            slot.add(WORDS + word).write_volatile(from.read());
            word += 1;
        }
        let mut word = WORDS - 1;
        while word > 0 {
            slot.add(word).write_volatile(key[word]);
            word -= 1;
        }
        slot.write_volatile(key[0]);
    }
    let half = if flow.is_half_open() { HALF } else { 0 };
    // SAFETY: it is a tag of this table.
    if unsafe { memory.exchange(tag, busy, hash.print() | half) } != busy {
        give_back(memory, tag, slot, busy | GOING);
        return EXISTS;
    }
    number
}

/// Empties a slot that is this side's.
#[inline(always)]
fn give_back<const WORDS: usize, M: Memory<WORDS>>(
    memory: &M,
    tag: NonNull<u32>,
    slot: NonNull<u64>,
    is: u32,
) {
    // SAFETY: the slot begins with a word of the key; it is a tag of this table.
    unsafe {
        slot.write_volatile(0);
        if memory.exchange(tag, is, 0) != is {
            // Somebody wants it given back meanwhile, which is what happens here.
            memory.exchange(tag, is | GOING, 0);
        }
    }
}

/// Takes a free slot for a key; [`NOWHERE`] if there is none; veiled.
#[inline(never)]
fn claim<const WORDS: usize, M: Memory<WORDS>>(memory: &M, hash: u64, busy: u32) -> u32 {
    let hash = Hash(hash);
    let Some(shape) = memory.shape() else { return hash.veiled(NOWHERE) };
    let (first, second) = (hash.first(shape.buckets), hash.second(shape.buckets));
    let (Some(tags), Some(others)) = (memory.tags(first), memory.tags(second)) else {
        return hash.veiled(NOWHERE);
    };
    let own = tag_at(tags, hash.position());
    // SAFETY: it is a tag of this table.
    if load(own) == 0 && free(tags) >= SPARE && unsafe { memory.exchange(own, 0, busy) } == 0 {
        return hash.veiled(first * BUCKET + hash.position());
    }
    // Others may be faster, but not for long.
    let mut attempt = 0;
    while attempt < 4 {
        let take_first = free(tags) >= free(others);
        let (bucket, tags) = if take_first { (first, tags) } else { (second, others) };
        let position = position_of(tags, u32::MAX, 0);
        if position == BUCKET {
            return hash.veiled(NOWHERE);
        }
        // SAFETY: it is a tag of this table.
        if unsafe { memory.exchange(tag_at(tags, position), 0, busy) } == 0 {
            return hash.veiled(bucket * BUCKET + position);
        }
        attempt += 1;
    }
    hash.veiled(NOWHERE)
}

/// How many slots of a bucket are free. Without a branch, as the verifier would follow every number separately.
#[inline(never)]
fn free(tags: NonNull<FlowTags>) -> u32 {
    const { assert!(IN_USE == 1) };
    let (mut used, mut pair) = (0, 0);
    while pair < BUCKET / 2 {
        used += two(tags, pair) & ONES;
        pair += 1;
    }
    BUCKET - sum_of_halves(used)
}

/// Whether another slot than `own` has a tag like that of a key with this hash: mostly none has, and [`is_double`] has nothing to look
/// at. A function of its own, as the stack has no room for what both need.
#[inline(never)]
fn has_like<const WORDS: usize, M: Memory<WORDS>>(memory: &M, hash: u64, own: u32) -> bool {
    let hash = Hash(hash);
    let Some(shape) = memory.shape() else { return true };
    let mut choice = 0;
    while choice < 2 {
        let bucket = hash.bucket(choice, shape.buckets);
        let Some(tags) = memory.tags(bucket) else { return true };
        if prints(tags, hash.print()) > u32::from(own / BUCKET == bucket) {
            return true;
        }
        choice += 1;
    }
    false
}

/// Whether the key is in another slot than `own`, or comes into another one with a lower number.
#[inline(never)]
fn is_double<const WORDS: usize, M: Memory<WORDS>>(
    memory: &M,
    key: &[u64; WORDS],
    hash: u64,
    own: u32,
) -> bool {
    let hash = Hash(hash);
    let Some(shape) = memory.shape() else { return true };
    let mut choice = 0;
    while choice < 2 {
        let bucket = hash.bucket(choice, shape.buckets);
        let Some(tags) = memory.tags(bucket) else { return true };
        let mut position = 0;
        while position < BUCKET {
            let number = bucket * BUCKET + position;
            let tag = tag_at(tags, position);
            let mut is = load(tag);
            if is & PRINT == hash.print() && number != own {
                if is & (BUSY | GOING) == BUSY {
                    if number < own {
                        return true;
                    }
                    // SAFETY: it is a tag of this table.
                    is = unsafe { memory.exchange(tag, is, is | GOING) };
                }
                // Filled, perhaps just now.
                if is & BUSY == 0 && memory.slot(number).is_some_and(|slot| holds(slot, key)) {
                    return true;
                }
            }
            position += 1;
        }
        choice += 1;
    }
    false
}

/// Makes the half-open flow of a key live, and its place `row`. False if there is none, or another CPU was faster.
#[inline(always)]
pub fn make_live<const WORDS: usize, M: Memory<WORDS>>(memory: &M, key: &[u64; WORDS], row: u32) -> bool {
    let number = number_of(memory, key);
    let (Some(tags), Some(slot)) = (memory.tags(number / BUCKET), memory.slot(number)) else { return false };
    let tag = tag_at(tags, number);
    let is = load(tag);
    // SAFETY: it is a tag of this table.
    if is & (BUSY | GOING | HALF) != HALF || unsafe { memory.exchange(tag, is, is & !HALF) } != is {
        return false;
    }
    flow::<WORDS>(slot).set_place(FLOW_LIVE | row);
    true
}

/// A flow that was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The first word of its key.
    pub zone_protocol: u32,
    /// [`Flow::place`].
    pub place: u32,
}

impl Taken {
    /// The row of the share that the flow was counted in, if it was live.
    #[inline(always)]
    pub const fn row(self) -> Option<u32> {
        if self.place & FLOW_LIVE == 0 { None } else { Some(self.place & !FLOW_LIVE) }
    }
}

/// Empties a slot, if `goes` says of it that it holds what is to go, and still does when it is this side's. A flow that is
/// becoming live this very moment stays.
#[inline(always)]
pub fn take_out<const WORDS: usize, M: Memory<WORDS>>(
    memory: &M,
    number: u32,
    goes: impl Fn(NonNull<u64>) -> bool,
) -> Option<Taken> {
    let tag = tag_at(memory.tags(number / BUCKET)?, number);
    let slot = memory.slot(number)?;
    let is = load(tag);
    if is == 0 || is & (BUSY | GOING) != 0 || !goes(slot) {
        return None;
    }
    let going = is | GOING | M::SIDE;
    // SAFETY: it is a tag of this table.
    if unsafe { memory.exchange(tag, is, going) } != is {
        return None;
    }
    let place = flow::<WORDS>(slot).place();
    // The slot may have been given to another flow with the same tag before it was taken.
    if !goes(slot) || (place & FLOW_LIVE == 0) != (is & HALF != 0) {
        // SAFETY: it is a tag of this table.
        unsafe { memory.exchange(tag, going, is) };
        return None;
    }
    let zone_protocol = zone_protocol(slot);
    // SAFETY: the slot begins with a word of the key.
    unsafe {
        slot.write_volatile(0);
        memory.exchange(tag, going, 0);
    }
    Some(Taken { zone_protocol, place })
}

/// Takes the flow of a key out.
#[inline(always)]
pub fn remove<const WORDS: usize, M: Memory<WORDS>>(memory: &M, key: &[u64; WORDS]) -> Option<Taken> {
    take_out(memory, number_of(memory, key), |slot| holds(slot, key))
}

/// Takes the flow of a key out if it is half-open.
pub fn remove_half_open<const WORDS: usize, M: Memory<WORDS>>(
    memory: &M,
    key: &[u64; WORDS],
) -> Option<Taken> {
    take_out(memory, number_of(memory, key), |slot| holds(slot, key) && flow::<WORDS>(slot).is_half_open())
}

/// Takes the half-open flow that began at `place` out of a slot, if it is there still.
#[inline(always)]
pub fn push_out<const WORDS: usize, M: Memory<WORDS>>(memory: &M, number: u32, place: u32) {
    let _ = take_out(memory, number, |slot| flow::<WORDS>(slot).place() == place);
}

/// Begins to load what [`push_out`] will look at. Of a number that no slot has, nothing.
#[inline(always)]
pub fn look_ahead<const WORDS: usize, M: Memory<WORDS>>(memory: &M, number: u32) {
    if let Some(tags) = memory.tags(number / BUCKET) {
        load(tag_at(tags, number));
    }
    if let Some(slot) = memory.slot(number) {
        zone_protocol(slot);
        load_end::<WORDS>(slot);
    }
}

/// Empties a slot if the daemon has left it half filled or half emptied, and there is no daemon now.
pub fn abandoned<const WORDS: usize, M: Memory<WORDS>>(memory: &M, number: u32) -> Option<Taken> {
    let tag = tag_at(memory.tags(number / BUCKET)?, number);
    let slot = memory.slot(number)?;
    let is = load(tag);
    if is & DAEMON == 0 {
        return None;
    }
    let taken = Taken { zone_protocol: zone_protocol(slot), place: flow::<WORDS>(slot).place() };
    give_back(memory, tag, slot, is);
    (is & (BUSY | HALF) == 0).then_some(taken)
}
