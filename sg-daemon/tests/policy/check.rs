//! `sgctl check` as a person or a program runs it.

use serde_json::Value;

use crate::{files, here, path, policy as with, sgctl};

fn check(arguments: &[&str]) -> (i32, String, String) {
    let output = sgctl(&[&["check"], arguments].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_fault_is_shown_with_its_line_and_the_exit_code_is_one() {
    let file = here("tests/policy/data/broken.json");
    let (code, shown, _) = check(&[path(&file)]);
    assert_eq!(code, 1);
    for line in [8, 9, 12, 13, 14, 20] {
        assert!(shown.contains(&format!("broken.json:{line}:")), "line {line}: {shown}");
    }
    assert!(shown.contains("12 |         { \"protocol\": \"TCP\", \"source\": \"10.0.0.0/8\", \"port\": \"22\", \"action\": \"deny\" },"), "{shown}");
    assert!(
        shown.ends_with("refused: 1 file, 2 groups, 4 rules, 2 interfaces, 0 peers, 6 errors, 0 warnings\n"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "no color outside of a terminal");
}

#[test]
fn programs_get_one_json_array() {
    let file = here("tests/policy/data/broken.json");
    let (code, json, _) = check(&["--json", path(&file)]);
    assert_eq!(code, 1);
    let findings: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(findings.as_array().unwrap().len(), 6);
    let deny = &findings[2];
    assert_eq!(deny["file"], path(&file));
    assert_eq!((&deny["line"], &deny["column"]), (&Value::from(12), &Value::from(68)));
    assert_eq!(deny["field"], "security_groups[0].inbound[1].action");
    assert_eq!(
        (&deny["severity"], &deny["message"]),
        (&Value::from("error"), &Value::from("unknown field \"action\""))
    );
    assert!(deny["expected"].as_str().unwrap().starts_with("one of the fields"));
    assert!(deny["suggestion"].as_str().unwrap().contains("no deny rules"));

    let good = files(&[("p.json", &with("\"peers\": []"))]);
    assert_eq!(check(&["--json", path(good.path())]), (0, "[]\n".to_owned(), String::new()));
}

#[test]
fn every_example_is_good() {
    for entry in std::fs::read_dir(here("../examples")).unwrap() {
        let file = entry.unwrap().path();
        if file.is_dir() || file.extension().is_some_and(|extension| extension == "json") {
            let (code, shown, _) = check(&[path(&file)]);
            assert_eq!(code, 0, "{shown}");
        }
    }
    for (name, warnings) in [
        ("web-server.json", "1 warning"),
        ("three-tier.json", "0 warnings"),
        ("dual-stack.json", "0 warnings"),
        ("peers", "0 warnings"),
    ] {
        let (_, shown, _) = check(&[path(&here("../examples").join(name))]);
        assert!(shown.ends_with(&format!(" 0 errors, {warnings}\n")), "{name}: {shown}");
    }
}

#[test]
fn spec_k27_the_golden_web_server_is_told_the_rule_to_add() {
    let (_, shown, _) = check(&[path(&here("../examples/web-server.json"))]);
    assert!(shown.contains("interface \"tap0\" cannot reach the metadata service"), "{shown}");
    assert!(
        shown.contains(r#"{ "protocol": "TCP", "destination": "169.254.169.0/24", "port": "80" }"#),
        "{shown}"
    );
}

#[test]
fn a_fault_with_two_places_shows_both() {
    let text = with("\"security_groups\": [\n{ \"name\": \"web-server\" },\n{ \"name\": \"web-server\" }]");
    let directory = files(&[("p.json", &text)]);
    let (_, shown, _) = check(&[path(directory.path())]);
    assert!(shown.contains("p.json:5:11\n") && shown.contains("note: first written here\n"), "{shown}");
    assert!(shown.contains("p.json:4:11\n"), "{shown}");
}

#[test]
fn what_cannot_be_read_or_understood_is_exit_code_two() {
    let (code, shown, _) = check(&["/nonexistent/policy.json"]);
    assert_eq!(code, 2);
    assert!(shown.contains("cannot read: No such file or directory"), "{shown}");
    let empty = files(&[]);
    assert_eq!(check(&[path(empty.path())]).0, 2);
    assert_eq!(check(&[]).0, 2);
    assert_eq!(check(&["--nonsense", "x"]).0, 2);
}

#[test]
fn a_reader_that_goes_away_is_no_crash() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(env!("CARGO_BIN_EXE_sgctl"))
        .args(["check", path(&here("tests/policy/data/broken.json"))])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
