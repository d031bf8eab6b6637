//! The maps, in memory.

use std::cell::{RefCell, UnsafeCell};
use std::collections::BTreeMap;
use std::hash::Hash;
use std::ptr::NonNull;

use sg_common::abi::Be32;
use sg_common::abi::{
    Account, AccountKeyV4, AccountKeyV6, ClassKeyV4, ClassKeyV6, Datagram, FLOW_LIVE, Flow, FlowKeyV4,
    FlowKeyV6, FlowPorts, FragmentKeyV4, FragmentKeyV6, INTERFACE_PROBES, Interface, MemberKeyV4,
    MemberKeyV6, OwnKeyV4, OwnKeyV6, PairKey, PolicyDirection, Row, interface_slot,
};
use sg_common::account::Counted;
use sg_common::conntrack::{Change, FlowRef, Insertion};
use sg_common::family::{Aligned, V4, V6};
use sg_common::fragment::Range;
use sg_common::judge::{Environment, Moment, Scratch, Tables};
use sg_common::packet::{Ip, Transport};
use sg_common::table::Taken;
use sg_common::verdict::{Reason, Verdict};

use super::{Host, Meanwhile, v4, v6};

/// A flow at an address of its own, which references may outlive by one packet.
type Cell = Box<UnsafeCell<Flow>>;

/// The table of a family and the ring.
pub(super) struct Flows<K> {
    table: RefCell<Vec<(K, Cell)>>,
    ring: RefCell<BTreeMap<u32, K>>,
    /// Removed while a packet may still look at them, as it may in the kernel.
    removed: RefCell<Vec<Cell>>,
}

impl<K> Default for Flows<K> {
    fn default() -> Self {
        Self { table: RefCell::default(), ring: RefCell::default(), removed: RefCell::default() }
    }
}

impl<K: Copy + Eq + Hash> Flows<K> {
    /// No packet is looking.
    pub(super) fn bury(&self) {
        self.removed.borrow_mut().clear();
    }

    /// Key and value of every entry.
    pub(super) fn all(&self) -> Vec<(K, Flow)> {
        // SAFETY: nobody has a reference to the flow, and no packet is being judged.
        self.table.borrow().iter().map(|(key, flow)| (*key, unsafe { *flow.get() })).collect()
    }

    /// Removes what is over; returns the rows of those that were live.
    pub(super) fn collect(&self, now: u64) -> Vec<u32> {
        let over = self.all().into_iter().filter(|(_, flow)| flow.expires <= now);
        over.filter_map(|(key, _)| self.remove(&key).and_then(row)).collect()
    }

    fn find(&self, key: &K) -> Option<FlowRef<'_>> {
        let table = self.table.borrow();
        let (_, flow) = table.iter().find(|(other, _)| other == key)?;
        // SAFETY: the box stays until `bury`, after the packet; nobody makes references to the flow.
        Some(unsafe { FlowRef::new(NonNull::new_unchecked(flow.get())) })
    }

    fn remove(&self, key: &K) -> Option<Flow> {
        let mut table = self.table.borrow_mut();
        let place = table.iter().position(|(other, _)| other == key)?;
        let (_, flow) = table.swap_remove(place);
        // SAFETY: as in `all`; a reference of the packet at hand reads only.
        let was = unsafe { *flow.get() };
        self.removed.borrow_mut().push(flow);
        Some(was)
    }

    fn begin(&self, key: &K, flow: &Flow) -> Insertion {
        if self.find(key).is_some() {
            return Insertion::Exists;
        }
        self.table.borrow_mut().push((*key, Box::new(UnsafeCell::new(*flow))));
        let oldest = self.ring.borrow_mut().insert(flow.place, *key);
        if let Some(oldest) = oldest.filter(|oldest| oldest != key)
            && self.find(&oldest).is_some_and(|other| other.place() == flow.place)
        {
            self.remove(&oldest);
        }
        Insertion::Done
    }

    fn make_live(&self, key: &K, row: u32) -> bool {
        let flow = self.find(key).filter(FlowRef::is_half_open);
        flow.inspect(|flow| flow.set_place(FLOW_LIVE | row)).is_some()
    }
}

/// The row of a live flow.
fn row(flow: Flow) -> Option<u32> {
    (!flow.is_half_open()).then_some(flow.place & !FLOW_LIVE)
}

/// What [`sg_common::abi::Share`] has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    live: u64,
    begun_v4: u64,
    begun_v6: u64,
    datagrams_v4: u64,
    datagrams_v6: u64,
}

/// The table of datagrams of a family and its ring.
pub(super) struct Fragments<K> {
    known: RefCell<Vec<(K, Datagram)>>,
    ring: RefCell<BTreeMap<u32, K>>,
}

impl<K> Default for Fragments<K> {
    fn default() -> Self {
        Self { known: RefCell::default(), ring: RefCell::default() }
    }
}

