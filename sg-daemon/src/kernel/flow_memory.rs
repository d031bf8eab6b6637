//! The tables of flows as memory: read, filled and emptied as programs do it, while they do (`sg_common::table`).

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::Pod;
use aya::maps::MapData;
use sg_common::abi::{Control, Flow, FlowKeyV4, FlowKeyV6, FlowSlotV4, FlowSlotV6, FlowTags, map};
use sg_common::family::Aligned;
use sg_common::table::{self, BUCKET, BUSY, GOING, HALF, Memory, SECRETS, Shape, Taken, WORDS_V4, WORDS_V6};

use super::flows::FlowKey;
use super::mapped::Mapped;
use super::{KernelError, Pins};
use crate::supervise::inject;

/// The maps of a family's flows.
#[derive(Debug)]
struct FamilyFds {
    slots: (&'static str, OwnedFd),
    tags: (&'static str, OwnedFd),
    ring: (&'static str, OwnedFd),
    buckets: u32,
    places: u32,
}

/// Descriptors of the tables, for whoever maps them: the memory takes its time to be mapped and counts as the process's
/// own while it is, so that is done when it is needed.
#[derive(Debug)]
pub struct FlowFds {
    v4: FamilyFds,
    v6: FamilyFds,
    secret: [u64; SECRETS],
}

/// A table.
struct Table<S, const WORDS: usize> {
    slots: Mapped<S>,
    tags: Mapped<FlowTags>,
    ring: Mapped<u64>,
    secret: [u64; SECRETS],
    buckets: u32,
}

/// Both tables.
pub struct FlowMemory {
    v4: Table<FlowSlotV4, WORDS_V4>,
    v6: Table<FlowSlotV6, WORDS_V6>,
}

/// What became of a flow that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    New,
    /// A flow of that key is there.
    Exists,
    /// Both of its buckets are full.
    Full,
}

/// How many flows a table holds, with those that are over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fill {
    pub live: u64,
    pub half_open: u64,
}

impl FamilyFds {
    fn try_clone(&self) -> Result<Self, KernelError> {
        let again = |(name, fd): &(&'static str, OwnedFd)| {
            let fd = fd.try_clone().map_err(|source| KernelError::Io { name, source })?;
            Ok::<_, KernelError>((*name, fd))
        };
        Ok(Self { slots: again(&self.slots)?, tags: again(&self.tags)?, ring: again(&self.ring)?, ..*self })
    }

