//! The maps. For each: who writes, who reads, and what happens when it is full.

use core::hint::black_box;
use core::ptr::NonNull;

use aya_ebpf::bindings::{
    BPF_ANY, BPF_EXIST, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_NO_WAKEUP,
};
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf};
use sg_common::abi::{
    self, Account, AccountKeyV4, AccountKeyV6, ClassKeyV4, ClassKeyV6, Control, Counter, DATAGRAMS, Datagram,
    Flow, FlowRecord, FlowSlotV4, FlowSlotV6, FlowTags, FragmentKeyV4, FragmentKeyV6, INTERFACE_SLOTS,
    Interface, MAX_INTERFACES, MemberV4, MemberV6, MembersV4, MembersV6, OwnKeyV4, OwnKeyV6, PORT_SET_BYTES,
    Pair, PairKey, Pairs, Port, REASON_SLOTS, Row, Share, Station, StationKey, Watched, Watcher,
};
use sg_common::account::Counted;
use sg_common::conntrack::{FlowRef, Insertion};
use sg_common::exact;
use sg_common::family::{Aligned, Family, V4, V6};
use sg_common::forward::Bridges;
use sg_common::judge::{Environment, Moment, Scratch, Tables};
use sg_common::table::{self, Memory, Shape, Taken};
use sg_common::watch::Tuple;

/// Daemon writes through a memory mapping, programs read. Never full.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Daemon writes through a memory mapping, programs read. Full: the daemon refuses the policy.
#[map]
static INTERFACES: Array<Interface> = Array::with_max_entries(INTERFACE_SLOTS, BPF_F_MMAPABLE);

/// Daemon writes before the policy is in force, programs read. Full: the daemon refuses the policy.
#[map]
static CLASSES_V4: LpmTrie<ClassKeyV4, Row> = LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// As `CLASSES_V4`.
#[map]
static CLASSES_V6: LpmTrie<ClassKeyV6, Row> = LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// As `sg_common::exact` says: the daemon writes through a memory mapping, programs read. Half of the places stay free. Full: the daemon
/// refuses the policy.
#[map]
static MEMBERS_V4: Array<MembersV4> = Array::with_max_entries(exact::BUCKETS, BPF_F_MMAPABLE);

/// As `MEMBERS_V4`.
#[map]
static MEMBERS_V6: Array<MembersV6> = Array::with_max_entries(exact::BUCKETS, BPF_F_MMAPABLE);

/// As `MEMBERS_V4`. An entry is written before the policy or the set is in force that it is of.
#[map]
static PAIRS: Array<Pairs> = Array::with_max_entries(exact::BUCKETS, BPF_F_MMAPABLE);

/// Daemon writes before a policy refers to the element, programs read. Full: the daemon refuses the policy.
#[map]
static PORT_SETS: Array<[u64; PORT_SET_BYTES / 8]> = Array::with_max_entries(1024, 0);

/// The flows, live and half-open. Programs and the daemon, through a memory mapping, write as `sg_common::table` says. Full, as are
/// both buckets of a flow: it does not begin; that is counted.
#[map]
static FLOWS_V4: Array<FlowSlotV4> = Array::with_max_entries(524_288, BPF_F_MMAPABLE);

/// As `FLOWS_V4`.
#[map]
static FLOWS_V6: Array<FlowSlotV6> = Array::with_max_entries(436_912, BPF_F_MMAPABLE);

/// Which slots of `FLOWS_V4` are in use, and for what: an element for each 16. Written like those.
#[map]
static TAGS_V4: Array<FlowTags> = Array::with_max_entries(524_288 / table::BUCKET, BPF_F_MMAPABLE);

/// As `TAGS_V4`.
#[map]
static TAGS_V6: Array<FlowTags> = Array::with_max_entries(436_912 / table::BUCKET, BPF_F_MMAPABLE);

/// In each interface's part, the slots of its half-open flows in the order in which they began, plus one: 0 is a place that was never
/// used. Programs and the daemon, through a memory mapping, exchange atomically.
#[map]
static RING_V4: Array<u64> = Array::with_max_entries(131_072, BPF_F_MMAPABLE);

