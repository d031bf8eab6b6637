//! Edits of any policy text: copying a group, and each of the others.

use serde_json::Value;
use sg_daemon::policy;
use sg_daemon::policy::Loaded;
use sg_daemon::policy::edit::{
    CopyError, CopyRequest, Edit, EditError, Edited, EditedPolicy, RuleDirection, apply, copy_group_in,
};

const NAMES: [&str; 3] = ["copy-one", "copy-two", "copy-three"];

/// The first byte says which group is copied how often and whether it is rewritten; the rest is the policy's file.
///
/// Nothing but the copies is new in the file, they say what the original says, and only quotas and names refuse them.
pub fn edit(bytes: &[u8]) {
    let Some((&how, text)) = bytes.split_first() else { return };
    let file = || [("p.json".into(), text.to_vec())];
    let loaded = policy::load_bytes(file());
    let groups = loaded.as_ref().map_or(&[][..], |loaded| &loaded.model.groups);
    // Without groups the policy is faulty.
    let source =
        groups.get(usize::from(how >> 3) % groups.len().max(1)).map_or("default", |group| &group.name);
    let names = &NAMES[..1 + usize::from(how & 3) % NAMES.len()];
    let request = CopyRequest {
        source: source.to_owned(),
        names: names.iter().map(ToString::to_string).collect(),
        rewrite_self: how & 4 != 0,
        project: None,
        vpc: None,
    };
    let taken = groups.iter().any(|group| names.contains(&group.name.as_str()));
    match copy_group_in(file(), &request) {
        Ok(edited) => {
            assert!(loaded.is_ok() && !taken);
            right(&edited, text, &request);
        }
        Err(CopyError::Before(_)) => assert!(loaded.is_err(), "a policy that loads"),
        Err(CopyError::Name(_)) => assert!(taken, "the names are free"),
        Err(CopyError::After(error)) => {
            let quota = |finding: &policy::Diagnostic| finding.message.contains("over the quota");
            assert!(error.diagnostics.iter().all(quota), "the copies are faulty: {error}");
        }
        Err(error) => panic!("{source:?} is a group of the policy: {error}"),
    }
    others(text, how, loaded.as_ref().ok());
}

/// An address and a rule that hardly any policy has.
const PEER: &str = "198.51.100.250";
const NEW: &str = "fuzz-new";

