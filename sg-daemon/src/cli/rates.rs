//! What two answers of `GET /v1/stats` and the time between them say.

use std::collections::BTreeMap;

use sg_common::verdict::{Action, Reason};

use crate::api::live::Stats;
use crate::api::types::{Counters, InterfaceStatus};

/// Packets and bytes: counted, or in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Amount<N> {
    pub packets: N,
    pub bytes: N,
}

/// What passes and what does not, in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Way<N> {
    pub passed: Amount<N>,
    pub dropped: Amount<N>,
}

pub type Total = Way<u64>;
pub type Rate = Way<f64>;

/// What one direction has counted.
pub fn total(counters: &Counters) -> Total {
    let mut total = Total::default();
    for counter in &counters.reasons {
        let amount = if drops(&counter.reason) { &mut total.dropped } else { &mut total.passed };
        amount.packets += counter.packets;
        amount.bytes += counter.bytes;
    }
    for counter in &counters.would_drop_reasons {
        total.passed.packets += counter.packets;
        total.passed.bytes += counter.bytes;
    }
    // What two programs have counted is known better (D24).
    total.passed.packets = counters.allowed;
    total
}

/// Whether packets are dropped for the reason of that name. One that this version does not know is no reason to pass.
pub fn drops(name: &str) -> bool {
    let known = Reason::EVERY.iter().find(|reason| reason.name() == name);
    known.is_none_or(|reason| reason.action() == Action::Drop)
}

/// Two answers.
#[derive(Debug, Clone, Copy)]
pub struct Between<'s> {
    pub before: &'s Stats,
    pub now: &'s Stats,
    /// Used if the daemon was started anew between them.
    pub elapsed: f64,
}

impl Between<'_> {
    pub fn seconds(&self) -> f64 {
        let ms = self.now.at_ms.checked_sub(self.before.at_ms).filter(|ms| *ms > 0);
        ms.map_or(self.elapsed, |ms| ms as f64 / 1000.0).max(0.001)
    }

    /// A counter's rate. One that is smaller than before was made anew.
    fn rate(&self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.seconds()
    }

    /// The interface as it was, unless the device is another one.
    fn earlier(&self, interface: &InterfaceStatus) -> Option<&InterfaceStatus> {
        let same = |earlier: &&InterfaceStatus| {
            earlier.name == interface.name && earlier.ifindex == interface.ifindex
        };
        self.before.status.interfaces.iter().find(same)
    }

    /// Inbound and outbound; nothing of an interface that has just appeared.
    pub fn of(&self, interface: &InterfaceStatus) -> [Rate; 2] {
        let Some(earlier) = self.earlier(interface) else { return [Rate::default(); 2] };
        [(&earlier.inbound, &interface.inbound), (&earlier.outbound, &interface.outbound)].map(
            |(before, now)| {
                let (before, now) = (total(before), total(now));
                let amount = |before: Amount<u64>, now: Amount<u64>| Amount {
                    packets: self.rate(before.packets, now.packets),
                    bytes: self.rate(before.bytes, now.bytes),
                };
                Rate {
                    passed: amount(before.passed, now.passed),
                    dropped: amount(before.dropped, now.dropped),
                }
            },
        )
    }

    /// Packets in a second of each reason of one direction of an interface, by name.
    pub fn reasons(&self, interface: &InterfaceStatus, inbound: bool) -> BTreeMap<String, Amount<f64>> {
        let way = |interface: &InterfaceStatus| {
            let counters = if inbound { &interface.inbound } else { &interface.outbound };
            reason_totals(counters)
        };
        let before = self.earlier(interface).map(way).unwrap_or_default();
        let known = self.earlier(interface).is_some();
        let rate = |(name, now): (String, Amount<u64>)| {
            let before = before.get(&name).copied().unwrap_or_default();
            let rate = Amount {
                packets: self.rate(before.packets, now.packets),
                bytes: self.rate(before.bytes, now.bytes),
            };
            (name, if known { rate } else { Amount::default() })
        };
        way(interface).into_iter().map(rate).collect()
    }
}

/// By name; those that would have been dropped, and were not, end in ` (audit)`.
pub fn reason_totals(counters: &Counters) -> BTreeMap<String, Amount<u64>> {
    let happened = counters.reasons.iter().map(|counter| (counter.reason.clone(), counter));
    let would = counters.would_drop_reasons.iter();
    let would = would.map(|counter| (format!("{}{AUDIT}", counter.reason), counter));
    let amount = |(name, counter): (String, &crate::api::types::ReasonCounter)| {
        (name, Amount { packets: counter.packets, bytes: counter.bytes })
    };
    happened.chain(would).map(amount).collect()
}

pub const AUDIT: &str = " (audit)";

/// A number that is at most six characters long: `9999`, `12.3k`, `4.56M`.
pub fn short(number: f64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if number < 9.95 && number > 0.0 && number.fract() > 0.0 {
        return format!("{number:.1}");
    }
    if number.round() < 10_000.0 {
        return format!("{number:.0}");
    }
    let mut scaled = number;
    for unit in UNITS {
        scaled /= 1000.0;
        if scaled < 9.995 {
            return format!("{scaled:.2}{unit}");
        }
        if scaled < 99.95 {
            return format!("{scaled:.1}{unit}");
        }
        if scaled < 999.5 {
            return format!("{scaled:.0}{unit}");
        }
    }
    "huge".to_owned()
}

/// `41 s`, `3 min`, `2 h 5 min`, `4 d 2 h`.
pub fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_three_digits() {
        for (number, text) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (1.0, "1"),
            (9.96, "10"),
            (123.4, "123"),
            (9999.4, "9999"),
            (9999.6, "10.0k"),
            (12_345.0, "12.3k"),
            (999_499.0, "999k"),
            (999_501.0, "1.00M"),
            (4_560_000_000.0, "4.56G"),
            (u64::MAX as f64, "18.4E"),
        ] {
            assert_eq!(short(number), text);
            assert!(text.len() <= 6);
        }
        assert_eq!([59, 60, 7500, 360_000].map(span), ["59 s", "1 min", "2 h 5 min", "4 d 4 h"]);
    }
}
