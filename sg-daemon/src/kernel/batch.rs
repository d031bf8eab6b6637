//! Many elements of a map in one system call, which aya does not know (Linux 5.6; tries and per-CPU arrays 5.13).

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Pod;

/// `struct { … } batch` of `union bpf_attr`, include/uapi/linux/bpf.h.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl BatchAttr {
    /// Of `count` elements at these addresses.
    fn new(map: BorrowedFd<'_>, count: usize, keys: u64, values: u64) -> Self {
        let map_fd = map.as_raw_fd() as u32;
        Self { in_batch: 0, out_batch: 0, keys, values, count: count as u32, map_fd, elem_flags: 0, flags: 0 }
    }

    /// # Safety
    ///
    /// Its addresses must be of live buffers, as long as the command takes them to be.
    unsafe fn run(&mut self, command: libc::c_int) -> io::Result<()> {
        // SAFETY: as promised.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(self), size_of::<Self>()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// `BPF_MAP_LOOKUP_BATCH`.
const LOOKUP_BATCH: libc::c_int = 24;

/// So many elements of a per-CPU array, from one index on: for each the values of all CPUs (kernel/bpf/arraymap.c; 5.13).
pub(super) fn look_up<V: Pod>(
    map: BorrowedFd<'_>,
    first: u32,
    count: usize,
    cpus: usize,
) -> io::Result<Vec<V>> {
    // Every CPU's value takes a multiple of eight bytes.
    if !size_of::<V>().is_multiple_of(8) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut keys: Vec<u32> = Vec::with_capacity(count);
    let mut values: Vec<V> = Vec::with_capacity(count * cpus);
    let before = first.wrapping_sub(1);
    let mut next = 0u32;
    let mut attr = BatchAttr {
        in_batch: if first > 0 { &raw const before as u64 } else { 0 },
        out_batch: &raw mut next as u64,
        ..BatchAttr::new(map, count, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64)
    };
    // SAFETY: there is room for `count` elements of `cpus` values.
    match unsafe { attr.run(LOOKUP_BATCH) } {
        // The end of the array; what was found is valid.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // SAFETY: the kernel has written `attr.count` elements of `cpus` values each, and not more than there is room for.
    unsafe { values.set_len((attr.count as usize).min(count) * cpus) };
    Ok(values)
}

/// Hands every element of a hash map to `each`. The kernel goes bucket by bucket, so an element that stays is seen once
/// (kernel/bpf/hashtab.c, `__htab_map_lookup_and_delete_batch`; 5.6).
pub(super) fn each<K: Pod, V: Pod>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> io::Result<()> {
    let mut room = 4096usize;
    let mut keys: Vec<K> = Vec::with_capacity(room);
    let mut values: Vec<V> = Vec::with_capacity(room);
    let mut position = 0u32;
    let mut started = false;
    loop {
        keys.clear();
        values.clear();
        let mut next = 0u32;
        let mut attr = BatchAttr {
            in_batch: if started { &raw const position as u64 } else { 0 },
            out_batch: &raw mut next as u64,
            ..BatchAttr::new(map, room, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64)
        };
        // SAFETY: there is room for as many elements.
        let end = match unsafe { attr.run(LOOKUP_BATCH) } {
            Ok(()) => false,
            Err(error) => match error.raw_os_error() {
                // The last batch; what it found is valid.
                Some(libc::ENOENT) => true,
                // A bucket has more elements than there is room for.
                Some(libc::ENOSPC) if room < 1 << 20 => {
                    room *= 2;
                    keys.reserve(room);
                    values.reserve(room);
                    continue;
                }
                Some(libc::EINTR) => continue,
                _ => return Err(error),
            },
        };
        let count = (attr.count as usize).min(room);
        // SAFETY: the kernel has written `count` elements to both buffers.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        for (key, value) in keys.iter().zip(&values) {
            each(*key, *value);
        }
        if end {
            return Ok(());
        }
        (position, started) = (next, true);
    }
}

/// `BPF_MAP_UPDATE_BATCH`.
const UPDATE_BATCH: libc::c_int = 26;
/// `BPF_MAP_DELETE_BATCH`.
const DELETE_BATCH: libc::c_int = 27;

/// Elements of one map, as it has them: keys and values without anything in between.
#[derive(Debug, Default)]
pub(super) struct Elements {
    pub count: usize,
    pub keys: Vec<u8>,
    pub values: Vec<u8>,
}

impl Elements {
    /// One more; its key is in parts.
    pub fn push(&mut self, key: &[&[u8]], value: &[u8]) {
        self.count += 1;
        key.iter().for_each(|part| self.keys.extend_from_slice(part));
        self.values.extend_from_slice(value);
    }
}

/// A batch that came to no end: so many of its elements were done, the first ones.
#[derive(Debug)]
pub(super) struct Partly {
    pub done: usize,
    pub error: io::Error,
}

/// Puts elements into a map, one after the other, each in the place of what has its key.
///
/// # Errors
///
/// At the first that the kernel refuses.
pub(super) fn update(map: BorrowedFd<'_>, elements: &Elements) -> Result<(), Partly> {
    let Elements { count, keys, values } = elements;
    write(map, UPDATE_BATCH, *count, keys, Some(values))
}

/// Deletes elements by their keys, one after the other. One that is not there is no error.
///
/// # Errors
///
/// At the first that the kernel refuses to delete.
pub(super) fn delete(map: BorrowedFd<'_>, elements: &Elements) -> Result<(), Partly> {
    let Elements { count, keys, .. } = elements;
    let size = keys.len().checked_div(*count).unwrap_or(0);
    let mut done = 0;
    while done < *count {
        match write(map, DELETE_BATCH, count - done, keys.get(done * size..).unwrap_or_default(), None) {
            Ok(()) => break,
            Err(partly) if partly.error.raw_os_error() == Some(libc::ENOENT) => done += partly.done + 1,
            Err(partly) => return Err(Partly { done: done + partly.done, ..partly }),
        }
    }
    Ok(())
}

/// The kernel goes through a batch as through calls for each element, and says how many it has done (kernel/bpf/syscall.c,
/// `generic_map_update_batch` and `generic_map_delete_batch`).
fn write(
    map: BorrowedFd<'_>,
    command: libc::c_int,
    count: usize,
    keys: &[u8],
    values: Option<&[u8]>,
) -> Result<(), Partly> {
    if count == 0 {
        return Ok(());
    }
    let values = values.map_or(0, |values| values.as_ptr() as u64);
    let mut attr = BatchAttr::new(map, count, keys.as_ptr() as u64, values);
    // SAFETY: the kernel reads `count` keys and values, and there are as many.
    let Err(error) = (unsafe { attr.run(command) }) else { return Ok(()) };
    // What is refused before the first element leaves the count as it was.
    let done = if attr.count as usize == count { 0 } else { attr.count as usize };
    Err(Partly { done, error })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};

    use super::*;

    /// `BPF_MAP_CREATE`, and the first of its members.
    fn map(kind: u32, key_size: u32, entries: u32, flags: u32) -> OwnedFd {
        let attr = [kind, key_size, 4, entries, flags];
        // SAFETY: the attribute is as long as is said; the descriptor is new and ours.
        unsafe {
            let fd = libc::syscall(libc::SYS_bpf, 0, attr.as_ptr(), size_of_val(&attr));
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd as i32)
        }
    }

    const ARRAY: u32 = 2;
    /// Of both kinds that entries stand in, with room for three.
    fn maps() -> [(&'static str, OwnedFd, i32); 2] {
        let (hash, trie, no_preallocation) = (1, 11, 1);
        [
            ("hash", map(hash, 8, 3, no_preallocation), libc::E2BIG),
            ("trie", map(trie, 8, 3, no_preallocation), libc::ENOSPC),
        ]
    }

    fn numbered(numbers: &[u32]) -> Elements {
        let mut elements = Elements::default();
        for number in numbers {
            // A prefix of 32 bits to the trie, a number to the hash map.
            elements.push(&[&32u32.to_ne_bytes(), &number.to_be_bytes()], &number.to_ne_bytes());
        }
        elements
    }

    /// What is in a map, asked for element by element.
    fn holds(map: &OwnedFd, number: u32) -> bool {
        let (key, mut value) = (numbered(&[number]).keys, [0u8; 4]);
        let attr = [map.as_raw_fd() as u64, key.as_ptr() as u64, value.as_mut_ptr() as u64, 0];
        // SAFETY: `BPF_MAP_LOOKUP_ELEM` takes a map, a key of eight bytes and room for a value of four.
        let result = unsafe { libc::syscall(libc::SYS_bpf, 1, attr.as_ptr(), size_of_val(&attr)) };
        result == 0 && u32::from_ne_bytes(value) == number
    }

    #[test]
    fn a_batch_that_finds_no_room_says_how_many_it_has_written_and_those_are_the_first() {
        for (what, map, full) in maps() {
            let error = update(map.as_fd(), &numbered(&[1, 2, 3, 4, 5])).unwrap_err();
            assert_eq!((error.done, error.error.raw_os_error()), (3, Some(full)), "{what}");
            assert_eq!([1, 2, 3, 4, 5].map(|number| holds(&map, number)), [true, true, true, false, false]);
        }
        // As does one that is refused before its first element, and one that leaves its array.
        let array = map(ARRAY, 4, 2, 0);
        let elements = |indexes: [u32; 3]| {
            let mut elements = Elements::default();
            indexes.iter().for_each(|index| elements.push(&[&index.to_ne_bytes()], &7u32.to_ne_bytes()));
            elements
        };
        assert_eq!(update(array.as_fd(), &elements([0, 1, 2])).unwrap_err().done, 2);
        assert_eq!(update(array.as_fd(), &elements([2, 0, 1])).unwrap_err().done, 0);
        let no_map = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(update(no_map.as_fd(), &elements([0, 1, 0])).unwrap_err().done, 0);
    }

    #[test]
    fn what_is_not_there_is_passed_over_when_the_rest_is_deleted() {
        for (what, map, _) in maps() {
            update(map.as_fd(), &numbered(&[1, 2, 3])).unwrap();
            delete(map.as_fd(), &numbered(&[7, 1, 8, 9, 3, 10])).unwrap();
            assert_eq!([1, 2, 3].map(|number| holds(&map, number)), [false, true, false], "{what}");
            delete(map.as_fd(), &numbered(&[2])).unwrap();
            delete(map.as_fd(), &numbered(&[2])).unwrap();
            delete(map.as_fd(), &numbered(&[])).unwrap();
            assert!(!holds(&map, 2), "{what}");
        }
    }
}