/// As `RING_V4`.
#[map]
static RING_V6: Array<u64> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// Datagrams in pieces. Programs only. As many as places in the ring, so full only while the interfaces' shares of the ring
/// change: then a datagram is not remembered, and its later pieces are judged like early ones.
#[map]
static FRAGMENTS_V4: HashMap<FragmentKeyV4, Datagram> = HashMap::with_max_entries(DATAGRAMS, 0);

/// As `FRAGMENTS_V4`.
#[map]
static FRAGMENTS_V6: HashMap<FragmentKeyV6, Datagram> = HashMap::with_max_entries(DATAGRAMS, 0);

/// In each interface's part, the keys of its datagrams in the order in which they began. Programs only.
#[map]
static FRAG_RING_V4: Array<FragmentKeyV4> = Array::with_max_entries(DATAGRAMS, 0);

/// As `FRAG_RING_V4`.
#[map]
static FRAG_RING_V6: Array<FragmentKeyV6> = Array::with_max_entries(DATAGRAMS, 0);

/// Daemon writes before the guard is in force, programs read. Full: the daemon refuses the policy.
#[map]
static OWN_V4: HashMap<OwnKeyV4, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// As `OWN_V4`.
#[map]
static OWN_V6: HashMap<OwnKeyV6, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Programs and the daemon, through a memory mapping, add atomically. Never full.
#[map]
static SHARES: Array<Share> = Array::with_max_entries(MAX_INTERFACES + 1, BPF_F_MMAPABLE);

/// Programs write, the daemon reads. Never full.
#[map]
static COUNTERS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries((MAX_INTERFACES + 1) * 2 * REASON_SLOTS, 0);

/// Daemon writes through a memory mapping, programs read. Full: the daemon refuses a further watcher.
#[map]
static WATCHERS: Array<Watcher> = Array::with_max_entries(abi::WATCHERS, BPF_F_MMAPABLE);

/// Programs write, the daemon reads, and clears before a watcher is active. Never full.
#[map]
static WATCHED: PerCpuArray<Watched> = PerCpuArray::with_max_entries(abi::WATCHERS, 0);

/// Programs write, the daemon reads. Full: events are lost and counted.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(abi::EVENTS_BYTES, 0);

/// As `EVENTS`, for the one watcher that counts what rules allow.
#[map]
static NEW_FLOWS: RingBuf = RingBuf::with_byte_size(abi::NEW_FLOWS_BYTES, 0);

/// Each CPU's own, for the event at hand.
#[map]
static TELLING: PerCpuArray<Telling> = PerCpuArray::with_max_entries(1, 0);

/// What has passed and what was dropped, flow by flow. Programs open accounts and add to them while `CONTROL` says so; the collector records and
/// deletes them. Full: interfaces have shares (SPEC D16), and what finds no room in its own is counted in `SHARES`. As large as
/// the tables of flows, but memory only for what is in it.
#[map]
static ACCOUNTS_V4: HashMap<AccountKeyV4, Account> = HashMap::with_max_entries(458_752, BPF_F_NO_PREALLOC);

/// As `ACCOUNTS_V4`.
#[map]
static ACCOUNTS_V6: HashMap<AccountKeyV6, Account> = HashMap::with_max_entries(458_752, BPF_F_NO_PREALLOC);

/// The collector writes, the daemon reads. Full: the collector leaves accounts as they are until the next run.
#[map]
static FLOW_RECORDS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// The interfaces as ports of bridges, for the fast path. Daemon writes through a memory mapping, programs read. Never full.
#[map]
static PORTS: Array<Port> = Array::with_max_entries(MAX_INTERFACES + 1, BPF_F_MMAPABLE);

/// Who is behind which port of a bridge. Daemon writes and deletes; programs read, and store when they last had the bridge see a
/// station. Full: whoever has no entry is reached through the bridge.
#[map]
static STATIONS: HashMap<StationKey, Station> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Each CPU's own, for the packet at hand.
#[map]
static SCRATCH_V4: PerCpuArray<Scratch<V4>> = PerCpuArray::with_max_entries(1, 0);

/// As `SCRATCH_V4`.
#[map]
static SCRATCH_V6: PerCpuArray<Scratch<V6>> = PerCpuArray::with_max_entries(1, 0);

/// The maps as the decisions see them. `DRY_RUN` makes the type that changes nothing.
pub struct Kernel<const DRY_RUN: bool>;

impl<const DRY_RUN: bool> Environment for Kernel<DRY_RUN> {
    const DRY_RUN: bool = DRY_RUN;

