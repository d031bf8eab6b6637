//! Counters that go on when a device is made anew. The kernel's begin at zero with each zone, and a zone is never used twice;
//! Prometheus' belong to the interface's name and may not fall.

use std::collections::{BTreeMap, BTreeSet};

use sg_common::abi::{Counter, Direction};
use sg_common::verdict::Reason;

use crate::kernel::{Retired, Sample};

/// Direction, whether it was only counted, and the reason's number.
type Key = (u8, bool, u8);

#[derive(Debug, Default)]
struct Account {
    zone: Option<u32>,
    /// Of zones before.
    before: BTreeMap<Key, Counter>,
    /// Of the zone that counts now.
    now: BTreeMap<Key, Counter>,
}

#[derive(Debug, Default)]
pub struct History {
    accounts: BTreeMap<String, Account>,
}

fn by_key(samples: &[Sample]) -> BTreeMap<Key, Counter> {
    let key = |sample: &Sample| (sample.direction as u8, sample.would_drop, sample.reason as u8);
    samples.iter().map(|sample| (key(sample), sample.counter)).collect()
}

impl Account {
    fn close(&mut self) {
        for (key, counter) in std::mem::take(&mut self.now) {
            let sum = self.before.entry(key).or_insert(Counter { packets: 0, bytes: 0 });
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
        }
        self.zone = None;
    }
}

impl History {
    /// What a zone had counted when it went.
    pub fn retire(&mut self, retired: &Retired) {
        if let Some(account) = self.accounts.values_mut().find(|account| account.zone == Some(retired.zone)) {
            account.now = by_key(&retired.samples);
            account.close();
        }
    }

    /// What an interface's zone has counted so far.
    pub fn count(&mut self, interface: &str, zone: u32, samples: &[Sample]) {
        let account = self.accounts.entry(interface.to_owned()).or_default();
        if account.zone != Some(zone) {
            account.close();
            account.zone = Some(zone);
        }
        account.now = by_key(samples);
    }

    /// Forgets interfaces that are none any more.
    pub fn keep_only(&mut self, interfaces: &BTreeSet<&str>) {
        self.accounts.retain(|name, _| interfaces.contains(name.as_str()));
    }

    /// The sums, by interface.
    pub fn sums(&self) -> impl Iterator<Item = (&str, Sample)> {
        self.accounts.iter().flat_map(|(name, account)| {
            let keys: BTreeSet<&Key> = account.before.keys().chain(account.now.keys()).collect();
            keys.into_iter().filter_map(move |key| {
                let of = |counters: &BTreeMap<Key, Counter>| counters.get(key).copied();
                let zero = Counter { packets: 0, bytes: 0 };
                let (before, now) = (of(&account.before).unwrap_or(zero), of(&account.now).unwrap_or(zero));
                let (direction, would_drop, reason) = *key;
                let direction = if direction == Direction::Inbound as u8 {
                    Direction::Inbound
                } else {
                    Direction::Outbound
                };
                let counter =
                    Counter { packets: before.packets + now.packets, bytes: before.bytes + now.bytes };
                let reason = Reason::from_number(u32::from(reason))?;
                Some((name.as_str(), Sample { direction, reason, would_drop, counter }))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(packets: u64) -> Vec<Sample> {
        let counter = Counter { packets, bytes: packets * 100 };
        vec![Sample { direction: Direction::Inbound, reason: Reason::NoRule, would_drop: false, counter }]
    }

    fn packets(history: &History) -> Vec<(String, u64)> {
        history.sums().map(|(name, sample)| (name.to_owned(), sample.counter.packets)).collect()
    }

    fn of(name: &str, packets: u64) -> Vec<(String, u64)> {
        vec![(name.to_owned(), packets)]
    }

    #[test]
    fn a_device_that_is_made_anew_goes_on_counting() {
        let mut history = History::default();
        history.count("tap0", 1, &sample(10));
        history.count("tap0", 1, &sample(12));
        assert_eq!(packets(&history), of("tap0", 12));
        // It went between two looks, and had counted more by then.
        history.retire(&Retired { zone: 1, samples: sample(15) });
        assert_eq!(packets(&history), of("tap0", 15));
        history.count("tap0", 2, &sample(1));
        assert_eq!(packets(&history), of("tap0", 16));
        // Nobody told of its going.
        history.count("tap0", 3, &sample(2));
        assert_eq!(packets(&history), of("tap0", 18));
        // Another's end is another's.
        history.retire(&Retired { zone: 2, samples: sample(1000) });
        assert_eq!(packets(&history), of("tap0", 18));
    }

    #[test]
    fn an_interface_that_is_none_any_more_is_forgotten() {
        let mut history = History::default();
        history.count("tap0", 1, &sample(10));
        history.count("tap1", 2, &sample(20));
        history.keep_only(&["tap1"].into());
        assert_eq!(packets(&history), of("tap1", 20));
        history.count("tap0", 3, &sample(1));
        assert_eq!(packets(&history), [of("tap0", 1), of("tap1", 20)].concat());
    }
}
