//! Which address is a member of which groups (D1): a map that two images share but for what differs.
//!
//! A group may have 100,000 members, and one more is one more: the addresses stand in shards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::image::{SetName, VpcName};
use crate::shards::Shards;

/// Addresses first, as they tell most keys apart.
type Shard = BTreeMap<(IpAddr, VpcName), Arc<SetName>>;

/// The membership set of each member, by VPC and address.
#[derive(Debug, Clone, Default)]
pub struct Members {
    shards: Shards<Shard>,
    len: usize,
}

/// One address of which two images say something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference<'m> {
    pub vpc: &'m VpcName,
    pub address: IpAddr,
    pub before: Option<&'m Arc<SetName>>,
    pub after: Option<&'m Arc<SetName>>,
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.shards.differing(&other.shards).all(|(one, other)| one == other)
    }
}

impl Eq for Members {}

impl Members {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, vpc: &VpcName, address: IpAddr) -> Option<&Arc<SetName>> {
        self.shards.of(address)?.get(&(address, vpc.clone()))
    }

    /// In no order that means anything, and always in the same one.
    pub fn iter(&self) -> impl Iterator<Item = (&VpcName, IpAddr, &Arc<SetName>)> {
        self.shards.iter().flatten().map(|((address, vpc), set)| (vpc, *address, set))
    }

    pub(super) fn insert(&mut self, vpc: VpcName, address: IpAddr, set: Arc<SetName>) {
        let Some(shard) = self.shards.of_mut(address) else { return };
        if shard.insert((address, vpc), set).is_none() {
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, vpc: &VpcName, address: IpAddr) {
        if self.get(vpc, address).is_none() {
            return;
        }
        if let Some(shard) = self.shards.of_mut(address) {
            shard.remove(&(address, vpc.clone()));
            self.len -= 1;
        }
    }

    /// What `after` says otherwise than `self`, as soon as it is found: shards that both share are passed over.
    pub fn differences<'m>(&'m self, after: &'m Self) -> impl Iterator<Item = Difference<'m>> {
        self.shards.differing(&after.shards).flat_map(|(old, new)| {
            let gone_or_other = old.iter().filter_map(|(key, before)| {
                let after = new.get(key);
                (after != Some(before)).then_some((key, Some(before), after))
            });
            let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
            gone_or_other
                .chain(added.map(|(key, after)| (key, None, Some(after))))
                .map(|((address, vpc), before, after)| Difference { vpc, address: *address, before, after })
        })
    }
}
