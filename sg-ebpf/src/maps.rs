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
    Flow, FlowKeyV4, FlowKeyV6, FlowRecord, FragmentKeyV4, FragmentKeyV6, INTERFACE_SLOTS, Interface,
    MAX_INTERFACES, MemberKeyV4, MemberKeyV6, MemberSets, OwnKeyV4, OwnKeyV6, PORT_SET_BYTES, PairKey, Port,
    REASON_SLOTS, Row, Share, Station, StationKey, Watched, Watcher,
};
use sg_common::account::Counted;
use sg_common::conntrack::{FlowRef, Insertion};
use sg_common::family::{Family, V4, V6};
use sg_common::forward::Bridges;
use sg_common::judge::{Environment, Moment, Scratch, Tables};
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

/// Daemon writes, programs read. An entry's value, the index into `MEMBER_SETS`, never changes while it is there.
/// Full: the daemon refuses the policy.
#[map]
static MEMBERS_V4: HashMap<MemberKeyV4, u32> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// As `MEMBERS_V4`.
#[map]
static MEMBERS_V6: HashMap<MemberKeyV6, u32> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Daemon writes through a memory mapping, programs read. Full: the daemon refuses the policy.
#[map]
static MEMBER_SETS: Array<MemberSets> = Array::with_max_entries(524_288, BPF_F_MMAPABLE);

/// Daemon writes before the policy or the set is in force, programs read. Full: the daemon refuses the policy.
#[map]
static PAIRS: HashMap<PairKey, Row> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Daemon writes before a policy refers to the element, programs read. Full: the daemon refuses the policy.
#[map]
static PORT_SETS: Array<[u64; PORT_SET_BYTES / 8]> = Array::with_max_entries(1024, 0);

/// The live flows. Programs write, the daemon reads and deletes. Full: no further flow becomes live; that is counted.
#[map]
static FLOWS_V4: HashMap<FlowKeyV4, Flow> = HashMap::with_max_entries(262_144, 0);

/// As `FLOWS_V4`.
#[map]
static FLOWS_V6: HashMap<FlowKeyV6, Flow> = HashMap::with_max_entries(262_144, 0);

/// The half-open flows. Programs write, the daemon reads and deletes. As many as places in the ring, so full only while
/// the interfaces' shares of the ring change.
#[map]
static HALF_V4: HashMap<FlowKeyV4, Flow> = HashMap::with_max_entries(131_072, 0);

/// As `HALF_V4`.
#[map]
static HALF_V6: HashMap<FlowKeyV6, Flow> = HashMap::with_max_entries(65_536, 0);

/// In each interface's part, the keys of its half-open flows in the order in which they began. Programs only.
#[map]
static RING_V4: Array<FlowKeyV4> = Array::with_max_entries(131_072, 0);

