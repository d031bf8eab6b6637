//! The maps that are written entry by entry.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData, MapError};
use aya::sys::SyscallError;
use aya::{Ebpf, Pod};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sg_common::abi::{
    Be32, ClassKeyV4, ClassKeyV6, Control, Counter, Direction, MemberKeyV4, MemberKeyV6, MemberSets,
    MemberV4, MemberV6, MembersV4, MembersV6, OwnKeyV4, OwnKeyV6, PORT_SET_BYTES, Pair, Pairs,
    PolicyDirection, REASON_SLOTS, Row, counter_index, map,
};
use zerocopy::{IntoBytes as _, transmute};

use super::batch::{self, Elements, Partly};
use super::exact::{Exact, OnceNeeded};
use super::flow_memory::FlowFds;
use super::grace::grace;
use super::{KernelError, TableSizes, map_data, max_entries};
use crate::compile::ranges::Table as PortRow;
use crate::plan::{Entry, Table, table_indexes};

/// A port table as aya copies it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PortTable([u64; PORT_SET_BYTES / 8]);
// SAFETY: plain integers.
unsafe impl Pod for PortTable {}

/// The maps of entries, in the order of `plan::Table`.
const MAPS: [&str; Table::COUNT] = [
    map::PORT_SETS,
    map::CLASSES_V4,
    map::CLASSES_V6,
    map::PAIRS,
    map::MEMBERS_V4,
    map::MEMBERS_V6,
    map::OWN_V4,
    map::OWN_V6,
];

pub struct TableMaps {
    classes_v4: LpmTrie<MapData, ClassKeyV4, Row>,
    classes_v6: LpmTrie<MapData, ClassKeyV6, Row>,
    members_v4: Exact<1, 2, OnceNeeded<MembersV4>>,
    members_v6: Exact<3, 4, OnceNeeded<MembersV6>>,
    pairs: Exact<1, 4, OnceNeeded<Pairs>>,
    own_v4: HashMap<MapData, OwnKeyV4, u32>,
    own_v6: HashMap<MapData, OwnKeyV6, u32>,
    port_sets: Array<MapData, PortTable>,
    /// All of the policy's once more, for batches: each with its name, in the order of `plan::Table`.
    entry_fds: Vec<(&'static str, OwnedFd)>,
    pub(super) flow_fds: FlowFds,
    /// The tables of datagrams in pieces, of IPv4 and of IPv6, for batches, which aya does not know.
    pub(super) fragment_fds: [OwnedFd; 2],
    /// Those of accounts, likewise.
    pub(super) account_fds: [OwnedFd; 2],
    /// The counters again.
    pub(super) counters_fd: OwnedFd,
    pub(super) sizes: TableSizes,
    /// How many accounts fit in the table of each family.
    pub(super) account_room: u32,
    /// How many entries fit, in the order of `plan::Table`.
    pub(super) capacity: [u32; Table::COUNT],
    pub(super) cpus: usize,
}

impl TableMaps {
    pub fn new(ebpf: &mut Ebpf, control: &Control, sizes: TableSizes) -> Result<Self, KernelError> {
        /// Takes the map `$name` out of the object.
        macro_rules! take {
            ($name:expr) => {
                ebpf.take_map($name)
                    .ok_or(KernelError::Missing { name: $name })?
                    .try_into()
                    .map_err(KernelError::map($name))?
            };
        }
        let flow_fds = FlowFds::new(control, |name| Ok((map_fd(ebpf, name)?, max_entries(ebpf, name)?)))?;
        let fragment_fds = [map_fd(ebpf, map::FRAGMENTS_V4)?, map_fd(ebpf, map::FRAGMENTS_V6)?];
        let mut capacity = [0; Table::COUNT];
        let mut entry_fds = Vec::with_capacity(MAPS.len());
        for (entries, name) in capacity.iter_mut().zip(MAPS) {
            *entries = max_entries(ebpf, name)?;
            entry_fds.push((name, map_fd(ebpf, name)?));
        }
        let members_v4 = exact(ebpf, map::MEMBERS_V4, control)?;
        let members_v6 = exact(ebpf, map::MEMBERS_V6, control)?;
        let pairs = exact(ebpf, map::PAIRS, control)?;
        for (table, room) in [
            (Table::MembersV4, members_v4.capacity()),
            (Table::MembersV6, members_v6.capacity()),
            (Table::Pairs, pairs.capacity()),
        ] {
            if let Some(entries) = capacity.get_mut(table as usize) {
                *entries = room;
            }
        }
        Ok(Self {
            entry_fds,
            flow_fds,
            fragment_fds,
            account_fds: [map_fd(ebpf, map::ACCOUNTS_V4)?, map_fd(ebpf, map::ACCOUNTS_V6)?],
            counters_fd: map_fd(ebpf, map::COUNTERS)?,
            account_room: max_entries(ebpf, map::ACCOUNTS_V4)?.min(max_entries(ebpf, map::ACCOUNTS_V6)?),
            sizes,
            capacity,
            classes_v4: take!(map::CLASSES_V4),
            classes_v6: take!(map::CLASSES_V6),
            members_v4,
            members_v6,
            pairs,
            own_v4: take!(map::OWN_V4),
            own_v6: take!(map::OWN_V6),
            port_sets: take!(map::PORT_SETS),
            cpus: aya::util::nr_cpus()
                .map_err(|(_, source)| KernelError::Io { name: map::COUNTERS, source })?,
        })
    }

