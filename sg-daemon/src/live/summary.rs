//! One look at all tables, for everybody who asks within some seconds: how full they are, and who has most connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{Filter, View};
use crate::api::live::{Talker, TalkerTraffic, Talkers, TalkersTraffic};
use crate::kernel::{Entries, KernelError};

/// A look is not repeated before this time has passed …
const AT_LEAST: Duration = Duration::from_secs(3);
/// … nor before so many times as long as it took: it may keep a CPU busy for a twentieth of the time at most.
const PART: u32 = 20;
/// So many remotes of an interface are told of.
const TALKERS: usize = 100;
/// So many are counted at a time.
const COUNTED: usize = 65_536;

/// What was seen.
#[derive(Debug, Clone)]
pub struct Summary {
    pub entries: Entries,
    /// Datagrams in pieces, of IPv4 and of IPv6.
    pub fragments: (u64, u64),
    at: Instant,
    took: Duration,
    /// Those with most connections, and those with most bytes or packets; the most connections first.
    remotes: Vec<Talker>,
    short_by: u64,
    traffic: Option<TalkersTraffic>,
}

impl Summary {
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn new(view: &View) -> Result<Self, KernelError> {
        let at = Instant::now();
        let mut heavy = Heavy::new(COUNTED);
        let entries = view.read(&Filter::default(), |row| {
            heavy.add((row.raw.remote(), row.interface), 1);
            ControlFlow::Continue(())
        })?;
        let (mut packets, mut bytes) = (Heavy::new(COUNTED), Heavy::new(COUNTED));
        view.tables.read_traffic(|zone, remote, traffic| {
            // A zone without an interface belongs to a device that is gone.
            let Some(&interface) = view.zones.get(&zone) else { return };
            packets.add((remote, interface), traffic.packets.iter().sum());
            bytes.add((remote, interface), traffic.bytes.iter().sum());
        })?;
        let fragments = view.tables.fragments()?;
        let is_accounting = view.is_accounting();
        let mut keys: Vec<Key> =
            [&heavy, &packets, &bytes].iter().flat_map(|heavy| heavy.most(TALKERS)).collect();
        keys.sort_unstable_by(|a, b| heavy.of(b).cmp(&heavy.of(a)).then_with(|| a.cmp(b)));
        keys.dedup();
        let remotes = keys
            .into_iter()
            .map(|key| Talker {
                remote: key.0,
                interface: view.name(key.1).to_owned(),
                connections: heavy.of(&key),
                traffic: is_accounting
                    .then(|| TalkerTraffic { packets: packets.of(&key), bytes: bytes.of(&key) }),
            })
            .collect();
        let traffic = is_accounting
            .then_some(TalkersTraffic { packets_short_by: packets.short_by, bytes_short_by: bytes.short_by });
        Ok(Self { entries, fragments, at, took: at.elapsed(), remotes, short_by: heavy.short_by, traffic })
    }

    pub fn age(&self) -> Duration {
        self.at.elapsed()
    }

    /// Whether it will do.
    pub fn is_fresh(&self) -> bool {
        self.age() < AT_LEAST.max(self.took * PART)
    }

    pub fn talkers(&self, limit: usize) -> Talkers {
        Talkers {
            age_ms: millis(self.age()),
            took_us: self.took.as_micros().try_into().unwrap_or(u64::MAX),
            remotes: self.most(limit),
            short_by: self.short_by,
            traffic: self.traffic,
        }
    }

    /// So many with most connections, and so many each with most packets and bytes.
    fn most(&self, limit: usize) -> Vec<Talker> {
        let mut among: Vec<bool> = (0..self.remotes.len()).map(|place| place < limit).collect();
        let measures: [fn(&TalkerTraffic) -> u64; 2] = [|traffic| traffic.packets, |traffic| traffic.bytes];
        for measure in measures {
            let mut places: Vec<(u64, usize)> = (0..)
                .zip(&self.remotes)
                .filter_map(|(place, talker)| Some((measure(talker.traffic.as_ref()?), place)))
                .collect();
            places.sort_unstable_by(|(a, a_place), (b, b_place)| b.cmp(a).then_with(|| a_place.cmp(b_place)));
            for (_, place) in places.into_iter().take(limit) {
                if let Some(is) = among.get_mut(place) {
                    *is = true;
                }
            }
        }
        self.remotes.iter().zip(among).filter(|(_, is)| *is).map(|(talker, _)| talker.clone()).collect()
    }
}

pub fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A remote and the index of an interface.
type Key = (IpAddr, u32);

/// Counts the most frequent keys in bounded memory (Misra and Gries, 1982): of no key the number is too large, nor too small by
/// more than `short_by`.
struct Heavy {
    counts: HashMap<Key, u64>,
    room: usize,
    short_by: u64,
}

impl Heavy {
    fn new(room: usize) -> Self {
        Self { counts: HashMap::new(), room, short_by: 0 }
    }

    fn add(&mut self, key: Key, amount: u64) {
        *self.counts.entry(key).or_default() += amount;
        if self.counts.len() > self.room * 2 {
            // The smaller half goes, and what is taken off them is taken off all: which costs each key a constant.
            let mut numbers: Vec<u64> = self.counts.values().copied().collect();
            let middle = numbers.len() / 2;
            let (_, &mut median, _) = numbers.select_nth_unstable(middle);
            self.counts.retain(|_, count| {
                *count = count.saturating_sub(median);
                *count > 0
            });
            self.short_by += median;
        }
    }

    fn most(&self, limit: usize) -> Vec<Key> {
        let mut counts: Vec<(&Key, &u64)> = self.counts.iter().collect();
        counts.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        counts.into_iter().take(limit).map(|(key, _)| *key).collect()
    }

    fn of(&self, key: &Key) -> u64 {
        self.counts.get(key).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        (IpAddr::V4(number.into()), 0)
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut heavy = Heavy::new(10);
        for number in 0..20 {
            (0..=number).for_each(|_| heavy.add(key(number), 1));
        }
        assert_eq!(heavy.short_by, 0);
        assert_eq!(heavy.most(2), [key(19), key(18)]);
        assert_eq!((heavy.of(&key(19)), heavy.of(&key(20))), (20, 0));
    }

    #[test]
    fn of_many_keys_the_frequent_ones_are_found_and_no_number_is_further_off_than_is_said() {
        let mut heavy = Heavy::new(100);
        // Three talkers among a hundred thousand that say one word.
        for number in 0..100_000 {
            heavy.add(key(1000 + number), 7);
            if number % 10 < 3 {
                heavy.add(key(number % 10), 7);
            }
            assert!(heavy.counts.len() <= 200);
        }
        let short_by = heavy.short_by;
        assert!(short_by > 0 && short_by < 70_000, "{short_by}");
        let most = heavy.most(3);
        let mut keys = most.clone();
        keys.sort_unstable();
        assert_eq!(keys, [key(0), key(1), key(2)]);
        for key in most {
            let count = heavy.of(&key);
            assert!(count <= 70_000 && count + short_by >= 70_000, "{count} + {short_by}");
        }
    }
}
