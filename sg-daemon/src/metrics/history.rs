//! Counters that go on when a device is made anew. The kernel's begin at zero with each zone, and a zone is never used twice;
//! Prometheus' belong to the interface's name and may not fall.

use std::collections::{BTreeMap, BTreeSet};

use sg_common::abi::{Counter, Direction};
use sg_common::verdict::{Action, Reason};

use crate::kernel::{Counted, Retired, Sample};

/// Direction, whether it was only counted, and the reason's number.
type Key = (u8, bool, u8);

#[derive(Debug)]
struct Account {
    zone: Option<u32>,
    /// Of zones before.
    before: BTreeMap<Key, Counter>,
    /// Of the zone that counts now.
    now: BTreeMap<Key, Counter>,
    /// What is counted for a reason that is not the packets' last, of all zones: XDP has passed them, and the program behind it
    /// has dropped and counted them.
    twice: BTreeMap<Key, Counter>,
    /// How much of the present zone's is in `twice`, by direction.
    taken: [Counter; 2],
}

const NOTHING: Counter = Counter { packets: 0, bytes: 0 };

#[derive(Debug, Default)]
pub struct History {
    accounts: BTreeMap<String, Account>,
}

fn by_key(samples: &[Sample]) -> BTreeMap<Key, Counter> {
    let key = |sample: &Sample| (sample.direction as u8, sample.would_drop, sample.reason as u8);
    samples.iter().map(|sample| (key(sample), sample.counter)).collect()
}

impl Default for Account {
    fn default() -> Self {
        let [before, now, twice] = [const { BTreeMap::new() }; 3];
        Self { zone: None, before, now, twice, taken: [NOTHING; 2] }
    }
}

impl Account {
    fn close(&mut self) {
        for (key, counter) in std::mem::take(&mut self.now) {
            let sum = self.before.entry(key).or_insert(NOTHING);
            sum.packets += counter.packets;
            sum.bytes += counter.bytes;
        }
        self.taken = [NOTHING; 2];
        self.zone = None;
    }

    /// What the zone has counted by now. A packet that was counted twice is taken off what passed: the kernel does not say off
    /// which reason, so off those for which most has passed since the last look. Nothing is taken off that was told before, so
    /// no number ever falls.
    fn look(&mut self, counted: &Counted) {
        let now = by_key(&counted.samples);
        for (direction, (twice, taken)) in (0u8..).zip(counted.twice.iter().zip(&mut self.taken)) {
            let mut left = Counter {
                packets: twice.packets.saturating_sub(taken.packets),
                bytes: twice.bytes.saturating_sub(taken.bytes),
            };
            let mut grown: Vec<(Key, Counter)> = now
                .iter()
                .filter(|((way, would_drop, reason), _)| {
                    *way == direction
                        && passes(*would_drop, *reason)
                        && *reason != Reason::ChecksumPlace as u8
                })
                .map(|(key, counter)| {
                    let before = self.now.get(key).copied().unwrap_or(NOTHING);
                    let grown = Counter {
                        packets: counter.packets.saturating_sub(before.packets),
                        bytes: counter.bytes.saturating_sub(before.bytes),
                    };
                    (*key, grown)
                })
                .collect();
            grown.sort_by_key(|((_, would_drop, reason), grown)| {
                (*would_drop, u64::MAX - grown.packets, *reason)
            });
            for (key, grown) in grown {
                let take =
                    Counter { packets: left.packets.min(grown.packets), bytes: left.bytes.min(grown.bytes) };
                let sum = self.twice.entry(key).or_insert(NOTHING);
                for (of, take) in [(&mut *sum, take), (&mut *taken, take)] {
                    of.packets += take.packets;
                    of.bytes += take.bytes;
                }
                left = Counter { packets: left.packets - take.packets, bytes: left.bytes - take.bytes };
            }
        }
        self.now = now;
    }
}

impl History {
    /// What a zone had counted when it went.
    pub fn retire(&mut self, retired: &Retired) {
        if let Some(account) = self.accounts.values_mut().find(|account| account.zone == Some(retired.zone)) {
            account.look(&retired.counted);
            account.close();
        }
    }

