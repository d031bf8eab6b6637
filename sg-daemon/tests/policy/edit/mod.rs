//! Edits of policy files: what each does, what is refused, and that everything else stays as it was.

mod bytes;
mod cli;

use std::path::PathBuf;

use serde_json::{Value, json};
use sg_daemon::policy::edit::{Edit, EditError, EditedPolicy, RuleDirection, apply};
use sg_daemon::policy::model::{Model, Rules};

const POLICY: &str = r#"{
  "version": 1, "project": "shop", "vpc": "main",
  "settings": { "quotas": { "groups_per_project": 3, "rules_per_group": 4, "groups_per_interface": 2 } },
  "security_groups": [
    {
      "name": "webs",
      "inbound": [
        { "protocol": "TCP", "source": "0.0.0.0/0", "port": "80" },
        { "protocol": "TCP", "source": "@bastion", "port": 22 }
      ]
    },
    { "name": "bastion" }
  ],
  "interfaces": [
    { "name": "tap0", "addresses": ["10.0.0.5"], "security_groups": ["webs"] },
    { "name": "eno1", "kind": "bare_metal", "role": "host", "security_groups": ["webs"] }
  ],
  "peers": [ { "address": "10.0.1.7", "security_groups": ["webs"] } ]
}
"#;

fn files(texts: &[&str]) -> Vec<(PathBuf, Vec<u8>)> {
    let named = |(index, text): (usize, &&str)| (format!("{index}.json").into(), text.as_bytes().to_vec());
    texts.iter().enumerate().map(named).collect()
}

fn edit(value: Value) -> Edit {
    serde_json::from_value(value).unwrap()
}

fn edited(texts: &[&str], edits: &[Value]) -> Result<EditedPolicy, EditError> {
    let edits: Vec<Edit> = edits.iter().cloned().map(edit).collect();
    apply(files(texts), &edits)
}

fn after(text: &str, edits: &[Value]) -> String {
    let edited = edited(&[text], edits).unwrap_or_else(|error| panic!("{error}"));
    String::from_utf8(edited.files[0].1.as_ref().to_vec()).unwrap()
}

fn refused(text: &str, value: Value) -> EditError {
    match edited(&[text], &[value]) {
        Err(error) => error,
        Ok(edited) => panic!("not refused: {:?}", edited.done),
    }
}

/// The rules of a group as the model has them.
fn written(model: &Model, group: &str, direction: RuleDirection) -> Option<usize> {
    let group = model.groups.iter().find(|other| other.name == group).unwrap();
    let rules = if direction == RuleDirection::Inbound { &group.inbound } else { &group.outbound };
    match rules {
        Rules::Implied => None,
        Rules::Written(rules) => Some(rules.len()),
    }
}

#[test]
fn spec_k23_default_is_never_deleted_written_or_not() {
    let with_default =
        POLICY.replace("{ \"name\": \"bastion\" }", "{ \"name\": \"bastion\" }, { \"name\": \"default\" }");
    for text in [POLICY, &with_default] {
        let error = refused(text, json!({ "edit": "group_delete", "name": "default" }));
        assert!(matches!(error, EditError::Conflict(_)), "{error:?}");
        assert!(error.to_string().contains("\"default\" can be edited, and never be deleted"), "{error}");
    }
}

#[test]
fn spec_d3_a_group_in_use_is_not_deleted_and_its_users_are_named() {
    let error = refused(POLICY, json!({ "edit": "group_delete", "name": "webs" }));
    let said = error.to_string();
    assert!(matches!(error, EditError::Conflict(_)));
    for user in
        ["interface \"tap0\" (0.json:15)", "interface \"eno1\" (0.json:16)", "peer 10.0.1.7 (0.json:18)"]
    {
        assert!(said.contains(user), "{said}");
    }
    let error = refused(POLICY, json!({ "edit": "group_delete", "name": "bastion" }));
    assert!(error.to_string().contains("named by inbound[1] of group \"webs\" (0.json:9)"), "{error}");
    // A rule of its own that names it does not hold it.
    let own = POLICY.replace(
        "{ \"name\": \"bastion\" }",
        r#"{ "name": "bastion" }, { "name": "alone", "inbound": [ { "protocol": "TCP", "source": "@alone", "port": "ALL" } ] }"#,
    );
    let text = after(&own, &[json!({ "edit": "group_delete", "name": "alone" })]);
    assert_eq!(text, POLICY);
}

