//! `sgctl group copy` (K9).

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use sg_daemon::policy;
use sg_daemon::policy::model::{Model, Rules};

use crate::{files, path, sgctl};

const PRETTY: &str = r#"{
  "version": 1,   "project": "shop", "vpc": "main",
  "security_groups": [
    {
      "name": "web-server",
      "description": "설명",
      "inbound": [
        { "protocol": "TCP", "source": "@web-server", "port": "80" },
        { "protocol": "TCP", "source": "@bastion", "port": 22 }
      ]
    },
    { "name": "bastion" }
  ]

}
"#;

fn copy(at: &Path, arguments: &[&str]) -> Output {
    sgctl(&[&["group", "copy"], arguments, &["--policy", path(at)]].concat())
}

fn read(at: &Path) -> String {
    std::fs::read_to_string(at).unwrap()
}

fn model(at: &Path) -> Arc<Model> {
    policy::load(&[at.to_owned()]).unwrap_or_else(|error| panic!("{error}\n{}", read(at))).model
}

/// Runs a copy on a file with this text; gives the text after it.
fn copied(text: &str, arguments: &[&str]) -> String {
    let directory = files(&[("p.json", text)]);
    let file = directory.path().join("p.json");
    let output = copy(&file, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    model(&file);
    read(&file)
}

/// Runs a copy that must be refused; gives the exit code and the complaint. The file must not have changed.
fn refused(text: &str, arguments: &[&str]) -> (i32, String) {
    let directory = files(&[("p.json", text)]);
    let file = directory.path().join("p.json");
    let output = copy(&file, arguments);
    assert_eq!(read(&file), text);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file was left behind");
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

#[test]
fn spec_k9_a_copy_stands_after_its_original_and_the_rest_stays_byte_for_byte() {
    let want = PRETTY.replace(
        "    { \"name\": \"bastion\" }",
        r#"    {
      "name": "web-copy",
      "description": "설명",
      "inbound": [
        { "protocol": "TCP", "source": "@web-server", "port": "80" },
        { "protocol": "TCP", "source": "@bastion", "port": 22 }
      ]
    },
    { "name": "bastion" }"#,
    );
    assert_eq!(copied(PRETTY, &["web-server", "web-copy"]), want);
}

#[test]
fn spec_k9_several_copies_at_once_have_the_same_rules() {
    let directory = files(&[("p.json", PRETTY)]);
    let file = directory.path().join("p.json");
    let output = copy(&file, &["web-server", "web-1", "web-2", "web-3"]);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        format!(
            "{0}:12: web-1 is a copy of web-server\n{0}:20: web-2 is a copy of web-server\n{0}:28: web-3 is a copy of web-server\n",
            file.display()
        )
    );
    let model = model(&file);
    let names: Vec<_> = model.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["web-server", "web-1", "web-2", "web-3", "bastion", "default"]);
    let rules = |list: &Rules| match list {
        Rules::Implied => None,
        Rules::Written(rules) => Some(
            rules.iter().map(|rule| (rule.protocol, rule.remote, rule.matches.clone())).collect::<Vec<_>>(),
        ),
    };
    for copy in &model.groups[1..4] {
        assert_eq!(rules(&copy.inbound), rules(&model.groups[0].inbound));
        assert_eq!(rules(&copy.outbound), rules(&model.groups[0].outbound));
        assert_eq!(copy.description, "설명");
    }
}

#[test]
fn spec_k9_a_self_reference_stays_unless_it_is_to_be_rewritten() {
    let rewritten = copied(PRETTY, &["web-server", "web-copy", "--rewrite-self"]);
    assert_eq!(rewritten.matches("@web-copy").count(), 1);
    assert_eq!(rewritten.matches("@web-server").count(), 1);
    assert_eq!(rewritten.matches("@bastion").count(), 2);
    let kept = copied(PRETTY, &["web-server", "web-copy"]);
    assert_eq!((kept.matches("@web-copy").count(), kept.matches("@web-server").count()), (0, 2));
}