    /// A piece at a time: what is mapped counts as this process's memory.
    fn each<S: Pod, const WORDS: usize>(
        &self,
        mut one: impl FnMut([u64; WORDS], Flow) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, KernelError> {
        let mut first = 0;
        while first < self.buckets {
            let count = WINDOW.min(self.buckets - first);
            let tags = window(&self.tags, first, count)?;
            let slots: Mapped<S> = window(&self.slots, first * BUCKET, count * BUCKET)?;
            if walk(&tags, &slots, &mut one).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            first += count;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn tags(&self) -> Result<Mapped<FlowTags>, KernelError> {
        mapped(&self.tags, self.buckets)
    }
}

/// Buckets: whole pages of tags and of slots.
const WINDOW: u32 = 4096;

fn window<T: Pod>(
    (name, fd): &(&'static str, OwnedFd),
    first: u32,
    len: u32,
) -> Result<Mapped<T>, KernelError> {
    Mapped::window(fd.as_fd(), first, len).map_err(|source| KernelError::Io { name, source })
}

fn mapped<T: Pod>((name, fd): &(&'static str, OwnedFd), len: u32) -> Result<Mapped<T>, KernelError> {
    Mapped::new(fd.as_fd(), len).map_err(|source| KernelError::Io { name, source })
}

impl FlowFds {
    /// `fd` gives a map's descriptor, and how many elements it has.
    pub(super) fn new(
        control: &Control,
        fd: impl Fn(&'static str) -> Result<(OwnedFd, u32), KernelError>,
    ) -> Result<Self, KernelError> {
        let family = |slots, tags, ring, buckets| {
            let (ring_fd, places) = fd(ring)?;
            Ok::<_, KernelError>(FamilyFds {
                slots: (slots, fd(slots)?.0),
                tags: (tags, fd(tags)?.0),
                ring: (ring, ring_fd),
                buckets,
                places,
            })
        };
        Ok(Self {
            v4: family(map::FLOWS_V4, map::TAGS_V4, map::RING_V4, control.buckets_v4)?,
            v6: family(map::FLOWS_V6, map::TAGS_V6, map::RING_V6, control.buckets_v6)?,
            secret: control.secret,
        })
    }

    /// # Errors
    ///
    /// If this process has no file descriptor left.
    pub fn try_clone(&self) -> Result<Self, KernelError> {
        Ok(Self { v4: self.v4.try_clone()?, v6: self.v6.try_clone()?, secret: self.secret })
    }

    /// # Errors
    ///
    /// If the kernel refuses the mapping.
    pub fn map(&self) -> Result<FlowMemory, KernelError> {
        Ok(FlowMemory { v4: Table::new(&self.v4, self.secret)?, v6: Table::new(&self.v6, self.secret)? })
    }

    /// Every flow, in no order, until `one` has enough. A flow that stays is seen once.
    pub(super) fn each(
        &self,
        mut one: impl FnMut(FlowKey, Flow) -> ControlFlow<()>,
    ) -> Result<(), KernelError> {
        let v4 = self.v4.each::<FlowSlotV4, WORDS_V4>(|words, flow| one(FlowKey::V4(key_of(words)), flow))?;
        if v4.is_continue() {
            let _ =
                self.v6.each::<FlowSlotV6, WORDS_V6>(|words, flow| one(FlowKey::V6(key_of(words)), flow))?;
        }
        Ok(())
    }

    /// How many flows there are of IPv4 and of IPv6; those that are over count until they are collected.
    pub(super) fn fill(&self) -> Result<[Fill; 2], KernelError> {
        let [mut v4, mut v6] = [Fill::default(); 2];
        for (family, fill) in [(&self.v4, &mut v4), (&self.v6, &mut v6)] {
            let tags = family.tags()?;
            for bucket in 0..tags.len() {
                let Some(FlowTags { tags }) = tags.get(bucket) else { continue };
                for tag in tags.into_iter().filter(|tag| *tag != 0 && tag & (BUSY | GOING) == 0) {
                    *(if tag & HALF == 0 { &mut fill.live } else { &mut fill.half_open }) += 1;
                }
            }
        }
        Ok([v4, v6])
    }

    /// Cleans up behind a daemon that died while it filled a slot or emptied one; to be called before this one does either. The
    /// live flows that are gone with it.
    pub(super) fn clean_up(&self) -> Result<Vec<Taken>, KernelError> {
        let mut gone = Vec::new();
        let left = |family: &FamilyFds| {
            let tags = family.tags()?;
            let of = |bucket| tags.get(bucket).into_iter().flat_map(|FlowTags { tags }| tags);
            Ok::<_, KernelError>((0..tags.len()).any(|bucket| of(bucket).any(|tag| tag & table::DAEMON != 0)))
        };
        if left(&self.v4)? || left(&self.v6)? {
            let memory = self.map()?;
            let (v4, v6) = (memory.v4.buckets * BUCKET, memory.v6.buckets * BUCKET);
            gone.extend((0..v4).filter_map(|slot| table::abandoned(&memory.v4, slot)));
            gone.extend((0..v6).filter_map(|slot| table::abandoned(&memory.v6, slot)));
        }
        Ok(gone)
    }
}

impl<S: Pod, const WORDS: usize> Memory<WORDS> for Table<S, WORDS> {
    const SIDE: u32 = table::DAEMON;

    fn shape(&self) -> Option<Shape<'_>> {
        Some(Shape { secret: &self.secret, buckets: self.buckets })
    }

    fn tags(&self, bucket: u32) -> Option<NonNull<FlowTags>> {
        self.tags.element(bucket)
    }

    fn slot(&self, slot: u32) -> Option<NonNull<u64>> {
        self.slots.element(slot).map(NonNull::cast)
    }

    unsafe fn exchange(&self, tag: NonNull<u32>, old: u32, new: u32) -> u32 {
        // SAFETY: a tag is in the mapping, aligned, and only ever changed atomically.
        let tag = unsafe { AtomicU32::from_ptr(tag.as_ptr()) };
        match tag.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(was) | Err(was) => was,
        }
    }
}

impl<S: Pod, const WORDS: usize> Table<S, WORDS> {
    fn new(fds: &FamilyFds, secret: [u64; SECRETS]) -> Result<Self, KernelError> {
        const { assert!(size_of::<S>() >= WORDS * size_of::<u64>() + size_of::<Flow>()) };
        Ok(Self {
            slots: mapped(&fds.slots, fds.buckets * BUCKET)?,
            tags: fds.tags()?,
            ring: mapped(&fds.ring, fds.places)?,
            secret,
            buckets: fds.buckets,
        })
    }

    fn insert(&self, key: &[u64; WORDS], flow: &Flow) -> Inserted {
        let slot = table::insert(self, key, flow);
        match slot {
            table::NOWHERE => return Inserted::Full,
            table::EXISTS => return Inserted::Exists,
            _ => {}
        }
        if flow.is_half_open()
            && let Some(oldest) = self.ring.swap(flow.place, u64::from(slot) + 1)
            && oldest != 0
            && oldest != u64::from(slot) + 1
        {
            table::push_out(self, (oldest - 1) as u32, flow.place);
        }
        Inserted::New
    }
}

/// Every flow of so many buckets that stays.
fn walk<S: Pod, const WORDS: usize>(
    tags: &Mapped<FlowTags>,
    slots: &Mapped<S>,
    mut one: impl FnMut([u64; WORDS], Flow) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for bucket in 0..tags.len() {
        if bucket % 256 == 0 {
            inject::here("flows");
        }
        let Some(FlowTags { tags }) = tags.get(bucket) else { continue };
        for (position, tag) in (0..).zip(tags) {
            if tag != 0
                && tag & (BUSY | GOING) == 0
                && let Some(slot) = slots.element(bucket * BUCKET + position)
                && let Some((key, flow)) = copy(slot.cast())
            {
                one(key, flow)?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// What a slot holds, of one flow; `None` if that changes all the time, or nothing.
fn copy<const WORDS: usize>(at: NonNull<u64>) -> Option<([u64; WORDS], Flow)> {
    for _ in 0..4 {
        // SAFETY: a slot begins with a key, behind which there is a flow; any bytes are either.
        let (key, flow, again) = unsafe {
            let key = at.cast::<[u64; WORDS]>().read_volatile();
            let flow = at.add(WORDS).cast::<Flow>().read_volatile();
            (key, flow, at.cast::<[u64; WORDS]>().read_volatile())
        };
        if key == again {
            return key.first().is_some_and(|word| *word != 0).then_some((key, flow));
        }
    }
    None
}

fn words_v4(key: FlowKeyV4) -> [u64; WORDS_V4] {
    *Aligned(key).words()
}

fn words_v6(key: FlowKeyV6) -> [u64; WORDS_V6] {
    *Aligned(key).words()
}

/// A key from its words: any words are one.
fn key_of<K: Pod, const WORDS: usize>(words: [u64; WORDS]) -> K {
    const { assert!(size_of::<K>() == WORDS * size_of::<u64>() && align_of::<K>() <= align_of::<u64>()) };
    // SAFETY: they are as long, aligned, and any bytes are a `Pod`.
    unsafe { (&raw const words).cast::<K>().read() }
}

impl FlowMemory {
    /// The tables that are pinned.
    ///
    /// # Errors
    ///
    /// If there are none, or the kernel refuses the mapping.
    pub fn open(pins: &Pins) -> Result<Self, KernelError> {
        let open = |name| open(&pins.map(name), name);
        let (fd, len) = open(map::CONTROL)?;
        let control: Mapped<Control> = mapped(&(map::CONTROL, fd), len)?;
        let control = control.get(0).ok_or(KernelError::Missing { name: map::CONTROL })?;
        FlowFds::new(&control, open)?.map()
    }

    /// Adds a flow, live or half-open as its place says.
    pub fn insert(&self, key: &FlowKey, flow: &Flow) -> Inserted {
        match key {
            FlowKey::V4(key) => self.v4.insert(&words_v4(*key), flow),
            FlowKey::V6(key) => self.v6.insert(&words_v6(*key), flow),
        }
    }

    /// The flow of a key, if there is one.
    pub fn get(&self, key: &FlowKey) -> Option<Flow> {
        let flow = match key {
            FlowKey::V4(key) => table::find(&self.v4, &words_v4(*key)),
            FlowKey::V6(key) => table::find(&self.v6, &words_v6(*key)),
        };
        flow.map(|flow| flow.copy())
    }

    /// Takes the flow of a key out. Whoever takes a live flow out takes it off its share.
    pub fn remove(&self, key: &FlowKey) -> Option<Taken> {
        match key {
            FlowKey::V4(key) => table::remove(&self.v4, &words_v4(*key)),
            FlowKey::V6(key) => table::remove(&self.v6, &words_v6(*key)),
        }
    }

    /// The same, if the flow is half-open.
    pub fn remove_half_open(&self, key: &FlowKey) -> Option<Taken> {
        match key {
            FlowKey::V4(key) => table::remove_half_open(&self.v4, &words_v4(*key)),
            FlowKey::V6(key) => table::remove_half_open(&self.v6, &words_v6(*key)),
        }
    }

    /// Every flow, in no order, until `one` has enough. A flow that stays is seen once.
    pub fn each(&self, mut one: impl FnMut(FlowKey, Flow) -> ControlFlow<()>) -> ControlFlow<()> {
        walk(&self.v4.tags, &self.v4.slots, |words: [u64; WORDS_V4], flow| {
            one(FlowKey::V4(key_of(words)), flow)
        })?;
        walk(&self.v6.tags, &self.v6.slots, |words: [u64; WORDS_V6], flow| {
            one(FlowKey::V6(key_of(words)), flow)
        })
    }
}

fn open(path: &Path, name: &'static str) -> Result<(OwnedFd, u32), KernelError> {
    let map = MapData::from_pin(path).map_err(KernelError::map(name))?;
    let len = map.info().map_err(KernelError::map(name))?.max_entries();
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(|source| KernelError::Io { name, source })?;
    Ok((fd, len))
}

/// Words that nobody can know.
pub(super) fn secret() -> io::Result<[u64; SECRETS]> {
    let mut secret = [0u64; SECRETS];
    let bytes = size_of_val(&secret);
    // SAFETY: the buffer has so many bytes, and any are words. That few come at once, or none (getrandom(2)).
    let got = unsafe { libc::getrandom(secret.as_mut_ptr().cast(), bytes, 0) };
    if usize::try_from(got) == Ok(bytes) { Ok(secret) } else { Err(io::Error::last_os_error()) }
}
