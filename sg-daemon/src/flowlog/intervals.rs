//! Intervals in which nothing came, and intervals of which the log does not tell everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Said;
use super::owners::Owner;
use super::record::LogStatus;

/// What is known of the intervals that are not closed yet.
#[derive(Debug)]
pub struct Intervals {
    /// Seconds.
    length: u64,
    /// When the last interval was closed, and the one before that.
    closed: u64,
    before: Option<u64>,
    /// When packets came of which there are records, by interface: spans that do not overlap.
    spans: BTreeMap<Arc<str>, Vec<(u64, u64)>>,
    lost: BTreeMap<Arc<str>, u64>,
}

impl Intervals {
    pub fn new(length: u32, now: u64) -> Self {
        Self {
            length: u64::from(length),
            closed: now,
            before: None,
            spans: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    /// Packets of an interface have their record.
    pub fn note(&mut self, interface: &Arc<str>, (start, end): (u64, u64)) {
        let spans = self.spans.entry(Arc::clone(interface)).or_default();
        let mut joined = (start, end.max(start));
        spans.retain(|&(other_start, other_end)| {
            let apart = other_end < joined.0 || joined.1 < other_start;
            if !apart {
                joined = (joined.0.min(other_start), joined.1.max(other_end));
            }
            apart
        });
        spans.push(joined);
    }

    /// Packets or records of an interface are not in the log.
    pub fn lose(&mut self, interface: &Arc<str>, count: u64) {
        *self.lost.entry(Arc::clone(interface)).or_default() += count;
    }

    /// What to say if an interval is over by now. A flow's record may come as late as an interval after its first packet, so
    /// that nothing came is known of the interval before only.
    pub fn close<'o>(&mut self, now: u64, owners: impl Iterator<Item = &'o Owner>) -> Option<Vec<Said>> {
        // A clock that was turned back begins anew.
        if now < self.closed {
            (self.closed, self.before) = (now, None);
        }
        if now < self.closed + self.length {
            return None;
        }
        let mut said = Vec::new();
        let mut accounts = BTreeMap::new();
        for owner in owners.filter(|owner| owner.present) {
            accounts.insert(Arc::clone(&owner.interface), owner.account.clone());
        }
        if let Some(before) = self.before {
            let interval = (before, self.closed);
            for (interface, account) in &accounts {
                let spans = self.spans.get(interface).map(Vec::as_slice).unwrap_or_default();
                if !spans.iter().any(|&(start, end)| start < interval.1 && interval.0 <= end) {
                    said.push(Said {
                        interface: Arc::clone(interface),
                        account: account.clone(),
                        interval,
                        status: LogStatus::NoData,
                        skipped: None,
                    });
                }
            }
        }
        for (interface, count) in std::mem::take(&mut self.lost) {
            let account = accounts.get(&interface).cloned().flatten();
            let interval = (self.closed, now);
            let status = LogStatus::SkipData;
            said.push(Said { interface, account, interval, status, skipped: Some(count) });
        }
        let until = self.closed;
        for spans in self.spans.values_mut() {
            spans.retain(|&(_, end)| end >= until);
        }
        self.spans.retain(|_, spans| !spans.is_empty());
        (self.before, self.closed) = (Some(self.closed), now);
        Some(said)
    }
}
