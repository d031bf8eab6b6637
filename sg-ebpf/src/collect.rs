//! The collector: a program that deletes what is over.

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::helpers::{bpf_for_each_map_elem, bpf_map_delete_elem, bpf_map_lookup_elem};
use aya_ebpf::programs::RawTracePointContext;
use sg_common::abi::{
    AccountKeyV4, AccountKeyV6, Datagram, Flow, FlowKeyV4, FlowKeyV6, FragmentKeyV4, FragmentKeyV6,
};
use sg_common::judge::Environment as _;

use crate::maps::{Kernel, account_tables, datagram_tables, half_open_tables, live_tables, share_zone};
use crate::record;

/// What the callbacks know and tell.
#[repr(C)]
pub struct Collection {
    /// Entries that expired before this are deleted …
    pub before: u64,
    /// … and all entries of this zone, unless it is 0.
    pub zone: u32,
    /// Flows; with [`FULL`](sg_common::abi::collect::FULL) in the end.
    pub deleted: u32,
    /// Accounts of what is dropped are over if no packet came since this.
    pub before_drops: u64,
    /// [`collect`].
    pub accounts: u64,
    /// Jiffies, as the programs have them.
    pub now: u64,
    /// Accounts whose first unrecorded packet is as old as this are recorded.
    pub interval: u64,
}

/// How many times the grace accounts of what is dropped are kept without a packet.
const DROPS_PATIENCE: u64 = 10;

/// Never attached: the daemon test-runs it to delete flows, and datagrams in pieces, that are over. Returns how many flows
/// there were, and in the highest bit whether records wait for the next run.
///
/// An entry that expired this very moment is left alone for another `arg(0)` jiffies: a packet of the same 5-tuple may be
/// about to put a new flow in its place. `arg(1)` is a zone to empty, or 0. `arg(2)` says what to do with accounts ([`collect`]),
/// and `arg(3)` in how many jiffies one has to be recorded.
///
/// A walk over a million flows takes long. So this is no classifier, of which a test run holds up soft interrupts, and
/// with them every packet that the CPU should handle; of a raw tracepoint's program it does not (net/bpf/test_run.c).
// By hand, as aya's macro throws away what the program returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn sgd_collect(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (grace, zone, accounts, interval): (u64, u64, u64, u64) =
        (ctx.arg(0), ctx.arg(1), ctx.arg(2), ctx.arg(3));
    let zone = zone as u32;
    let Some(moment) = Kernel::<true>.moment() else { return 0 };
    let before = moment.now.saturating_sub(grace);
    let mut collection = Collection {
        before,
        zone,
        deleted: 0,
        before_drops: moment.now.saturating_sub(grace.wrapping_mul(DROPS_PATIENCE)),
        accounts,
        now: moment.now,
        interval,
    };
    let [v4, v6] = live_tables();
    walk(v4, collect_live::<FlowKeyV4> as *mut c_void, &mut collection);
    walk(v6, collect_live::<FlowKeyV6> as *mut c_void, &mut collection);
    let [v4, v6] = half_open_tables();
    walk(v4, collect_half_open::<FlowKeyV4> as *mut c_void, &mut collection);
    walk(v6, collect_half_open::<FlowKeyV6> as *mut c_void, &mut collection);
    let [v4, v6] = datagram_tables();
    walk(v4, collect_datagram::<FragmentKeyV4> as *mut c_void, &mut collection);
    walk(v6, collect_datagram::<FragmentKeyV6> as *mut c_void, &mut collection);
    if accounts != 0 {
        // Behind the flows: whose flow has just been deleted is over.
        let [v4, v6] = account_tables();
        walk(v4, record::account::<AccountKeyV4> as *mut c_void, &mut collection);
        walk(v6, record::account::<AccountKeyV6> as *mut c_void, &mut collection);
    }
    collection.deleted
}