/// As `RING_V4`.
#[map]
static RING_V6: Array<FlowKeyV6> = Array::with_max_entries(65_536, 0);

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
    fn member_set(&self, slot: u32, parity: usize) -> u32 {
        let Some(sets) = MEMBER_SETS.get_ptr(slot) else { return 0 };
        // SAFETY: a look-up's pointer is valid until the program ends. The daemon stores to the other half only.
        unsafe {
            if parity == 0 {
                (&raw const (*sets).sets[0]).read_volatile()
            } else {
                (&raw const (*sets).sets[1]).read_volatile()
            }
        }
    }

    #[inline(always)]
    fn pair(&self, key: &PairKey) -> Option<&Row> {
        // SAFETY: an element that a policy in force can find is neither changed nor deleted.
        unsafe { PAIRS.get(key) }
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

/// Puts a key in a place of a ring and returns the one that was there.
///
/// Two CPUs are at one place only if one began a whole ring of entries while the other was here; a key of two halves then
/// finds no entry.
///
/// # Safety
///
/// `slot` must be valid and aligned.
#[inline(always)]
unsafe fn take_place<K: Copy>(slot: *mut K, key: &K) -> K {
    // SAFETY: as promised.
    unsafe {
        let oldest = slot.read_volatile();
        slot.write_volatile(*key);
        oldest
    }
}

macro_rules! tables {
    ($family:ty, $classes:ident, $members:ident, $own:ident, $live:ident, $half:ident, $ring:ident, $begun:ident,
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
            fn member(&self, key: &<$family as Family>::MemberKey) -> Option<u32> {
                // SAFETY: the value of an element never changes while it can be found.
                unsafe { $members.get(key).copied() }
            }

            #[inline(always)]
            fn owns(&self, key: &<$family as Family>::OwnKey) -> bool {
                $own.get_ptr(key).is_some()
            }

            #[inline(always)]
            fn live(&self, key: &<$family as Family>::FlowKey) -> Option<FlowRef<'_>> {
                let flow = NonNull::new($live.get_ptr_mut(key)?)?;
                // SAFETY: a look-up's pointer is valid until the program ends, and nobody makes references to flows.
                Some(unsafe { FlowRef::new(flow) })
            }

            #[inline(always)]
            fn insert_live(&self, key: &<$family as Family>::FlowKey, flow: &Flow) -> Insertion {
                match $live.insert(key, flow, u64::from(BPF_NOEXIST)) {
                    Ok(()) => Insertion::Done,
                    Err(EEXIST) => Insertion::Exists,
                    Err(_) => Insertion::Full,
                }
            }

            #[inline(always)]
            fn remove_live(&self, key: &<$family as Family>::FlowKey) -> bool {
                $live.remove(key).is_ok()
            }

            #[inline(always)]
            fn half_open(&self, key: &<$family as Family>::FlowKey) -> Option<FlowRef<'_>> {
                let flow = NonNull::new($half.get_ptr_mut(key)?)?;
                // SAFETY: as for live flows. The entry may be given to another half-open flow meanwhile: what is then
                // stored is a state, a time or flags that a flow of the table may have, and all of them were admitted.
                Some(unsafe { FlowRef::new(flow) })
            }

            #[inline(always)]
            fn insert_half_open(&self, key: &<$family as Family>::FlowKey, flow: &Flow) -> bool {
                $half.insert(key, flow, u64::from(BPF_ANY)).is_ok()
            }

            #[inline(always)]
            fn remove_half_open(&self, key: &<$family as Family>::FlowKey) {
                // It may be gone already, which is as good.
                let _ = $half.remove(key);
            }

            #[inline(always)]
            fn next_half_open(&self, row: u32) -> u64 {
                let Some(share) = SHARES.get_ptr_mut(row) else { return 0 };
                // SAFETY: as for `live`.
                unsafe { fetch_add(&raw mut (*share).$begun, 1) }
            }

            #[inline(always)]
            fn take_place(
                &self,
                place: u32,
                key: &<$family as Family>::FlowKey,
            ) -> Option<<$family as Family>::FlowKey> {
                // SAFETY: a look-up's pointer is valid until the program ends.
                Some(unsafe { take_place($ring.get_ptr_mut(place)?, key) })
            }

            #[inline(always)]
            fn datagram(&self, key: &<$family as Family>::FragmentKey) -> Option<Datagram> {
                let datagram = $fragments.get_ptr(key)?;
                // SAFETY: a look-up's pointer is valid until the program ends.
                Some(unsafe { datagram.read_volatile() })
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
            ) -> Option<<$family as Family>::FragmentKey> {
                // SAFETY: a look-up's pointer is valid until the program ends.
                Some(unsafe { take_place($frag_ring.get_ptr_mut(place)?, key) })
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
    MEMBERS_V4,
    OWN_V4,
    FLOWS_V4,
    HALF_V4,
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
    MEMBERS_V6,
    OWN_V6,
    FLOWS_V6,
    HALF_V6,
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

/// The tables of live flows, for the collector: of IPv4, then of IPv6.
pub fn live_tables() -> [*mut core::ffi::c_void; 2] {
    [(&raw const FLOWS_V4).cast_mut().cast(), (&raw const FLOWS_V6).cast_mut().cast()]
}

/// Likewise, of half-open ones.
pub fn half_open_tables() -> [*mut core::ffi::c_void; 2] {
    [(&raw const HALF_V4).cast_mut().cast(), (&raw const HALF_V6).cast_mut().cast()]
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
