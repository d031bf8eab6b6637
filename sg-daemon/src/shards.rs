//! What is known by address of very many, that a policy and the one that follows it share but for what differs.

use std::net::IpAddr;
use std::sync::Arc;

/// So many lists, of so many shards each: of 100,000 addresses a shard has about 25. What is copied when one of them changes are
/// a shard and two lists.
const LISTS: usize = 64;

type List<S> = Vec<Arc<S>>;

/// A shard for the addresses of each hash. Clones share them.
#[derive(Debug)]
pub struct Shards<S>(Vec<Arc<List<S>>>);

impl<S> Clone for Shards<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Default> Default for Shards<S> {
    fn default() -> Self {
        let shard = Arc::new(S::default());
        let list = Arc::new(vec![shard; LISTS]);
        Self(vec![list; LISTS])
    }
}

impl<S> Shards<S> {
    /// The shard that an address belongs to.
    pub fn of(&self, address: IpAddr) -> Option<&S> {
        let (list, shard) = place_of(address);
        self.0.get(list)?.get(shard).map(|shard| &**shard)
    }

    /// The same, and nobody else's.
    pub fn of_mut(&mut self, address: IpAddr) -> Option<&mut S>
    where
        S: Clone,
    {
        let (list, shard) = place_of(address);
        Arc::make_mut(self.0.get_mut(list)?).get_mut(shard).map(Arc::make_mut)
    }

    /// In no order that means anything, and always in the same one.
    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.0.iter().flat_map(|list| list.iter()).map(|shard| &**shard)
    }

    /// The shards that are not the same ones in both.
    pub fn differing<'s>(&'s self, other: &'s Self) -> impl Iterator<Item = (&'s S, &'s S)> {
        let lists = self.0.iter().zip(&other.0).filter(|(one, other)| !Arc::ptr_eq(one, other));
        let shards = lists.flat_map(|(one, other)| one.iter().zip(other.iter()));
        shards.filter(|(one, other)| !Arc::ptr_eq(one, other)).map(|(one, other)| (&**one, &**other))
    }
}

/// The number of a list, and that of a shard in it, by a multiplicative hash of the address: addresses are often one range, which
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_d4_addresses_of_a_range_fall_on_all_shards_and_one_more_changes_one() {
        let mut all: Shards<Vec<IpAddr>> = Shards::default();
        let addresses = (0..100_000).map(|number: u32| IpAddr::V4((0x0a00_0000 + number).into()));
        addresses.for_each(|address| all.of_mut(address).unwrap().push(address));
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 100_000);
        assert!(all.iter().all(|shard| (1..100).contains(&shard.len())));
        let mut next = all.clone();
        assert_eq!(all.differing(&next).count(), 0);
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        next.of_mut(address).unwrap().push(address);
        let differing: Vec<_> = all.differing(&next).map(|(one, other)| other.len() - one.len()).collect();
        assert_eq!(differing, [1]);
        assert!(next.of(address).unwrap().contains(&address) && !all.of(address).unwrap().contains(&address));
    }
}