/// One of each kind of the other edits, on what the first byte chooses: what is added is there, what is taken out is gone, and the
/// rest says what it said. What was added and is taken out again leaves what was there.
fn others(text: &[u8], how: u8, loaded: Option<&Loaded>) {
    let Some(Loaded { model, .. }) = loaded else {
        let any = Edit::GroupDelete { name: "default".to_owned(), project: None, vpc: None };
        assert!(matches!(edited(text, any), Err(EditError::Before(_))), "a policy with faults");
        return;
    };
    let chosen = usize::from(how >> 3);
    let before = json(text);
    let Some(group) = model.groups.get(chosen % model.groups.len().max(1)) else { return };
    let group = group.name.clone();
    let direction = if how & 1 == 0 { RuleDirection::Inbound } else { RuleDirection::Outbound };
    let rule = serde_json::json!({ "protocol": "TCP", direction.remote(): "192.0.2.77/32", "port": "4711" });

    let create = Edit::GroupCreate {
        name: NEW.to_owned(),
        description: None,
        inbound: Some(Vec::new()),
        outbound: None,
        project: None,
        vpc: None,
    };
    let delete = |name: &str| Edit::GroupDelete { name: name.to_owned(), project: None, vpc: None };
    match edited(text, create) {
        Err(EditError::Conflict(_)) => assert!(model.groups.iter().any(|group| group.name == NEW)),
        other => {
            if let Some(new) = there(other) {
                let mut wanted = before.clone();
                let element = serde_json::json!({ "name": NEW, "inbound": [] });
                list(&mut wanted, "security_groups").push(element);
                assert_eq!(json(&new), wanted, "a group more");
                let again = there(edited(&new, delete(NEW))).expect("nobody uses it");
                assert_eq!(tidy(json(&again)), tidy(before.clone()), "as it was");
            }
        }
    }

    let add = Edit::RuleAdd { group: group.clone(), direction, rule: rule.clone(), project: None, vpc: None };
    let written = |policy: &Value| -> Option<Vec<Value>> {
        let groups = policy.get("security_groups")?.as_array()?;
        let group = groups.iter().find(|element| element["name"] == group.as_str())?;
        group.get(direction.name())?.as_array().cloned()
    };
    if let Some(new) = there(edited(text, add)) {
        let rules = written(&json(&new)).expect("the list is written now");
        assert_eq!(rules.last(), Some(&rule), "a rule more, the last");
        if let Some(old) = written(&before) {
            assert_eq!(rules[..rules.len() - 1], old);
            let index = Some(rules.len() - 1);
            let remove = Edit::RuleRemove {
                group: group.clone(),
                direction,
                index,
                tag: None,
                rule: None,
                project: None,
                vpc: None,
            };
            let again = there(edited(&new, remove)).expect("the rule is there");
            assert_eq!(json(&again), before, "as it was");
        }
    }
    if let Some(old) = written(&before).filter(|old| !old.is_empty()) {
        let index = usize::from(how & 3) % old.len();
        let remove = Edit::RuleRemove {
            group: group.clone(),
            direction,
            index: Some(index),
            tag: None,
            rule: None,
            project: None,
            vpc: None,
        };
        let new = there(edited(text, remove)).expect("a rule fewer is no fault");
        let mut left = old;
        left.remove(index);
        let mut wanted = before.clone();
        let groups = list(&mut wanted, "security_groups");
        let at = groups.iter().position(|element| element["name"] == group.as_str()).unwrap();
        groups[at][direction.name()] = left.into();
        assert_eq!(json(&new), wanted, "a rule fewer");
    }
    match edited(text, delete(&group)) {
        Err(EditError::Conflict(_)) => {}
        other => {
            let new = there(other).expect("nobody uses it");
            let mut wanted = before.clone();
            list(&mut wanted, "security_groups").retain(|element| element["name"] != group.as_str());
            assert_eq!(tidy(json(&new)), tidy(wanted), "a group fewer");
        }
    }

    let peer =
        Edit::PeerAdd { address: PEER.to_owned(), groups: vec![group.clone()], project: None, vpc: None };
    let known = model.peers.iter().any(|peer| peer.address.to_string() == PEER);
    if let Some(new) = there(edited(text, peer)).filter(|_| !known) {
        let mut wanted = before.clone();
        let element = serde_json::json!({ "address": PEER, "security_groups": [group] });
        list(&mut wanted, "peers").push(element);
        assert_eq!(json(&new), wanted, "a peer more");
        let remove =
            Edit::PeerRemove { address: PEER.to_owned(), groups: Vec::new(), project: None, vpc: None };
        let again = there(edited(&new, remove)).expect("the peer is there");
        assert_eq!(tidy(json(&again)), tidy(before.clone()), "as it was");
    }
    if let Some(peer) = model.peers.get(chosen % model.peers.len().max(1)) {
        let address = peer.address.to_string();
        let remove = Edit::PeerRemove { address, groups: Vec::new(), project: None, vpc: None };
        let new = there(edited(text, remove)).expect("a peer fewer is no fault");
        let mut wanted = before.clone();
        list(&mut wanted, "peers").retain(|element| {
            let address = element["address"].as_str().and_then(|text| text.parse::<std::net::IpAddr>().ok());
            address != Some(peer.address)
        });
        assert_eq!(tidy(json(&new)), tidy(wanted), "a peer fewer");
    }

    let Some(interface) = model.interfaces.get(chosen % model.interfaces.len().max(1)) else { return };
    let name = interface.name.clone();
    let attach = Edit::InterfaceAttach { interface: name.clone(), group: group.clone() };
    let detach = Edit::InterfaceDetach { interface: name.clone(), group: group.clone() };
    let attached = |policy: &Value| -> Vec<Value> {
        let interfaces = policy["interfaces"].as_array().unwrap();
        let interface = interfaces.iter().find(|element| element["name"] == name.as_str()).unwrap();
        interface.get("security_groups").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut more = attached(&before);
    if more.contains(&group.as_str().into()) {
        match edited(text, detach) {
            Err(EditError::Conflict(_)) => assert_eq!(more.len(), 1, "only the last one stays"),
            other => {
                let new = json(&there(other).expect("a group fewer is no fault"));
                more.retain(|element| *element != group.as_str());
                assert_eq!(attached(&new), more);
                assert_eq!(without_groups(new, &name), without_groups(before, &name));
            }
        }
    } else if let Some(new) = there(edited(text, attach)) {
        more.push(group.as_str().into());
        assert_eq!(attached(&json(&new)), more);
        assert_eq!(without_groups(json(&new), &name), without_groups(before.clone(), &name));
        if more.len() > 1 {
            let again = there(edited(&new, detach)).expect("it is attached");
            assert_eq!(json(&again), before, "as it was");
        }
    }
}

fn edited(text: &[u8], edit: Edit) -> Result<EditedPolicy, EditError> {
    apply([("p.json".into(), text.to_vec())], &[edit])
}

/// The file with an edit in it; `None` if there is no room for what it adds, or the policy said so already.
fn there(edited: Result<EditedPolicy, EditError>) -> Option<Vec<u8>> {
    match edited {
        Ok(EditedPolicy { done, changed, files, .. }) => {
            assert_eq!(done.len(), 1);
            assert_eq!(done[0].changed, !changed.is_empty(), "{done:?}");
            let [(_, after)] = &files[..] else { panic!("one file") };
            let [file] = &changed[..] else { return None };
            let (changed, after): (&[u8], &[u8]) = (file.after.as_ref(), after.as_ref());
            assert_eq!(changed, after);
            Some(after.to_vec())
        }
        Err(EditError::After(error)) => {
            let quota = |finding: &policy::Diagnostic| finding.message.contains("over the quota");
            assert!(error.diagnostics.iter().all(quota), "the edit is faulty: {error}");
            None
        }
        Err(error) => panic!("what is named is there: {error}"),
    }
}

fn list<'p>(policy: &'p mut Value, name: &str) -> &'p mut Vec<Value> {
    policy
        .as_object_mut()
        .unwrap()
        .entry(name)
        .or_insert_with(|| Value::Array(Vec::new()))
        .as_array_mut()
        .unwrap()
}

