//! The peers of a policy, of which there may be 100,000: those of a policy that follows another one are shared with it, and who is
//! one of them, and in which groups they are, is found without a look at each.

use std::net::IpAddr;
use std::ops::Range;

use super::chunks::Chunks;
use super::model::{GroupId, Peer, Source, VpcId};
use crate::shards::Shards;

/// In the order of the files.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    list: Chunks<Peer, About>,
    /// Each address as often as it is in the list: mostly the question is about one that is not, or is of one peer only.
    addresses: Shards<Vec<IpAddr>>,
}

impl PartialEq for Peers {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

/// What is known of a chunk.
#[derive(Debug)]
struct About {
    /// Three bits for each address, in one line of the cache: where one is missing the address is not there.
    addresses: [Line; LINES],
    /// Each group that one of them is in, at least once.
    groups: Vec<(VpcId, GroupId)>,
}

type Line = [u64; 8];

/// With 256 peers fewer than one of 100 other addresses is taken for one of theirs.
const LINES: usize = 16;

impl About {
    fn of(peers: &[Peer]) -> Self {
        let mut about = Self { addresses: [[0; 8]; LINES], groups: Vec::new() };
        let mut before: Option<&Peer> = None;
        for peer in peers {
            let (line, bits) = bits(peer.address);
            for (word, bit) in about.addresses.get_mut(line).into_iter().flatten().zip(bits) {
                *word |= bit;
            }
            // They mostly come in the groups of the one before them.
            if before.is_none_or(|before| before.vpc != peer.vpc || before.groups != peer.groups) {
                about.groups.extend(peer.groups.iter().map(|&group| (peer.vpc, group)));
            }
            before = Some(peer);
        }
        about.groups.sort_unstable_by_key(|(vpc, group)| (vpc.0, group.0));
        about.groups.dedup();
        about
    }

    fn may_have(&self, (line, bits): (usize, Line)) -> bool {
        let mut words = self.addresses.get(line).into_iter().flatten().zip(bits);
        words.all(|(word, bit)| word & bit == bit)
    }
}

/// The line of an address and its bits there, by a multiplicative hash.
fn bits(address: IpAddr) -> (usize, Line) {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 64) as u64 ^ (bits as u64).rotate_left(32)
        }
    };
    let hash = word.wrapping_add(ODD).wrapping_mul(ODD);
    let hash = (hash ^ (hash >> 29)).wrapping_mul(ODD);
    let mut line = Line::default();
    for part in [hash >> 32, hash >> 41, hash >> 50] {
        line.get_mut(part as usize / 64 % 8).into_iter().for_each(|word| *word |= 1 << (part % 64));
    }
    ((hash >> 60) as usize % LINES, line)
}

impl Peers {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Peer> + Clone {
        self.list.iter()
    }

    pub fn get(&self, index: usize) -> Option<&Peer> {
        self.list.get(index)
    }

    pub fn last(&self) -> Option<&Peer> {
        self.list.last()
    }

    pub(super) fn push(&mut self, peer: Peer) {
        self.addresses.of_mut(peer.address).into_iter().for_each(|shard| shard.push(peer.address));
        self.list.push(peer);
    }

    /// The peers of that address, of every VPC, with their places.
    pub fn of_address(&self, address: IpAddr) -> impl Iterator<Item = (usize, &Peer)> {
        let bits = bits(address);
        let chunks = (self.count_of(address) > 0).then(|| self.list.each_about(About::of));
        let chunks = chunks.into_iter().flatten().filter(move |(.., about)| about.may_have(bits));
        chunks
            .flat_map(|(before, peers, _)| (before..).zip(peers))
            .filter(move |(_, peer)| peer.address == address)
    }

    /// How many peers have that address, of all VPCs: without a look at the list.
    pub fn count_of(&self, address: IpAddr) -> usize {
        let shard = self.addresses.of(address).into_iter().flatten();
        shard.filter(|&&one| one == address).count()
    }

    /// Every group that a peer is in, by VPC, at least once.
    pub fn groups(&self) -> impl Iterator<Item = (VpcId, GroupId)> {
        self.list.each_about(About::of).flat_map(|(.., about)| about.groups.iter().copied())
    }