    #[inline(always)]
    fn moment(&self) -> Option<Moment> {
        let control = CONTROL.get_ptr(0)?;
        // SAFETY: a look-up's pointer is valid until the program ends. The daemon stores to these words while programs
        // load them; both are single aligned 8-byte accesses.
        let (generation, clock_offset) = unsafe {
            (
                (&raw const (*control).generation).read_volatile(),
                (&raw const (*control).clock_offset).read_volatile(),
            )
        };
        // SAFETY: the helper has no preconditions.
        let jiffies = unsafe { bpf_jiffies64() };
        Some(Moment { generation, now: jiffies.wrapping_add(clock_offset) })
    }

    #[inline(always)]
    fn interface(&self, index: u32) -> Option<&Interface> {
        INTERFACES.get(index)
    }

    #[inline(always)]
    fn pair(&self, key: &PairKey) -> Option<&Row> {
        let row = exact::value(&PairTable, sgd_pair(Aligned(*key).words()))?;
        // SAFETY: a value of this table is a row, and one that a policy in force can find is neither changed nor deleted.
        Some(unsafe { row.cast().as_ref() })
    }

    #[inline(always)]
    fn port_table_contains(&self, index: u32, number: u16) -> bool {
        let Some(words) = PORT_SETS.get(index) else { return false };
        let Some(word) = words.get(usize::from(number >> 6)) else { return false };
        (word >> (number & 63)) & 1 == 1
    }

    #[inline(always)]
    fn watch_unknown(&self) -> u32 {
        let Some(control) = CONTROL.get_ptr(0) else { return 0 };
        // SAFETY: as in `moment`.
        unsafe { (&raw const (*control).watch_unknown).read_volatile() }
    }

    #[inline(always)]
    fn add_live(&self, row: u32, change: i64) -> u64 {
        let Some(share) = SHARES.get_ptr_mut(row) else { return u64::MAX };
        // SAFETY: a look-up's pointer is valid until the program ends, and the word is only ever changed like this.
        unsafe { fetch_add(&raw mut (*share).live, change as u64) }
    }

    #[inline(always)]
    fn is_accounting(&self) -> bool {
        let Some(control) = CONTROL.get_ptr(0) else { return false };
        // SAFETY: as in `moment`.
        unsafe { (&raw const (*control).account).read_volatile() != 0 }
    }

    #[inline(always)]
    fn accounts(&self, row: u32, change: u64) -> Option<(u64, u32)> {
        let share = SHARES.get_ptr_mut(row)?;
        // SAFETY: as in `add_live`; the limit is stored by the daemon, whole.
        unsafe {
            let before = fetch_add(&raw mut (*share).accounts, change);
            Some((before, (&raw const (*share).account_limit).read_volatile()))
        }
    }

    #[inline(always)]
    fn count_unrecorded(&self, row: u32) {
        let Some(share) = SHARES.get_ptr_mut(row) else { return };
        // SAFETY: as in `add_live`.
        unsafe { fetch_add(&raw mut (*share).unrecorded, 1) };
    }
}

/// Adds a packet to an account, while other CPUs add to it too.
///
/// # Safety
///
/// `account` must be valid and aligned.
#[inline(always)]
unsafe fn add_to_account(account: *mut Account, counted: &Counted) {
    // The compiler knows that there are two directions; the verifier does not.
    let side = black_box(counted.direction as usize) & 1;
    // SAFETY: as promised. The times may be overwritten by another CPU with the same or the next tick.
    unsafe {
        fetch_add((&raw mut (*account).packets).cast::<u64>().add(side), 1);
        fetch_add((&raw mut (*account).bytes).cast::<u64>().add(side), u64::from(counted.bytes));
        let last = &raw mut (*account).last;
        if last.read_volatile() != counted.now {
            last.write_volatile(counted.now);
        }
        let first = &raw mut (*account).first;
        if first.read_volatile() == 0 {
            first.write_volatile(counted.now);
        }
        let flags = u32::from(counted.tcp_flags) << (side as u32 * 8);
        let seen = &raw mut (*account).tcp_flags;
        if seen.read_volatile() & flags != flags {
            core::intrinsics::atomic_or::<u32, u32, { core::intrinsics::AtomicOrdering::Relaxed }>(
                seen, flags,
            );
        }
    }
}

