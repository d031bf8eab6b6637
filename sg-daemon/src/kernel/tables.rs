//! The maps that are written entry by entry.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::{Ebpf, Pod};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sg_common::abi::{
    Be32, ClassKeyV4, ClassKeyV6, Control, Counter, Direction, MemberKeyV4, MemberKeyV6, OwnKeyV4, OwnKeyV6,
    PORT_SET_BYTES, PairKey, PolicyDirection, REASON_SLOTS, Row, counter_index, map,
};

use super::flow_memory::FlowFds;
use super::{KernelError, TableSizes, map_data, max_entries};
use crate::compile::ranges::Table as PortRow;
use crate::plan::{Entry, Table, table_indexes};

/// A port table as aya copies it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct PortTable([u64; PORT_SET_BYTES / 8]);
// SAFETY: plain integers.
unsafe impl Pod for PortTable {}

pub struct TableMaps {
    classes_v4: LpmTrie<MapData, ClassKeyV4, Row>,
    classes_v6: LpmTrie<MapData, ClassKeyV6, Row>,
    members_v4: HashMap<MapData, MemberKeyV4, u32>,
    members_v6: HashMap<MapData, MemberKeyV6, u32>,
    pairs: HashMap<MapData, PairKey, Row>,
    own_v4: HashMap<MapData, OwnKeyV4, u32>,
    own_v6: HashMap<MapData, OwnKeyV6, u32>,
    port_sets: Array<MapData, PortTable>,
    counters: PerCpuArray<MapData, Counter>,
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
        for (table, name) in [
            (Table::PortSets, map::PORT_SETS),
            (Table::ClassesV4, map::CLASSES_V4),
            (Table::ClassesV6, map::CLASSES_V6),
            (Table::Pairs, map::PAIRS),
            (Table::MembersV4, map::MEMBERS_V4),
            (Table::MembersV6, map::MEMBERS_V6),
            (Table::OwnV4, map::OWN_V4),
            (Table::OwnV6, map::OWN_V6),
        ] {
            if let Some(entries) = capacity.get_mut(table as usize) {
                *entries = max_entries(ebpf, name)?;
            }
        }
        Ok(Self {
            flow_fds,
            fragment_fds,
            account_fds: [map_fd(ebpf, map::ACCOUNTS_V4)?, map_fd(ebpf, map::ACCOUNTS_V6)?],
            counters_fd: map_fd(ebpf, map::COUNTERS)?,
            account_room: max_entries(ebpf, map::ACCOUNTS_V4)?.min(max_entries(ebpf, map::ACCOUNTS_V6)?),
            sizes,
            capacity,
            classes_v4: take!(map::CLASSES_V4),
            classes_v6: take!(map::CLASSES_V6),
            members_v4: take!(map::MEMBERS_V4),
            members_v6: take!(map::MEMBERS_V6),
            pairs: take!(map::PAIRS),
            own_v4: take!(map::OWN_V4),
            own_v6: take!(map::OWN_V6),
            port_sets: take!(map::PORT_SETS),
            counters: take!(map::COUNTERS),
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

    pub fn write(&mut self, entry: &Entry) -> Result<(), KernelError> {
        // Entries of other policies stay as they are, so a key that is there already is a mistake of ours; writing it
        // again is harmless.
        match entry {
            Entry::PortTable { index, ranges } => {
                let table = PortTable(*ranges.to_table());
                self.port_sets.set(*index, table, 0).map_err(KernelError::map(map::PORT_SETS))
            }
            Entry::Class { policy, net: IpNet::V4(net), row } => {
                self.classes_v4.insert(&class_v4(*policy, *net), row, 0).map_err(full(map::CLASSES_V4))
            }
            Entry::Class { policy, net: IpNet::V6(net), row } => {
                self.classes_v6.insert(&class_v6(*policy, *net), row, 0).map_err(full(map::CLASSES_V6))
            }
            Entry::Pair { key, row } => self.pairs.insert(key, row, 0).map_err(full(map::PAIRS)),
            Entry::Member { vpc, address: IpAddr::V4(address), slot } => {
                self.members_v4.insert(member_v4(*vpc, *address), slot, 0).map_err(full(map::MEMBERS_V4))
            }
            Entry::Own { guard, address: IpAddr::V4(address) } => {
                self.own_v4.insert(own_v4(*guard, *address), 1, 0).map_err(full(map::OWN_V4))
            }
            Entry::Own { guard, address: IpAddr::V6(address) } => {
                self.own_v6.insert(own_v6(*guard, *address), 1, 0).map_err(full(map::OWN_V6))
            }
            Entry::Member { vpc, address: IpAddr::V6(address), slot } => {
                self.members_v6.insert(member_v6(*vpc, *address), slot, 0).map_err(full(map::MEMBERS_V6))
            }
        }
    }

    pub fn delete(&mut self, entry: &Entry) -> Result<(), KernelError> {
        match entry {
            // The next policy that needs it overwrites it.
            Entry::PortTable { .. } => Ok(()),
            Entry::Class { policy, net: IpNet::V4(net), .. } => {
                gone(map::CLASSES_V4, self.classes_v4.remove(&class_v4(*policy, *net)))
            }
            Entry::Class { policy, net: IpNet::V6(net), .. } => {
                gone(map::CLASSES_V6, self.classes_v6.remove(&class_v6(*policy, *net)))
            }
            Entry::Pair { key, .. } => gone(map::PAIRS, self.pairs.remove(key)),
            Entry::Own { guard, address: IpAddr::V4(address) } => {
                gone(map::OWN_V4, self.own_v4.remove(&own_v4(*guard, *address)))
            }
            Entry::Own { guard, address: IpAddr::V6(address) } => {
                gone(map::OWN_V6, self.own_v6.remove(&own_v6(*guard, *address)))
            }
            Entry::Member { vpc, address: IpAddr::V4(address), .. } => {
                gone(map::MEMBERS_V4, self.members_v4.remove(&member_v4(*vpc, *address)))
            }
            Entry::Member { vpc, address: IpAddr::V6(address), .. } => {
                gone(map::MEMBERS_V6, self.members_v6.remove(&member_v6(*vpc, *address)))
            }
        }
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
        for item in &self.pairs {
            let (key, row) = item.map_err(KernelError::map(map::PAIRS))?;
            entries.push(Entry::Pair { key, row });
            tables.extend(table_indexes(&row));
        }
        for item in &self.members_v4 {
            let (key, slot) = item.map_err(KernelError::map(map::MEMBERS_V4))?;
            let address = v4_of(key.address).into();
            entries.push(Entry::Member { vpc: key.vpc, address, slot });
        }
        for item in &self.members_v6 {
            let (key, slot) = item.map_err(KernelError::map(map::MEMBERS_V6))?;
            entries.push(Entry::Member { vpc: key.vpc, address: v6_of(key.address).into(), slot });
        }
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

    pub fn clear_counters(&mut self, row: u32) -> Result<(), KernelError> {
        let zero = vec![Counter { packets: 0, bytes: 0 }; self.cpus];
        for direction in [Direction::Inbound, Direction::Outbound] {
            for slot in 0..REASON_SLOTS {
                let values = PerCpuValues::try_from(zero.clone())
                    .map_err(|source| KernelError::Io { name: map::COUNTERS, source })?;
                self.counters
                    .set(counter_index(row, direction, slot), values, 0)
                    .map_err(KernelError::map(map::COUNTERS))?;
            }
        }
        Ok(())
    }
}

fn map_fd(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let fd = map_data(ebpf, name)?.fd().as_fd().try_clone_to_owned();
    fd.map_err(|source| KernelError::Io { name, source })
}

fn class_v4(policy: PolicyDirection, net: Ipv4Net) -> Key<ClassKeyV4> {
    let data = ClassKeyV4 {
        policy_direction: Be32::from_host(policy.0),
        address: Be32::from_host(net.network().to_bits()),
    };
    Key::new(32 + u32::from(net.prefix_len()), data)
}

fn class_v6(policy: PolicyDirection, net: Ipv6Net) -> Key<ClassKeyV6> {
    let data = ClassKeyV6 { policy_direction: Be32::from_host(policy.0), address: words_of(net.network()) };
    Key::new(32 + u32::from(net.prefix_len()), data)
}

fn member_v4(vpc: u32, address: Ipv4Addr) -> MemberKeyV4 {
    MemberKeyV4 { vpc, address: Be32::from_host(address.to_bits()) }
}

fn member_v6(vpc: u32, address: Ipv6Addr) -> MemberKeyV6 {
    MemberKeyV6 { vpc, address: words_of(address) }
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
