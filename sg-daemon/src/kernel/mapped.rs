//! Array maps as memory: a store here is a store that programs see, whole, without a system call.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use sg_common::abi::Share;
use sg_common::table::Taken;

/// All elements of an array map that was made with `BPF_F_MMAPABLE`.
///
/// Programs read the memory at any time, so it is only touched word by word, with volatile accesses.
#[derive(Debug)]
pub struct Mapped<T> {
    base: NonNull<T>,
    bytes: usize,
    len: u32,
    element: PhantomData<T>,
}

// SAFETY: the memory belongs to the map, not to a thread; accesses are volatile and of `Pod` values.
unsafe impl<T: Pod + Send> Send for Mapped<T> {}
// SAFETY: as above; `&Mapped` only reads.
unsafe impl<T: Pod + Sync> Sync for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Elements are laid out without gaps: the kernel rounds their size up to 8 bytes (kernel/bpf/arraymap.c).
    const ALIGNED: () = assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8);

    /// # Errors
    ///
    /// If the kernel refuses the mapping.
    pub fn new(map: BorrowedFd<'_>, len: u32) -> io::Result<Self> {
        Self::window(map, 0, len)
    }

    /// So many elements from one on, which must begin a page.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the mapping.
    pub fn window(map: BorrowedFd<'_>, first: u32, len: u32) -> io::Result<Self> {
        const { Self::ALIGNED };
        let page = 4096;
        let bytes = (len as usize * size_of::<T>()).next_multiple_of(page);
        let offset = libc::off_t::try_from(u64::from(first) * size_of::<T>() as u64)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let size = std::num::NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice; it is unmapped only in `drop`.
        let base = unsafe {
            mmap(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, offset)?
        };
        Ok(Self { base: base.cast(), bytes, len, element: PhantomData })
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn element(&self, index: u32) -> Option<NonNull<T>> {
        // SAFETY: within the mapping, which has `len` elements.
        (index < self.len).then(|| unsafe { self.base.add(index as usize) })
    }

    /// A copy of the element; words that programs or this process store meanwhile may be old or new.
    pub fn get(&self, index: u32) -> Option<T> {
        // SAFETY: the element is in the mapping, aligned, and any bytes are a `T`.
        self.element(index).map(|element| unsafe { element.read_volatile() })
    }

    /// Stores an element that no program looks at.
    pub fn set(&mut self, index: u32, value: T) -> bool {
        // SAFETY: as in `get`.
        self.element(index).map(|element| unsafe { element.write_volatile(value) }).is_some()
    }

    /// Stores one field, `offset` bytes into the element (`offset_of!`); a word is stored at once for every reader, and
    /// not before anything that was stored earlier. False if there is no such field.
    pub fn store<F: Pod>(&mut self, index: u32, offset: usize, value: F) -> bool {
        let fits = offset + size_of::<F>() <= size_of::<T>() && offset.is_multiple_of(align_of::<F>());
        let Some(element) = self.element(index).filter(|_| fits) else { return false };
        fence(Ordering::SeqCst);
        // SAFETY: the field lies in the element and is aligned, as just checked.
        unsafe { element.byte_add(offset).cast::<F>().write_volatile(value) };
        fence(Ordering::SeqCst);
        true
    }
}

impl Mapped<u64> {
    /// Stores a word that others exchange as well; returns what it was, or `None` if there is no such word.
    pub fn swap(&self, index: u32, value: u64) -> Option<u64> {
        let word = self.element(index)?;
        // SAFETY: the word lies in the mapping, is aligned, and is only ever changed atomically.
        Some(unsafe { AtomicU64::from_ptr(word.as_ptr()) }.swap(value, Ordering::SeqCst))
    }
}

impl Mapped<Share> {
    /// Counts a flow that was taken out of the tables. Its row may be another zone's by now.
    pub fn taken(&self, taken: Taken) {
        if let Some(row) = taken.row() {
            self.one_live_less(row, taken.zone_protocol >> 8);
        }
    }

    /// Takes one off the number of an interface's live flows. The row may be another zone's by now.
    fn one_live_less(&self, row: u32, zone: u32) {
        let _ = self.add(row, zone, ShareWord::Live, 1u64.wrapping_neg());
    }
}

/// The counts of a [`Share`] that flows from elsewhere are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareWord {
    Live,
    HalfV4,
    HalfV6,
}

impl Mapped<Share> {
    /// Adds to a count as programs do; returns what it was, or `None` if the row is not the zone's.
    pub fn add(&self, row: u32, zone: u32, word: ShareWord, change: u64) -> Option<u64> {
        let share = self.element(row)?;
        if self.get(row).is_none_or(|share| share.zone != zone) {
            return None;
        }
        // SAFETY: the words lie in the mapping, are aligned, and are only ever changed atomically.
        let count = unsafe {
            AtomicU64::from_ptr(match word {
                ShareWord::Live => &raw mut (*share.as_ptr()).live,
                ShareWord::HalfV4 => &raw mut (*share.as_ptr()).half_v4,
                ShareWord::HalfV6 => &raw mut (*share.as_ptr()).half_v6,
            })
        };
        Some(count.fetch_add(change, Ordering::Relaxed))
    }
}

impl Mapped<Share> {
    /// Takes the number of packets that found no room for an account.
    pub fn take_unrecorded(&self, row: u32) -> u64 {
        let Some(share) = self.element(row) else { return 0 };
        // SAFETY: the word lies in the mapping, is aligned, and is only ever changed atomically.
        let count = unsafe { AtomicU64::from_ptr(&raw mut (*share.as_ptr()).unrecorded) };
        count.swap(0, Ordering::Relaxed)
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and nothing refers to it any more.
        let _ = unsafe { munmap(self.base.cast(), self.bytes) };
    }
}