impl<K: Copy + Eq> Fragments<K> {
    /// Forgets those whose time is over.
    pub(super) fn collect(&self, now: u64) {
        self.known.borrow_mut().retain(|(_, datagram)| datagram.expires > now);
    }

    fn find(&self, key: &K) -> Option<Datagram> {
        self.known.borrow().iter().find(|(other, _)| other == key).map(|(_, datagram)| *datagram)
    }

    fn remove(&self, key: &K) {
        self.known.borrow_mut().retain(|(other, _)| other != key);
    }

    fn insert(&self, key: &K, datagram: &Datagram) {
        self.remove(key);
        self.known.borrow_mut().push((*key, *datagram));
    }
}

impl Host {
    /// Whether this is what happens now; it does once.
    fn happens(&self, what: Meanwhile) -> bool {
        let now = self.meanwhile.get() == Some(what);
        if now {
            self.meanwhile.set(None);
        }
        now
    }
}

impl Environment for Host {
    const DRY_RUN: bool = false;

    fn moment(&self) -> Option<Moment> {
        Some(Moment { generation: self.generation, now: self.now.get() })
    }

    fn interface(&self, index: u32) -> Option<&Interface> {
        static FREE: Interface = FREE_ENTRY;
        let mut here = self.interfaces.values().filter(|interface| {
            (0..INTERFACE_PROBES).any(|probe| interface_slot(interface.ifindex, probe) == index)
        });
        Some(here.next().unwrap_or(&FREE))
    }

    fn pair(&self, key: &PairKey) -> Option<&Row> {
        let remote = self.rows.address(key.set_family >> 1);
        Some(self.rows.row(PolicyDirection(key.policy_direction), true, remote))
    }

    fn port_table_contains(&self, index: u32, number: u16) -> bool {
        self.rows.contains(index, number)
    }

    fn add_live(&self, row: u32, change: i64) -> u64 {
        let mut shares = self.shares.borrow_mut();
        let live = &mut shares.entry(row).or_default().live;
        let before = *live;
        *live = before.wrapping_add(change as u64);
        if change == 0 && self.happens(Meanwhile::TakesTheLastPlace) {
            *live += 1;
        }
        before
    }

    fn is_accounting(&self) -> bool {
        // No verdict depends on it.
        false
    }

    fn accounts(&self, _row: u32, _change: u64) -> Option<(u64, u32)> {
        None
    }

    fn count_unrecorded(&self, _row: u32) {}
}

pub(super) const FREE_ENTRY: Interface = Interface {
    ifindex: 0,
    zone: 0,
    row: 0,
    live_limit: 0,
    half_limit_v4: 0,
    half_base_v4: 0,
    half_limit_v6: 0,
    half_base_v6: 0,
    datagram_limit: 0,
    datagram_base: 0,
    watched: [0; sg_common::abi::KIND_WORDS],
    halves: [sg_common::abi::InterfaceHalf {
        policy: 0,
        vpc: 0,
        flags: 0,
        granularity: 0,
        timeouts: [0; 12],
        mac: [0; 6],
        reserved: 0,
        guard: 0,
        own_v4: Be32(0),
        own_v6: [Be32(0); 4],
        ether_types: [0; 8],
        patience_v4: 0,
        patience_v6: 0,
        reserved_too: [0; 2],
    }; 2],
};

