//! Random policies in random layouts under random edits: the text changes at one place, and says what it should.

use proptest::prelude::*;
use serde_json::{Value, json};
use sg_daemon::policy;
use sg_daemon::policy::edit::{EditError, apply};

use super::edit;

/// A text of `value` in which each container is on one line or on many, as the bits have it.
fn laid_out(value: &Value, layout: &Layout, bits: &mut impl Iterator<Item = bool>, depth: usize) -> String {
    let many = layout.many && bits.next().unwrap_or(false);
    let (open, close) = if many {
        let indent = |depth| format!("{}{}", layout.line, layout.indent.repeat(depth));
        (indent(depth + 1), indent(depth))
    } else {
        (layout.pad.to_owned(), layout.pad.to_owned())
    };
    let comma = if many { format!(",{open}") } else { format!(",{}", layout.space) };
    let wrapped = |parts: Vec<String>, left, right| {
        if parts.is_empty() {
            return format!("{left}{right}");
        }
        format!("{left}{open}{}{close}{right}", parts.join(&comma))
    };
    match value {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                format!("{}:{}{}", json!(name), layout.space, laid_out(value, layout, bits, depth + 1))
            };
            wrapped(fields.iter().map(field).collect(), '{', '}')
        }
        Value::Array(values) => {
            wrapped(values.iter().map(|value| laid_out(value, layout, bits, depth + 1)).collect(), '[', ']')
        }
        other => other.to_string(),
    }
}

#[derive(Debug, Clone)]
struct Layout {
    many: bool,
    line: &'static str,
    indent: &'static str,
    space: &'static str,
    pad: &'static str,
}

fn layout() -> impl Strategy<Value = Layout> {
    (
        any::<bool>(),
        prop_oneof![Just("\n"), Just("\r\n")],
        prop_oneof![Just("  "), Just("\t"), Just("")],
        prop_oneof![Just(""), Just(" ")],
        prop_oneof![Just(""), Just(" ")],
    )
        .prop_map(|(many, line, indent, space, pad)| Layout { many, line, indent, space, pad })
}

fn rules(remote: &'static str) -> impl Strategy<Value = Option<Value>> {
    let rule = (1..5u16, prop_oneof![Just("10.0.0.0/8"), Just("@bbbb"), Just("@default")])
        .prop_map(move |(port, at)| json!({ "protocol": "TCP", remote: at, "port": port }));
    let rules = prop::collection::vec(rule, 0..3).prop_map(|rules| json!(rules));
    prop::option::of(rules)
}

fn group(name: &'static str) -> impl Strategy<Value = Value> {
    (rules("source"), rules("destination"), any::<bool>()).prop_map(move |(inbound, outbound, described)| {
        let mut group = json!({ "name": name });
        if described {
            group["description"] = json!("[{\"name\": 설명}]");
        }
        for (field, rules) in [("inbound", inbound), ("outbound", outbound)] {
            if let Some(rules) = rules {
                group[field] = rules;
            }
        }
        group
    })
}

fn any_policy() -> impl Strategy<Value = Value> {
    (
        group("aaaa"),
        group("bbbb"),
        prop::option::of(group("default")),
        any::<bool>(),
        0..3usize,
        any::<bool>(),
    )
        .prop_map(|(first, second, default, peers, attached, ipv6)| {
            let mut policy = json!({ "version": 1, "project": "p", "vpc": "v" });
            if ipv6 {
                policy["ipv6"] = json!(true);
            }
            let groups: Vec<Value> = [Some(first), default, Some(second)].into_iter().flatten().collect();
            policy["security_groups"] = json!(groups);
            let names = &["aaaa", "default", "bbbb"][..=attached];
            let bare = json!({ "name": "eno1", "kind": "bare_metal" });
            policy["interfaces"] = json!([{ "name": "tap0", "security_groups": names }, bare]);
            if peers {
                policy["peers"] = json!([{ "address": "192.0.2.1", "security_groups": ["aaaa", "bbbb"] }]);
            }
            policy
        })
}

