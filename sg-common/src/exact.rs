//! Tables of exact keys, of which only the daemon changes anything: who is in which groups (`MEMBERS_*`), and what rules say of
//! those who are (`PAIRS`). Hash tables in array maps, because the kernel's own hash waits for memory three times where this waits once.
//!
//! **Layout.** An *entry* is a key and a value, in words of eight bytes; [`WAYS`] entries make a *bucket*, one or two lines of memory. A key has
//! [`PROBES`] buckets, one after the other, by the secret hash of [`crate::table`], and is in the first that had room for it. So a
//! look-up ends in the first bucket that has the key or a place that was never used; with as many entries as there may be, which is half
//! of the places, six of seven look-ups end in the first one.
//!
//! **First words.** The four bytes that a key begins with are never 0, as nothing that the daemon numbers has that number. A first word
//! that begins with 0 says what else there is: [`FREE`], [`GONE`] or [`RESTING`]. Of a key with further words, the other four bytes are a
//! part of the hash.
//!
//! **The writer.** An entry's first word is stored last, and is the first to go; the place is used again only when no packet sees any more what was
//! there: it *rests* until then. So whoever has found its key may read the value; and a key of several words that is read while it is
//! being put over another one would have to have the hash that is not its own. While another key is further on because a bucket
//! was full, places in it do not become free again but [`GONE`], and a look-up goes on.

#![expect(clippy::indexing_slicing, reason = "words of keys, whose numbers the compiler knows")]

use core::ptr::NonNull;

use crate::table::{Shape, hash_of, scaled};

/// Entries of a bucket.
pub const WAYS: u32 = 4;
/// Buckets of a key. With half of the places in use, one key in 10⁹ finds all of them full.
pub const PROBES: u32 = 12;
/// Of each of these tables.
pub const BUCKETS: u32 = 131_072;
/// No entry has this number.
pub const NOWHERE: u32 = u32::MAX;

/// First word of a place that was never used, or of which it does not matter any more.
pub const FREE: u64 = 0;
/// First word of a place that was used: what a look-up is for may be further on.
pub const GONE: u64 = second_half(1);
/// The same, and a packet may still read the value.
pub const RESTING: u64 = second_half(2);

/// The last four bytes of a word.
const fn second_half(half: u32) -> u64 {
    if cfg!(target_endian = "little") { (half as u64) << 32 } else { half as u64 }
}

/// How many entries there may be in a table of so many buckets.
pub const fn capacity(buckets: u32) -> u32 {
    buckets * WAYS / 2
}

/// Whether it is the first word of a key, and not [`FREE`], [`GONE`] or [`RESTING`].
pub const fn is_key(first: u64) -> bool {
    (if cfg!(target_endian = "little") { first as u32 } else { (first >> 32) as u32 }) != 0
}

/// The memory of a table, whose keys have so many words.
pub trait Memory<const KEY: usize> {
    /// Words of an entry.
    const ENTRY: usize;

    fn shape(&self) -> Option<Shape<'_>>;
    /// The first word of a bucket; `None` if there is no such bucket.
    fn bucket(&self, bucket: u32) -> Option<NonNull<u64>>;
}

/// One of a key's buckets.
#[inline(always)]
pub const fn bucket_of(hash: u64, probe: u32, buckets: u32) -> u32 {
    // One formula for all of them, so that there is one piece of code.
    let mixed = ((hash >> 32) as u32).wrapping_add(probe.wrapping_mul(0x9e37_79b9));
    scaled((mixed ^ (mixed >> 15)).wrapping_mul(0x85eb_ca6b), buckets)
}

/// A key's first word as it stands in the table.
#[inline(always)]
pub const fn first_word<const KEY: usize>(key: &[u64; KEY], hash: u64) -> u64 {
    if KEY > 1 { key[0] | second_half(hash as u32) } else { key[0] }
}

/// What [`first_word`] is made of, for keys of several words.
pub const fn without_print(first: u64) -> u64 {
    first & !second_half(u32::MAX)
}

#[inline(always)]
fn load(word: NonNull<u64>, at: usize) -> u64 {
    // SAFETY: whoever calls has a bucket, which is aligned and stays readable, and a word of it.
    unsafe { word.add(at).read_volatile() }
}

/// What there is in one of a key's buckets.
enum Look {
    /// The key, in this place.
    Here(u32),
    /// Places, but not the key.
    Full,
    Nothing,
}

#[inline(always)]
fn look<const KEY: usize, M: Memory<KEY>>(bucket: NonNull<u64>, key: &[u64; KEY], first: u64) -> Look {
    let (mut full, mut way) = (true, 0);
    while way < WAYS {
        let entry = way as usize * M::ENTRY;
        let found = load(bucket, entry);
        if found == first {
            let mut word = 1;
            while word < KEY && load(bucket, entry + word) == key[word] {
                word += 1;
            }
            if word == KEY {
                return Look::Here(way);
            }
        }
        full &= found != FREE;
        way += 1;
    }
    if full { Look::Full } else { Look::Nothing }
}

/// The number of a key's entry, or [`NOWHERE`]; and which of its buckets it is in.
#[inline(always)]
pub fn number_of<const KEY: usize, M: Memory<KEY>>(memory: &M, key: &[u64; KEY]) -> (u32, u32) {
    let Some(shape) = memory.shape() else { return (NOWHERE, 0) };
    let hash = hash_of(key, shape.secret);
    let first = first_word(key, hash);
    let mut probe = 0;
    while probe < PROBES {
        let number = bucket_of(hash, probe, shape.buckets);
        let Some(bucket) = memory.bucket(number) else { break };
        match look::<KEY, M>(bucket, key, first) {
            Look::Here(way) => return (number * WAYS + way, probe),
            Look::Full => probe += 1,
            Look::Nothing => break,
        }
    }
    (NOWHERE, 0)
}

/// Looks where [`find`] looks first.
#[inline(always)]
pub fn look_ahead<const KEY: usize, M: Memory<KEY>>(memory: &M, key: &[u64; KEY]) {
    let Some(shape) = memory.shape() else { return };
    if let Some(bucket) = memory.bucket(bucket_of(hash_of(key, shape.secret), 0, shape.buckets)) {
        load(bucket, 0);
    }
}

/// The value of an entry; `None` if there is no such entry.
#[inline(always)]
pub fn value<const KEY: usize, M: Memory<KEY>>(memory: &M, number: u32) -> Option<NonNull<u64>> {
    let bucket = memory.bucket(number / WAYS)?;
    // SAFETY: a bucket has so many entries, and behind an entry's key there is its value.
    Some(unsafe { bucket.add((number % WAYS) as usize * M::ENTRY + KEY) })
}

/// The value of a key.
#[inline(always)]
pub fn find<const KEY: usize, M: Memory<KEY>>(memory: &M, key: &[u64; KEY]) -> Option<NonNull<u64>> {
    value(memory, number_of(memory, key).0)
}
