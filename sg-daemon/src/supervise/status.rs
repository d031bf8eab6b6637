//! The state of the daemon, for the API.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::net::if_::if_nametoindex;
use sg_common::abi::{Counter, Direction};
use sg_common::verdict::{Action, Reason};
use tokio::time::Instant;

use super::steward::Changes;
use crate::api::candidate::UnconfirmedStatus;
use crate::api::types::{
    Counters, FastPathStatus, FlowStatus, InterfaceState, InterfaceStatus, Readiness, ReasonCounter,
    ShareStatus, Status, TableStatus,
};
use crate::enforce::{Device, Enforcer, Failure};
use crate::fast_path::Way;
use crate::kernel::{FlowEntry, Kernel, KernelError, Sample};
use crate::policy::model::{Interface, Kind, Model, Role};

/// # Errors
///
/// If the counters cannot be read.
pub fn status(
    enforcer: &mut Enforcer,
    refused: Option<String>,
    changes: &Changes,
) -> Result<Status, KernelError> {
    let sizes = enforcer.kernel().sizes();
    let (map_writes, map_writes_of_last_change) = enforcer.map_writes();
    let tables = TableStatus {
        policies: enforcer.resident().policies(),
        members: enforcer.resident().members(),
        port_tables: enforcer.resident().port_tables(),
        map_writes,
        map_writes_of_last_change,
        live_flows_size: sizes.live,
        half_open_flows_size: sizes.half_open_v4,
        half_open_flows_v6_size: sizes.half_open_v6,
    };
    let unfilterable = enforcer.unfilterable().clone();
    let failures = enforcer.failures().clone();
    let ways = ways(enforcer);
    let (kernel, active, devices) = enforcer.parts();
    let nothing = Model::default();
    let model = active.map_or(&nothing, |active| &active.model);
    let mut interfaces = Vec::with_capacity(model.interfaces.len());
    for interface in &model.interfaces {
        let device = devices.get(&interface.name);
        let mut status = described(kernel, model, interface, device, ways.get(&interface.name))?;
        if unfilterable.contains(&interface.name) {
            status.state = InterfaceState::Unfilterable;
        }
        if let Some(failure) = failures.get(&interface.name) {
            note_failure(&mut status, kernel, failure);
        }
        interfaces.push(status);
    }
    let named = |name: &str| model.interfaces.iter().any(|interface| interface.name == name);
    for (name, device) in devices {
        if !named(name) {
            let (counters, _) = counters(kernel, device)?;
            let mut status = managed(name, InterfaceState::Closed, Some(device), counters);
            status.live_flows = Some(share(kernel, device));
            interfaces.push(status);
        }
    }
    for (name, failure) in failures.iter().filter(|(name, _)| !named(name)) {
        let mut status = managed(name, InterfaceState::NotFiltered, None, Default::default());
        note_failure(&mut status, kernel, failure);
        interfaces.push(status);
    }
    for name in unfilterable.iter().filter(|name| !named(name)) {
        interfaces.push(managed(name, InterfaceState::Unfilterable, None, Default::default()));
    }
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        generation: kernel.generation(),
        files: model.files.iter().map(|file| file.display().to_string()).collect(),
        refused,
        unconfirmed: changes.until.map(|until| UnconfirmedStatus {
            rolls_back_in: until.saturating_duration_since(Instant::now()).as_secs(),
            files_changed: changes.files_changed,
        }),
        notice: changes.notice.clone(),
        interfaces,
        tables,
        flow_log: None,
    })
}

/// The filtered interfaces that are to be on the fast path, by name.
fn ways(enforcer: &Enforcer) -> BTreeMap<String, Option<Way>> {
    let model = enforcer.active().map(|active| Arc::clone(&active.model));
    let wanted = model.iter().flat_map(|model| &model.interfaces).filter(|interface| interface.fast_path);
    wanted
        .filter_map(|interface| {
            let device = enforcer.devices().get(&interface.name)?;
            Some((interface.name.clone(), enforcer.way(device.ifindex)))
        })
        .collect()
}

fn fast_path(way: &Option<Way>, packets: u64) -> FastPathStatus {
    let why = match way {
        Some(Way::Direct { .. }) => None,
        Some(Way::Bridge { why }) => Some(why.clone()),
        None => Some("its bridge is being looked at; ask again".to_owned()),
    };
    FastPathStatus { direct: why.is_none(), why, packets }
}

/// A device that is not filtered by its policy, but may be closed.
fn note_failure(status: &mut InterfaceStatus, kernel: &Kernel, failure: &Failure) {
    status.state = failed(kernel, failure);
    status.why = Some(failure.why.clone());
    status.ifindex = Some(failure.ifindex);
}

/// Whether the device that has a name now is filtered, and by what.
pub fn readiness(enforcer: &mut Enforcer, name: &str, refused: Option<String>) -> Readiness {
    let ifindex = if_nametoindex(name).ok();
    let unfilterable = enforcer.unfilterable().contains(name);
    let failure = enforcer.failures().get(name).filter(|failure| Some(failure.ifindex) == ifindex).cloned();
    let (kernel, active, devices) = enforcer.parts();
    let interface = active.and_then(|active| active.model.interfaces.iter().find(|i| i.name == name));
    let bare = interface.is_some_and(|interface| interface.kind == Kind::BareMetal);
    // Another device may have had the name.
    let device =
        devices.get(name).filter(|device| Some(device.ifindex) == ifindex && device.attached.is_some());
    let cut = ifindex.is_some_and(|ifindex| kernel.is_cut(ifindex));
    let device = device.filter(|_| !cut);
    let closed = ifindex.is_some_and(|ifindex| kernel.is_attached(ifindex)) && !cut;
    let state = match device {
        _ if bare => InterfaceState::BareMetal,
        _ if ifindex.is_none() => InterfaceState::Absent,
        _ if unfilterable => InterfaceState::Unfilterable,
        Some(_) if interface.is_some() => InterfaceState::Enforced,
        _ if closed => InterfaceState::Closed,
        _ => InterfaceState::NotFiltered,
    };
    Readiness { state, named: interface.is_some(), ifindex, why: failure.map(|failure| failure.why), refused }
}