fn any_edit() -> impl Strategy<Value = Value> {
    let name = || prop_oneof![Just("aaaa"), Just("bbbb"), Just("default")];
    let list = || prop_oneof![Just(("inbound", "source")), Just(("outbound", "destination"))];
    prop_oneof![
        Just(json!({ "edit": "group_create", "name": "cccc" })),
        Just(json!({ "edit": "group_create", "name": "cccc", "description": "d", "outbound": [] })),
        name().prop_map(|name| json!({ "edit": "group_delete", "name": name })),
        (name(), list(), 1..9u16).prop_map(|(group, (direction, remote), port)| {
            let rule = json!({ "protocol": "UDP", remote: "10.0.0.0/8", "port": port });
            json!({ "edit": "rule_add", "group": group, "direction": direction, "rule": rule })
        }),
        (name(), list(), 0..3usize).prop_map(|(group, (direction, _), index)| {
            json!({ "edit": "rule_remove", "group": group, "direction": direction, "index": index })
        }),
        (name(), prop_oneof![Just("tap0"), Just("eno1")]).prop_map(|(group, interface)| {
            json!({ "edit": "interface_attach", "interface": interface, "group": group })
        }),
        name().prop_map(|group| json!({ "edit": "interface_detach", "interface": "tap0", "group": group })),
        (name(), prop_oneof![Just("192.0.2.1"), Just("2001:db8::1")]).prop_map(
            |(group, address)| json!({ "edit": "peer_add", "address": address, "groups": [group] })
        ),
        prop::option::of(name()).prop_map(|group| {
            json!({ "edit": "peer_remove", "address": "192.0.2.1", "groups": Vec::from_iter(group) })
        }),
    ]
}

/// What holds for a list that is not written (K21, K22, K25, K26).
fn standard(policy: &Value, group: &str, direction: &str) -> Vec<Value> {
    if direction == "inbound" {
        let members = json!({ "protocol": "TCP", "source": "@default", "port": "ALL" });
        return if group == "default" { vec![members] } else { Vec::new() };
    }
    let all = |net: &str| json!({ "protocol": "ALL", "destination": net, "port": "ALL" });
    let mut rules = vec![all("0.0.0.0/0")];
    if policy["ipv6"] == true {
        rules.push(all("::/0"));
    }
    rules
}

fn find<'v>(list: &'v mut Value, key: &str, name: &str) -> Option<&'v mut Value> {
    list.as_array_mut()?.iter_mut().find(|value| value[key] == name)
}

