//! The maps. For each: who writes, who reads, and what happens when it is full.

use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use sg_common::abi::{
    ClassKeyV4, ClassKeyV6, Control, Counter, Flow, FlowKeyV4, FlowKeyV6, INTERFACE_SLOTS, Interface,
    MAX_INTERFACES, MemberKeyV4, MemberKeyV6, MemberSets, PORT_SET_BYTES, PairKey, REASON_SLOTS, Row,
};
use sg_common::conntrack::FlowRef;
use sg_common::family::{Family, V4, V6};
use sg_common::judge::{Environment, Moment, Tables};

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

/// Programs write, the daemon reads and deletes. Full: new flows are dropped and counted, live ones stay.
#[map]
static FLOWS_V4: HashMap<FlowKeyV4, Flow> = HashMap::with_max_entries(262_144, 0);

/// As `FLOWS_V4`.
#[map]
static FLOWS_V6: HashMap<FlowKeyV6, Flow> = HashMap::with_max_entries(131_072, 0);

/// Programs write, the daemon reads. Never full.
#[map]
static COUNTERS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries((MAX_INTERFACES + 1) * 2 * REASON_SLOTS, 0);

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
}

macro_rules! tables {
    ($family:ty, $classes:ident, $members:ident, $flows:ident) => {
        impl<const DRY_RUN: bool> Tables<$family> for Kernel<DRY_RUN> {
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
            fn flow(&self, key: &<$family as Family>::FlowKey) -> Option<FlowRef<'_>> {
                let flow = NonNull::new($flows.get_ptr_mut(key)?)?;
                // SAFETY: a look-up's pointer is valid until the program ends, and nobody makes references to flows.
                Some(unsafe { FlowRef::new(flow) })
            }

            #[inline(always)]
            fn insert_flow(&self, key: &<$family as Family>::FlowKey, flow: &Flow, replace: bool) -> bool {
                let flags = if replace { BPF_ANY } else { BPF_NOEXIST };
                match $flows.insert(key, flow, u64::from(flags)) {
                    Ok(()) => true,
                    // Another CPU was faster with a packet of the same flow.
                    Err(error) => error == -17,
                }
            }
        }
    };
}

tables!(V4, CLASSES_V4, MEMBERS_V4, FLOWS_V4);
tables!(V6, CLASSES_V6, MEMBERS_V6, FLOWS_V6);

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

/// The tables of flows, for the collector.
pub fn flow_tables() -> [*mut core::ffi::c_void; 2] {
    [(&raw const FLOWS_V4).cast_mut().cast(), (&raw const FLOWS_V6).cast_mut().cast()]
}