    /// What an interface's zone has counted so far.
    pub fn count(&mut self, interface: &str, zone: u32, counted: &Counted) {
        let account = self.accounts.entry(interface.to_owned()).or_default();
        if account.zone != Some(zone) {
            account.close();
            account.zone = Some(zone);
        }
        account.look(counted);
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
                let [before, now, twice] = [&account.before, &account.now, &account.twice]
                    .map(|counters| of(counters).unwrap_or(NOTHING));
                let (direction, would_drop, reason) = *key;
                let direction = if direction == Direction::Inbound as u8 {
                    Direction::Inbound
                } else {
                    Direction::Outbound
                };
                let counter = Counter {
                    packets: (before.packets + now.packets).saturating_sub(twice.packets),
                    bytes: (before.bytes + now.bytes).saturating_sub(twice.bytes),
                };
                let reason = Reason::from_number(u32::from(reason))?;
                Some((name.as_str(), Sample { direction, reason, would_drop, counter }))
            })
        })
    }
}

fn passes(would_drop: bool, reason: u8) -> bool {
    would_drop || Reason::from_number(reason.into()).is_some_and(|reason| reason.action() == Action::Allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_reason(reason: Reason, packets: u64) -> Sample {
        let counter = Counter { packets, bytes: packets * 100 };
        Sample { direction: Direction::Inbound, reason, would_drop: false, counter }
    }

    fn sample(packets: u64) -> Counted {
        Counted {
            samples: vec![of_reason(Reason::NoRule, packets)],
            twice: [NOTHING; 2],
            handed_on: [NOTHING; 2],
        }
    }

    /// What XDP has counted, so many new flows and packets of old ones, and the program behind it.
    fn behind_xdp(new: u64, old: u64, dropped: u64) -> Counted {
        Counted {
            samples: vec![
                of_reason(Reason::Established, old),
                of_reason(Reason::NewFlow, new),
                of_reason(Reason::ChecksumPlace, dropped),
            ],
            twice: [Counter { packets: dropped, bytes: dropped * 100 }, NOTHING],
            handed_on: [NOTHING; 2],
        }
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
        history.retire(&Retired { zone: 1, counted: sample(15) });
        assert_eq!(packets(&history), of("tap0", 15));
        history.count("tap0", 2, &sample(1));
        assert_eq!(packets(&history), of("tap0", 16));
        // Nobody told of its going.
        history.count("tap0", 3, &sample(2));
        assert_eq!(packets(&history), of("tap0", 18));
        // Another's end is another's.
        history.retire(&Retired { zone: 2, counted: sample(1000) });
        assert_eq!(packets(&history), of("tap0", 18));
    }

    #[test]
    fn what_was_counted_twice_is_taken_off_what_passed_and_no_number_falls() {
        let mut history = History::default();
        let told = |history: &History| -> Vec<u64> {
            let of = |reason| {
                let found = history.sums().find(|(_, sample)| sample.reason == reason);
                found.map_or(0, |(_, sample)| sample.counter.packets)
            };
            let numbers = [Reason::Established, Reason::NewFlow, Reason::ChecksumPlace].map(of);
            for (_, sample) in history.sums() {
                assert_eq!(sample.counter.bytes, sample.counter.packets * 100);
            }
            numbers.into()
        };
        history.count("tap0", 1, &behind_xdp(10, 5, 3));
        assert_eq!(told(&history), [5, 7, 3]);
        history.count("tap0", 1, &behind_xdp(10, 9, 5));
        assert_eq!(told(&history), [7, 7, 5]);
        // The program behind has counted one that XDP's number does not show yet: it is taken off later.
        history.count("tap0", 1, &behind_xdp(10, 9, 6));
        assert_eq!(told(&history), [7, 7, 6]);
        history.count("tap0", 1, &behind_xdp(12, 9, 6));
        assert_eq!(told(&history), [7, 8, 6]);
        // The last of a device, and the first of the next.
        history.retire(&Retired { zone: 1, counted: behind_xdp(12, 11, 8) });
        assert_eq!(told(&history), [7, 8, 8]);
        history.count("tap0", 2, &behind_xdp(4, 0, 1));
        assert_eq!(told(&history), [7, 11, 9]);
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
