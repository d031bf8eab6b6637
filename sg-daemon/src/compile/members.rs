//! Which address is a member of which groups (D1): a map that two images share but for what differs.
//!
//! A group may have 100,000 members, and one more is one more: the addresses stand in shards, by a hash of each, and an
//! image that follows another one has the other's shards, and lists of shards, but for those in which something has changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::image::{SetName, VpcName};

/// So many lists, of so many shards each: of 100,000 members a shard has about 25. What is copied when one of them changes are
/// a shard and two lists.
const LISTS: usize = 64;

/// Addresses first, as they tell most keys apart.
type Shard = BTreeMap<(IpAddr, VpcName), Arc<SetName>>;
type List = Vec<Arc<Shard>>;

/// The membership set of each member, by VPC and address.
#[derive(Debug, Clone)]
pub struct Members {
    lists: Vec<Arc<List>>,
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
        let shard = Arc::new(Shard::new());
        let list = Arc::new(vec![shard; LISTS]);
        Self { lists: vec![list; LISTS], len: 0 }
    }
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differing(other).all(|(one, other)| one == other)
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
        let (list, shard) = place_of(address);
        self.lists.get(list)?.get(shard)?.get(&(address, vpc.clone()))
    }

    /// In no order that means anything, and always in the same one.
    pub fn iter(&self) -> impl Iterator<Item = (&VpcName, IpAddr, &Arc<SetName>)> {
        let shards = self.lists.iter().flat_map(|list| list.iter());
        shards.flat_map(|shard| shard.iter()).map(|((address, vpc), set)| (vpc, *address, set))
    }

    pub(super) fn insert(&mut self, vpc: VpcName, address: IpAddr, set: Arc<SetName>) {
        let Some(shard) = self.shard_mut(address) else { return };
        if shard.insert((address, vpc), set).is_none() {
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, vpc: &VpcName, address: IpAddr) {
        if self.get(vpc, address).is_none() {
            return;
        }
        if let Some(shard) = self.shard_mut(address) {
            shard.remove(&(address, vpc.clone()));
            self.len -= 1;
        }
    }

    /// A shard that no other image has.
    fn shard_mut(&mut self, address: IpAddr) -> Option<&mut Shard> {
        let (list, shard) = place_of(address);
        let shards = Arc::make_mut(self.lists.get_mut(list)?);
        shards.get_mut(shard).map(Arc::make_mut)
    }

    /// The shards that are not the same ones in both.
    fn differing<'m>(&'m self, other: &'m Self) -> impl Iterator<Item = (&'m Shard, &'m Shard)> {
        let lists = self.lists.iter().zip(&other.lists).filter(|(one, other)| !Arc::ptr_eq(one, other));
        let shards = lists.flat_map(|(one, other)| one.iter().zip(other.iter()));
        shards.filter(|(one, other)| !Arc::ptr_eq(one, other)).map(|(one, other)| (&**one, &**other))
    }

    /// What `after` says otherwise than `self`, as soon as it is found: shards that both share are passed over.
    pub fn differences<'m>(&'m self, after: &'m Self) -> impl Iterator<Item = Difference<'m>> {
        self.differing(after).flat_map(|(old, new)| {
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

/// The number of a list, and that of a shard in it, by a multiplicative hash of the address: members are often one range, which
/// is to fall on all shards.
fn place_of(address: IpAddr) -> (usize, usize) {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ bits as u64
        }
    };
    let hash = (word.wrapping_mul(ODD) >> 32) as usize;
    (hash / LISTS % LISTS, hash % LISTS)
}
