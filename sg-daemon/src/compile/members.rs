//! Which address is a member of which groups (D1): a map that two images share but for what differs.
//!
//! A group may have 100,000 members, and one more is one more: the addresses stand in shards, by a hash of each, and an
//! image that follows another one has the other's shards but for those in which something has changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::image::{SetName, VpcName};

/// So many shards: of 100,000 members each has about 200, which are copied when one of them changes.
const SHARDS: usize = 512;

type Shard = BTreeMap<(VpcName, IpAddr), Arc<SetName>>;

/// The membership set of each member, by VPC and address.
#[derive(Debug, Clone)]
pub struct Members {
    shards: Vec<Arc<Shard>>,
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

impl Default for Members {
    fn default() -> Self {
        let empty = Arc::new(Shard::new());
        Self { shards: vec![empty; SHARDS], len: 0 }
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        let mut shards = self.shards.iter().zip(&other.shards);
        self.len == other.len && shards.all(|(one, other)| Arc::ptr_eq(one, other) || one == other)
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
        self.shards.get(shard_of(address))?.get(&(vpc.clone(), address))
    }

    /// In no order that means anything, and always in the same one.
    pub fn iter(&self) -> impl Iterator<Item = (&VpcName, IpAddr, &Arc<SetName>)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|((vpc, address), set)| (vpc, *address, set))
    }

    pub(super) fn insert(&mut self, vpc: VpcName, address: IpAddr, set: Arc<SetName>) {
        let Some(shard) = self.shards.get_mut(shard_of(address)) else { return };
        if Arc::make_mut(shard).insert((vpc, address), set).is_none() {
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, vpc: &VpcName, address: IpAddr) {
        let Some(shard) = self.shards.get_mut(shard_of(address)) else { return };
        let key = (vpc.clone(), address);
        if shard.contains_key(&key) && Arc::make_mut(shard).remove(&key).is_some() {
            self.len -= 1;
        }
    }

    /// What `after` says otherwise than `self`, as soon as it is found: shards that both share are passed over.
    pub fn differences<'m>(&'m self, after: &'m Self) -> impl Iterator<Item = Difference<'m>> {
        let shards = self.shards.iter().zip(&after.shards).filter(|(old, new)| !Arc::ptr_eq(old, new));
        shards.flat_map(|(old, new)| {
            let gone_or_other = old.iter().filter_map(|(key, before)| {
                let after = new.get(key);
                (after != Some(before)).then_some((key, Some(before), after))
            });
            let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
            gone_or_other
                .chain(added.map(|(key, after)| (key, None, Some(after))))
                .map(|((vpc, address), before, after)| Difference { vpc, address: *address, before, after })
        })
    }
}

/// A multiplicative hash of the address: members are often one range, which is to fall on all shards.
fn shard_of(address: IpAddr) -> usize {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ bits as u64
        }
    };
    (word.wrapping_mul(ODD) >> 32) as usize % SHARDS
}
