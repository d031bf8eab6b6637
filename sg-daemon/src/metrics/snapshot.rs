//! What there is to know at a moment. The enforcer is held twice, each time for as long as it takes to copy some words of
//! memory; counters and tables of flows are read in between, by descriptors of our own.

use std::collections::{BTreeMap, BTreeSet};

use sg_common::abi::{MAX_INTERFACES, MAX_ZONES};

use super::MetricsError;
use super::history::History;
use super::tally::{Counted, TALLY};
use crate::api::live::CollectorWork;
use crate::api::server::Shared;
use crate::api::types::{FlowLogStatus, InterfaceState};
use crate::enforce::Enforcer;
use crate::events::hits::HitsSummary;
use crate::flowlog::FlowLog;
use crate::kernel::{CounterReader, MapWrites, Retired, Slot};
use crate::plan::Table;
use crate::supervise::status::{failed, intended};

/// How full a table is.
pub struct Fill {
    pub table: &'static str,
    pub used: u64,
    pub size: u64,
}

pub struct Snapshot {
    pub writes: MapWrites,
    pub generation: u64,
    pub refused: bool,
    pub unconfirmed: bool,
    pub states: BTreeMap<String, InterfaceState>,
    /// By interface: how many live flows there are and may be.
    pub live: Vec<(String, u64, u32)>,
    pub tables: Vec<Fill>,
    /// Packets of devices that no interface is known of, inbound and outbound.
    pub unknown: [u64; 2],
    pub counted: Counted,
    pub collector: CollectorWork,
    pub hits: HitsSummary,
    /// Absent if none is written.
    pub flow_log: Option<FlowLogStatus>,
}

/// A device that is filtered.
struct Filtered {
    name: String,
    slot: Slot,
    zone: u32,
    row: u32,
}

pub fn take(
    shared: &Shared,
    reader: &CounterReader,
    history: &mut History,
) -> Result<Snapshot, MetricsError> {
    let refused = shared.refused().is_some();
    let unconfirmed = shared.changes().until.is_some();
    let (mut snapshot, filtered, retired) = copy(&mut shared.enforcer(), refused, unconfirmed);
    snapshot.hits = shared.events.hits_summary();
    snapshot.flow_log = shared.flow_log().as_ref().map(FlowLog::status);
    for retired in &retired {
        history.retire(retired);
    }
    let mut read = Vec::with_capacity(filtered.len());
    for device in filtered {
        let counted = reader.row(device.row).map_err(MetricsError::Counters)?;
        read.push((device, counted));
    }
    let half_open = reader.half_open()?;
    for (table, used) in ["half_open_v4", "half_open_v6"].into_iter().zip(half_open) {
        if let Some(fill) = snapshot.tables.iter_mut().find(|fill| fill.table == table) {
            fill.used = used;
        }
    }
    for sample in reader.row(0).map_err(MetricsError::Counters)?.samples {
        let [inbound, outbound] = &mut snapshot.unknown;
        *(if sample.direction as u8 == 0 { inbound } else { outbound }) += sample.counter.packets;
    }
    // A row may have become another's while nobody held the enforcer.
    let mut enforcer = shared.enforcer();
    let kernel = enforcer.kernel();
    read.retain(|(device, _)| {
        kernel.zone(device.slot) == Some(device.zone) && kernel.row(device.slot) == Some(device.row)
    });
    drop(enforcer);
    for (device, counted) in &read {
        history.count(&device.name, device.zone, counted);
    }
    history.keep_only(&snapshot.states.keys().map(String::as_str).collect::<BTreeSet<_>>());
    Ok(snapshot)
}

fn copy(
    enforcer: &mut Enforcer,
    refused: bool,
    unconfirmed: bool,
) -> (Snapshot, Vec<Filtered>, Vec<Retired>) {
    let states = states(enforcer);
    let entries = enforcer.resident().entries();
    let (kernel, _, devices) = enforcer.parts();
    let capacity = kernel.capacity().entries;
    let sizes = kernel.sizes();
    let mut live = Vec::with_capacity(devices.len());
    let mut filtered = Vec::with_capacity(devices.len());
    for (name, device) in devices {
        let (used, limit) = kernel.live_flows(device.slot);
        live.push((name.clone(), used, limit));
        if let (Some(zone), Some(row)) = (kernel.zone(device.slot), kernel.row(device.slot)) {
            filtered.push(Filtered { name: name.clone(), slot: device.slot, zone, row });
        }
    }
    let of = |table: Table, numbers: &[u32]| numbers.get(table as usize).copied().unwrap_or(0).into();
    let mut tables: Vec<Fill> = [
        Table::ClassesV4,
        Table::ClassesV6,
        Table::MembersV4,
        Table::MembersV6,
        Table::OwnV4,
        Table::OwnV6,
        Table::Pairs,
        Table::PortSets,
    ]
    .into_iter()
    .map(|table| Fill { table: table.name(), used: of(table, &entries), size: of(table, &capacity) })
    .collect();
    let fill = |table, used: u64, size: u32| Fill { table, used, size: size.into() };
    tables.extend([
        fill("half_open_v4", 0, sizes.half_open_v4),
        fill("half_open_v6", 0, sizes.half_open_v6),
        fill("interfaces", devices.len() as u64, MAX_INTERFACES),
        fill("live", live.iter().map(|(_, used, _)| used).sum(), sizes.live),
        fill("zones", kernel.zones_used().into(), MAX_ZONES - 1),
    ]);
    let snapshot = Snapshot {
        writes: kernel.writes(),
        generation: kernel.generation(),
        refused,
        unconfirmed,
        states,
        live,
        tables,
        unknown: [0; 2],
        counted: TALLY.counted(),
        collector: kernel.collector,
        hits: HitsSummary::default(),
        flow_log: None,
    };
    (snapshot, filtered, kernel.take_retired())
}

/// What is enforced on each interface, as `GET /v1/status` says it.
fn states(enforcer: &mut Enforcer) -> BTreeMap<String, InterfaceState> {
    let unfilterable = enforcer.unfilterable().clone();
    let failures = enforcer.failures().clone();
    let (kernel, active, devices) = enforcer.parts();
    let mut states: BTreeMap<String, InterfaceState> =
        devices.keys().map(|name| (name.clone(), InterfaceState::Closed)).collect();
    if let Some(model) = active.map(|active| &active.model) {
        states.extend(model.interfaces.iter().map(|interface| {
            let present = devices.contains_key(&interface.name);
            (interface.name.clone(), intended(model, interface, present))
        }));
    }
    states.extend(unfilterable.into_iter().map(|name| (name, InterfaceState::Unfilterable)));
    states.extend(failures.iter().map(|(name, failure)| (name.clone(), failed(kernel, failure))));
    states
}
