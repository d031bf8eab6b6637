//! What the package brings, as far as it can be tried without installing it. `cargo xtask systemd-test` does the rest.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sg_tests::binary;

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

#[test]
fn the_unit_is_exposed_no_more_than_it_states() {
    let unit = packaging("systemd/sgd.service");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold=25"])
        .arg(&unit)
        .output()
        .unwrap_or_else(|error| panic!("systemd-analyze (`cargo xtask setup` installs it): {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "more than 2.5:\n{said}{}", String::from_utf8_lossy(&output.stderr));
    // → Overall exposure level for sgd.service: 2.1 OK
    let line = said.lines().rfind(|line| line.contains("Overall exposure level")).expect("a verdict");
    let score: f64 = line.split(": ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let text = std::fs::read_to_string(unit).unwrap();
    let stated = text.split("`systemd-analyze security` says ").nth(1).expect("the unit states it");
    let stated: f64 = stated.split(' ').next().unwrap().parse().unwrap();
    // Another systemd knows other settings, and weighs them otherwise.
    assert!(score <= 2.5 && (score - stated).abs() <= 0.3, "{line}, and the unit states {stated}");
}

#[test]
fn the_starter_policy_is_without_fault_and_names_no_interface_that_a_host_has() {
    let path = packaging("etc/policy.d");
    let output = Command::new(binary("sgctl").unwrap()).arg("check").arg(&path).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("0 errors, 0 warnings"), "{said}");
    let text = std::fs::read_to_string(path.join("starter.json")).unwrap();
    let policy: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(policy["settings"]["managed"], Value::Array(Vec::new()));
    let names: Vec<&Value> =
        policy["interfaces"].as_array().unwrap().iter().map(|interface| &interface["name"]).collect();
    assert_eq!(names, ["sg-try0"], "and /etc/sgd/README speaks of it");
    assert!(std::fs::read_to_string(packaging("etc/README")).unwrap().contains("sg-try0"));
}

#[test]
fn there_is_a_manual_page_for_each_program_and_verb() {
    let directory = tempfile::tempdir().unwrap();
    let sgctl = |words: &[&str]| Command::new(binary("sgctl").unwrap()).args(words).output().unwrap();
    assert!(sgctl(&["man", directory.path().to_str().unwrap()]).status.success());
    let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    assert!(page("sgd.8").contains("policy") && page("sgctl.1").contains("sgctl"));
    let help = String::from_utf8(sgctl(&["--help"]).stdout).unwrap();
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let verbs: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() > 15, "{verbs:?}");
    for verb in verbs {
        assert!(page(&format!("sgctl-{verb}.1")).contains(".SH NAME"), "{verb}");
    }
    let no = sgctl(&["man", "/nonexistent"]);
    let said = String::from_utf8_lossy(&no.stderr).into_owned();
    assert!(no.status.code() == Some(2) && said.contains("a directory that exists"), "{said}");
}
