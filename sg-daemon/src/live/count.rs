//! Connections by what they have in common.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::ControlFlow;

use sg_common::conntrack::State;

use super::filter::{asked_port, has_ports, origin};
use super::{Filter, Row, Rule, Rulebook, View, Wrong};
use crate::api::live::{FlowCount, FlowCounts};
use crate::api::types::Direction;
use crate::kernel::KernelError;
use crate::policy::names::did_you_mean;
use crate::supervise::status::protocol_name;

/// What connections have in common that are counted together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Group {
    interface: bool,
    state: bool,
    protocol: bool,
    direction: bool,
    local: bool,
    remote: bool,
    port: bool,
    group: bool,
    rule: bool,
}

/// In the order of counts that are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Common {
    interface: Option<u32>,
    state: Option<u8>,
    protocol: Option<u8>,
    outbound: Option<bool>,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    port: Option<u16>,
    /// Indexes of names in the rulebook.
    group: Option<u32>,
    rule: Option<u32>,
}

impl Group {
    /// What there is to count by.
    pub const NAMES: [&'static str; 9] =
        ["interface", "state", "protocol", "direction", "local", "remote", "port", "group", "rule"];

    /// Names with commas between them.
    ///
    /// # Errors
    ///
    /// If there is no such name; the error says which there are.
    pub fn new(names: Option<&str>) -> Result<Self, Wrong> {
        let mut group = Self::default();
        for name in names.into_iter().flat_map(|names| names.split(',')).map(str::trim) {
            match name {
                "interface" => group.interface = true,
                "state" => group.state = true,
                "protocol" => group.protocol = true,
                "direction" => group.direction = true,
                "local" => group.local = true,
                "remote" => group.remote = true,
                "port" => group.port = true,
                "group" => group.group = true,
                "rule" => group.rule = true,
                _ => {
                    let near =
                        did_you_mean(name, Self::NAMES).map_or_else(String::new, |near| format!("; {near}"));
                    return Err(Wrong::Field(format!(
                        "connections are counted by {}, not {name:?}{near}",
                        Self::NAMES.join(", ")
                    )));
                }
            }
        }
        Ok(group)
    }

    fn is_empty(self) -> bool {
        let Self { interface, state, protocol, direction, local, remote, port, group, rule } = self;
        !(interface || state || protocol || direction || local || remote || port || group || rule)
    }

    /// Of the rules that let a connection begin: what is counted of them, each once. One that none lets begin any more counts
    /// as that.
    fn of_rules(self, allowing: &[Rule]) -> Vec<(Option<u32>, Option<u32>)> {
        let mut told: Vec<(Option<u32>, Option<u32>)> = Vec::new();
        for rule in allowing {
            let one = (rule.group.filter(|_| self.group), self.rule.then_some(rule.name));
            if !told.contains(&one) {
                told.push(one);
            }
        }
        if told.is_empty() { vec![(None, None)] } else { told }
    }

    fn common(self, row: &Row) -> Common {
        let raw = &row.raw;
        Common {
            interface: self.interface.then_some(row.interface),
            state: self.state.then_some(raw.flow.state),
            protocol: self.protocol.then(|| raw.protocol()),
            outbound: self.direction.then(|| origin(raw) == sg_common::abi::Direction::Outbound),
            local: self.local.then(|| raw.local()),
            remote: self.remote.then(|| raw.remote()),
            port: (self.port && has_ports(raw)).then(|| asked_port(raw)),
            group: None,
            rule: None,
        }
    }
}

/// How many connections fit, and how many of each group; the `limit` largest.
///
/// # Errors
///
/// If the tables cannot be read.
pub fn count(
    view: &View,
    filter: &Filter,
    group: Group,
    limit: Option<usize>,
) -> Result<FlowCounts, KernelError> {
    let (mut total, mut half_open) = (0, 0);
    let mut counts: HashMap<Common, u64> = HashMap::new();
    let rulebook = if group.group || group.rule { view.rulebook() } else { None };
    view.read(filter, |row| {
        total += 1;
        half_open += u64::from(row.raw.flow.is_half_open());
        if !group.is_empty() {
            let common = group.common(&row);
            let allowing = rulebook.as_ref().zip(view.tables.describe(&row.raw));
            let allowing = allowing.map_or_else(Vec::new, |(book, flow)| book.allowing(row.interface, &flow));
            for (group, rule) in group.of_rules(&allowing) {
                *counts.entry(Common { group, rule, ..common.clone() }).or_default() += 1;
            }
        }
        ControlFlow::Continue(())
    })?;
    let mut counts: Vec<(Common, u64)> = counts.into_iter().collect();
    let order = |(a, a_count): &(Common, u64), (b, b_count): &(Common, u64)| {
        b_count.cmp(a_count).then_with(|| a.cmp(b))
    };
    let shown = limit.unwrap_or(usize::MAX).min(counts.len());
    let left_out = counts.len() - shown;
    if left_out > 0 {
        counts.select_nth_unstable_by(shown, order);
        counts.truncate(shown);
    }
    counts.sort_unstable_by(order);
    let counts =
        counts.into_iter().map(|(common, count)| common.told(view, rulebook.as_ref(), count)).collect();
    Ok(FlowCounts { total, half_open, counts, left_out: left_out as u64 })
}

impl Common {
    fn told(self, view: &View, rulebook: Option<&Rulebook>, count: u64) -> FlowCount {
        let name = |index: Option<u32>| Some(rulebook?.name(index?).to_owned());
        FlowCount {
            interface: self.interface.map(|index| view.name(index).to_owned()),
            state: self.state.map(|state| State::from_number(state).map_or("", State::name).to_owned()),
            protocol: self.protocol.map(protocol_name),
            direction: self.outbound.map(
                |outbound| {
                    if outbound { Direction::Outbound } else { Direction::Inbound }
                },
            ),
            local: self.local,
            remote: self.remote,
            port: self.port,
            group: name(self.group),
            rule: name(self.rule),
            count,
        }
    }
}
