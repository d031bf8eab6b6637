//! Who is in a group: interfaces of this host and peers on others.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::apply::{EditError, Planned, Policy};
use super::list::{self, Change, Style};
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::find::{self, Scope, hint};
use crate::policy::model::{GroupId, Kind, Peer, VpcId};
use crate::policy::values;

const GROUPS: &str = "security_groups";

fn group_name<'p>(policy: &Policy<'p>, id: GroupId) -> &'p str {
    policy.model.groups.get(id.0).map_or("", |group| &group.name)
}

pub(super) fn attach(policy: &Policy<'_>, name: &str, group: &str) -> Result<Planned, EditError> {
    let interface = find::interface(policy.model, name)?;
    let id = find::group_in(policy.model, interface.vpc, group)?;
    if interface.groups.contains(&id) {
        let what = format!("group {} is attached to interface {} already", quote(group), quote(name));
        return Ok(Planned::Already { at: interface.source, what });
    }
    let what = format!("group {} is attached to interface {}", quote(group), quote(name));
    let file = interface.source.file.0;
    let change = added(policy, file, "interfaces", policy.offset(interface.source), &[group])?;
    Ok(Planned::Change { file, change, what })
}

pub(super) fn detach(policy: &Policy<'_>, name: &str, group: &str) -> Result<Planned, EditError> {
    let interface = find::interface(policy.model, name)?;
    let attached: Vec<&str> = interface.groups.iter().map(|id| group_name(policy, *id)).collect();
    if !attached.contains(&group) {
        let hint = hint(group, attached.iter().copied());
        return Err(EditError::NotFound(format!(
            "group {} is not attached to interface {}, which has {}{}",
            quote(group),
            quote(name),
            if attached.is_empty() { "none".to_owned() } else { attached.join(", ") },
            hint
        )));
    }
    if attached.len() == 1 && interface.kind != Kind::BareMetal {
        return Err(EditError::Conflict(format!(
            "{} is the only group of interface {}, and an interface needs one; attach another one first",
            quote(group),
            quote(name)
        )));
    }
    let what = format!("group {} is detached from interface {}", quote(group), quote(name));
    let file = interface.source.file.0;
    let change = without(policy, file, "interfaces", policy.offset(interface.source), group)?;
    Ok(Planned::Change { file, change, what })
}

pub(super) fn add_peer(
    policy: &Policy<'_>,
    scope: Scope<'_>,
    address: &str,
    groups: &[String],
) -> Result<Planned, EditError> {
    let address = parsed(address)?;
    let vpc = find::vpc(policy.model, scope)?;
    if groups.is_empty() {
        return Err(EditError::Invalid(format!("say which groups {address} is in: at least one name")));
    }
    let mut ids = Vec::new();
    for group in groups {
        let id = find::group_in(policy.model, vpc, group)?;
        if ids.contains(&id) {
            return Err(EditError::Invalid(format!("group {} is named twice; name it once", quote(group))));
        }
        ids.push(id);
    }
    let names = groups.join(", ");
    let Some(peer) = peer(policy, vpc, address) else {
        let element = json!({ "address": address, GROUPS: groups });
        let what = format!("peer {address} is in {names}");
        let (file, change) = new_peer(policy, vpc, &element)?;
        return Ok(Planned::Change { file, change, what });
    };
    let missing: Vec<&str> =
        ids.iter().filter(|id| !peer.groups.contains(id)).map(|id| group_name(policy, *id)).collect();
    if missing.is_empty() {
        return Ok(Planned::Already {
            at: peer.source,
            what: format!("peer {address} is in {names} already"),
        });
    }
    let file = peer.source.file.0;
    let change = added(policy, file, "peers", policy.offset(peer.source), &missing)?;
    Ok(Planned::Change { file, change, what: format!("peer {address} is in {} too", missing.join(", ")) })
}