    pub fn port_tables(&self) -> u32 {
        self.port_sets.len()
    }

    pub fn port_table(&self, index: u32) -> Result<Option<PortRow>, KernelError> {
        match self.port_sets.get(&index, 0) {
            Ok(PortTable(table)) => Ok(Some(table)),
            Err(MapError::OutOfBounds { .. }) => Ok(None),
            Err(source) => Err(KernelError::Map { name: map::PORT_SETS, source }),
        }
    }

    /// Writes entries in their order, members in no group. `done` counts them, also where not all can be written.
    pub fn write(&mut self, entries: &[Entry], done: &mut usize) -> Result<(), KernelError> {
        // Entries of other policies stay as they are, so a key that is there already is a mistake of ours; writing it
        // again is harmless.
        for (table, entries) in by_table(entries) {
            if let Table::Pairs | Table::MembersV4 | Table::MembersV6 = table {
                for entry in entries {
                    self.insert(entry, MemberSets { sets: [0; 2] })?;
                    *done += 1;
                }
                continue;
            }
            let (name, map) = self.map_of(table)?;
            let written = batch::update(map, &elements(entries));
            *done += written.as_ref().map_or_else(|partly| partly.done, |()| entries.len());
            written.map_err(|Partly { error, .. }| match error.raw_os_error() {
                // Of a hash map and of a trie.
                Some(libc::E2BIG | libc::ENOSPC) => KernelError::Full { name },
                _ => refused(name, "bpf_map_update_batch", error),
            })?;
        }
        Ok(())
    }

    /// Writes an entry of one of the tables that are memory here. A member is in `sets` from the moment that it is there.
    pub fn insert(&mut self, entry: &Entry, sets: MemberSets) -> Result<(), KernelError> {
        let name = MAPS.get(entry.table() as usize).copied().unwrap_or_default();
        for _ in 0..2 {
            let there = match entry {
                Entry::Pair { key, row } => {
                    let [first, second]: [u64; 2] = transmute!(*row);
                    self.pairs.insert(&transmute!(*key), &[first, second, 0])
                }
                Entry::Member { vpc, address: IpAddr::V4(address) } => {
                    self.members_v4.insert(&transmute!(member_v4(*vpc, *address)), &[transmute!(sets)])
                }
                Entry::Member { vpc, address: IpAddr::V6(address) } => {
                    self.members_v6.insert(&transmute!(member_v6(*vpc, *address)), &[transmute!(sets)])
                }
                Entry::PortTable { .. } | Entry::Class { .. } | Entry::Own { .. } => Ok(false),
            };
            if there.map_err(|source| KernelError::Io { name, source })? {
                return Ok(());
            }
            // There may be room when what was deleted is.
            grace();
            self.reuse();
        }
        Err(KernelError::Full { name })
    }