/// A list that is new is as good as one that is empty.
fn tidy(mut policy: Value) -> Value {
    for name in ["security_groups", "peers"] {
        if policy[name] == serde_json::json!([]) {
            policy.as_object_mut().unwrap().shift_remove(name);
        }
    }
    policy
}

fn without_groups(mut policy: Value, interface: &str) -> Value {
    for element in list(&mut policy, "interfaces") {
        if element["name"] == interface {
            element.as_object_mut().unwrap().shift_remove("security_groups");
        }
    }
    policy
}

fn right(edited: &Edited, text: &[u8], request: &CopyRequest) {
    assert_eq!(edited.before, text);
    let after = &edited.after;
    let same_start = text.iter().zip(after).take_while(|(a, b)| a == b).count();
    let same_end =
        text[same_start..].iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    // An empty list may be opened up.
    let lost = &text[same_start..text.len() - same_end];
    assert!(lost.trim_ascii().is_empty(), "{:?} was lost", String::from_utf8_lossy(lost));

    let (before, mut after) = (json(text), json(after));
    let mut originals = before["security_groups"].as_array().cloned().unwrap_or_default();
    let groups = after["security_groups"].as_array_mut().expect("there are groups now");
    assert_eq!(edited.copied.len(), request.names.len());
    for (name, copied) in request.names.iter().zip(&edited.copied) {
        let at = groups.iter().position(|group| group["name"] == name.as_str()).expect("a copy of that name");
        assert_eq!(&copied.name, name);
        let original = originals.iter().find(|group| group["name"] == request.source.as_str());
        assert_eq!(groups.remove(at), wanted(original, &before, name, request), "{name}");
    }
    // A list that is new is as good as one that was empty.
    let written = before.get("security_groups").is_some();
    assert_eq!(*groups, std::mem::take(&mut originals));
    if !written {
        after.as_object_mut().unwrap().shift_remove("security_groups");
    }
    assert_eq!(after, before);
}

/// What a copy says.
fn wanted(original: Option<&Value>, policy: &Value, name: &str, request: &CopyRequest) -> Value {
    let of = |group: &str| serde_json::json!(format!("@{group}"));
    let mut copy = original.cloned().unwrap_or_else(|| {
        let mut outbound =
            vec![serde_json::json!({ "protocol": "ALL", "destination": "0.0.0.0/0", "port": "ALL" })];
        if policy["ipv6"] == true {
            outbound.push(serde_json::json!({ "protocol": "ALL", "destination": "::/0", "port": "ALL" }));
        }
        serde_json::json!({ "outbound": outbound })
    });
    copy["name"] = name.into();
    if request.source == "default" && copy.get("inbound").is_none() {
        // K21
        copy["inbound"] = serde_json::json!([{ "protocol": "TCP", "source": "@default", "port": "ALL" }]);
    }
    for (list, remote) in [("inbound", "source"), ("outbound", "destination")] {
        let rules = copy.get_mut(list).and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten().filter(|rule| rule[remote] == of(&request.source)) {
            if request.rewrite_self {
                rule[remote] = of(name);
            }
        }
    }
    copy
}

fn json(text: &[u8]) -> Value {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    serde_json::from_slice(text).expect("what loads is JSON")
}