pub(super) fn remove_peer(
    policy: &Policy<'_>,
    scope: Scope<'_>,
    address: &str,
    groups: &[String],
) -> Result<Planned, EditError> {
    let address = parsed(address)?;
    let vpc = find::vpc(policy.model, scope)?;
    let Some(peer) = peer(policy, vpc, address) else {
        return Err(EditError::NotFound(format!(
            "{} has no peer {address} (`sgctl peer list`)",
            find::place(policy.model, vpc)
        )));
    };
    let has: Vec<&str> = peer.groups.iter().map(|id| group_name(policy, *id)).collect();
    for group in groups {
        if !has.contains(&group.as_str()) {
            let hint = hint(group, has.iter().copied());
            return Err(EditError::NotFound(format!(
                "peer {address} is not in group {}, only in {}{}",
                quote(group),
                has.join(", "),
                hint
            )));
        }
    }
    let file = peer.source.file.0;
    let offset = policy.offset(peer.source);
    let stays: Vec<&str> =
        has.iter().copied().filter(|name| !groups.iter().any(|group| group == name)).collect();
    let gone = || EditError::NotFound(format!("peer {address} is not where it was; edit again"));
    if groups.is_empty() || stays.is_empty() {
        let (root, _) = policy.file(file)?;
        let index = list::position_at(root, "peers", offset).ok_or_else(gone)?;
        let change = root.get_array("peers").and_then(|peers| list::remove(peers, index)).ok_or_else(gone)?;
        return Ok(Planned::Change { file, change, what: format!("peer {address} is removed") });
    }
    let [group] = groups else {
        return Err(EditError::Invalid(format!(
            "a peer is taken out of one group at a time, or removed; {address} would stay in {}; name one group, or none to remove it",
            stays.join(", ")
        )));
    };
    let change = without(policy, file, "peers", offset, group)?;
    let what = format!("peer {address} is no longer in {}", quote(group));
    Ok(Planned::Change { file, change, what })
}

fn parsed(address: &str) -> Result<IpAddr, EditError> {
    values::address(address).map_err(|fault| EditError::Invalid(Fault::to_line(&fault)))
}

fn peer<'p>(policy: &Policy<'p>, vpc: VpcId, address: IpAddr) -> Option<&'p Peer> {
    let mut peers = policy.model.peers.of_address(address).map(|(_, peer)| peer);
    peers.find(|peer| peer.vpc == vpc)
}

/// A further peer: where others are, or in the VPC's first file.
fn new_peer(policy: &Policy<'_>, vpc: VpcId, peer: &Value) -> Result<(usize, Change), EditError> {
    let file = policy.last_of_peers(vpc).or_else(|| policy.files_of(vpc).next());
    let file = file.ok_or_else(|| {
        EditError::NotFound(format!(
            "no file describes {}; write a file with its \"project\" and \"vpc\" first",
            find::place(policy.model, vpc)
        ))
    })?;
    let (root, style) = policy.file(file)?;
    let change = match root.get_array("peers") {
        Some(peers) => style.append(root, peers, |style, _| style.value(peer)),
        None => style.add_field(root, None, "peers", &json!([peer])),
    };
    Ok((file, change))
}

/// Further groups for the object of `list` at `offset`.
fn added(
    policy: &Policy<'_>,
    file: usize,
    list: &str,
    offset: usize,
    groups: &[&str],
) -> Result<Change, EditError> {
    let (root, style) = policy.file(file)?;
    let object = list::object_at(root, list, offset).ok_or_else(|| {
        EditError::NotFound(format!("an element of {list} is not where it was; edit again"))
    })?;
    let names = |style: &Style<'_>, separator: &str| {
        let names: Vec<String> = groups.iter().map(|group| style.value(&json!(group))).collect();
        names.join(&format!(",{separator}"))
    };
    Ok(match object.get_array(GROUPS) {
        Some(array) => style.append(object, array, |style, layout| names(style, &layout.separator)),
        None => style.add_field(object, None, GROUPS, &json!(groups)),
    })
}

/// Without one of the groups of the object of `list` at `offset`.
fn without(
    policy: &Policy<'_>,
    file: usize,
    list: &str,
    offset: usize,
    group: &str,
) -> Result<Change, EditError> {
    let (root, _) = policy.file(file)?;
    let array = list::object_at(root, list, offset).and_then(|object| object.get_array(GROUPS));
    let change = array.and_then(|array| list::remove(array, list::position_of(array, group)?));
    change
        .ok_or_else(|| EditError::NotFound(format!("group {} is not where it was; edit again", quote(group))))
}
