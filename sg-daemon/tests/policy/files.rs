//! Several files, directories, and what is no JSON.

use std::os::unix::fs::symlink;

use sg_daemon::policy;

use crate::{fault, files, good, load, load_files, policy as with, short};

const A: &str =
    r#"{ "version": 1, "project": "shop", "vpc": "main", "security_groups": [{ "name": "web-server" }] }"#;

fn in_vpc(project: &str, vpc: &str, fields: &str) -> String {
    format!("{{ \"version\": 1, \"project\": \"{project}\", \"vpc\": \"{vpc}\",\n{fields} }}")
}

#[test]
fn a_directory_is_its_json_files_by_name_without_the_hidden_ones() {
    let directory = files(&[
        ("b.json", A),
        ("a.json", &in_vpc("shop", "main", r#""peers": []"#)),
        (".c.json", "broken"),
        ("d.txt", "broken"),
        ("e.json.bak", "broken"),
    ]);
    std::fs::create_dir(directory.path().join("f.json")).unwrap();
    std::fs::write(directory.path().join("f.json/g.json"), "broken").unwrap();
    let loaded = policy::load(&[directory.path().to_owned()]).unwrap();
    let names: Vec<_> =
        loaded.model.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["a.json", "b.json"]);
}

#[test]
fn a_file_named_twice_is_read_once() {
    let directory = files(&[("a.json", A)]);
    symlink("a.json", directory.path().join("b.json")).unwrap();
    let loaded = policy::load(&[directory.path().join("a.json"), directory.path().to_owned()]).unwrap();
    assert_eq!(loaded.counts.files, 1);
}

#[test]
fn an_empty_directory_and_a_missing_path_say_so() {
    let directory = files(&[]);
    let error = policy::load(&[directory.path().to_owned(), directory.path().join("none.json")]).unwrap_err();
    assert!(error.unreadable);
    let messages: Vec<_> = error.diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(messages[0], "cannot read: the directory has no *.json file");
    assert!(messages[1].starts_with("cannot read: No such file"), "{}", messages[1]);
    assert!(policy::load(&[]).unwrap_err().unreadable);
}

#[test]
fn the_faults_of_all_files_come_together_in_order() {
    let error = load_files(&[
        ("a.json", "{ \"version\": 1, \"x\": 0 }"),
        ("b.json", "{,}"),
        ("c.json", &in_vpc("p", "v", "\"y\": 0")),
    ])
    .unwrap_err();
    let found: Vec<_> = error
        .diagnostics
        .iter()
        .map(|d| (d.file.file_name().unwrap().to_str().unwrap(), d.line.unwrap()))
        .collect();
    assert_eq!(found, [("a.json", 1), ("a.json", 1), ("a.json", 1), ("b.json", 1), ("c.json", 2)]);
}

/// With a file unread, a name may be defined there; reporting it as missing would send people the wrong way.
#[test]
fn a_file_that_does_not_parse_makes_no_group_of_the_others_dangling() {
    let user =
        in_vpc("shop", "main", r#""interfaces": [{ "name": "tap0", "security_groups": ["web-server"] }]"#);
    let error = load_files(&[("a.json", "{"), ("b.json", &user)]).unwrap_err();
    assert_eq!(error.diagnostics.len(), 1, "{:?}", short(&error.diagnostics));
    assert!(load_files(&[("a.json", A), ("b.json", &user)]).is_ok());
}

#[test]
fn spec_k24_names_are_unique_across_the_files_of_a_vpc_but_not_across_vpcs() {
    let error = load_files(&[("a.json", A), ("b.json", A)]).unwrap_err();
    assert_eq!(error.diagnostics[0].message, "group \"web-server\" is written twice in one VPC");
    assert!(error.diagnostics[0].file.ends_with("b.json"));
    assert!(error.diagnostics[0].related[0].file.ends_with("a.json"));
    let group = r#""security_groups": [{ "name": "web-server" }]"#;
    let loaded = load_files(&[
        ("a.json", A),
        ("b.json", &in_vpc("shop", "other", group)),
        ("c.json", &in_vpc("bank", "main", group)),
    ])
    .unwrap();
    assert_eq!(loaded.model.vpcs.len(), 3);
    assert_eq!(loaded.model.groups.iter().filter(|group| group.name == "web-server").count(), 3);
}

#[test]
fn spec_k20_each_project_has_exactly_one_default_over_all_its_vpcs() {
    let loaded = load_files(&[
        ("a.json", A),
        ("b.json", &in_vpc("shop", "other", "\"peers\": []")),
        ("c.json", &in_vpc("bank", "main", "\"peers\": []")),
    ])
    .unwrap();
    let defaults: Vec<_> = loaded
        .model
        .groups
        .iter()
        .filter(|group| group.is_default())
        .map(|group| group.project.as_str())
        .collect();
    assert_eq!(defaults, ["shop", "bank"]);
    let default = r#""security_groups": [{ "name": "default" }]"#;
    let error = load_files(&[
        ("a.json", &in_vpc("shop", "main", default)),
        ("b.json", &in_vpc("shop", "other", default)),
    ])
    .unwrap_err();
    assert_eq!(
        short(&error.diagnostics),
        ["2:31 security_groups[0].name: \"default\" of project \"shop\" is written twice: a project has one"]
    );
}

#[test]
fn spec_k20_default_is_visible_in_each_vpc_and_custom_groups_only_in_theirs() {
    let user = in_vpc(
        "shop",
        "other",
        r#""interfaces": [{ "name": "tap0", "security_groups": ["default", "web-server"] }]"#,
    );
    let error = load_files(&[("a.json", A), ("b.json", &user)]).unwrap_err();
    assert_eq!(error.diagnostics.len(), 1);
    assert_eq!(error.diagnostics[0].field, "interfaces[0].security_groups[1]");
    assert_eq!(
        error.diagnostics[0].suggestion.as_deref(),
        Some(
            "VPC \"main\" of project \"shop\" has a group of this name, but groups do not reach across VPCs"
        )
    );
}

#[test]
fn spec_k12_the_group_quota_counts_a_project_over_all_its_files() {
    let group = |vpc: &str, name: &str, extra: &str| {
        in_vpc("shop", vpc, &format!(r#""security_groups": [{{ "name": "{name}" }}]{extra}"#))
    };
    let quota = r#", "settings": { "quotas": { "groups_per_project": 1 } }"#;
    let error =
        load_files(&[("a.json", &group("main", "aaaa", "")), ("b.json", &group("other", "bbbb", quota))])
            .unwrap_err();
    assert_eq!(error.diagnostics[0].message, "project \"shop\" has 2 custom groups, over the quota of 1");
}

#[test]
fn settings_of_several_files_are_merged_and_must_not_contradict() {
    let file = |settings: &str| in_vpc("shop", "main", &format!("\"settings\": {settings}"));
    let one = file(r#"{ "metadata": "cidr", "timeouts": { "udp": 10 }, "managed": ["tap*", "vnet*"] }"#);
    let same = file(r#"{ "metadata": "cidr", "timeouts": { "icmp": 20 }, "managed": ["vnet*", "tap*"] }"#);
    let settings = load_files(&[("a.json", &one), ("b.json", &same)]).unwrap().model.settings.clone();
    assert_eq!((settings.timeouts.udp, settings.timeouts.icmp, settings.timeouts.other), (10, 20, 600));
    let other = file(r#"{ "metadata": "exempt", "timeouts": { "udp": 11 }, "managed": ["tap*"] }"#);
    let error = load_files(&[("a.json", &one), ("b.json", &other)]).unwrap_err();
    let fields: Vec<_> = error.diagnostics.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["settings.metadata", "settings.timeouts.udp", "settings.managed"]);
    for diagnostic in &error.diagnostics {
        assert!(diagnostic.file.ends_with("b.json") && diagnostic.related[0].file.ends_with("a.json"));
    }
}

#[test]
fn ipv6_must_agree_within_a_vpc() {
    let file = |vpc: &str, ipv6: &str| in_vpc("shop", vpc, ipv6);
    let error = load_files(&[
        ("a.json", &file("main", "\"ipv6\": true")),
        ("b.json", &file("main", "\"ipv6\": false")),
    ])
    .unwrap_err();
    assert_eq!(
        short(&error.diagnostics),
        ["2:9 ipv6: \"ipv6\" is false here and true in another file of VPC \"main\""]
    );
    let loaded = load_files(&[
        ("a.json", &file("main", "\"peers\": []")),
        ("b.json", &file("main", "\"ipv6\": true")),
        ("c.json", &file("other", "\"ipv6\": false")),
    ])
    .unwrap();
    assert_eq!(loaded.model.vpcs.iter().map(|vpc| vpc.ipv6).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_device_has_one_policy_over_all_files_and_vpcs_may_share_addresses() {
    let file = |vpc: &str, device: &str| {
        in_vpc(
            "shop",
            vpc,
            &format!(
                r#""interfaces": [{{ "name": "{device}", "addresses": ["10.0.0.1"], "security_groups": ["default"] }}]"#
            ),
        )
    };
    let error =
        load_files(&[("a.json", &file("main", "tap0")), ("b.json", &file("other", "tap0"))]).unwrap_err();
    assert_eq!(short(&error.diagnostics), ["2:26 interfaces[0].name: interface \"tap0\" is written twice"]);
    assert!(load_files(&[("a.json", &file("main", "tap0")), ("b.json", &file("other", "tap1"))]).is_ok());
    let error =
        load_files(&[("a.json", &file("main", "tap0")), ("b.json", &file("main", "tap1"))]).unwrap_err();
    assert_eq!(
        short(&error.diagnostics),
        ["2:48 interfaces[0].addresses[0]: address 10.0.0.1 belongs to interface \"tap0\" already"]
    );
}

#[test]
fn only_strict_json_is_json() {
    let whole = |body: &str| format!("{{ \"version\": 1, \"project\": \"p\", \"vpc\": \"v\"{body} }}");
    good(&whole(""));
    for (what, text) in [
        ("comment", whole(" /* why */")),
        ("line comment", whole(" // why\n")),
        ("trailing comma", whole(",")),
        ("trailing comma in a list", whole(", \"peers\": [],")),
        ("missing comma", whole(" \"peers\": []")),
        ("missing comma before an object", whole(", \"peers\": [{} {}]")),
        ("single quotes", whole(", 'peers': []")),
        ("bare word", whole(", peers: []")),
        ("hexadecimal", whole(", \"peers\": 0x10")),
        ("plus", whole(", \"peers\": +1")),
        ("bare point", whole(", \"peers\": .5")),
        ("leading zero", whole(", \"peers\": 01")),
        ("NaN", whole(", \"peers\": NaN")),
        ("Infinity", whole(", \"peers\": Infinity")),
        ("escape", whole(", \"peers\": \"\\x41\"")),
        ("line break in a string", whole(", \"peers\": \"\n\"")),
        ("odd white space", whole("\u{a0}")),
        ("two values", format!("{} {{}}", whole(""))),
        ("nothing", String::new()),
        ("unterminated", "{".to_owned()),
        ("unterminated string", "{ \"".to_owned()),
        ("lone surrogate", whole(", \"peers\": \"\\ud800\"")),
    ] {
        let fault = fault(&text);
        assert!(fault.message.starts_with("not JSON: "), "{what}: {}", fault.message);
        assert!(fault.line.is_some(), "{what}");
    }
}

#[test]
fn a_syntax_fault_has_its_place_and_a_hint() {
    let error = fault("{\n  \"version\": 1,\n  // the shop\n  \"project\": \"shop\"\n}");
    assert_eq!((error.line, error.column), (Some(3), Some(3)));
    assert_eq!(error.suggestion.unwrap(), "JSON has no comments; rules and groups have a \"description\"");
    let error = fault("{\n  \"가\": 1,\n}");
    assert_eq!(
        (error.line, error.column, error.message.as_str()),
        (Some(3), Some(1), "not JSON: key must be a string")
    );
    assert_eq!(error.suggestion.unwrap(), "remove the comma before it: JSON has none after the last element");
}

#[test]
fn a_byte_order_mark_and_crlf_are_no_fault_and_do_not_shift_places() {
    let text = format!("\u{feff}{}", A.replace(' ', "\r\n"));
    good(&text);
    let fault = fault("\u{feff}{ \"version\": 2,\r\n \"project\": \"p\", \"vpc\": \"v\" }");
    assert_eq!((fault.line, fault.column), (Some(1), Some(14)));
}

#[test]
fn deep_nesting_is_refused_before_anything_recurses() {
    let deep = |depth: usize| with(&format!("\"peers\": {}{}", "[".repeat(depth), "]".repeat(depth)));
    assert_eq!(fault(&deep(1_000_000)).message, "nested more than 64 deep");
    assert_eq!(fault(&"{\"a\":".repeat(1_000_000)).message, "nested more than 64 deep");
    assert_ne!(load(&deep(63)).unwrap_err().diagnostics[0].message, "nested more than 64 deep");
    // Brackets in strings do not nest, escaped quotes do not end them.
    good(&with(&format!(
        "\"security_groups\": [{{ \"name\": \"group\", \"description\": \"\\\"{}\" }}]",
        "[".repeat(90)
    )));
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.json");
    std::fs::write(&path, b"{\n \"a\xff\": 1 }").unwrap();
    let error = policy::load(std::slice::from_ref(&path)).unwrap_err();
    assert_eq!(short(&error.diagnostics), ["2:4 : byte 0xff is not UTF-8"]);
    assert!(!error.unreadable);
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.json");
    std::fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
    assert_eq!(
        policy::load(&[path]).unwrap_err().diagnostics[0].message,
        "the file is larger than 64 MiB, the most that a policy may have"
    );
}

#[test]
fn files_over_the_limit_together_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let file = std::fs::File::create(directory.path().join(format!("{name}.json"))).unwrap();
        file.set_len((64 << 20) / 2).unwrap();
    }
    let error = policy::load(&[directory.path().to_owned()]).unwrap_err();
    let third = error.diagnostics.iter().find(|fault| fault.file.ends_with("c.json")).unwrap();
    assert_eq!(third.message, "with this file the policy is larger than 64 MiB, the most that it may have");
    let many = tempfile::tempdir().unwrap();
    for number in 0..4100 {
        std::fs::write(many.path().join(format!("{number:04}.json")), "1").unwrap();
    }
    let error = policy::load(&[many.path().to_owned()]).unwrap_err();
    let beyond: Vec<_> =
        error.diagnostics.iter().filter(|fault| fault.message.contains("more than 4096 files")).collect();
    assert_eq!(beyond.len(), 1);
    assert!(beyond[0].file.ends_with("4096.json"));
}

/// Small values take up to seventy times their text when they are read: the limit is on that.
#[test]
fn spec_d22_values_are_bounded_in_all_files_together() {
    let many = |count: usize| format!("[{}1]", "{\"x\":1},".repeat(count));
    let error = load(&many(1_000_000)).unwrap_err();
    assert_eq!(error.diagnostics.len(), 1, "{error}");
    let fault = &error.diagnostics[0];
    assert!(fault.message.contains("too many values") && fault.message.contains("160 MiB"), "{fault}");
    assert_eq!(fault.line, Some(1));
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::write(directory.path().join(format!("{name}.json")), many(200_000)).unwrap();
    }
    let error = policy::load(&[directory.path().to_owned()]).unwrap_err();
    let files: Vec<_> =
        error.diagnostics.iter().filter(|fault| fault.message.contains("too many values")).collect();
    assert_eq!(files.len(), 1, "{error}");
    assert!(files[0].file.ends_with("b.json"));
}

#[test]
fn spec_d4_a_policy_of_100_000_peers_is_no_problem() {
    let peers: Vec<_> = (0..100_000u32)
        .map(|n| {
            let address = std::net::Ipv4Addr::from_bits((10 << 24) + n);
            format!("{{\n  \"address\": \"{address}\",\n  \"security_groups\": [\n \"default\" ]\n}}")
        })
        .collect();
    let loaded = load(&with(&format!("\"peers\": [{}]", peers.join(",\n")))).unwrap();
    assert_eq!(loaded.model.peers.len(), 100_000);
}

#[test]
fn a_million_faults_are_counted_but_not_kept() {
    let text = with(&format!("\"peers\": [{}0]", "0,".repeat(999_999)));
    let error = load(&text).unwrap_err();
    assert_eq!((error.diagnostics.len(), error.omitted), (1000, 999_000));
}