/// What becomes of an interface of the policy if nothing goes wrong with its device.
pub fn intended(model: &Model, interface: &Interface, present: bool) -> InterfaceState {
    match (interface.kind, present) {
        (Kind::BareMetal, _) => InterfaceState::BareMetal,
        (_, true) if model.audit(interface).is_some() => InterfaceState::Audit,
        (_, true) => InterfaceState::Enforced,
        (_, false) => InterfaceState::Absent,
    }
}

/// What became of a device that cannot be filtered as the policy says.
pub fn failed(kernel: &Kernel, failure: &Failure) -> InterfaceState {
    if kernel.is_attached(failure.ifindex) { InterfaceState::Closed } else { InterfaceState::NotFiltered }
}

fn described(
    kernel: &Kernel,
    model: &Model,
    interface: &Interface,
    device: Option<&Device>,
    way: Option<&Option<Way>>,
) -> Result<InterfaceStatus, KernelError> {
    let vpc = model.vpcs.get(interface.vpc.0);
    let groups = interface.groups.iter().filter_map(|id| model.groups.get(id.0));
    let counted = device.map(|device| counters(kernel, device)).transpose()?;
    let ((inbound, outbound), handed_on) = counted.unwrap_or_default();
    Ok(InterfaceStatus {
        name: interface.name.clone(),
        state: intended(model, interface, device.is_some()),
        why: None,
        ifindex: device.map(|device| device.ifindex),
        instance: interface.instance.clone(),
        role: match interface.role {
            Role::Guest => "guest".to_owned(),
            Role::Host => "host".to_owned(),
        },
        project: vpc.map(|vpc| vpc.project.clone()),
        vpc: vpc.map(|vpc| vpc.name.clone()),
        security_groups: groups.map(|group| group.name.clone()).collect(),
        ingress: device.and_then(|device| device.attached).map(|attached| attached.ingress.to_owned()),
        egress: device.and_then(|device| device.attached).map(|attached| attached.egress.to_owned()),
        live_flows: device.map(|device| share(kernel, device)),
        fast_path: way.map(|way| fast_path(way, handed_on)),
        inbound,
        outbound,
    })
}

fn share(kernel: &Kernel, device: &Device) -> ShareStatus {
    let (used, limit) = kernel.live_flows(device.slot);
    ShareStatus { used, limit }
}

/// A device that only a managed pattern speaks of.
fn managed(
    name: &str,
    state: InterfaceState,
    device: Option<&Device>,
    (inbound, outbound): (Counters, Counters),
) -> InterfaceStatus {
    let attached = device.and_then(|device| device.attached);
    InterfaceStatus {
        name: name.to_owned(),
        state,
        why: None,
        ifindex: device.map(|device| device.ifindex),
        instance: String::new(),
        role: "guest".to_owned(),
        project: None,
        vpc: None,
        security_groups: Vec::new(),
        ingress: attached.map(|attached| attached.ingress.to_owned()),
        egress: attached.map(|attached| attached.egress.to_owned()),
        live_flows: None,
        fast_path: None,
        inbound,
        outbound,
    }
}

/// Inbound and outbound, and how many packets went past the bridge.
fn counters(kernel: &Kernel, device: &Device) -> Result<((Counters, Counters), u64), KernelError> {
    let (mut inbound, mut outbound) = (Counters::default(), Counters::default());
    let read = kernel.counters(device.slot)?;
    for Sample { direction, reason, would_drop, counter } in read.samples {
        let counters = match direction {
            Direction::Inbound => &mut inbound,
            Direction::Outbound => &mut outbound,
        };
        match reason.action() {
            Action::Drop if !would_drop => counters.dropped += counter.packets,
            _ => counters.allowed += counter.packets,
        }
        if would_drop {
            counters.would_drop += counter.packets;
            counters.would_drop_reasons.push(counted(reason, counter));
        } else {
            counters.reasons.push(counted(reason, counter));
        }
    }
    for (twice, counters) in read.twice.into_iter().zip([&mut inbound, &mut outbound]) {
        // What XDP has passed and counted, and the program behind it has counted again (D24).
        counters.counted_twice = twice.packets;
        counters.allowed = counters.allowed.saturating_sub(twice.packets);
    }
    Ok(((inbound, outbound), read.handed_on.iter().map(|counter| counter.packets).sum()))
}

fn counted(reason: Reason, counter: Counter) -> ReasonCounter {
    ReasonCounter { reason: reason.name().to_owned(), packets: counter.packets, bytes: counter.bytes }
}

pub fn flow_status(interface: &str, flow: &FlowEntry, admitted_now: bool) -> FlowStatus {
    let has_ports = matches!(flow.protocol, 6 | 17);
    let has_id = has_ports || matches!(flow.protocol, 1 | 58);
    FlowStatus {
        interface: interface.to_owned(),
        protocol: protocol_name(flow.protocol),
        local: flow.local,
        local_port: has_id.then_some(flow.local_port),
        remote: flow.remote,
        remote_port: has_ports.then_some(flow.remote_port),
        direction: flow.origin.into(),
        state: flow.state.name().to_owned(),
        replied: flow.replied,
        age: flow.age,
        expires_in: flow.expires_in,
        admitted_now,
        traffic: None,
    }
}

/// As connections are told of.
pub fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}
