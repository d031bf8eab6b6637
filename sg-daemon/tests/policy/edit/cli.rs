//! The verbs, on files without a daemon: exit codes, JSON, what is written.

use serde_json::Value;

use super::POLICY;
use crate::{files, path, sgctl};

/// Runs a verb on a file with this text: exit code, what it said, and the file afterwards.
fn run(text: &str, arguments: &[&str]) -> (i32, String, String) {
    let directory = files(&[("p.json", text)]);
    let file = directory.path().join("p.json");
    let output = sgctl(&[arguments, &["--policy", path(&file)]].concat());
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left behind");
    (output.status.code().unwrap(), said, std::fs::read_to_string(&file).unwrap())
}

#[test]
fn verbs_edit_show_and_list() {
    let (code, said, new) = run(
        POLICY,
        &["rule", "add", "webs", "inbound", "--protocol", "tcp", "--source", "10.0.0.0/8", "--port", "443"],
    );
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("p.json:10: inbound[2] of group \"webs\": TCP port 443 from 10.0.0.0/8"), "{said}");
    assert!(new.contains("\"port\": 22 },\n        { \"protocol\": \"tcp\", \"source\": \"10.0.0.0/8\", \"port\": \"443\" }\n"), "{new}");
    let json = r#"{"protocol":"TCP","source":"10.0.0.0/8","port":"443"}"#;
    assert_eq!(run(&new, &["rule", "remove", "webs", "inbound", json]).2, POLICY);
    assert_eq!(run(&new, &["rule", "remove", "webs", "inbound", "2"]).2, POLICY);
    let (code, said, same) = run(POLICY, &["group", "create", "new-one", "--dry-run"]);
    assert_eq!((code, same.as_str()), (0, POLICY));
    assert!(
        said.contains("+ group \"new-one\" of shop/main") && said.contains("nothing was changed"),
        "{said}"
    );
    let (code, said, _) = run(POLICY, &["group", "show", "webs"]);
    assert_eq!(code, 0);
    assert!(said.contains("interfaces: tap0, eno1\npeers: 10.0.1.7\n"), "{said}");
    let (code, said, _) = run(POLICY, &["interface", "list", "--json"]);
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, listed[0]["security_groups"][0].as_str(), listed[1]["kind"].as_str()),
        (0, Some("webs"), Some("bare_metal"))
    );
    let (code, said, _) = run(POLICY, &["rule", "list", "default"]);
    assert_eq!(code, 0);
    assert!(said.contains("TCP from @default  (not written: the standard rule)"), "{said}");
    let (code, said, _) = run(POLICY, &["peer", "list"]);
    assert!(code == 0 && said.contains("10.0.1.7  shop/main  webs"), "{said}");
}

#[test]
fn an_interface_is_shown_with_its_wish_for_the_fast_path() {
    let wish = "  fast path: asked for (`sgctl status` says what has become of it)\n";
    let (code, said, _) = run(POLICY, &["interface", "show", "tap0"]);
    assert!(code == 0 && !said.contains("fast path"), "{said}");
    let asking = POLICY.replace("\"name\": \"tap0\",", "\"name\": \"tap0\", \"fast_path\": true,");
    assert_ne!(asking, POLICY);
    let (code, said, _) = run(&asking, &["interface", "show", "tap0"]);
    assert!(code == 0 && said.contains(wish), "{said}");
    for (text, asks) in [(POLICY, false), (&asking, true)] {
        let (_, said, _) = run(text, &["interface", "show", "tap0", "--json"]);
        let shown: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(shown["fast_path"], asks, "{said}");
    }
}

#[test]
fn exit_codes_say_whether_the_answer_is_no_or_was_not_had() {
    for (code, arguments) in [
        (0, &["peer", "remove", "10.0.1.7"][..]),
        (1, &["peer", "remove", "10.0.1.8"]),
        (1, &["peer", "add", "10.0.1.300", "webs"]),
        (1, &["group", "delete", "default"]),
        (1, &["group", "show", "wbes"]),
        (1, &["rule", "list", "wbes"]),
        (1, &["interface", "show", "tap9"]),
        (1, &["interface", "detach", "tap0", "webs"]),
        (1, &["rule", "remove", "webs", "inbound", "2"]),
        (
            1,
            &["rule", "add", "webs", "inbound", "--protocol", "tcp", "--source", "10.0.0.1/8", "--port", "1"],
        ),
        (2, &["rule", "add", "webs", "inbound"]),
        (2, &["rule", "add", "webs", "inbound", "{"]),
        (2, &["rule", "add", "webs", "sideways", "--protocol", "tcp"]),
        (2, &["rule", "remove", "webs", "inbound"]),
        (2, &["peer", "add", "10.0.1.8"]),
    ] {
        let (found, said, new) = run(POLICY, arguments);
        assert_eq!(found, code, "{arguments:?}: {said}");
        assert!(code == 0 || new == POLICY, "{arguments:?}");
        assert!(!said.is_empty());
    }
    let faulty = POLICY.replace("\"port\": 22", "\"port\": 0");
    let (code, said, new) = run(&faulty, &["group", "create", "new-one"]);
    assert!(
        code == 1 && said.contains("port 0") && said.contains("mend them first") && new == faulty,
        "{said}"
    );
    assert_eq!(
        sgctl(&["group", "create", "new-one", "--policy", "/nonexistent/p.json"]).status.code(),
        Some(2)
    );
    assert_eq!(
        sgctl(&["--socket", "/nonexistent/sgd.sock", "group", "create", "new-one"]).status.code(),
        Some(2)
    );
}
