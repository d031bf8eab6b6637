//! One look at all tables, for everybody who asks within some seconds: how full they are, and who has most connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{Filter, View};
use crate::api::live::{Talker, Talkers};
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
    remotes: Vec<Talker>,
    short_by: u64,
}

impl Summary {
    /// # Errors
    ///
    /// If the tables cannot be read.
    pub fn new(view: &View) -> Result<Self, KernelError> {
        let at = Instant::now();
        let mut heavy = Heavy::new(COUNTED);
        let entries = view.read(&Filter::default(), |row| {
            heavy.add((row.raw.remote(), row.interface));
            ControlFlow::Continue(())
        })?;
        let fragments = view.tables.fragments()?;
        let short_by = heavy.short_by;
        let remotes = heavy
            .most(TALKERS)
            .into_iter()
            .map(|((remote, interface), connections)| Talker {
                remote,
                interface: view.name(interface).to_owned(),
                connections,
            })
            .collect();
        Ok(Self { entries, fragments, at, took: at.elapsed(), remotes, short_by })
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
            remotes: self.remotes.iter().take(limit).cloned().collect(),
            short_by: self.short_by,
        }
    }
}

pub fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Counts the most frequent keys in bounded memory (Misra and Gries, 1982): of no key the number is too large, nor too small by
/// more than `short_by`.
struct Heavy {
    counts: HashMap<(IpAddr, u32), u64>,
    room: usize,
    short_by: u64,
}

impl Heavy {
    fn new(room: usize) -> Self {
        Self { counts: HashMap::new(), room, short_by: 0 }
    }

    fn add(&mut self, key: (IpAddr, u32)) {
        *self.counts.entry(key).or_default() += 1;
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

    fn most(self, limit: usize) -> Vec<((IpAddr, u32), u64)> {
        let mut counts: Vec<_> = self.counts.into_iter().collect();
        counts.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
        counts.truncate(limit);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> (IpAddr, u32) {
        (IpAddr::V4(number.into()), 0)
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut heavy = Heavy::new(10);
        for number in 0..20 {
            (0..=number).for_each(|_| heavy.add(key(number)));
        }
        assert_eq!(heavy.short_by, 0);
        assert_eq!(heavy.most(2), [(key(19), 20), (key(18), 19)]);
    }

    #[test]
    fn of_many_keys_the_frequent_ones_are_found_and_no_number_is_further_off_than_is_said() {
        let mut heavy = Heavy::new(100);
        // Three talkers among a hundred thousand that say one word.
        for number in 0..100_000 {
            heavy.add(key(1000 + number));
            if number % 10 < 3 {
                heavy.add(key(number % 10));
            }
            assert!(heavy.counts.len() <= 200);
        }
        let short_by = heavy.short_by;
        assert!(short_by > 0 && short_by < 10_000, "{short_by}");
        let most = heavy.most(3);
        let mut keys: Vec<_> = most.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        assert_eq!(keys, [key(0), key(1), key(2)]);
        for (_, count) in most {
            assert!(count <= 10_000 && count + short_by >= 10_000, "{count} + {short_by}");
        }
    }
}