/// Calls `callback`, one of those below and for keys of the table, with each element.
#[inline(always)]
fn walk(table: *mut c_void, callback: *mut c_void, collection: &mut Collection) {
    // SAFETY: the callback has the signature that the kernel calls, and the context outlives the call.
    unsafe {
        bpf_for_each_map_elem(table, callback, (&raw mut *collection).cast(), 0);
    }
}

unsafe extern "C" fn collect_live<K: Copy>(
    table: *mut c_void,
    key: *const K,
    flow: *const Flow,
    collection: *mut Collection,
) -> i64 {
    // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it.
    if let Some(Deleted { zone, place }) = unsafe { delete_if_over(table, key, flow, collection) } {
        // Whoever deletes a live flow takes it off its share.
        if share_zone(place) == zone {
            Kernel::<true>.add_live(place, -1);
        }
        // SAFETY: as above.
        unsafe { (*collection).deleted += 1 };
    }
    0
}

unsafe extern "C" fn collect_half_open<K: Copy>(
    table: *mut c_void,
    key: *const K,
    flow: *const Flow,
    collection: *mut Collection,
) -> i64 {
    // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it.
    if unsafe { delete_if_over(table, key, flow, collection) }.is_some() {
        // SAFETY: as above.
        unsafe { (*collection).deleted += 1 };
    }
    0
}

unsafe extern "C" fn collect_datagram<K: Copy>(
    table: *mut c_void,
    key: *const K,
    datagram: *const Datagram,
    collection: *mut Collection,
) -> i64 {
    // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it.
    let _ = unsafe { delete_if_over(table, key, datagram, collection) };
    0
}

/// A value of one of the tables, which begins with the time at which the entry is over.
trait Entry {
    /// Where in the value its place is.
    const PLACE: usize;
}

impl Entry for Flow {
    const PLACE: usize = offset_of!(Self, place);
}

impl Entry for Datagram {
    const PLACE: usize = offset_of!(Self, place);
}

const _: () = assert!(offset_of!(Flow, expires) == 0 && offset_of!(Datagram, expires) == 0);

/// An entry that was there.
struct Deleted {
    zone: u32,
    /// [`Flow::place`], [`Datagram::place`].
    place: u32,
}

/// Deletes an entry if it is over.
///
/// The walk holds no lock. At any moment another CPU may delete the element at hand, and the kernel may give its memory to
/// an entry of another key at once: first the key is written, then the value, then it can be found
/// (kernel/bpf/hashtab.c, `alloc_htab_elem`). What was read of the element may therefore be of two entries, and to delete the key that stands
/// in it now for the time that stood there before would cut somebody's new flow. So the key is copied, and all that is
/// decided is decided by what a look-up of the copy finds: an entry whose value was complete when it could be found. A
/// torn copy finds nothing.
///
/// What was found may go as well before it is read. Then either nothing is deleted or, if in that moment a packet has put a
/// new entry of the same key in the place of the one that was over, that one: the same packets begin it again.
///
/// # Safety
///
/// The element must be one of the table's, whose keys begin with `zone << 8 | protocol`.
#[inline(always)]
unsafe fn delete_if_over<K: Copy, V: Entry>(
    table: *mut c_void,
    key: *const K,
    value: *const V,
    collection: *mut Collection,
) -> Option<Deleted> {
    // SAFETY: as promised; what a look-up finds stays readable until the program ends.
    unsafe {
        let key = key.read_volatile();
        let zone = (&raw const key).cast::<u32>().read_volatile() >> 8;
        let purged = (*collection).zone != 0 && zone == (*collection).zone;
        let before = (*collection).before;
        // Of most entries this says enough.
        if !purged && value.cast::<u64>().read_volatile() >= before {
            return None;
        }
        let found = bpf_map_lookup_elem(table, (&raw const key).cast()).cast::<u8>();
        if found.is_null() {
            return None;
        }
        let expired = found.cast::<u64>().read_volatile() < before;
        let place = found.add(V::PLACE).cast::<u32>().read_volatile();
        if (expired || purged) && bpf_map_delete_elem(table, (&raw const key).cast()) == 0 {
            return Some(Deleted { zone, place });
        }
        None
    }
}