#[test]
fn other_layouts_keep_their_style() {
    let flat = r#"{"version":1,"project":"p","vpc":"v","security_groups":[{"name":"aaaa"},{"name":"bbbb"}]}"#;
    assert_eq!(
        copied(flat, &["aaaa", "cccc"]),
        flat.replace(r#"{"name":"aaaa"}"#, r#"{"name":"aaaa"},{"name":"cccc"}"#)
    );
    assert_eq!(
        copied(flat, &["bbbb", "cccc"]),
        flat.replace(r#"{"name":"bbbb"}"#, r#"{"name":"bbbb"},{"name":"cccc"}"#)
    );
    let crlf = PRETTY.replace('\n', "\r\n");
    let after = copied(&format!("\u{feff}{crlf}"), &["bastion", "cccc"]);
    assert_eq!(
        after,
        format!(
            "\u{feff}{}",
            crlf.replace(
                "    { \"name\": \"bastion\" }",
                "    { \"name\": \"bastion\" },\r\n    { \"name\": \"cccc\" }"
            )
        )
    );
    // The name is found by meaning, not by spelling, and a description that looks like a name is left alone.
    let escaped = r#"{ "version": 1, "project": "p", "vpc": "v", "security_groups": [{ "description": "aaaa", "name": "\u0061aaa" }] }"#;
    assert!(copied(escaped, &["aaaa", "cccc"]).contains(r#"{ "description": "aaaa", "name": "cccc" }"#));
}

#[test]
fn spec_k9_names_must_be_fresh_and_valid() {
    for (names, complaint) in [
        (&["bastion"][..], "VPC \"main\" has a group \"bastion\" already"),
        (&["web-server"], "VPC \"main\" has a group \"web-server\" already"),
        (&["cccc", "cccc"], "the name \"cccc\" is given twice"),
        (&["default"], "no copy can be called \"default\""),
        (&["abc"], "group name \"abc\" has 3 characters"),
        (&["good-name", "bad name"], "group name \"bad name\" has the character ' '"),
    ] {
        let (code, said) = refused(PRETTY, &[&["web-server"], names].concat());
        assert_eq!(code, 1, "{names:?}");
        assert!(said.contains(complaint) && said.contains("nothing was written"), "{said}");
    }
}

#[test]
fn spec_k9_names_are_fresh_across_all_files_of_the_vpc() {
    let other =
        r#"{ "version": 1, "project": "shop", "vpc": "main", "security_groups": [{ "name": "elsewhere" }] }"#;
    let directory = files(&[("a.json", PRETTY), ("b.json", other)]);
    let output = copy(directory.path(), &["web-server", "elsewhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("has a group \"elsewhere\" already"));
    assert_eq!(read(&directory.path().join("a.json")), PRETTY);
    assert_eq!(copy(directory.path(), &["elsewhere", "web-copy"]).status.code(), Some(0));
    assert_eq!(read(&directory.path().join("a.json")), PRETTY);
    assert_eq!(
        read(&directory.path().join("b.json")),
        other.replace(" }] }", " }, { \"name\": \"web-copy\" }] }")
    );
}

#[test]
fn spec_k12_a_copy_over_the_quota_is_refused() {
    let tight = PRETTY.replace(
        "\"vpc\": \"main\",",
        "\"vpc\": \"main\", \"settings\": { \"quotas\": { \"groups_per_project\": 3 } },",
    );
    assert!(copied(&tight, &["bastion", "cccc"]).contains("cccc"));
    let (code, said) = refused(&tight, &["bastion", "cccc", "dddd"]);
    assert_eq!(code, 1);
    assert!(said.contains("project \"shop\" has 4 custom groups, over the quota of 3"), "{said}");
}

#[test]
fn an_unknown_group_and_a_broken_policy_are_refused() {
    let (code, said) = refused(PRETTY, &["web-servr", "cccc"]);
    assert_eq!(code, 1);
    assert!(said.contains("there is no group \"web-servr\"; did you mean \"web-server\"?"), "{said}");
    let (code, said) = refused(&PRETTY.replace("\"port\": 22", "\"port\": 0"), &["web-server", "cccc"]);
    assert_eq!(code, 1);
    assert!(said.contains("port 0 is out of range") && said.contains("has faults already"), "{said}");
    assert_eq!(copy(Path::new("/nonexistent/p.json"), &["aaaa", "bbbb"]).status.code(), Some(2));
    assert_eq!(sgctl(&["group", "copy", "aaaa", "--policy", "x"]).status.code(), Some(2));
}

#[test]
fn a_name_in_several_vpcs_needs_to_be_told_apart() {
    let other = PRETTY.replace("\"vpc\": \"main\"", "\"vpc\": \"other\"");
    let directory = files(&[("a.json", PRETTY), ("b.json", &other)]);
    let output = copy(directory.path(), &["bastion", "cccc"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr).unwrap().contains(
            "several VPCs have a group \"bastion\": VPC \"main\" of project \"shop\", VPC \"other\" of project \"shop\""
        )
    );
    assert_eq!(
        copy(directory.path(), &["bastion", "cccc", "--vpc", "other", "--project", "shop"]).status.code(),
        Some(0)
    );
    assert_eq!(read(&directory.path().join("a.json")), PRETTY);
    assert!(read(&directory.path().join("b.json")).contains("cccc"));
    let output = copy(directory.path(), &["bastion", "cccc", "--vpc", "third"]);
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("there is no group \"bastion\" there, only in VPC \"main\"")
    );
}

/// K21: a custom group without `inbound` lets nothing in, so leaving it out would not copy `default`.
#[test]
fn spec_k9_k21_a_copy_of_default_has_its_implied_rules_in_words() {
    let inbound = r#"[{ "protocol": "TCP", "source": "@default", "port": "ALL" }]"#;
    let outbound = r#"[{ "protocol": "ALL", "destination": "0.0.0.0/0", "port": "ALL" }]"#;
    let nowhere = "{\n  \"version\": 1,\n  \"project\": \"shop\",\n  \"vpc\": \"main\"\n}\n";
    assert_eq!(
        copied(nowhere, &["default", "my-default"]),
        format!(
            "{{\n  \"version\": 1,\n  \"project\": \"shop\",\n  \"vpc\": \"main\",\n  \"security_groups\": [\n    {{\n      \"name\": \"my-default\",\n      \"inbound\": {inbound},\n      \"outbound\": {outbound}\n    }}\n  ]\n}}\n"
        )
    );
    let ipv6 = r#"{ "version": 1, "project": "shop", "vpc": "main", "ipv6": true, "security_groups": [] }"#;
    let both = copied(ipv6, &["default", "aaaa", "bbbb", "--rewrite-self"]);
    assert_eq!(both.matches("\"::/0\"").count(), 2, "{both}");
    assert!(both.contains("\"@aaaa\"") && both.contains("\"@bbbb\"") && !both.contains("@default"), "{both}");
    // Beside groups that are there.
    let beside = copied(PRETTY, &["default", "my-default"]);
    assert!(
        beside.contains("    { \"name\": \"bastion\" },\n    {\n      \"name\": \"my-default\",\n"),
        "{beside}"
    );
    // Written, but without inbound rules.
    let written = PRETTY.replace(
        "\"bastion\" }",
        "\"bastion\" },\n    { \"name\": \"default\", \"description\": \"ours\", \"outbound\": [] }",
    );
    assert!(
        copied(&written, &["default", "my-default"]).contains(&format!(
            "    {{ \"name\": \"my-default\", \"description\": \"ours\", \"outbound\": [], \"inbound\": {inbound} }}"
        ))
    );
}

#[test]
fn the_mode_of_the_file_and_a_link_to_it_survive() {
    let directory = files(&[("p.json", PRETTY)]);
    let file = directory.path().join("p.json");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let link = directory.path().join("link.json");
    symlink("p.json", &link).unwrap();
    assert_eq!(copy(&link, &["bastion", "cccc"]).status.code(), Some(0));
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(read(&file).contains("cccc"));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
}
