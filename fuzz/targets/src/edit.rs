//! Copying a group of any policy text.

use serde_json::Value;
use sg_daemon::policy;
use sg_daemon::policy::edit::{CopyError, CopyRequest, Edited, copy_group_in};

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
