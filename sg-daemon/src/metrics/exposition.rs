//! Prometheus' text (version 0.0.4), by the library that other Rust programs use for it.

use std::time::Instant;

use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto;
use prometheus::{Encoder as _, TextEncoder};
use sg_common::abi::Direction;
use sg_common::metrics::{self as list, Kind, Metric};
use sg_common::verdict::Action;

use super::MetricsError;
use super::history::History;
use super::snapshot::Snapshot;
use crate::api::types::InterfaceState;
use crate::events::Lost;
use crate::events::hits::HitsSummary;

/// A family under way.
struct Family {
    metric: Metric,
    rows: Vec<proto::Metric>,
}

impl Family {
    fn new(metric: Metric) -> Self {
        Self { metric, rows: Vec::new() }
    }

    /// A row; as many values as the metric has labels.
    fn row(&mut self, labels: &[&str], value: f64) {
        let mut row = proto::Metric::default();
        let pairs = self.metric.labels.iter().zip(labels).map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        row.set_label(pairs.collect());
        match self.metric.kind {
            Kind::Counter => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                row.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                row.set_gauge(gauge);
            }
        }
        self.rows.push(row);
    }

    fn done(self) -> proto::MetricFamily {
        let mut family = proto::MetricFamily::default();
        family.set_name(self.metric.name.to_owned());
        family.set_help(self.metric.help.to_owned());
        family.set_field_type(match self.metric.kind {
            Kind::Counter => proto::MetricType::COUNTER,
            Kind::Gauge => proto::MetricType::GAUGE,
        });
        family.set_metric(self.rows);
        family
    }
}

fn one(metric: Metric, rows: &[(&[&str], f64)]) -> Family {
    let mut family = Family::new(metric);
    for (labels, value) in rows {
        family.row(labels, *value);
    }
    family
}

fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

const STATES: [InterfaceState; 7] = [
    InterfaceState::Enforced,
    InterfaceState::Audit,
    InterfaceState::BareMetal,
    InterfaceState::Absent,
    InterfaceState::Closed,
    InterfaceState::Unfilterable,
    InterfaceState::NotFiltered,
];

fn state_name(state: InterfaceState) -> &'static str {
    match state {
        InterfaceState::Enforced => "enforced",
        InterfaceState::Audit => "audit",
        InterfaceState::BareMetal => "bare_metal",
        InterfaceState::Absent => "absent",
        InterfaceState::Closed => "closed",
        InterfaceState::Unfilterable => "unfilterable",
        InterfaceState::NotFiltered => "not_filtered",
    }
}