#[test]
fn spec_k2_k3_the_last_group_is_detached_from_bare_metal_only() {
    let error = refused(POLICY, json!({ "edit": "interface_detach", "interface": "tap0", "group": "webs" }));
    assert!(matches!(error, EditError::Conflict(_)));
    assert!(error.to_string().contains("\"webs\" is the only group of interface \"tap0\""), "{error}");
    let bare = after(POLICY, &[json!({ "edit": "interface_detach", "interface": "eno1", "group": "webs" })]);
    assert_eq!(
        bare,
        POLICY.replace(r#""host", "security_groups": ["webs"]"#, r#""host", "security_groups": []"#)
    );
    let moved = after(
        POLICY,
        &[
            json!({ "edit": "interface_attach", "interface": "tap0", "group": "bastion" }),
            json!({ "edit": "interface_detach", "interface": "tap0", "group": "webs" }),
        ],
    );
    assert_eq!(
        moved,
        POLICY.replace(r#"5"], "security_groups": ["webs"]"#, r#"5"], "security_groups": ["bastion"]"#)
    );
}

#[test]
fn spec_k12_edits_over_a_quota_are_refused_with_the_count_and_the_limit() {
    let create = |name| json!({ "edit": "group_create", "name": name });
    let error = edited(&[POLICY], &[create("third"), create("fourth")]).unwrap_err();
    assert!(matches!(error, EditError::After(_)));
    assert!(error.to_string().contains("has 4 custom groups, over the quota of 3"), "{error}");
    let rule = |port: u16| {
        let rule = json!({ "protocol": "TCP", "source": "10.0.0.0/8", "port": port });
        json!({ "edit": "rule_add", "group": "webs", "direction": "inbound", "rule": rule })
    };
    assert!(edited(&[POLICY], &[rule(1), rule(2)]).is_ok());
    let error = edited(&[POLICY], &[rule(1), rule(2), rule(3)]).unwrap_err();
    assert!(error.to_string().contains("group \"webs\" has 5 rules"), "{error}");
    let attach = |group| json!({ "edit": "interface_attach", "interface": "tap0", "group": group });
    let error = edited(&[POLICY], &[attach("bastion"), attach("default")]).unwrap_err();
    assert!(
        error.to_string().contains("interface \"tap0\" has 3 security groups, over the quota of 2"),
        "{error}"
    );
}

#[test]
fn spec_k22_k26_a_rule_more_takes_nothing_away() {
    let rule = json!({ "protocol": "UDP", "destination": "192.0.2.0/24", "port": 53 });
    for group in ["bastion", "default"] {
        let add = json!({ "edit": "rule_add", "group": group, "direction": "outbound", "rule": rule });
        let model = edited(&[POLICY], &[add]).unwrap().after;
        assert_eq!(written(&model, group, RuleDirection::Outbound), Some(2), "{group}");
        assert_eq!(written(&model, group, RuleDirection::Inbound), None, "{group}");
    }
    // Both families, where the VPC has them.
    let ipv6 = POLICY.replace("\"vpc\": \"main\",", "\"vpc\": \"main\", \"ipv6\": true,");
    let add = json!({ "edit": "rule_add", "group": "default", "direction": "outbound", "rule": rule });
    let text = after(&ipv6, std::slice::from_ref(&add));
    assert!(text.contains("\"::/0\"") && text.contains("\"0.0.0.0/0\", \"port\": \"ALL\""), "{text}");
    // What holds may differ from VPC to VPC: then no list says it.
    let other = r#"{ "version": 1, "project": "shop", "vpc": "other" }"#;
    let error = edited(&[&ipv6, other], &[add]).unwrap_err();
    assert!(
        matches!(&error, EditError::Conflict(why) if why.contains("only some of them have \"ipv6\"")),
        "{error}"
    );
}

#[test]
fn spec_k21_the_standard_rules_of_default_can_be_removed_one_by_one() {
    let remove =
        |direction| json!({ "edit": "rule_remove", "group": "default", "direction": direction, "index": 0 });
    let edited = edited(&[POLICY], &[remove("outbound"), remove("inbound")]).unwrap();
    assert_eq!(written(&edited.after, "default", RuleDirection::Inbound), Some(0));
    assert_eq!(written(&edited.after, "default", RuleDirection::Outbound), Some(0));
    let text = String::from_utf8(edited.files[0].1.as_ref().to_vec()).unwrap();
    assert!(text.contains("\"outbound\": []") && text.contains("\"inbound\": []"), "{text}");
}

#[test]
fn a_rule_that_has_moved_is_not_mistaken_for_another() {
    let model = sg_daemon::policy::load_bytes(files(&[POLICY])).unwrap().model;
    let webs =
        sg_daemon::policy::view::groups(&model).into_iter().find(|group| group.name == "webs").unwrap();
    let remove = |index: usize, tag: &str| json!({ "edit": "rule_remove", "group": "webs", "direction": "inbound", "index": index, "tag": tag });
    let (first, second) = (&webs.inbound[0].tag, &webs.inbound[1].tag);
    assert_ne!(first, second);
    let error = refused(POLICY, remove(0, second));
    assert!(matches!(&error, EditError::Stale(why) if why.contains("inbound[1] now")), "{error}");
    let error = edited(&[POLICY], &[remove(0, first), remove(0, first)]).unwrap_err();
    assert!(matches!(&error, EditError::Stale(why) if why.contains("is gone")), "{error}");
    // The tag alone is enough, and says the same after the rules before it are gone.
    let by_tag = json!({ "edit": "rule_remove", "group": "webs", "direction": "inbound", "tag": second });
    let left = edited(&[POLICY], &[remove(0, first), by_tag]).unwrap().after;
    assert_eq!(written(&left, "webs", RuleDirection::Inbound), Some(0));
    // What it says finds it, however it is written.
    let rule = json!({ "port": "22-22", "source": "@bastion", "protocol": "tcp", "description": "any" });
    let by_content = json!({ "edit": "rule_remove", "group": "webs", "direction": "inbound", "rule": rule });
    let left = edited(&[POLICY], std::slice::from_ref(&by_content)).unwrap().after;
    assert_eq!(written(&left, "webs", RuleDirection::Inbound), Some(1));
    let error = edited(&[POLICY], &[by_content.clone(), by_content]).unwrap_err();
    assert!(matches!(error, EditError::NotFound(_) | EditError::After(_)), "{error}");
}

#[test]
fn what_is_so_already_changes_no_byte() {
    for already in [
        json!({ "edit": "interface_attach", "interface": "tap0", "group": "webs" }),
        json!({ "edit": "peer_add", "address": "10.0.1.7", "groups": ["webs"] }),
        json!({ "edit": "rule_add", "group": "webs", "direction": "inbound",
                "rule": { "protocol": "tcp", "source": "0.0.0.0/0", "port": 80, "description": "again" } }),
        json!({ "edit": "rule_add", "group": "bastion", "direction": "outbound",
                "rule": { "protocol": "ALL", "destination": "0.0.0.0/0" } }),
    ] {
        let edited = edited(&[POLICY], std::slice::from_ref(&already))
            .unwrap_or_else(|error| panic!("{already}: {error}"));
        assert!(!edited.done[0].changed && edited.changed.is_empty(), "{already}: {:?}", edited.done);
        assert_eq!(&*edited.files[0].1, POLICY);
    }
}

#[test]
fn near_names_are_suggested() {
    for (wrong, near) in [
        (json!({ "edit": "group_delete", "name": "web" }), "did you mean \"webs\"?"),
        (
            json!({ "edit": "interface_attach", "interface": "tap1", "group": "webs" }),
            "did you mean \"tap0\"?",
        ),
        (
            json!({ "edit": "interface_attach", "interface": "tap0", "group": "basti0n" }),
            "did you mean \"bastion\"?",
        ),
        (
            json!({ "edit": "interface_detach", "interface": "tap0", "group": "wbes" }),
            "did you mean \"webs\"?",
        ),
        (json!({ "edit": "peer_add", "address": "10.0.1.8", "groups": ["webz"] }), "did you mean \"webs\"?"),
        (
            json!({ "edit": "peer_remove", "address": "10.0.1.7", "groups": ["webz"] }),
            "did you mean \"webs\"?",
        ),
        (json!({ "edit": "group_create", "name": "new-one", "vpc": "mian" }), "did you mean \"main\"?"),
        (
            json!({ "edit": "group_copy", "source": "bastoin", "names": ["new-one"] }),
            "did you mean \"bastion\"?",
        ),
    ] {
        let error = refused(POLICY, wrong);
        assert!(matches!(error, EditError::NotFound(_)), "{error:?}");
        assert!(error.to_string().contains(near), "{error}");
    }
}

#[test]
fn a_faulty_rule_is_refused_with_its_field_and_advice() {
    for (rule, said) in [
        (json!({ "protocol": "TCP", "source": "10.0.0.1/8", "port": 1 }), "write \"10.0.0.0/8\""),
        (json!({ "protocol": "TCP", "source": "10.0.0.0/8" }), "missing field \"port\""),
        (
            json!({ "protocol": "TCP", "destination": "10.0.0.0/8", "port": 1 }),
            "\"destination\" belongs to outbound rules",
        ),
        (json!({ "protocol": "TCP", "source": "@wbes", "port": 1 }), "did you mean \"webs\"?"),
        (json!({ "protocol": "TCP", "source": "10.0.0.0/8", "port": 1, "action": "deny" }), "action"),
        (json!("TCP"), "a rule is an object"),
    ] {
        let add = json!({ "edit": "rule_add", "group": "webs", "direction": "inbound", "rule": rule });
        let error = refused(POLICY, add);
        assert!(error.to_string().contains(said), "{rule}: {error}");
    }
    let faulty = POLICY.replace("\"port\": 22", "\"port\": 0");
    let error = refused(&faulty, json!({ "edit": "group_delete", "name": "bastion" }));
    assert!(matches!(error, EditError::Before(_)) && error.to_string().contains("port 0"), "{error}");
}

#[test]
fn edits_go_to_the_file_in_which_the_object_stands() {
    let groups =
        r#"{ "version": 1, "project": "shop", "vpc": "main", "security_groups": [{ "name": "webs" }] }"#;
    let devices = r#"{ "version": 1, "project": "shop", "vpc": "main", "interfaces": [{ "name": "tap0", "security_groups": ["webs"] }] }"#;
    let other =
        r#"{ "version": 1, "project": "shop", "vpc": "other", "security_groups": [{ "name": "webs" }] }"#;
    let all = [groups, devices, other];
    let changed = |value: Value| {
        let edited =
            edited(&all, std::slice::from_ref(&value)).unwrap_or_else(|error| panic!("{value}: {error}"));
        edited.changed.iter().map(|file| file.index).collect::<Vec<_>>()
    };
    assert_eq!(changed(json!({ "edit": "interface_attach", "interface": "tap0", "group": "default" })), [1]);
    let rule = json!({ "protocol": "ALL", "source": "@webs" });
    assert_eq!(
        changed(
            json!({ "edit": "rule_add", "group": "webs", "vpc": "other", "direction": "inbound", "rule": rule })
        ),
        [2]
    );
    assert_eq!(changed(json!({ "edit": "group_create", "name": "new-one", "vpc": "main" })), [0]);
    assert_eq!(
        changed(json!({ "edit": "peer_add", "address": "10.9.9.9", "groups": ["webs"], "vpc": "main" })),
        [0]
    );
    for unclear in [
        json!({ "edit": "group_delete", "name": "webs" }),
        json!({ "edit": "group_create", "name": "new-one" }),
        json!({ "edit": "peer_add", "address": "10.9.9.9", "groups": ["webs"] }),
    ] {
        let error = edited(&all, std::slice::from_ref(&unclear)).unwrap_err();
        assert!(matches!(error, EditError::Ambiguous(_)), "{unclear}: {error}");
        assert!(error.to_string().contains("VPC \"other\" of project \"shop\""), "{error}");
    }
}

#[test]
fn a_byte_order_mark_and_line_ends_stay() {
    let text = format!("\u{feff}{}", POLICY.replace('\n', "\r\n"));
    let new = after(&text, &[json!({ "edit": "group_create", "name": "new-one", "description": "d" })]);
    assert!(new.starts_with('\u{feff}'));
    assert!(
        new.contains(
            "},\r\n    {\r\n      \"name\": \"new-one\",\r\n      \"description\": \"d\"\r\n    }\r\n  ],"
        ),
        "{new}"
    );
    assert!(!new.replace("\r\n", "").contains('\n'));
}