    /// The two words that say in which sets an address is, by parity; `None` if it is no member.
    fn words_of_sets(&self, vpc: u32, address: IpAddr) -> Option<NonNull<u64>> {
        match address {
            IpAddr::V4(address) => self.members_v4.value(&transmute!(member_v4(vpc, address))),
            IpAddr::V6(address) => self.members_v6.value(&transmute!(member_v6(vpc, address))),
        }
    }

    /// Says in which set an address is in generations of a parity. False if it is no member.
    pub fn store_set(&mut self, vpc: u32, address: IpAddr, parity: usize, set: u32) -> bool {
        let Some(sets) = self.words_of_sets(vpc, address) else { return false };
        // SAFETY: a member's value is two such words, which are only ever changed whole.
        unsafe { AtomicU32::from_ptr(sets.cast::<u32>().add(parity & 1).as_ptr()) }
            .store(set, Ordering::SeqCst);
        true
    }

    /// In which sets an address is, by parity.
    pub fn sets_of(&self, vpc: u32, address: IpAddr) -> Option<[u32; 2]> {
        let sets = self.words_of_sets(vpc, address)?;
        // SAFETY: as in `store_set`.
        Some(transmute!(unsafe { AtomicU64::from_ptr(sets.as_ptr()) }.load(Ordering::Relaxed)))
    }

    /// Every member, and the sets that it is in, by parity.
    pub fn members(&self) -> Vec<(u32, IpAddr, [u32; 2])> {
        let v4 = self.members_v4.entries().map(|entry| {
            let MemberV4 { key, sets } = transmute!(entry);
            (key.vpc, v4_of(key.address).into(), sets.sets)
        });
        let v6 = self.members_v6.entries().map(|entry| {
            let MemberV6 { key, sets } = transmute!(entry);
            (key.vpc, v6_of(key.address).into(), sets.sets)
        });
        v4.chain(v6).collect()
    }

    /// What was deleted so far may be overwritten: no packet sees it any more.
    pub fn reuse(&mut self) {
        self.members_v4.reuse();
        self.members_v6.reuse();
        self.pairs.reuse();
    }

    /// Deletes entries; that one is not there is fine. What the kernel does not delete stays, and the rest goes.
    pub fn delete(&mut self, entries: &[Entry]) -> Result<(), KernelError> {
        let mut outcome = Ok(());
        for (table, mut entries) in by_table(entries) {
            match table {
                // A set of ports is overwritten by the next one that takes its place.
                Table::PortSets => continue,
                Table::Pairs | Table::MembersV4 | Table::MembersV6 => {
                    entries.iter().for_each(|entry| self.remove(entry));
                    continue;
                }
                Table::ClassesV4 | Table::ClassesV6 | Table::OwnV4 | Table::OwnV6 => {}
            }
            let (name, map) = self.map_of(table)?;
            while let Err(Partly { done, error }) = batch::delete(map, &elements(entries)) {
                outcome = Err(refused(name, "bpf_map_delete_batch", error));
                entries = entries.get(done + 1..).unwrap_or_default();
            }
        }
        outcome
    }

    fn remove(&mut self, entry: &Entry) {
        match entry {
            Entry::Pair { key, .. } => self.pairs.remove(&transmute!(*key)),
            Entry::Member { vpc, address: IpAddr::V4(address) } => {
                self.members_v4.remove(&transmute!(member_v4(*vpc, *address)))
            }
            Entry::Member { vpc, address: IpAddr::V6(address) } => {
                self.members_v6.remove(&transmute!(member_v6(*vpc, *address)))
            }
            Entry::PortTable { .. } | Entry::Class { .. } | Entry::Own { .. } => false,
        };
    }