/// Adds to a word that other CPUs add to as well; returns what it was.
///
/// # Safety
///
/// `word` must be valid and aligned.
#[inline(always)]
unsafe fn fetch_add(word: *mut u64, change: u64) -> u64 {
    // `core::sync::atomic` has no read-modify-write on this target; the instruction is there from `v3` on.
    // SAFETY: as promised.
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::SeqCst }>(word, change)
    }
}

/// Puts a key of a datagram in a place of a ring and tells the one that was there.
///
/// Two CPUs are at one place only if one began a whole ring of entries while the other was here; a key of two halves then
/// finds no entry.
///
/// # Safety
///
/// `slot` must be valid and aligned.
#[inline(always)]
unsafe fn take_place<K: Copy>(slot: *mut K, key: &K, oldest: &mut K) {
    // SAFETY: as promised.
    unsafe {
        *oldest = slot.read_volatile();
        slot.write_volatile(*key);
    }
}

/// Stores to a word that other CPUs exchange as well; returns what it was.
///
/// # Safety
///
/// `word` must be valid and aligned.
#[inline(always)]
unsafe fn exchange(word: *mut u64, new: u64) -> u64 {
    // SAFETY: as promised.
    unsafe { core::intrinsics::atomic_xchg::<u64, { core::intrinsics::AtomicOrdering::SeqCst }>(word, new) }
}

/// Tables of exact keys.
macro_rules! exact {
    ($name:ident, $map:ident, $key:literal, $entry:ty) => {
        struct $name;

        impl exact::Memory<$key> for $name {
            const ENTRY: usize = size_of::<$entry>() / size_of::<u64>();

            #[inline(always)]
            fn shape(&self) -> Option<Shape<'_>> {
                let control = CONTROL.get_ptr(0)?;
                // SAFETY: a look-up's pointer is valid until the program ends, and the daemon has set the secret before it has
                // loaded the program.
                Some(unsafe { Shape { secret: &(*control).secret, buckets: exact::BUCKETS } })
            }

            #[inline(always)]
            fn bucket(&self, bucket: u32) -> Option<NonNull<u64>> {
                NonNull::new($map.get_ptr_mut(bucket)?.cast())
            }
        }
    };
}

exact!(MemberTableV4, MEMBERS_V4, 1, MemberV4);
exact!(MemberTableV6, MEMBERS_V6, 3, MemberV6);
exact!(PairTable, PAIRS, 1, Pair);

// Global functions, as those of flows are.

/// The set of a member in generations of a parity, or 0.
#[inline(always)]
fn set_of<const KEY: usize, M: exact::Memory<KEY>>(table: &M, key: *const [u64; KEY], parity: u32) -> u32 {
    // SAFETY: the verifier lets nobody call the functions below with any other pointer than one to a key, or none.
    let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
    let Some(sets) = exact::find(table, key) else { return 0 };
    // SAFETY: a member's value is two numbers of sets, of which the daemon stores to the other one only.
    unsafe { sets.cast::<u32>().add((parity & 1) as usize).read_volatile() }
}

#[unsafe(no_mangle)]
pub extern "C" fn sgd_set_v4(key: *const [u64; 1], parity: u32) -> u32 {
    set_of(&MemberTableV4, key, parity)
}

#[unsafe(no_mangle)]
pub extern "C" fn sgd_set_v6(key: *const [u64; 3], parity: u32) -> u32 {
    set_of(&MemberTableV6, key, parity)
}

#[unsafe(no_mangle)]
pub extern "C" fn sgd_pair(key: *const [u64; 1]) -> u32 {
    // SAFETY: as above.
    unsafe { key.as_ref() }.map_or(exact::NOWHERE, |key| exact::number_of(&PairTable, key).0)
}

/// There is one of each table.
pub trait Here: Sized {
    const HERE: Self;
}

