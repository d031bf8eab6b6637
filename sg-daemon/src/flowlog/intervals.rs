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

#[cfg(test)]
mod tests {
    use super::*;

    type Told = (String, (u64, u64), LogStatus, Option<u64>);

    fn said(said: Option<Vec<Said>>) -> Option<Vec<Told>> {
        said.map(|said| {
            said.iter()
                .map(|said| (said.interface.to_string(), said.interval, said.status, said.skipped))
                .collect()
        })
    }

    fn name(index: u32) -> Arc<str> {
        format!("tap{index}").into()
    }

    #[test]
    fn silence_is_told_when_it_is_sure() {
        let owners = [Owner::of("tap0"), Owner::of("tap1"), Owner::absent("tap2")];
        let mut intervals = Intervals::new(60, 1000);
        let close = |intervals: &mut Intervals, now| said(intervals.close(now, owners.iter()));
        assert_eq!(close(&mut intervals, 1059), None);
        // A record of this interval may still come.
        assert_eq!(close(&mut intervals, 1060), Some(Vec::new()));
        intervals.note(&name(0), (1010, 1050));
        let silent = |index: u32, from, to| (format!("tap{index}"), (from, to), LogStatus::NoData, None);
        assert_eq!(close(&mut intervals, 1121), Some(vec![silent(1, 1000, 1060)]));
        // It was told of one interval, and it is silent in the next.
        intervals.note(&name(1), (1121, 1125));
        assert_eq!(close(&mut intervals, 1181), Some(vec![silent(0, 1060, 1121), silent(1, 1060, 1121)]));
        // A record that covers several.
        intervals.note(&name(0), (1115, 1200));
        assert_eq!(close(&mut intervals, 1241), Some(Vec::new()));
        assert_eq!(close(&mut intervals, 1301), Some(vec![silent(1, 1181, 1241)]));
        assert_eq!(close(&mut intervals, 1361), Some(vec![silent(0, 1241, 1301), silent(1, 1241, 1301)]));
        // The clock is turned back.
        assert_eq!(close(&mut intervals, 500), None);
        assert_eq!(close(&mut intervals, 560), Some(Vec::new()));
    }

    #[test]
    fn what_is_not_in_the_log_is_told_once() {
        let mut intervals = Intervals::new(60, 0);
        intervals.lose(&name(0), 3);
        intervals.lose(&name(0), 4);
        intervals.lose(&name(7), 1);
        let owners = [Owner::of("tap0")];
        let skipped = |index: u32, count| (format!("tap{index}"), (0, 60), LogStatus::SkipData, Some(count));
        assert_eq!(said(intervals.close(60, owners.iter())), Some(vec![skipped(0, 7), skipped(7, 1)]));
        let again = said(intervals.close(120, owners.iter())).unwrap();
        assert!(again.iter().all(|(_, _, status, _)| *status == LogStatus::NoData), "{again:?}");
    }

    #[test]
    fn spans_join() {
        let mut intervals = Intervals::new(60, 0);
        for span in [(10, 20), (40, 50), (15, 30), (60, 60), (30, 40)] {
            intervals.note(&name(0), span);
        }
        let mut spans = intervals.spans[&name(0)].clone();
        spans.sort_unstable();
        assert_eq!(spans, [(10, 50), (60, 60)]);
    }
}