/// What the policy should say after the edit; `None` if the edit should be refused. Written from docs/edit.md.
fn expected(policy: &Value, edit: &Value) -> Option<Value> {
    let mut new = policy.clone();
    let text = |field: &str| edit[field].as_str().unwrap_or_default();
    let uses = |value: &Value, name: &str| {
        value["security_groups"].as_array().is_some_and(|groups| groups.iter().any(|group| group == name))
    };
    match text("edit") {
        "group_create" => {
            let mut group = edit.clone();
            group.as_object_mut()?.shift_remove("edit");
            new["security_groups"].as_array_mut()?.push(group);
        }
        "group_delete" => {
            let name = text("name");
            let named = |group: &Value| {
                ["inbound", "outbound"]
                    .iter()
                    .any(|list| group[list].to_string().contains(&format!("\"@{name}\"")))
            };
            let groups = new["security_groups"].as_array_mut()?;
            let used = groups.iter().any(|group| group["name"] != name && named(group))
                || policy["interfaces"].as_array()?.iter().any(|interface| uses(interface, name))
                || policy["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| uses(peer, name)));
            if name == "default" || used {
                return None;
            }
            groups.retain(|group| group["name"] != name);
        }
        "rule_add" | "rule_remove" => {
            let (name, direction) = (text("group"), text("direction"));
            if find(&mut new["security_groups"], "name", name).is_none() {
                new["security_groups"].as_array_mut()?.push(json!({ "name": name }));
            }
            let group = find(&mut new["security_groups"], "name", name)?;
            if group[direction].is_null() {
                group[direction] = json!(standard(policy, name, direction));
            }
            let rules = group[direction].as_array_mut()?;
            if edit["edit"] == "rule_add" {
                rules.push(edit["rule"].clone());
            } else {
                let index = edit["index"].as_u64()? as usize;
                if index >= rules.len() {
                    return None;
                }
                rules.remove(index);
            }
        }
        "interface_attach" => {
            let interface = find(&mut new["interfaces"], "name", text("interface"))?;
            if !uses(interface, text("group")) {
                if interface["security_groups"].is_null() {
                    interface["security_groups"] = json!([]);
                }
                interface["security_groups"].as_array_mut()?.push(edit["group"].clone());
            }
        }
        "interface_detach" => {
            let interface = find(&mut new["interfaces"], "name", text("interface"))?;
            if !uses(interface, text("group")) || interface["security_groups"].as_array()?.len() == 1 {
                return None;
            }
            interface["security_groups"].as_array_mut()?.retain(|group| *group != edit["group"]);
        }
        "peer_add" => {
            if new["peers"].is_null() {
                new["peers"] = json!([]);
            }
            match find(&mut new["peers"], "address", text("address")) {
                Some(peer) if uses(peer, edit["groups"][0].as_str()?) => {}
                Some(peer) => peer["security_groups"].as_array_mut()?.push(edit["groups"][0].clone()),
                None => {
                    let peer = json!({ "address": edit["address"], "security_groups": edit["groups"] });
                    new["peers"].as_array_mut()?.push(peer);
                }
            }
        }
        "peer_remove" => {
            let peer = find(&mut new["peers"], "address", text("address"))?;
            if let Some(group) = edit["groups"][0].as_str() {
                if !uses(peer, group) {
                    return None;
                }
                peer["security_groups"].as_array_mut()?.retain(|name| name != group);
            } else {
                new["peers"].as_array_mut()?.retain(|peer| peer["address"] != edit["address"]);
            }
        }
        other => panic!("{other}"),
    }
    Some(new)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn every_edit_leaves_all_other_bytes_and_says_what_it_should(
        policy in any_policy(),
        layout in layout(),
        bits in prop::collection::vec(any::<bool>(), 120),
        value in any_edit(),
        bom in any::<bool>(),
    ) {
        let bom = if bom { "\u{feff}" } else { "" };
        let text = format!("{bom}{}\n", laid_out(&policy, &layout, &mut bits.into_iter(), 0));
        let before = text.as_bytes();
        prop_assert!(policy::load_bytes([("p.json".into(), before.to_vec())]).is_ok(), "{text}");
        let outcome = apply([("p.json".into(), before.to_vec())], &[edit(value.clone())]);
        let wanted = expected(&policy, &value);
        let edited = match (outcome, &wanted) {
            (Ok(edited), Some(_)) => edited,
            (Err(EditError::NotFound(_) | EditError::Conflict(_)), None) => return Ok(()),
            (Ok(edited), None) => return Err(TestCaseError::fail(format!("not refused: {:?}", edited.done))),
            (Err(error), _) => return Err(TestCaseError::fail(format!("{error}"))),
        };
        let after: &[u8] = edited.files[0].1.as_ref();
        let said = std::str::from_utf8(after).unwrap();
        let new: Value = serde_json::from_str(said.trim_start_matches('\u{feff}')).unwrap();
        prop_assert_eq!(&new, &wanted.unwrap(), "{}", said);
        prop_assert_eq!(edited.done[0].changed, new != policy);
        // One place.
        let same_start = before.iter().zip(after).take_while(|(a, b)| a == b).count();
        let same_end = before[same_start..].iter().rev().zip(after[same_start..].iter().rev()).take_while(|(a, b)| a == b).count();
        let lost = &before[same_start..before.len() - same_end];
        let gained = &after[same_start..after.len() - same_end];
        if value["edit"] == "rule_remove" || value["edit"] == "interface_detach" || value["edit"] == "group_delete" || value["edit"] == "peer_remove" {
            // But for a standard list that was not written.
            let written_out = value["edit"] == "rule_remove" && lost.is_empty();
            prop_assert!(gained.is_empty() || written_out, "{:?} is new in {}", String::from_utf8_lossy(gained), said);
        } else {
            prop_assert!(lost.trim_ascii().is_empty(), "{:?} is lost in {}", String::from_utf8_lossy(lost), said);
        }
        // The model is the one that the new text loads as.
        let loaded = policy::load_bytes([("p.json".into(), after.to_vec())]).unwrap().model;
        prop_assert_eq!(format!("{:?}", loaded), format!("{:?}", edited.after));
    }
}