pub fn text(snapshot: &Snapshot, history: &History, begun: Instant) -> Result<String, MetricsError> {
    let mut families = packets(history);
    families.extend(interfaces(snapshot));
    families.extend(daemon(snapshot));
    families.extend(rules(&snapshot.hits));
    families.extend(losses(snapshot));
    let mut took = Family::new(list::SCRAPE_SECONDS);
    took.row(&[], begun.elapsed().as_secs_f64());
    families.push(took);
    let families = families.into_iter().filter(|family| !family.rows.is_empty()).map(Family::done);
    let mut all: Vec<proto::MetricFamily> = families.collect();
    all.extend(ProcessCollector::for_self().collect());
    let mut text = Vec::new();
    TextEncoder::new().encode(&all, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn packets(history: &History) -> Vec<Family> {
    let (mut packets, mut bytes) = (Family::new(list::PACKETS), Family::new(list::BYTES));
    for (interface, sample) in history.sums() {
        let direction = if sample.direction == Direction::Inbound { "inbound" } else { "outbound" };
        let verdict = match (sample.would_drop, sample.reason.action()) {
            (true, _) => "would_drop",
            (false, Action::Allow) => "allowed",
            (false, Action::Drop) => "dropped",
        };
        let labels = [interface, direction, verdict, sample.reason.name()];
        packets.row(&labels, sample.counter.packets as f64);
        bytes.row(&labels, sample.counter.bytes as f64);
    }
    vec![packets, bytes]
}

fn interfaces(snapshot: &Snapshot) -> Vec<Family> {
    let (mut used, mut limit) = (Family::new(list::LIVE_FLOWS), Family::new(list::LIVE_FLOWS_LIMIT));
    for (name, live, most) in &snapshot.live {
        used.row(&[name], *live as f64);
        limit.row(&[name], f64::from(*most));
    }
    let mut state = Family::new(list::INTERFACE_STATE);
    for (name, is) in &snapshot.states {
        state.row(&[name, state_name(*is)], 1.0);
    }
    let mut count = Family::new(list::INTERFACES);
    for wanted in STATES {
        let many = snapshot.states.values().filter(|state| **state == wanted).count();
        count.row(&[state_name(wanted)], many as f64);
    }
    let [inbound, outbound] = snapshot.unknown.map(|packets| packets as f64);
    let unknown = one(list::UNKNOWN_PACKETS, &[(&["inbound"], inbound), (&["outbound"], outbound)]);
    let (mut entries, mut size) = (Family::new(list::TABLE_ENTRIES), Family::new(list::TABLE_SIZE));
    for fill in &snapshot.tables {
        entries.row(&[fill.table], fill.used as f64);
        size.row(&[fill.table], fill.size as f64);
    }
    vec![unknown, used, limit, state, count, entries, size]
}

fn rules(hits: &HitsSummary) -> Vec<Family> {
    let mut groups = Family::new(list::GROUP_HITS);
    for (key, packets) in &hits.groups {
        groups.row(&[&key.project, &key.vpc, &key.group, &key.list], *packets as f64);
    }
    for (direction, packets) in ["inbound", "outbound"].into_iter().zip(hits.others) {
        groups.row(&["", "", "(others)", direction], packets as f64);
    }
    vec![
        groups,
        one(list::RULES, &[(&[], hits.rules as f64)]),
        one(list::RULES_UNUSED, &[(&[], hits.unused as f64)]),
    ]
}

/// What was not counted, not told or not written.
fn losses(snapshot: &Snapshot) -> Vec<Family> {
    let Lost { limited, full, slow } = snapshot.counted.lost;
    let log = snapshot.flow_log.as_ref();
    let (written, lost) = log.map_or((0, 0), |log| (log.records, log.lost_records));
    vec![
        one(list::HITS_UNATTRIBUTED, &[(&[], snapshot.hits.unattributed as f64)]),
        one(
            list::EVENTS_LOST,
            &[(&["limited"], limited as f64), (&["full"], full as f64), (&["slow"], slow as f64)],
        ),
        one(list::FLOW_LOG_RECORDS, &[(&["written"], written as f64), (&["lost"], lost as f64)]),
        one(list::FLOW_LOG_UNRECORDED, &[(&[], log.map_or(0.0, |log| log.unrecorded_packets as f64))]),
    ]
}

fn daemon(snapshot: &Snapshot) -> Vec<Family> {
    let (counted, collector) = (&snapshot.counted, &snapshot.collector);
    let mut last = Family::new(list::LAST_SUCCESS);
    if let Some(seconds) = counted.last_success {
        last.row(&[], seconds);
    }
    let mut writes = Family::new(list::MAP_WRITES);
    for written in snapshot.writes.by_map() {
        writes.row(&[written.map, "update"], written.updates as f64);
        writes.row(&[written.map, "delete"], written.deletions as f64);
    }
    vec![
        writes,
        one(list::BUILD_INFO, &[(&[env!("CARGO_PKG_VERSION")], 1.0)]),
        one(list::GENERATION, &[(&[], snapshot.generation as f64)]),
        one(
            list::SWAPS,
            &[
                (&["applied"], counted.applied as f64),
                (&["unchanged"], counted.unchanged as f64),
                (&["failed"], counted.failed as f64),
            ],
        ),
        last,
        one(list::REFUSED, &[(&[], truth(snapshot.refused))]),
        one(list::UNCONFIRMED, &[(&[], truth(snapshot.unconfirmed))]),
        one(
            list::COLLECTOR_RUNS,
            &[(&["done"], collector.runs as f64), (&["failed"], collector.failures as f64)],
        ),
        one(list::COLLECTOR_FLOWS, &[(&[], collector.collected as f64)]),
        one(list::COLLECTOR_SECONDS, &[(&[], collector.total_us as f64 / 1_000_000.0)]),
    ]
}
