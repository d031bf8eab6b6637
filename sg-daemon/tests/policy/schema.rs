//! `sgctl schema` accepts what the loader accepts, as far as a schema can tell.

use jsonschema::Validator;
use serde_json::Value;

use crate::{here, inbound, load, policy as with, sgctl};

fn validator() -> Validator {
    let output = sgctl(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn examples() -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![here("../examples")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "json") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn every_example_is_valid() {
    let validator = validator();
    let examples = examples();
    assert!(examples.len() >= 5, "{examples:?}");
    for path in examples {
        let value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    }
}

/// Each is refused by both: neither is laxer where both can tell.
#[test]
fn what_is_broken_in_form_is_invalid_for_schema_and_loader() {
    let validator = validator();
    let rule = |fields: &str| inbound(&format!("{{ {fields} }}"));
    let device = |fields: &str| with(&format!("\"interfaces\": [{{ {fields} }}]"));
    let baseline = |fields: &str| with(&format!("\"settings\": {{ \"guest_baseline\": {{ {fields} }} }}"));
    let broken = [
        "[]".to_owned(),
        "{}".to_owned(),
        with("\"unknown\": 1"),
        with("\"ipv6\": null"),
        with("\"ipv6\": \"yes\""),
        with("\"security_groups\": {}"),
        with("\"security_groups\": [{ }]"),
        with("\"security_groups\": [{ \"name\": \"abc\" }]"),
        with("\"security_groups\": [{ \"name\": \"a bcd\" }]"),
        rule(r#""protocol": "TCP", "source": "10.0.0.0/8", "port": 1, "action": "deny""#),
        rule(r#""protocol": "TCP", "source": "10.0.0.0/8""#),
        rule(r#""protocol": 17, "source": "10.0.0.0/8""#),
        rule(r#""protocol": "ICMP", "source": "10.0.0.0/8", "port": 80"#),
        rule(r#""protocol": "TCP", "source": "10.0.0.0/8", "port": 0"#),
        rule(r#""protocol": "TCP", "source": "10.0.0.0/8", "port": "080""#),
        rule(r#""protocol": "TCP", "source": "10.0.0.0", "port": 80"#),
        rule(r#""protocol": "TCP", "destination": "10.0.0.0/8", "port": 80"#),
        rule(r#""protocol": 256, "source": "10.0.0.0/8""#),
        rule(r#""protocol": "ICMP", "source": "10.0.0.0/8", "icmp_type": 256"#),
        device(r#""name": "tap0""#),
        device(r#""name": "tap0", "security_groups": []"#),
        device(r#""name": "a/b", "security_groups": ["default"]"#),
        device(r#""name": "tap0", "kind": "VM", "security_groups": ["default"]"#),
        device(r#""name": "tap0", "mac": "x", "security_groups": ["default"]"#),
        with(r#""peers": [{ "address": "10.0.0.1", "security_groups": [] }]"#),
        with(r#""settings": { "timeouts": { "tcp_established": 59 } }"#),
        with(r#""settings": { "metadata": "none" }"#),
        with(r#""settings": { "failsafe": { "inbound": [] } }"#),
        device(r#""name": "tap0", "trunk": "yes", "security_groups": ["default"]"#),
        with(r#""settings": { "guest_baseline": [] }"#),
        baseline(r#""unknown": true"#),
        baseline(r#""source_mac": "on""#),
        baseline(r#""ether_types": "none""#),
        baseline(r#""ether_types": ["any"]"#),
        baseline(r#""ether_types": ["88cc"]"#),
        baseline(r#""ether_types": ["0x05ff"]"#),
        baseline(r#""ether_types": [1535]"#),
        baseline(r#""ether_types": [65536]"#),
        baseline(r#""ether_types": ["0x0800"]"#),
        baseline(r#""ether_types": ["0x86DD"]"#),
        baseline(r#""ether_types": [2054]"#),
        baseline(r#""ether_types": [33024]"#),
        baseline(r#""ether_types": ["0x88A8"]"#),
        baseline(r#""ether_types": [2000, 2001, 2002, 2003, 2004, 2005, 2006, 2007, 2008]"#),
        baseline(r#""link_local": "none""#),
        baseline(r#""routers": "fe80::1""#),
        baseline(r#""routers": ["10.0.0.1"]"#),
        baseline(r#""routers": ["fe80::1/64"]"#),
    ];
    for text in broken {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(!validator.is_valid(&value), "the schema takes {text}");
        assert!(load(&text).is_err(), "the loader takes {text}");
    }
}

#[test]
fn what_is_unusual_but_right_is_valid_for_both() {
    let validator = validator();
    for text in [
        inbound(r#"{ "protocol": "tcp", "source": "10.0.0.0/8", "port": "All" }"#),
        inbound(r#"{ "protocol": "ALL", "source": "::/0", "port": "ALL" }"#),
        inbound(r#"{ "protocol": 6, "source": "@group", "port": 80 }"#),
        inbound(r#"{ "protocol": "gre", "source": "10.0.0.0/8" }"#),
        inbound(r#"{ "protocol": "58", "source": "::/0", "icmp_type": 0, "icmp_code": 255 }"#),
        with(r#""interfaces": [{ "name": "eth0", "kind": "bare_metal" }]"#),
        with(r#""security_groups": [{ "name": "default", "inbound": [], "outbound": [] }]"#),
        with(r#""settings": { "failsafe": { "inbound": [], "outbound": [] }, "managed": [] }"#),
        with(r#""settings": { "guest_baseline": {} }"#),
        with(
            r#""settings": { "guest_baseline": { "arp": false, "ether_types": ["0x88CC", 1536, "0xffff"], "link_local": "derived", "routers": ["FE80::1"] } }"#,
        ),
        with(r#""settings": { "guest_baseline": { "ether_types": "any", "routers": [] } }"#),
        with(
            r#""interfaces": [{ "name": "eth0", "role": "host", "trunk": true, "security_groups": ["default"] }]"#,
        ),
    ] {
        let value: Value = serde_json::from_str(&text).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{text}: {errors:?}");
        load(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}
