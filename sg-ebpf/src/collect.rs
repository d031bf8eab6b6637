//! The collector: a program that deletes what is over.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_for_each_map_elem, bpf_map_delete_elem, bpf_map_lookup_elem};
use aya_ebpf::programs::RawTracePointContext;
use sg_common::abi::{AccountKeyV4, AccountKeyV6, Datagram, FlowTags, FragmentKeyV4, FragmentKeyV6};
use sg_common::judge::Environment as _;
use sg_common::table::{self, Memory};

use crate::maps::{FlowsV4, FlowsV6, Here, Kernel, account_tables, datagram_tables, flow_tags, share_zone};
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
    /// [`sg_common::abi::collect`].
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
/// about to put a new flow in its place. `arg(1)` is a zone to empty, or 0. `arg(2)` says what to do with accounts ([`sg_common::abi::collect`]),
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
    let [v4, v6] = flow_tags();
    walk(v4, collect_flows::<{ table::WORDS_V4 }, FlowsV4> as *mut c_void, &mut collection);
    walk(v6, collect_flows::<{ table::WORDS_V6 }, FlowsV6> as *mut c_void, &mut collection);
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

/// Called with each bucket of a table of flows.
unsafe extern "C" fn collect_flows<const WORDS: usize, M: Memory<WORDS> + Here>(
    _: *mut c_void,
    bucket: *const u32,
    tags: *const FlowTags,
    collection: *mut Collection,
) -> i64 {
    let mut position = 0;
    while position < table::BUCKET {
        // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it.
        unsafe {
            if (&raw const (*tags).tags).cast::<u32>().add(position as usize).read_volatile() != 0 {
                collect_flow::<WORDS, M>(*bucket * table::BUCKET + position, &mut *collection);
            }
        }
        position += 1;
    }
    0
}

/// Takes the flow of a slot out if it is over.
///
/// Of most flows the first look says enough. What was found over is made sure of once the slot is the collector's: until then
/// another CPU may take the flow out and put another one there.
#[inline(never)]
fn collect_flow<const WORDS: usize, M: Memory<WORDS> + Here>(slot: u32, collection: &mut Collection) {
    let (before, purged) = (collection.before, collection.zone);
    let taken = table::take_out(&M::HERE, slot, |slot| {
        table::flow::<WORDS>(slot).expires() < before
            || (purged != 0 && table::zone_protocol(slot) >> 8 == purged)
    });
    let Some(taken) = taken else { return };
    // Whoever takes a live flow out takes it off its share.
    if let Some(row) = taken.row()
        && share_zone(row) == taken.zone_protocol >> 8
    {
        Kernel::<true>.add_live(row, -1);
    }
    collection.deleted += 1;
}

unsafe extern "C" fn collect_datagram<K: Copy>(
    table: *mut c_void,
    key: *const K,
    datagram: *const Datagram,
    collection: *mut Collection,
) -> i64 {
    // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it.
    unsafe { delete_if_over(table, key, datagram, collection) };
    0
}

/// Deletes a datagram if it is over.
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
unsafe fn delete_if_over<K: Copy>(
    table: *mut c_void,
    key: *const K,
    value: *const Datagram,
    collection: *mut Collection,
) {
    // SAFETY: as promised; what a look-up finds stays readable until the program ends.
    unsafe {
        let key = key.read_volatile();
        let zone = (&raw const key).cast::<u32>().read_volatile() >> 8;
        let purged = (*collection).zone != 0 && zone == (*collection).zone;
        let before = (*collection).before;
        // Of most entries this says enough.
        if !purged && (&raw const (*value).expires).read_volatile() >= before {
            return;
        }
        let found = bpf_map_lookup_elem(table, (&raw const key).cast()).cast::<Datagram>();
        if found.is_null() {
            return;
        }
        if purged || (&raw const (*found).expires).read_volatile() < before {
            bpf_map_delete_elem(table, (&raw const key).cast());
        }
    }
}
