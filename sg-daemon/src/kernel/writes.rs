//! How much the daemon writes to the policy's maps: what a change of the policy costs, as a count (SPEC D4).

use std::net::IpAddr;

use crate::plan::{Entry, Table};

/// Writes since the daemon was started. A store is one word or one interface's half in memory that programs share; an
/// update or a deletion is one element, in however large a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MapWrites {
    updates: [u64; Table::COUNT],
    deletions: [u64; Table::COUNT],
    /// Stores to `INTERFACES`.
    pub interface_stores: u64,
    /// Stores to `CONTROL`: ids that are used, and the generation.
    pub control_stores: u64,
}

/// Elements of one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// As the metrics name it.
    pub map: &'static str,
    pub updates: u64,
    pub deletions: u64,
}

impl MapWrites {
    pub(super) fn updated<'e>(&mut self, entries: impl IntoIterator<Item = &'e Entry>) {
        count(&mut self.updates, entries);
    }

    /// A member's set was stored.
    pub(super) fn set_stored(&mut self, address: IpAddr) {
        let table = if address.is_ipv4() { Table::MembersV4 } else { Table::MembersV6 };
        if let Some(count) = self.updates.get_mut(table as usize) {
            *count += 1;
        }
    }

    pub(super) fn deleted(&mut self, entries: &[Entry]) {
        // A set of ports is forgotten, not deleted: the next one overwrites it.
        let gone = entries.iter().filter(|entry| !matches!(entry, Entry::PortTable { .. }));
        count(&mut self.deletions, gone);
    }

    /// By map.
    pub fn by_map(&self) -> Vec<Written> {
        let of =
            |counts: &[u64; Table::COUNT], table: Table| counts.get(table as usize).copied().unwrap_or(0);
        let tables = [Table::PortSets].into_iter().chain(Table::OF_ENTRIES).map(|table| Written {
            map: table.name(),
            updates: of(&self.updates, table),
            deletions: of(&self.deletions, table),
        });
        let stores = [("interfaces", self.interface_stores), ("control", self.control_stores)];
        tables.chain(stores.map(|(map, updates)| Written { map, updates, deletions: 0 })).collect()
    }

    pub fn total(&self) -> u64 {
        self.by_map().iter().map(|written| written.updates + written.deletions).sum()
    }
}

fn count<'e>(counts: &mut [u64; Table::COUNT], entries: impl IntoIterator<Item = &'e Entry>) {
    for entry in entries {
        if let Some(count) = counts.get_mut(entry.table() as usize) {
            *count += 1;
        }
    }
}