    fn map_of(&self, table: Table) -> Result<(&'static str, BorrowedFd<'_>), KernelError> {
        let (name, fd) =
            self.entry_fds.get(table as usize).ok_or(KernelError::Missing { name: table.name() })?;
        Ok((name, fd.as_fd()))
    }

    /// Every entry there is, and the port tables they refer to.
    pub fn entries(&self) -> Result<(Vec<Entry>, BTreeSet<u32>), KernelError> {
        let mut entries = Vec::new();
        let mut tables = BTreeSet::new();
        for item in &self.classes_v4 {
            let (key, row) = item.map_err(KernelError::map(map::CLASSES_V4))?;
            let address = v4_of(key.data().address);
            if let Ok(net) = Ipv4Net::new(address, key.prefix_len().saturating_sub(32) as u8) {
                let policy = PolicyDirection(key.data().policy_direction.to_host());
                entries.push(Entry::Class { policy, net: IpNet::V4(net), row });
            }
            tables.extend(table_indexes(&row));
        }
        for item in &self.classes_v6 {
            let (key, row) = item.map_err(KernelError::map(map::CLASSES_V6))?;
            if let Ok(net) =
                Ipv6Net::new(v6_of(key.data().address), key.prefix_len().saturating_sub(32) as u8)
            {
                let policy = PolicyDirection(key.data().policy_direction.to_host());
                entries.push(Entry::Class { policy, net: IpNet::V6(net), row });
            }
            tables.extend(table_indexes(&row));
        }
        for entry in self.pairs.entries() {
            let Pair { key, row, .. } = transmute!(entry);
            entries.push(Entry::Pair { key, row });
            tables.extend(table_indexes(&row));
        }
        let members = self.members().into_iter();
        entries.extend(members.map(|(vpc, address, _)| Entry::Member { vpc, address }));
        for item in &self.own_v4 {
            let (key, _) = item.map_err(KernelError::map(map::OWN_V4))?;
            let address = v4_of(key.address).into();
            entries.push(Entry::Own { guard: key.guard, address });
        }
        for item in &self.own_v6 {
            let (key, _) = item.map_err(KernelError::map(map::OWN_V6))?;
            entries.push(Entry::Own { guard: key.guard, address: v6_of(key.address).into() });
        }
        Ok((entries, tables))
    }

