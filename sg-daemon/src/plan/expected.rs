//! What ought to be in the kernel, made anew from what is in force: the other side of an audit.

use std::sync::Arc;

use sg_common::abi::{PortSet, Row};

use super::patch::pair_key;
use super::{Entry, Resident, Staged, class_entries, own_entries};
use crate::compile::image::{Cells, Image, SetName};
use crate::compile::ranges::Ranges;

impl Resident {
    /// Every entry that the policy in force needs, and every set of ports; nothing of this is remembered, all of it follows
    /// from the image and from the ids. In no order.
    ///
    /// # Errors
    ///
    /// If `image` is not what the ids are of, in words.
    pub fn expected(&self, image: &Image) -> Result<Vec<Entry>, String> {
        let mut entries = Vec::new();
        if image.policies.len() != self.policies.len() {
            return Err(format!("{} policies are known, not {}", self.policies.len(), image.policies.len()));
        }
        let mut sets: Vec<&Arc<SetName>> = image.members.iter().map(|(_, _, set)| set).collect();
        sets.sort_unstable();
        let members = sets.len();
        sets.dedup();
        if sets.len() != self.sets.len() || members != self.members.len() {
            return Err(format!(
                "{} sets of {} members are known, not {} of {members}",
                self.sets.len(),
                self.members.len(),
                sets.len()
            ));
        }
        for policy in &image.policies {
            let id = *self.policies.get(policy).ok_or("a policy has no id")?;
            entries.extend(class_entries(policy, id, |ranges| self.port_set(ranges)));
            for set in &sets {
                let set_id = self.sets.get(*set).ok_or("a membership set has no id")?.id;
                for (direction, ipv6, cells) in policy.says_of(set) {
                    let row = self.row(&cells).ok_or("a set of ports has no table")?;
                    entries.push(Entry::Pair { key: pair_key(id, direction, set_id, ipv6), row });
                }
            }
        }
        for interface in &image.interfaces {
            let id = *self.guards.get(&interface.guard).ok_or("a guard has no id")?;
            entries.extend(own_entries(&interface.guard, id));
        }
        for (vpc, address, set) in image.members.iter() {
            let vpc = *self.vpcs.get(vpc).ok_or("a VPC has no id")?;
            let member = self.members.get(&(vpc, address)).ok_or("a member is not known")?;
            if self.sets.get(set).is_none_or(|known| known.id != *member) {
                return Err(format!("{address} is known to be in another set"));
            }
            entries.push(Entry::Member { vpc, address });
        }
        let tables = self.port_tables.iter();
        entries.extend(tables.map(|(ranges, &index)| Entry::PortTable { index, ranges: ranges.clone() }));
        Ok(entries)
    }

    /// Every member, and the set that it is to be in, in both halves.
    pub fn member_sets(&self) -> impl Iterator<Item = Staged> {
        self.members.iter().map(|(&(vpc, address), &set)| Staged { vpc, address, set })
    }

    fn row(&self, cells: &Cells) -> Option<Row> {
        Some(Row {
            tcp: self.port_set(&cells.tcp)?,
            udp: self.port_set(&cells.udp)?,
            icmp: self.port_set(&cells.icmp)?,
            other: self.port_set(&cells.other)?,
        })
    }

    fn port_set(&self, ranges: &Ranges) -> Option<PortSet> {
        match ranges.as_slice() {
            [] => Some(PortSet::EMPTY),
            &[(low, high)] => Some(PortSet::range(low, high)),
            _ => PortSet::table(*self.port_tables.get(ranges)?),
        }
    }
}
