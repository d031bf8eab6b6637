//! Groups, made and deleted.

use serde_json::{Map, Value, json};

use super::apply::{EditError, Planned, Policy, is_default};
use super::list;
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::find::{self, Scope};
use crate::policy::model::{FileId, GroupId, Remote, Rules, Source};
use crate::policy::values;

pub(super) fn create(
    policy: &Policy<'_>,
    scope: Scope<'_>,
    name: &str,
    description: Option<&str>,
    [inbound, outbound]: [Option<&[Value]>; 2],
) -> Result<Planned, EditError> {
    values::group_name(name).map_err(|fault| EditError::Invalid(Fault::to_line(&fault)))?;
    if is_default(name) {
        return Err(EditError::Conflict(
            "every project has a group \"default\" already; its rules can be changed (`sgctl rule add default …`)"
                .to_owned(),
        ));
    }
    let vpc = find::vpc(policy.model, scope)?;
    let taken = policy.model.groups.iter().find(|group| group.vpc == Some(vpc) && group.name == name);
    if taken.is_some() {
        return Err(EditError::Conflict(format!(
            "{} has a group {} already; give another name, or edit that one",
            find::place(policy.model, vpc),
            quote(name)
        )));
    }
    let Some(file) = policy.files_of(vpc).next() else {
        return Err(EditError::NotFound(format!(
            "no file describes {}; write a file with its \"project\" and \"vpc\" first",
            find::place(policy.model, vpc)
        )));
    };
    let mut group = Map::new();
    group.insert("name".to_owned(), json!(name));
    for (field, value) in [
        ("description", description.map(|text| json!(text))),
        ("inbound", inbound.map(|rules| json!(rules))),
        ("outbound", outbound.map(|rules| json!(rules))),
    ] {
        group.extend(value.map(|value| (field.to_owned(), value)));
    }
    let what = format!("group {} is in {}", quote(name), find::place(policy.model, vpc));
    Ok(Planned::Change { file, change: policy.new_group(file, &group.into())?, what })
}

pub(super) fn delete(policy: &Policy<'_>, scope: Scope<'_>, name: &str) -> Result<Planned, EditError> {
    if is_default(name) {
        return Err(EditError::Conflict(
            "\"default\" can be edited, and never be deleted: every project has it; remove its rules instead"
                .to_owned(),
        ));
    }
    let id = find::group(policy.model, name, scope)?;
    let users = users(policy, id);
    if !users.is_empty() {
        return Err(EditError::Conflict(format!(
            "group {} is in use: {}; detach it and remove these rules first",
            quote(name),
            users.join(", ")
        )));
    }
    let source = policy.model.groups.get(id.0).and_then(|group| group.source);
    let gone = || {
        EditError::NotFound(format!(
            "group {} is written nowhere, so there is nothing to delete",
            quote(name)
        ))
    };
    let source = source.ok_or_else(gone)?;
    let (root, _) = policy.file(source.file.0)?;
    let at = policy.offset(source);
    let index = list::position_at(root, "security_groups", at).ok_or_else(gone)?;
    let change = root.get_array("security_groups").and_then(|groups| list::remove(groups, index));
    let what = format!("group {} is deleted", quote(name));
    Ok(Planned::Change { file: source.file.0, change: change.ok_or_else(gone)?, what })
}

/// Who needs a group: interfaces, peers, and rules of other groups. As many as one can read.
fn users(policy: &Policy<'_>, id: GroupId) -> Vec<String> {
    const MOST: usize = 20;
    let model = policy.model;
    let place = |source: Source| {
        let FileId(file) = source.file;
        let file = model.files.get(file).map_or_else(String::new, |file| file.display().to_string());
        format!("({file}:{})", source.line)
    };
    let mut users = Vec::new();
    for interface in model.interfaces.iter().filter(|interface| interface.groups.contains(&id)) {
        users.push(format!("attached to interface {} {}", quote(&interface.name), place(interface.source)));
    }
    for peer in model.peers.iter().filter(|peer| peer.groups.contains(&id)) {
        users.push(format!("has peer {} {}", peer.address, place(peer.source)));
    }
    for (index, group) in model.groups.iter().enumerate() {
        if GroupId(index) == id {
            continue;
        }
        for (name, rules) in [("inbound", &group.inbound), ("outbound", &group.outbound)] {
            let Rules::Written(rules) = rules else { continue };
            for (index, rule) in rules.iter().enumerate() {
                if rule.remote == Remote::Group(id) {
                    users.push(format!(
                        "named by {name}[{index}] of group {} {}",
                        quote(&group.name),
                        place(group.source_of(rule))
                    ));
                }
            }
        }
    }
    let more = users.len().saturating_sub(MOST);
    users.truncate(MOST);
    if more > 0 {
        users.push(format!("and {more} more"));
    }
    users
}