macro_rules! tables {
    ($family:ty, $flows:ident, $scratch:ident, $begun:ident, $fragments:ident, $datagrams:ident, $address:ident,
     $class:ty, $member:ty, $own:ty, $flow:ty, $account:ident, $fragment:ty, $blank:expr, $blank_fragment:expr) => {
        impl Tables<$family> for Host {
            fn scratch(&self) -> Option<&mut Scratch<$family>> {
                let scratch = self.$scratch.get();
                // SAFETY: one packet at a time is judged, and takes it once.
                let scratch = unsafe { &mut *scratch };
                Some(scratch.get_or_insert(Scratch {
                    ip: Ip::NOTHING,
                    transport: Transport::NOTHING,
                    key: Aligned($blank),
                    account: $account { flow: $blank, dropped: 0 },
                    datagram: Datagram { expires: 0, verdict: 0, place: 0, end: 0, ports: 0, ranges: [0; 8] },
                    joined: Range { start: 0, end: 0 },
                    piece: $blank_fragment,
                    oldest: $blank_fragment,
                    free: 0,
                    over: 0,
                    read: Ok(()),
                    flow: Flow {
                        expires: 0,
                        created: 0,
                        place: 0,
                        policy: 0,
                        state: 0,
                        flags: 0,
                        tcp: 0,
                        sequence: [0; 6],
                    },
                    change: Change::NOTHING,
                    verdict: Verdict::of(Reason::Malformed),
                    network: 0,
                }))
            }

            fn class(&self, key: &$class) -> Option<&Row> {
                let policy = PolicyDirection(key.policy_direction.to_host());
                Some(self.rows.row(policy, false, $address(key.address)))
            }

            fn member_set(&self, key: &$member, parity: u32) -> u32 {
                let in_force = parity as u64 == self.generation % 2;
                self.rows.set($address(key.address)).filter(|_| in_force).unwrap_or(0)
            }

            fn owns(&self, key: &$own) -> bool {
                self.rows.owns(key.guard, $address(key.address))
            }

            fn flow(&self, key: &Aligned<$flow>) -> Option<FlowRef<'_>> {
                if self.happens(Meanwhile::BecomesLive)
                    && let Some(entry) = self.interface_of_zone(key.0.zone_protocol >> 8)
                    && self.$flows.make_live(&key.0, entry.row)
                {
                    self.add_live(entry.row, 1);
                }
                self.$flows.find(&key.0)
            }

            fn begin(&self, key: &Aligned<$flow>, flow: &Flow) -> Insertion {
                if self.happens(Meanwhile::FillsTheTable) {
                    return Insertion::Full;
                }
                self.$flows.begin(&key.0, flow)
            }

            fn make_live(&self, key: &Aligned<$flow>, row: u32) -> bool {
                if self.happens(Meanwhile::BecomesLiveAtLast) {
                    self.$flows.make_live(&key.0, row);
                    self.add_live(row, 1);
                }
                if self.happens(Meanwhile::IsPushedOut) {
                    self.$flows.remove(&key.0);
                }
                self.$flows.make_live(&key.0, row)
            }

            fn remove(&self, key: &Aligned<$flow>) -> Option<Taken> {
                let Flow { place, .. } = self.$flows.remove(&key.0)?;
                Some(Taken { zone_protocol: key.0.zone_protocol, place })
            }

            fn next_half_open(&self, row: u32) -> u64 {
                let mut shares = self.shares.borrow_mut();
                let begun = &mut shares.entry(row).or_default().$begun;
                *begun += 1;
                *begun - 1
            }

            fn datagram(&self, key: &$fragment, to: &mut Datagram) -> bool {
                self.$fragments.find(key).inspect(|datagram| *to = *datagram).is_some()
            }

            fn datagram_place(&self, key: &$fragment) -> Option<u32> {
                self.$fragments.find(key).map(|datagram| datagram.place)
            }

            fn insert_datagram(&self, key: &$fragment, datagram: &Datagram) {
                self.$fragments.insert(key, datagram);
            }

            fn update_datagram(&self, key: &$fragment, datagram: &Datagram) {
                if self.$fragments.find(key).is_some() {
                    self.$fragments.insert(key, datagram);
                }
            }

            fn remove_datagram(&self, key: &$fragment) {
                self.$fragments.remove(key);
            }

            fn next_datagram(&self, row: u32) -> u64 {
                let mut shares = self.shares.borrow_mut();
                let datagrams = &mut shares.entry(row).or_default().$datagrams;
                *datagrams += 1;
                *datagrams - 1
            }

            fn take_datagram_place(&self, place: u32, key: &$fragment, oldest: &mut $fragment) -> bool {
                *oldest = self.$fragments.ring.borrow_mut().insert(place, *key).unwrap_or($blank_fragment);
                true
            }

            fn add_to_account(&self, _key: &$account, _counted: &Counted) -> bool {
                false
            }

            fn open_account(&self, _key: &$account, _account: &Account) -> Insertion {
                Insertion::Full
            }
        }
    };
}

const NO_PORTS: FlowPorts = FlowPorts { local: 0, remote: 0 };
const BLANK_V4: FlowKeyV4 = FlowKeyV4 { zone_protocol: 0, local: Be32(0), remote: Be32(0), ports: NO_PORTS };
const BLANK_V6: FlowKeyV6 =
    FlowKeyV6 { zone_protocol: 0, local: [Be32(0); 4], remote: [Be32(0); 4], ports: NO_PORTS };
const BLANK_FRAGMENT_V4: FragmentKeyV4 =
    FragmentKeyV4 { zone_protocol: 0, source: Be32(0), destination: Be32(0), id_direction: 0 };
const BLANK_FRAGMENT_V6: FragmentKeyV6 =
    FragmentKeyV6 { zone_protocol: 0, source: [Be32(0); 4], destination: [Be32(0); 4], id: 0, direction: 0 };

tables!(
    V4,
    flows_v4,
    scratch_v4,
    begun_v4,
    fragments_v4,
    datagrams_v4,
    v4,
    ClassKeyV4,
    MemberKeyV4,
    OwnKeyV4,
    FlowKeyV4,
    AccountKeyV4,
    FragmentKeyV4,
    BLANK_V4,
    BLANK_FRAGMENT_V4
);
tables!(
    V6,
    flows_v6,
    scratch_v6,
    begun_v6,
    fragments_v6,
    datagrams_v6,
    v6,
    ClassKeyV6,
    MemberKeyV6,
    OwnKeyV6,
    FlowKeyV6,
    AccountKeyV6,
    FragmentKeyV6,
    BLANK_V6,
    BLANK_FRAGMENT_V6
);