macro_rules! flows {
    ($name:ident, $words:expr, $tags:ident, $slots:ident, $buckets:ident,
     $elsewhere:ident, $insert:ident, $make_live:ident, $remove:ident, $push_out:ident) => {
        /// The table of flows of a family.
        pub struct $name;

        impl Here for $name {
            const HERE: Self = Self;
        }

        // Global functions, which the verifier checks once, for whatever they may be called with, and not again in each place
        // and each state that they are called from. It knows them by their types, hence the pointers.

        #[unsafe(no_mangle)]
        pub extern "C" fn $elsewhere(key: *const [u64; $words], hash: u64) -> u32 {
            // SAFETY: the verifier lets nobody call this with any other pointer than one to a key, or none.
            unsafe { key.as_ref() }.map_or(table::NOWHERE, |key| table::elsewhere(&$name, key, hash))
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $insert(key: *const [u64; $words], flow: *const Flow) -> u32 {
            // SAFETY: as above.
            let (Some(key), Some(flow)) = (unsafe { (key.as_ref(), flow.as_ref()) }) else {
                return table::NOWHERE;
            };
            table::insert(&$name, key, flow)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $make_live(key: *const [u64; $words], row: u32) -> u32 {
            // SAFETY: as above.
            u32::from(unsafe { key.as_ref() }.is_some_and(|key| table::make_live(&$name, key, row)))
        }

        /// The place of the flow that was taken out, and above it whether there was one.
        #[unsafe(no_mangle)]
        pub extern "C" fn $remove(key: *const [u64; $words]) -> u64 {
            // SAFETY: as above.
            let taken = unsafe { key.as_ref() }.and_then(|key| table::remove(&$name, key));
            taken.map_or(0, |taken| u64::from(taken.place) | TAKEN)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $push_out(slot: u32, place: u32) -> u32 {
            table::push_out(&$name, slot, place);
            0
        }

        impl Memory<{ $words }> for $name {
            const SIDE: u32 = 0;

            #[inline(always)]
            fn shape(&self) -> Option<Shape<'_>> {
                let control = CONTROL.get_ptr(0)?;
                // SAFETY: a look-up's pointer is valid until the program ends, and the daemon has set these before it has
                // loaded the program.
                Some(unsafe { Shape { secret: &(*control).secret, buckets: (*control).$buckets } })
            }

            #[inline(always)]
            fn tags(&self, bucket: u32) -> Option<NonNull<FlowTags>> {
                NonNull::new($tags.get_ptr_mut(bucket)?)
            }

            #[inline(always)]
            fn slot(&self, slot: u32) -> Option<NonNull<u64>> {
                NonNull::new($slots.get_ptr_mut(slot)?.cast())
            }

            #[inline(always)]
            unsafe fn exchange(&self, tag: NonNull<u32>, old: u32, new: u32) -> u32 {
                use core::intrinsics::AtomicOrdering::SeqCst;
                // SAFETY: as promised; a tag is aligned.
                unsafe {
                    core::intrinsics::atomic_cxchg::<u32, { SeqCst }, { SeqCst }>(tag.as_ptr(), old, new).0
                }
            }

            #[inline(always)]
            fn elsewhere(&self, key: &[u64; $words], hash: u64) -> u32 {
                $elsewhere(key, hash)
            }
        }
    };
}

/// Above the place that a function returns: there is one.
const TAKEN: u64 = 1 << 32;

flows!(
    FlowsV4,
    table::WORDS_V4,
    TAGS_V4,
    FLOWS_V4,
    buckets_v4,
    sgd_elsewhere_v4,
    sgd_insert_v4,
    sgd_make_live_v4,
    sgd_remove_v4,
    sgd_push_out_v4
);
flows!(
    FlowsV6,
    table::WORDS_V6,
    TAGS_V6,
    FLOWS_V6,
    buckets_v6,
    sgd_elsewhere_v6,
    sgd_insert_v6,
    sgd_make_live_v6,
    sgd_remove_v6,
    sgd_push_out_v6
);

macro_rules! tables {
    ($family:ty, $classes:ident, $members:ident, $set:ident, $own:ident, $flows:ident, $insert:ident, $make_live:ident,
     $remove:ident, $push_out:ident, $ring:ident, $begun:ident,
     $fragments:ident, $frag_ring:ident, $datagrams:ident, $accounts:ident, $scratch:ident) => {
        impl<const DRY_RUN: bool> Tables<$family> for Kernel<DRY_RUN> {
            #[inline(always)]
            fn scratch(&self) -> Option<&mut Scratch<$family>> {
                // SAFETY: each CPU has its own, programs run with soft interrupts disabled, and each takes it once.
                $scratch.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
            }

            #[inline(always)]
            fn class(&self, key: &<$family as Family>::ClassKey) -> Option<&Row> {
                $classes.get(Key::new(<$family as Family>::CLASS_BITS, *key))
            }

            #[inline(always)]
            fn member_set(&self, key: &<$family as Family>::MemberKey, parity: u32) -> u32 {
                $set(Aligned(*key).words(), parity)
            }

            #[inline(always)]
            fn look_ahead_for_member(&self, key: &<$family as Family>::MemberKey) {
                exact::look_ahead(&$members, Aligned(*key).words());
            }

            #[inline(always)]
            fn owns(&self, key: &<$family as Family>::OwnKey) -> bool {
                $own.get_ptr(key).is_some()
            }

            #[inline(always)]
            fn flow(&self, key: &Aligned<<$family as Family>::FlowKey>) -> Option<FlowRef<'_>> {
                table::find(&$flows, key.words())
            }

            #[inline(always)]
            fn begin(&self, key: &Aligned<<$family as Family>::FlowKey>, flow: &Flow) -> Insertion {
                let Some(ring) = $ring.get_ptr_mut(flow.place) else { return Insertion::Full };
                let slot = $insert(key.words(), flow);
                if slot >= table::EXISTS {
                    return if slot == table::EXISTS { Insertion::Exists } else { Insertion::Full };
                }
                // SAFETY: a look-up's pointer is valid until the program ends, and the word is only ever changed like this: so
                // whatever is put into the ring comes out of it once.
                let oldest = unsafe { exchange(ring, u64::from(slot) + 1) };
                if oldest != 0 && oldest != u64::from(slot) + 1 {
                    $push_out((oldest - 1) as u32, flow.place);
                }
                Insertion::Done
            }

            #[inline(always)]
            fn make_live(&self, key: &Aligned<<$family as Family>::FlowKey>, row: u32) -> bool {
                $make_live(key.words(), row) != 0
            }

            #[inline(always)]
            fn remove(&self, key: &Aligned<<$family as Family>::FlowKey>) -> Option<Taken> {
                let taken = $remove(key.words());
                let zone_protocol = key.0.zone_protocol;
                (taken & TAKEN != 0).then_some(Taken { zone_protocol, place: taken as u32 })
            }

            #[inline(always)]
            fn look_ahead(&self, interface: &Interface) {
                let (limit, base) = <$family as Family>::half_share(interface);
                let Some(share) = SHARES.get_ptr(interface.row) else { return };
                // SAFETY: a look-up's pointer is valid until the program ends.
                let begun = unsafe { (&raw const (*share).$begun).read_volatile() };
                let place = begun.checked_rem(u64::from(limit)).unwrap_or(0) as u32;
                let Some(ring) = $ring.get_ptr(base + place) else { return };
                // Of a place that was never used, nothing is found.
                // SAFETY: as above.
                let oldest = unsafe { ring.read_volatile() } as u32;
                table::look_ahead(&$flows, oldest.wrapping_sub(1));
            }

            #[inline(always)]
            fn next_half_open(&self, row: u32) -> u64 {
                let Some(share) = SHARES.get_ptr_mut(row) else { return 0 };
                // SAFETY: as for `live`.
                unsafe { fetch_add(&raw mut (*share).$begun, 1) }
            }

            #[inline(always)]
            fn datagram(&self, key: &<$family as Family>::FragmentKey, to: &mut Datagram) -> bool {
                let Some(datagram) = $fragments.get_ptr(key) else { return false };
                // SAFETY: a look-up's pointer is valid until the program ends.
                *to = unsafe { datagram.read_volatile() };
                true
            }

            #[inline(always)]
            fn datagram_place(&self, key: &<$family as Family>::FragmentKey) -> Option<u32> {
                let datagram = $fragments.get_ptr(key)?;
                // SAFETY: a look-up's pointer is valid until the program ends.
                Some(unsafe { (&raw const (*datagram).place).read_volatile() })
            }

            #[inline(always)]
            fn insert_datagram(&self, key: &<$family as Family>::FragmentKey, datagram: &Datagram) {
                let _ = $fragments.insert(key, datagram, u64::from(BPF_ANY));
            }

            #[inline(always)]
            fn update_datagram(&self, key: &<$family as Family>::FragmentKey, datagram: &Datagram) {
                // One that has gone meanwhile must not come back: another has its place.
                let _ = $fragments.insert(key, datagram, u64::from(BPF_EXIST));
            }

            #[inline(always)]
            fn remove_datagram(&self, key: &<$family as Family>::FragmentKey) {
                // It may be gone already, which is as good.
                let _ = $fragments.remove(key);
            }

            #[inline(always)]
            fn next_datagram(&self, row: u32) -> u64 {
                let Some(share) = SHARES.get_ptr_mut(row) else { return 0 };
                // SAFETY: as for `live`.
                unsafe { fetch_add(&raw mut (*share).$datagrams, 1) }
            }

            #[inline(always)]
            fn take_datagram_place(
                &self,
                place: u32,
                key: &<$family as Family>::FragmentKey,
                oldest: &mut <$family as Family>::FragmentKey,
            ) -> bool {
                let Some(slot) = $frag_ring.get_ptr_mut(place) else { return false };
                // SAFETY: a look-up's pointer is valid until the program ends.
                unsafe { take_place(slot, key, oldest) };
                true
            }

            #[inline(always)]
            fn add_to_account(&self, key: &<$family as Family>::AccountKey, counted: &Counted) -> bool {
                let Some(account) = $accounts.get_ptr_mut(key) else { return false };
                // SAFETY: a look-up's pointer is valid until the program ends.
                unsafe { add_to_account(account, counted) };
                true
            }

            #[inline(always)]
            fn open_account(&self, key: &<$family as Family>::AccountKey, account: &Account) -> Insertion {
                match $accounts.insert(key, account, u64::from(BPF_NOEXIST)) {
                    Ok(()) => Insertion::Done,
                    Err(EEXIST) => Insertion::Exists,
                    // Also for a moment without memory.
                    Err(_) => Insertion::Full,
                }
            }
        }
    };
}

/// `EEXIST`, include/uapi/asm-generic/errno-base.h.
const EEXIST: i32 = -17;

tables!(
    V4,
    CLASSES_V4,
    MemberTableV4,
    sgd_set_v4,
    OWN_V4,
    FlowsV4,
    sgd_insert_v4,
    sgd_make_live_v4,
    sgd_remove_v4,
    sgd_push_out_v4,
    RING_V4,
    half_v4,
    FRAGMENTS_V4,
    FRAG_RING_V4,
    datagrams_v4,
    ACCOUNTS_V4,
    SCRATCH_V4
);
tables!(
    V6,
    CLASSES_V6,
    MemberTableV6,
    sgd_set_v6,
    OWN_V6,
    FlowsV6,
    sgd_insert_v6,
    sgd_make_live_v6,
    sgd_remove_v6,
    sgd_push_out_v6,
    RING_V6,
    half_v6,
    FRAGMENTS_V6,
    FRAG_RING_V6,
    datagrams_v6,
    ACCOUNTS_V6,
    SCRATCH_V6
);

impl<const DRY_RUN: bool> Bridges for Kernel<DRY_RUN> {
    #[inline(always)]
    fn port(&self, row: u32) -> Option<Port> {
        // SAFETY: a look-up's pointer is valid until the program ends; each word is stored whole, the first one last.
        PORTS.get_ptr(row).map(|port| unsafe { port.read_volatile() })
    }

    #[inline(always)]
    fn station(&self, key: &StationKey) -> Option<Station> {
        // SAFETY: as in `port`; an entry is replaced, not changed, but for the word that `see` stores.
        STATIONS.get_ptr(key).map(|station| unsafe { station.read_volatile() })
    }

    #[inline(always)]
    fn see_port(&self, row: u32, now: u64) {
        let Some(port) = PORTS.get_ptr_mut(row) else { return };
        // SAFETY: as in `see`.
        unsafe { (&raw mut (*port).seen).write_volatile(now) }
    }

    #[inline(always)]
    fn see(&self, key: &StationKey, now: u64) {
        let Some(station) = STATIONS.get_ptr_mut(key) else { return };
        // SAFETY: as in `port`; several CPUs may store, each the time that it is.
        unsafe { (&raw mut (*station).seen).write_volatile(now) }
    }
}

/// Whether the interface is on the fast path.
#[inline(always)]
pub fn is_port(row: u32) -> bool {
    // SAFETY: as in `Bridges::port`.
    PORTS.get_ptr(row).is_some_and(|port| unsafe { (&raw const (*port).until).read_volatile() } != 0)
}

/// Adds one packet to a counter.
#[inline(always)]
pub fn count(index: u32, bytes: u32) {
    let Some(counter) = COUNTERS.get_ptr_mut(index) else { return };
    // SAFETY: a look-up's pointer is valid until the program ends. The counter is this CPU's own, and no program of
    // ours interrupts another on one CPU: all hooks run with soft interrupts disabled.
    unsafe {
        (*counter).packets = (*counter).packets.wrapping_add(1);
        (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(bytes));
    }
}

/// The tags of flows, for the collector: of IPv4, then of IPv6.
pub fn flow_tags() -> [*mut core::ffi::c_void; 2] {
    [(&raw const TAGS_V4).cast_mut().cast(), (&raw const TAGS_V6).cast_mut().cast()]
}

/// Likewise, of datagrams in pieces.
pub fn datagram_tables() -> [*mut core::ffi::c_void; 2] {
    [(&raw const FRAGMENTS_V4).cast_mut().cast(), (&raw const FRAGMENTS_V6).cast_mut().cast()]
}

/// Likewise, of accounts.
pub fn account_tables() -> [*mut core::ffi::c_void; 2] {
    [(&raw const ACCOUNTS_V4).cast_mut().cast(), (&raw const ACCOUNTS_V6).cast_mut().cast()]
}

/// Puts a record into the ring, of which nobody is told: whoever runs the collector reads it then. False if it is full.
#[inline(always)]
pub fn record(record: &FlowRecord) -> bool {
    FLOW_RECORDS.output::<FlowRecord>(record, u64::from(BPF_RB_NO_WAKEUP)).is_ok()
}

/// Whose share a row is, 0 if nobody's.
pub fn share_zone(row: u32) -> u32 {
    // SAFETY: a look-up's pointer is valid until the program ends; the daemon sets the zone before the row is in use.
    SHARES.get_ptr(row).map_or(0, |share| unsafe { (&raw const (*share).zone).read_volatile() })
}

/// What a CPU has at hand while it tells of a packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Telling {
    pub tuple: Tuple,
    /// A bit for each watcher that is told.
    pub takers: u32,
}

