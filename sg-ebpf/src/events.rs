//! Telling those who watch of a packet and its verdict. Nothing of this runs for a packet that nobody watches.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_ringbuf_reserve, bpf_ringbuf_submit, bpf_skb_load_bytes, bpf_xdp_get_buff_len,
    bpf_xdp_load_bytes,
};
use core::ffi::c_void;
use core::hint::black_box;

use sg_common::abi::{
    EVENT_AUDIT, EVENT_FRAME, EVENT_READ, EVENT_VLAN, Event, NEW_FLOW_WATCHER, WATCHERS, Watcher,
};
use sg_common::judge::{Judgement, Outcome};
use sg_common::packet::{load, rolled, store};
use sg_common::watch::{Tuple, of_v4, of_v6, wants};

use crate::maps::{
    Telling, event_ring, generation, scratch_v4, scratch_v6, telling, watch_places, watched, watcher,
};

/// The context of a program.
pub trait Source {
    /// Bytes of the whole frame.
    fn len(&self) -> u32;
    fn has_vlan(&self) -> bool;
    fn ifindex(&self) -> u32;
    /// Copies the first bytes of the frame; false if that cannot be done.
    ///
    /// # Safety
    ///
    /// There must be room for them.
    unsafe fn copy(&self, to: *mut c_void, bytes: u32) -> bool;
}

impl Source for xdp_md {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a reference to the context is to the one that the kernel passed, here and below.
        unsafe { bpf_xdp_get_buff_len(context(self)) as u32 }
    }

    #[inline(always)]
    fn has_vlan(&self) -> bool {
        false
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ingress_ifindex
    }

    #[inline(always)]
    unsafe fn copy(&self, to: *mut c_void, bytes: u32) -> bool {
        // SAFETY: as promised.
        unsafe { bpf_xdp_load_bytes(context(self), 0, to, bytes) == 0 }
    }
}

impl Source for __sk_buff {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn has_vlan(&self) -> bool {
        self.vlan_present != 0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    #[inline(always)]
    unsafe fn copy(&self, to: *mut c_void, bytes: u32) -> bool {
        // SAFETY: as promised.
        unsafe { bpf_skb_load_bytes(context(self).cast(), 0, to, bytes) == 0 }
    }
}

#[inline(always)]
const fn context<C>(context: &C) -> *mut C {
    core::ptr::from_ref(context).cast_mut()
}

/// Tells those who watch packets like this one.
#[inline(always)]
pub fn tell<C: Source>(context: &C, judgement: &Judgement, flags: u8) {
    if judgement.outcome.is_watched() {
        emit(context, judgement.verdict.word(), judgement.outcome, u32::from(flags));
    }
}

/// A subprogram: its stack is free again when it returns. `flags`: those of the event that the program knows.
#[inline(never)]
fn emit<C: Source>(context: &C, verdict: u64, outcome: Outcome, flags: u32) -> u32 {
    let Some(telling) = telling() else { return 0 };
    read(outcome, &mut telling.tuple);
    store(&mut telling.takers, 0);
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let (kind, ifindex) = (outcome.kind(), context.ifindex());
    let mut index = 0;
    let places = watch_places();
    while rolled(index) < WATCHERS && index < places {
        ask(index, kind, ifindex, now, telling);
        index += 1;
    }
    let takers = load(&telling.takers);
    const { assert!(NEW_FLOW_WATCHER == 0) };
    if takers & 1 != 0 {
        write(context, verdict, outcome, flags, 1);
    }
    if takers & !1 != 0 {
        write(context, verdict, outcome, flags, 0);
    }
    0
}

/// Stores what was read of the packet when it was judged.
#[inline(never)]
fn read(outcome: Outcome, tuple: &mut Tuple) {
    if outcome.family() == 4
        && let Some(scratch) = scratch_v4()
    {
        of_v4(scratch, outcome.outbound(), tuple);
    } else if outcome.family() == 6
        && let Some(scratch) = scratch_v6()
    {
        of_v6(scratch, outcome.outbound(), tuple);
    } else {
        *tuple = Tuple::UNKNOWN;
    }
}

/// Notes whether a watcher wants the packet and may be told now.
#[inline(always)]
fn ask(index: u32, kind: u32, ifindex: u32, now: u64, telling: &mut Telling) {
    let Some(watcher) = watcher(index) else { return };
    if wants(watcher, ifindex, kind, &telling.tuple) && may_tell(index, watcher, now) {
        let takers = load(&telling.takers);
        store(&mut telling.takers, takers | 1 << (index & 31));
    }
}

/// A bucket that fills with time, in one word: when the next event would be due if each kept its distance.
#[inline(always)]
fn may_tell(index: u32, watcher: &Watcher, now: u64) -> bool {
    let Some(state) = watched(index) else { return false };
    let (interval, burst) = (load(&watcher.interval), load(&watcher.burst));
    let due = if state.due > now { state.due } else { now };
    if due - now > burst {
        state.limited += 1;
        return false;
    }
    state.due = due + interval;
    state.told += 1;
    true
}

/// Writes an event to a ring.
#[inline(never)]
fn write<C: Source>(context: &C, verdict: u64, outcome: Outcome, flags: u32, new_flows: u32) -> u32 {
    let Some(telling) = telling() else { return 0 };
    let takers = if new_flows != 0 { load(&telling.takers) & 1 } else { load(&telling.takers) & !1 };
    let (ring, wake) = event_ring(new_flows != 0);
    // SAFETY: the size is the structure's own, and the ring's records are aligned to 8 bytes.
    let event = unsafe { bpf_ringbuf_reserve(ring, size_of::<Event>() as u64, 0) }.cast::<Event>();
    if event.is_null() {
        note_full(takers);
        return 0;
    }
    let bytes = context.len();
    // One less than what is taken, below a mask: the verifier of Linux 6.1 does not follow what a comparison of a sum says of its
    // parts. A frame of no bytes is not copied by the helper either.
    const { assert!((EVENT_FRAME as u32).is_power_of_two()) };
    let most = if bytes < EVENT_FRAME as u32 { bytes } else { EVENT_FRAME as u32 };
    let captured = (black_box(most.wrapping_sub(1)) & (EVENT_FRAME as u32 - 1)) + 1;
    let vlan = if context.has_vlan() { EVENT_VLAN } else { 0 };
    let audit = if outcome.is_audited() { EVENT_AUDIT } else { 0 };
    let read = if outcome.family() != 0 { EVENT_READ } else { 0 };
    let generation = outcome.generation(generation());
    // SAFETY: the record is ours until it is submitted; the frame's part of it has room for as many bytes.
    unsafe {
        (*event).time = bpf_ktime_get_ns();
        (*event).generation = generation;
        (*event).watchers = takers;
        (*event).ifindex = context.ifindex();
        (*event).policy = (verdict >> 32) as u32;
        (*event).bytes = bytes;
        (*event).reason = verdict as u8;
        (*event).direction = outcome.outbound() as u8;
        (*event).flags = flags as u8 | vlan | audit | read;
        (*event).state = (verdict >> 16) as u8;
        (*event).reserved = 0;
        let there = context.copy((&raw mut (*event).frame).cast(), captured);
        (*event).captured = if there { captured } else { 0 };
        bpf_ringbuf_submit(event.cast(), wake);
    }
    0
}

/// For each of the takers, a packet of which it is not told.
#[inline(always)]
fn note_full(takers: u32) {
    let mut index = 0;
    while rolled(index) < WATCHERS {
        if takers >> index & 1 != 0
            && let Some(state) = watched(index)
        {
            state.told -= 1;
            state.full += 1;
        }
        index += 1;
    }
}