    /// What is between the peers with which both lists begin and those with which they end, if ids mean the same.
    pub fn others<'p>(&'p self, new: &'p Self) -> [Vec<&'p Peer>; 2] {
        let same = |one: &Peer, other: &Peer| {
            one.address == other.address && one.vpc == other.vpc && one.groups == other.groups
        };
        let front = self.list.same_front(&new.list, same);
        let back = self.list.same_back(&new.list, front, same);
        [self, new].map(|peers| peers.list.range(front..peers.len() - back).collect())
    }

    pub(super) fn spliced(&self, range: Range<usize>, peers: Vec<Peer>) -> Self {
        let mut addresses = self.addresses.clone();
        for Peer { address, .. } in self.list.range(range.clone()) {
            let shard = addresses.of_mut(*address);
            shard.into_iter().for_each(|shard| {
                shard.iter().position(|one| one == address).map(|at| shard.swap_remove(at));
            });
        }
        for Peer { address, .. } in &peers {
            addresses.of_mut(*address).into_iter().for_each(|shard| shard.push(*address));
        }
        Self { list: self.list.spliced(range, peers), addresses }
    }

    /// Where those of a range are written.
    pub(super) fn change_sources(&mut self, range: Range<usize>, mut change: impl FnMut(&mut Source)) {
        self.list.change(range, |peer| change(&mut peer.source));
    }
}

impl<'p> IntoIterator for &'p Peers {
    type Item = &'p Peer;
    type IntoIter = Box<dyn Iterator<Item = &'p Peer> + 'p>;

    fn into_iter(self) -> Self::IntoIter {
        (&self.list).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::policy::model::{FileId, Source};

    fn peer(number: u32) -> Peer {
        let groups: Arc<[GroupId]> = [GroupId(number as usize / 100 % 7), GroupId(9)].into();
        let source = Source { file: FileId(0), line: number, column: 1 };
        let address = match number % 3 {
            0 => IpAddr::V6((u128::from(number) << 64 | 1).into()),
            _ => IpAddr::V4(number.into()),
        };
        Peer { address, groups, vpc: VpcId(number as usize % 2), source }
    }

    #[test]
    fn spec_d4_who_is_a_peer_is_found_among_many() {
        let mut peers = Peers::default();
        (0..5000).for_each(|number| peers.push(peer(number)));
        for number in 0..5000 {
            let found: Vec<_> = peers.of_address(peer(number).address).collect();
            assert_eq!(found, [(number as usize, &peer(number))]);
        }
        assert_eq!((5000..50_000).flat_map(|number| peers.of_address(peer(number).address)).count(), 0);
        let looked_at = |address| {
            peers.list.each_about(About::of).filter(|(.., about)| about.may_have(bits(address))).count()
        };
        let looked_at: usize = (5000..50_000).map(|number| looked_at(peer(number).address)).sum();
        assert!(looked_at < 45_000 * 20 / 100, "{looked_at} chunks of twenty");
        let all = |groups: &mut dyn Iterator<Item = (VpcId, GroupId)>| -> BTreeSet<(usize, usize)> {
            groups.map(|(vpc, group)| (vpc.0, group.0)).collect()
        };
        let mut each = peers.iter().flat_map(|peer| peer.groups.iter().map(|group| (peer.vpc, *group)));
        assert_eq!(all(&mut peers.groups()), all(&mut each));
        assert!(peers.groups().count() < 20 * 16);
        // In another place, with others around it.
        let next = peers.spliced(700..2000, vec![peer(9000)]);
        assert_eq!(next.of_address(peer(2000).address).map(|(at, _)| at).collect::<Vec<_>>(), [701]);
        assert_eq!(
            next.of_address(peer(9000).address).count() + next.of_address(peer(700).address).count(),
            1
        );
        // How often an address is there is known after each change as if it were counted.
        let again = next.spliced(10..20, vec![peer(30), Peer { vpc: VpcId(7), ..peer(30) }, peer(9001)]);
        for (peers, number) in
            [&peers, &next, &again].into_iter().flat_map(|peers| (0..9002).map(move |number| (peers, number)))
        {
            let address = peer(number).address;
            let counted = peers.iter().filter(|peer| peer.address == address).count();
            assert_eq!((peers.count_of(address), peers.of_address(address).count()), (counted, counted));
        }
        assert_eq!(again.count_of(peer(30).address), 3);
        let [gone, come] = peers.others(&next);
        assert_eq!((gone.len(), come.as_slice()), (1300, &[&peer(9000)][..]));
    }
}
