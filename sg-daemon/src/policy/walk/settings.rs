//! Daemon-wide settings.

use std::ops::RangeInclusive;

use jsonc_parser::ast::{Object, Value};

use super::rule::Direction;
use super::{Path, Walk, field};
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::fields;
use crate::policy::model::{Metadata, OnRuleChange};
use crate::policy::raw::{RawFailsafe, RawRemote, RawRule, RawSettings, RawTimeouts};
use crate::policy::source::{Span, Spanned};
use crate::policy::values;

const METADATA: &[(&str, Metadata)] =
    &[("explicit", Metadata::Explicit), ("cidr", Metadata::Cidr), ("exempt", Metadata::Exempt)];
const ON_RULE_CHANGE: &[(&str, OnRuleChange)] =
    &[("keep", OnRuleChange::Keep), ("revoke", OnRuleChange::Revoke)];
pub(crate) const QUOTA_RANGE: RangeInclusive<u64> = 1..=1_000_000;
pub(crate) const TIMEOUT_RANGE: RangeInclusive<u64> = 1..=432_000;
pub(crate) const ESTABLISHED_RANGE: RangeInclusive<u64> = 60..=432_000;

impl Walk<'_, '_> {
    pub(super) fn settings(&mut self, value: &Value<'_>, path: &Path<'_>) -> RawSettings {
        let Some(object) = self.object(value, path, fields::SETTINGS) else { return RawSettings::default() };
        RawSettings {
            metadata: self.word(object, path, "metadata", METADATA),
            on_rule_change: self.word(object, path, "on_rule_change", ON_RULE_CHANGE),
            strict_tcp: self.boolean(object, path, "strict_tcp"),
            quotas: match field(object, "quotas") {
                Some(value) => self.numbers(value, &path.field("quotas"), fields::QUOTAS, |_| QUOTA_RANGE),
                None => Default::default(),
            },
            timeouts: match field(object, "timeouts") {
                Some(value) => self.timeouts(value, &path.field("timeouts")),
                None => RawTimeouts::default(),
            },
            managed: self.managed(object, path),
            failsafe: self.failsafe(object, path),
            guest_baseline: self.guest_baseline(object, path),
        }
    }

    pub(super) fn timeouts(&mut self, value: &Value<'_>, path: &Path<'_>) -> RawTimeouts {
        let range = |name: &str| if name == "tcp_established" { ESTABLISHED_RANGE } else { TIMEOUT_RANGE };
        self.numbers(value, path, fields::TIMEOUTS, range)
    }

    /// An object whose fields are all optional numbers, in the order of `names`.
    fn numbers<const N: usize>(
        &mut self,
        value: &Value<'_>,
        path: &Path<'_>,
        names: &[&str],
        range: impl Fn(&str) -> RangeInclusive<u64>,
    ) -> [Option<Spanned<u32>>; N] {
        let mut numbers = [const { None }; N];
        let Some(object) = self.object(value, path, names) else { return numbers };
        for (slot, name) in numbers.iter_mut().zip(names) {
            let Some(value) = field(object, name) else { continue };
            let number = self.whole_number(value, &path.field(name), range(name));
            *slot = number.map(|number| self.spanned(number as u32, value));
        }
        numbers
    }

    fn managed(&mut self, object: &Object<'_>, path: &Path<'_>) -> Option<Spanned<Vec<String>>> {
        let value = field(object, "managed")?;
        let values = self.list(object, path, "managed", "device patterns")?;
        let pattern = |walk: &mut Self, value: &Value<'_>, path: &Path<'_>| {
            let pattern = walk.string(value, path, "a device pattern")?;
            walk.check(value, path, values::device_pattern(pattern));
            Some(pattern.to_owned())
        };
        let name = |pattern: &String| format!("pattern {}", quote(pattern));
        let patterns = self.each_once(values, &path.field("managed"), pattern, name);
        Some(self.spanned(patterns, value))
    }

    fn failsafe(&mut self, object: &Object<'_>, path: &Path<'_>) -> Option<Spanned<RawFailsafe>> {
        let value = field(object, "failsafe")?;
        let path = path.field("failsafe");
        let object = self.object(value, &path, fields::FAILSAFE)?;
        // Both lists: half a failsafe would leave the reader guessing whether the standard one still holds.
        self.required(object, &path, "inbound");
        self.required(object, &path, "outbound");
        let mut rules = |direction: Direction| {
            let rules = self.rules(object, &path, direction, 0).unwrap_or_default();
            for (index, rule) in rules.iter().enumerate() {
                let list = path.field(direction.name());
                self.no_group_remote(rule, &list.index(index).field(direction.remote()));
            }
            rules
        };
        let failsafe =
            RawFailsafe { inbound: rules(Direction::Inbound), outbound: rules(Direction::Outbound) };
        Some(self.spanned(failsafe, value))
    }

    /// The failsafe belongs to the host, groups belong to a VPC.
    fn no_group_remote(&mut self, rule: &RawRule, path: &Path<'_>) {
        if let Some(RawRemote::Group { name, at }) = &rule.remote {
            let fault = Fault::error(format!("group {} in a failsafe rule", quote(&format!("@{name}"))))
                .expected("a network such as \"10.0.0.0/8\": the failsafe holds outside of every VPC");
            let start = Span { file: self.file, start: 0, end: 0 };
            self.findings.report(at.of(start), path, fault);
        }
    }
}