/// This CPU's own, with anything in it.
#[inline(always)]
pub fn telling() -> Option<&'static mut Telling> {
    // SAFETY: each CPU has its own, and programs run with soft interrupts disabled.
    TELLING.get_ptr_mut(0).map(|telling| unsafe { &mut *telling })
}

#[inline(always)]
pub fn watcher(index: u32) -> Option<&'static Watcher> {
    WATCHERS.get(index)
}

/// This CPU's own.
#[inline(always)]
pub fn watched(index: u32) -> Option<&'static mut Watched> {
    // SAFETY: as in `telling`.
    WATCHED.get_ptr_mut(index).map(|state| unsafe { &mut *state })
}

/// What was read of the packet that was judged last.
#[inline(always)]
pub fn scratch_v4() -> Option<&'static Scratch<V4>> {
    SCRATCH_V4.get(0)
}

/// Likewise.
#[inline(always)]
pub fn scratch_v6() -> Option<&'static Scratch<V6>> {
    SCRATCH_V6.get(0)
}

/// A ring, and how its reader is woken. Of new flows the reader looks by itself: that is cheaper than being woken for each.
#[inline(always)]
pub fn event_ring(new_flows: bool) -> (*mut core::ffi::c_void, u64) {
    if new_flows {
        ((&raw const NEW_FLOWS).cast_mut().cast(), u64::from(BPF_RB_NO_WAKEUP))
    } else {
        ((&raw const EVENTS).cast_mut().cast(), 0)
    }
}

/// How many places of `WATCHERS` to look at.
#[inline(always)]
pub fn watch_places() -> u32 {
    // SAFETY: as in `Kernel::moment`.
    CONTROL
        .get_ptr(0)
        .map_or(0, |control| unsafe { (&raw const (*control).watch_places).read_volatile() as u32 })
}

/// The generation that is in force now.
#[inline(always)]
pub fn generation() -> u64 {
    // SAFETY: as in `Kernel::moment`.
    CONTROL.get_ptr(0).map_or(0, |control| unsafe { (&raw const (*control).generation).read_volatile() })
}
