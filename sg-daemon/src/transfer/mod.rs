//! Live migration: the connections of an interface leave one host as a file and go on at another (SPEC K11).
//!
//! An import changes nothing or takes the file whole. It is the host's own administrator who says that these connections
//! were admitted; what the file cannot do is to reach beyond the interface: into another zone, past its share (D16), to
//! addresses that its guest may not use, or for longer than a connection of the same state lasts here.

pub mod record;

use std::net::{IpAddr, Ipv6Addr};

use sg_common::abi::{FLAG_ANY_LINK_LOCAL, GUARD_IPV4, GUARD_IPV6};

pub use self::record::{Fault, Here, Record};
use crate::compile::image::InterfaceImage;
use crate::enforce::{Device, Enforcer};
use crate::kernel::{AddError, Kernel, KernelError, described};
use crate::policy::model::OnRuleChange;
use crate::policy::{nearest, suggestion};

/// Why connections cannot leave or enter. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error("{name:?} is not filtered here, so it has no connections; `sgctl status` lists what is{}", suggestion(.nearest.as_deref()))]
    NotFiltered { name: String, nearest: Option<String> },
    #[error(
        "interface {name:?} is closed, as no policy names it: connections cannot enter it; write it into the policy first"
    )]
    Closed { name: String },
    #[error(transparent)]
    File(#[from] Fault),
    #[error(
        "line {line}: {address} is not an address of interface {interface:?}, whose policy lists {listed}; write it into \
         \"addresses\" or \"allowed_addresses\", or import into the right interface"
    )]
    ForeignAddress { line: usize, address: IpAddr, interface: String, listed: String },
    #[error("{0} on this host, or let connections end")]
    NoRoom(AddError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("the connections cannot be written as JSON; report it, with both versions of sgd")]
    Json(#[from] serde_json::Error),
}

/// What an import did.
#[derive(
    Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
pub struct Imported {
    pub interface: String,
    /// Connections that go on here now.
    pub live: usize,
    pub half_open: usize,
    /// Their like was here already and stays as it is.
    pub kept: usize,
    /// Their time was over.
    pub over: usize,
    /// No rule in force allows them, and `on_rule_change` is `revoke`.
    pub revoked: usize,
}

/// The connections of an interface, as they are at this moment.
///
/// # Errors
///
/// If the interface is not filtered or the tables cannot be read.
pub fn export(enforcer: &mut Enforcer, interface: &str) -> Result<Vec<Record>, TransferError> {
    let (kernel, _, devices) = enforcer.parts();
    let device = device(devices, interface)?;
    let zone = kernel.zone(device.slot).unwrap_or(0);
    let flows = kernel.zone_flows(zone)?;
    let here = here(kernel, &device, flows.now);
    let records = flows.flows.iter().filter_map(|(key, flow)| {
        let entry = described(*key, flow, flows.now, flows.hz)?;
        Some(Record::new(&entry, flow, &here))
    });
    Ok(records.collect())
}

/// Has the connections of a file go on at an interface.
///
/// # Errors
///
/// If anything is wrong with the file, or it does not fit. Nothing has changed.
pub fn import(
    enforcer: &mut Enforcer,
    interface: &str,
    records: &[Record],
) -> Result<Imported, TransferError> {
    let (kernel, active, devices) = enforcer.parts();
    let device = device(devices, interface)?;
    let named = active.and_then(|active| Some((active, active.interface(interface)?)));
    let Some((active, image)) = named.filter(|(_, image)| image.policy.is_some()) else {
        return Err(TransferError::Closed { name: interface.to_owned() });
    };
    let now = kernel.now()?;
    let here = here(kernel, &device, now);
    let mut flows = record::flows(records, &here)?;
    if let Some((line, record)) = (2..).zip(records).find(|(_, record)| !may_use(image, record.local)) {
        let listed: Vec<String> = image.guard.own.iter().map(IpAddr::to_string).collect();
        return Err(TransferError::ForeignAddress {
            line,
            address: record.local,
            interface: interface.to_owned(),
            listed: listed.join(", "),
        });
    }
    let mut imported = Imported { interface: interface.to_owned(), ..Imported::default() };
    let revoke = active.image.on_rule_change == OnRuleChange::Revoke;
    flows.retain(|(key, flow)| match described(*key, flow, now, here.hz) {
        None => {
            imported.over += 1;
            false
        }
        Some(entry) if revoke && !active.admits(image, &entry) => {
            imported.revoked += 1;
            false
        }
        Some(_) => true,
    });
    let added = kernel.add_flows(device.slot, &flows).map_err(|error| match error {
        AddError::Kernel(error) => TransferError::Kernel(error),
        error @ AddError::NoRoom { .. } => TransferError::NoRoom(error),
    })?;
    Ok(Imported { live: added.live, half_open: added.half_open, kept: added.kept, ..imported })
}

fn device(devices: &std::collections::BTreeMap<String, Device>, name: &str) -> Result<Device, TransferError> {
    let nearest = || nearest(name, devices.keys().map(String::as_str)).map(str::to_owned);
    devices
        .get(name)
        .copied()
        .ok_or_else(|| TransferError::NotFiltered { name: name.to_owned(), nearest: nearest() })
}

fn here(kernel: &Kernel, device: &Device, now: u64) -> Here {
    let half = kernel.half(device.slot);
    Here {
        zone: kernel.zone(device.slot).unwrap_or(0),
        now,
        hz: kernel.hz(),
        policy: half.map_or(0, |half| half.policy),
        timeouts: half.map_or([0; 12], |half| half.timeouts),
    }
}

/// Whether the guard lets a guest use an address (docs/packets.md, section 4).
fn may_use(interface: &InterfaceImage, address: IpAddr) -> bool {
    let guard = if address.is_ipv4() { GUARD_IPV4 } else { GUARD_IPV6 };
    if interface.guards & guard == 0 || interface.guard.own.contains(&address) {
        return true;
    }
    let IpAddr::V6(address) = address else { return false };
    if !address.is_unicast_link_local() || interface.guard.routers.contains(&address) {
        return false;
    }
    interface.guards & FLAG_ANY_LINK_LOCAL != 0 || interface.mac.is_some_and(|mac| address == derived(mac))
}

/// RFC 4291, appendix A.
fn derived([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}