    /// Sets all counters of a row to zero.
    pub fn clear_counters(&self, row: u32) -> Result<(), KernelError> {
        let first = counter_index(row, Direction::Inbound, 0);
        let indexes: Vec<u32> = (first..first + 2 * REASON_SLOTS).collect();
        let zeros = vec![0; indexes.len() * self.cpus * size_of::<Counter>()];
        let row = Elements { count: indexes.len(), keys: indexes.as_bytes().to_vec(), values: zeros };
        batch::update(self.counters_fd.as_fd(), &row)
            .map_err(|Partly { error, .. }| refused(map::COUNTERS, "bpf_map_update_batch", error))
    }
}

/// Entries of one table after those of another, as they come.
fn by_table(entries: &[Entry]) -> impl Iterator<Item = (Table, &[Entry])> {
    let same = entries.chunk_by(|one, other| one.table() == other.table());
    same.filter_map(|entries| Some((entries.first()?.table(), entries)))
}

/// Entries of one table as its map has them, if it is written by system calls.
fn elements(entries: &[Entry]) -> Elements {
    let mut elements = Elements::default();
    for entry in entries {
        match entry {
            Entry::PortTable { index, ranges } => {
                elements.push(&[index.as_bytes()], ranges.to_table().as_bytes());
            }
            Entry::Class { policy, net: IpNet::V4(net), row } => {
                let key = class_v4(*policy, *net);
                elements.push(&[class_bits(net.prefix_len()).as_bytes(), key.as_bytes()], row.as_bytes());
            }
            Entry::Class { policy, net: IpNet::V6(net), row } => {
                let key = class_v6(*policy, *net);
                elements.push(&[class_bits(net.prefix_len()).as_bytes(), key.as_bytes()], row.as_bytes());
            }
            // Those are written as memory.
            Entry::Pair { .. } | Entry::Member { .. } => {}
            Entry::Own { guard, address: IpAddr::V4(address) } => {
                elements.push(&[own_v4(*guard, *address).as_bytes()], 1u32.as_bytes());
            }
            Entry::Own { guard, address: IpAddr::V6(address) } => {
                elements.push(&[own_v6(*guard, *address).as_bytes()], 1u32.as_bytes());
            }
        }
    }
    elements
}

fn refused(name: &'static str, call: &'static str, io_error: io::Error) -> KernelError {
    KernelError::Map { name, source: MapError::SyscallError(SyscallError { call, io_error }) }
}

fn exact<const KEY: usize, const ENTRY: usize, B: Pod>(
    ebpf: &Ebpf,
    name: &'static str,
    control: &Control,
) -> Result<Exact<KEY, ENTRY, OnceNeeded<B>>, KernelError> {
    let memory = OnceNeeded::new(map_fd(ebpf, name)?, max_entries(ebpf, name)?);
    Exact::new(memory, control.secret).map_err(|source| KernelError::Io { name, source })
}

fn map_fd(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let fd = map_data(ebpf, name)?.fd().as_fd().try_clone_to_owned();
    fd.map_err(|source| KernelError::Io { name, source })
}

/// How many bits of a class's key count: the policy and the prefix.
fn class_bits(prefix_len: u8) -> u32 {
    32 + u32::from(prefix_len)
}

fn class_v4(policy: PolicyDirection, net: Ipv4Net) -> ClassKeyV4 {
    ClassKeyV4 {
        policy_direction: Be32::from_host(policy.0),
        address: Be32::from_host(net.network().to_bits()),
    }
}

fn class_v6(policy: PolicyDirection, net: Ipv6Net) -> ClassKeyV6 {
    ClassKeyV6 { policy_direction: Be32::from_host(policy.0), address: words_of(net.network()) }
}

fn member_v4(vpc: u32, address: Ipv4Addr) -> MemberKeyV4 {
    MemberKeyV4 { vpc, address: Be32::from_host(address.to_bits()) }
}

fn member_v6(vpc: u32, address: Ipv6Addr) -> MemberKeyV6 {
    MemberKeyV6 { vpc, print: 0, address: words_of(address) }
}

fn own_v4(guard: u32, address: Ipv4Addr) -> OwnKeyV4 {
    OwnKeyV4 { guard, address: Be32::from_host(address.to_bits()) }
}

fn own_v6(guard: u32, address: Ipv6Addr) -> OwnKeyV6 {
    OwnKeyV6 { guard, address: words_of(address) }
}

/// An IPv6 address as the maps have it.
pub fn words_of(address: Ipv6Addr) -> [Be32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| Be32::from_host((bits >> shift) as u32))
}

/// An IPv4 address from the maps.
pub fn v4_of(address: Be32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_host())
}

/// An IPv6 address from the maps.
pub fn v6_of(words: [Be32; 4]) -> Ipv6Addr {
    Ipv6Addr::from_bits(words.iter().fold(0, |bits, word| (bits << 32) | u128::from(word.to_host())))
}

/// A failed insertion: full maps say `E2BIG` (hash) or `ENOSPC` (trie).
pub(super) fn full(name: &'static str) -> impl FnOnce(MapError) -> KernelError {
    move |source| match &source {
        MapError::SyscallError(error)
            if matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
        {
            KernelError::Full { name }
        }
        _ => KernelError::Map { name, source },
    }
}

/// A deletion; that there was nothing to delete is fine.
pub(super) fn gone(name: &'static str, result: Result<(), MapError>) -> Result<(), KernelError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(source) => Err(KernelError::Map { name, source }),
    }
}
