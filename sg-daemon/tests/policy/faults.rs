//! What is refused in one file, and in which words.

use sg_daemon::policy;

use crate::{fault, faults, good, here, inbound, load, policy as with, short};

/// The file of mistakes: each found at its line, in one run.
#[test]
fn every_fault_of_a_file_is_listed_at_once() {
    let error = policy::load(&[here("tests/policy/data/broken.json")]).unwrap_err();
    assert_eq!(
        short(&error.diagnostics),
        [
            "8:15 security_groups[0]: group \"web-server\" has 4 rules (4 inbound, 0 outbound), over the quota of 3",
            "9:7 security_groups[0].inbuond: unknown field \"inbuond\"",
            "12:68 security_groups[0].inbound[1].action: unknown field \"action\"",
            "13:40 security_groups[0].inbound[2].source: \"10.0.0.1/8\" has host bits set",
            "14:40 security_groups[0].inbound[3].source: a rule of group \"web-server\" needs the group \"databse\", which does not exist",
            "20:69 interfaces[0].security_groups: interface \"tap0\" has no security group",
        ]
    );
    let suggestions: Vec<_> = error.diagnostics.iter().filter_map(|d| d.suggestion.as_deref()).collect();
    assert_eq!(
        suggestions,
        [
            "did you mean \"inbound\"?",
            "there are no deny rules: every rule allows, and what no rule allows is denied; remove the field",
            "write \"10.0.0.0/8\"",
            "did you mean \"database\"?",
            "write [\"default\"]; only kind \"bare_metal\" may have none",
        ]
    );
}

#[test]
fn the_top_needs_version_project_and_vpc() {
    assert_eq!(
        faults("{}"),
        [
            "1:1 version: missing field \"version\"",
            "1:1 project: missing field \"project\"",
            "1:1 vpc: missing field \"vpc\""
        ]
    );
    assert_eq!(
        faults(r#"{ "version": 2, "project": "", "vpc": 7 }"#),
        ["1:14 version: found 2", "1:28 project: \"\" is not a project name", "1:39 vpc: found a number"]
    );
    assert_eq!(faults("[]"), ["1:1 : found a list"]);
    good(r#"{ "version": 1, "project": "p", "vpc": "v" }"#);
}

#[test]
fn spec_k2_an_interface_without_a_group_refuses_the_whole_policy() {
    let groups = r#""security_groups": [{ "name": "web-server" }],"#;
    let written = with(&format!(
        "{groups}\n\"interfaces\": [\n{{ \"name\": \"tap0\", \"security_groups\": [\"web-server\"] }},\n{{ \"name\": \"tap1\" }},\n{{ \"name\": \"tap2\", \"kind\": \"container\", \"security_groups\": [] }}]"
    ));
    assert_eq!(
        faults(&written),
        [
            "6:1 interfaces[1].security_groups: interface \"tap1\" has no security group",
            "7:59 interfaces[2].security_groups: interface \"tap2\" has no security group",
        ]
    );
}

#[test]
fn spec_k3_bare_metal_may_have_no_group() {
    let loaded = good(&with(
        r#""interfaces": [{ "name": "eth0", "kind": "bare_metal", "security_groups": [] }, { "name": "eth1", "kind": "bare_metal" }]"#,
    ));
    assert!(loaded.model.interfaces.iter().all(|interface| interface.groups.is_empty()));
}

#[test]
fn spec_k5_every_way_to_write_a_deny_rule_is_an_error_with_file_line_and_field() {
    for field in ["action", "deny", "effect", "priority", "Action"] {
        let text = inbound(&format!(
            r#"{{ "protocol": "TCP", "source": "10.0.0.0/8", "port": "1", "{field}": "deny" }}"#
        ));
        let fault = fault(&text);
        assert_eq!((fault.line, fault.column), (Some(4), Some(59)));
        assert_eq!(fault.field, format!("security_groups[0].inbound[0].{field}"));
        assert!(fault.file.ends_with("policy.json"));
        assert!(fault.suggestion.unwrap().contains("there are no deny rules"), "{field}");
    }
}

#[test]
fn spec_k5_unknown_fields_are_errors_on_every_object() {
    let text = with(
        r#""x1": 1, "settings": { "x2": 1, "quotas": { "x3": 1 }, "timeouts": { "x4": 1 }, "failsafe": { "inbound": [], "outbound": [], "x5": 1 }, "guest_baseline": { "x12": 1 } },
"security_groups": [{ "name": "group", "x6": 1, "inbound": [{ "protocol": "ALL", "source": "::/0", "x7": 1 }], "outbound": [{ "protocol": "ALL", "destination": "::/0", "x8": 1 }] }],
"interfaces": [{ "name": "tap0", "security_groups": ["group"], "x9": 1, "timeouts": { "x10": 1 } }],
"peers": [{ "address": "10.0.0.1", "security_groups": ["group"], "x11": 1 }]"#,
    );
    let found = faults(&text);
    for n in 1..=12 {
        let want = format!("unknown field \"x{n}\"");
        assert_eq!(found.iter().filter(|fault| fault.ends_with(&want)).count(), 1, "{want}: {found:#?}");
    }
    assert_eq!(found.len(), 12, "{found:#?}");
}

#[test]
fn spec_k12_quotas_hold_exactly_at_their_limits() {
    let policy = |groups: usize, inbound: usize, outbound: usize, attached: usize| {
        let rule = |remote: &str, n: usize| {
            let rules: Vec<String> = (0..n)
                .map(|p| format!(r#"{{ "protocol": "TCP", "{remote}": "10.0.0.0/8", "port": {} }}"#, p + 1))
                .collect();
            rules.join(",")
        };
        let mut list: Vec<String> = (1..groups).map(|n| format!(r#"{{ "name": "group-{n}" }}"#)).collect();
        list.push(format!(
            r#"{{ "name": "group-0", "inbound": [{}], "outbound": [{}] }}"#,
            rule("source", inbound),
            rule("destination", outbound)
        ));
        list.push(r#"{ "name": "default" }"#.to_owned());
        let names: Vec<String> = (0..attached).map(|n| format!("\"group-{n}\"")).collect();
        with(&format!(
            r#""security_groups": [{}],
            "interfaces": [{{ "name": "tap0", "security_groups": [{}] }}]"#,
            list.join(",\n"),
            names.join(",")
        ))
    };
    good(&policy(100, 60, 40, 5));
    let one = |text: &str| {
        let fault = fault(text);
        (fault.message, fault.expected.unwrap())
    };
    let (message, expected) = one(&policy(101, 60, 40, 5));
    assert_eq!(message, "project \"shop\" has 101 custom groups, over the quota of 100");
    assert_eq!(expected, "at most 100 (settings.quotas.groups_per_project)");
    let (message, expected) = one(&policy(100, 60, 41, 5));
    assert_eq!(message, "group \"group-0\" has 101 rules (60 inbound, 41 outbound), over the quota of 100");
    assert_eq!(expected, "at most 100 (settings.quotas.rules_per_group)");
    let (message, expected) = one(&policy(100, 60, 40, 6));
    assert_eq!(message, "interface \"tap0\" has 6 security groups, over the quota of 5");
    assert_eq!(expected, "at most 5 (settings.quotas.groups_per_interface)");
}

#[test]
fn spec_k12_quotas_are_configurable() {
    let text = |quotas: &str| {
        with(&format!(
            r#""settings": {{ "quotas": {quotas} }}, "security_groups": [{{ "name": "aaaa" }}, {{ "name": "bbbb" }}]"#
        ))
    };
    good(&text(r#"{ "groups_per_project": 2 }"#));
    assert_eq!(
        fault(&text(r#"{ "groups_per_project": 1 }"#)).message,
        "project \"shop\" has 2 custom groups, over the quota of 1"
    );
    assert_eq!(
        fault(&text(r#"{ "groups_per_project": 0 }"#)).expected.unwrap(),
        "a whole number from 1 to 1000000"
    );
}

#[test]
fn spec_k13_inbound_has_a_source_and_outbound_a_destination() {
    let fault = fault(&inbound(r#"{ "protocol": "TCP", "destination": "10.0.0.0/8", "port": "1" }"#));
    assert_eq!(fault.field, "security_groups[0].inbound[0].destination");
    assert_eq!(fault.message, "\"destination\" belongs to outbound rules; an inbound rule has a \"source\"");
    assert_eq!((fault.line, fault.column), (Some(4), Some(22)));
    let text = with(
        r#""security_groups": [{ "name": "group", "outbound": [{ "protocol": "ALL", "source": "::/0", "destination": "::/0" }] }]"#,
    );
    assert_eq!(crate::fault(&text).suggestion.unwrap(), "remove \"source\"");
    let missing = crate::fault(&inbound(r#"{ "protocol": "ALL" }"#));
    assert_eq!(missing.message, "missing field \"source\"");
}

#[test]
fn spec_k14_unknown_protocols_name_the_nearest() {
    let text = inbound(r#"{ "protocol": "icpm", "source": "10.0.0.0/8" }"#);
    assert_eq!(fault(&text).suggestion.unwrap(), "did you mean \"ICMP\"?");
    assert_eq!(fault(&inbound(r#"{ "protocol": 256, "source": "10.0.0.0/8" }"#)).message, "found 256");
    assert_eq!(fault(&inbound(r#"{ "protocol": 6.0, "source": "10.0.0.0/8" }"#)).message, "found 6.0");
}

#[test]
fn spec_k15_a_remote_is_exactly_one_network_or_group() {
    for (source, message, suggestion) in [
        (r#""10.0.0.1/8""#, "\"10.0.0.1/8\" has host bits set", Some("write \"10.0.0.0/8\"")),
        (r#""10.0.0.1""#, "\"10.0.0.1\" has no prefix length", Some("write \"10.0.0.1/32\"")),
        (r#""2001:db8::1""#, "\"2001:db8::1\" has no prefix length", Some("write \"2001:db8::1/128\"")),
        (
            r#""::ffff:10.0.0.0/104""#,
            "\"::ffff:10.0.0.0/104\" is an IPv4 network written as IPv6; no packet carries it",
            Some("write \"10.0.0.0/8\""),
        ),
        (r#"["10.0.0.0/8", "@group"]"#, "found a list", None),
        ("null", "found null", None),
    ] {
        let fault = fault(&inbound(&format!(r#"{{ "protocol": "ALL", "source": {source} }}"#)));
        assert_eq!(fault.message, message);
        assert_eq!(fault.suggestion.as_deref(), suggestion, "{source}");
        assert_eq!((fault.line, fault.column), (Some(4), Some(32)));
    }
    let twice = fault(&inbound(r#"{ "protocol": "ALL", "source": "10.0.0.0/8", "source": "@group" }"#));
    assert_eq!(twice.message, "field \"source\" is written twice in one object");
    assert_eq!((twice.related[0].line, twice.related[0].column), (4, 22));
}

#[test]
fn spec_k16_ports_are_where_they_belong() {
    for (rule, message) in [
        (r#""protocol": "TCP""#, "missing field \"port\": a TCP rule needs one"),
        (r#""protocol": 17"#, "missing field \"port\": a UDP rule needs one"),
        (r#""protocol": "ICMP", "port": "80""#, "a port on a rule that is neither TCP nor UDP"),
        (r#""protocol": "ALL", "port": 80"#, "a port on a rule that is neither TCP nor UDP"),
        (r#""protocol": "TCP", "port": 0"#, "port 0 is out of range"),
        (r#""protocol": "TCP", "port": 65536"#, "port 65536 is out of range"),
        (r#""protocol": "TCP", "port": "2000-1000""#, "the range \"2000-1000\" ends before it begins"),
        (r#""protocol": "TCP", "port": " 80""#, "\" 80\" is not a port or a range of ports"),
        (r#""protocol": "TCP", "port": 8e1"#, "\"8e1\" is not a port"),
        (r#""protocol": "TCP", "port": [80]"#, "found a list"),
        (r#""protocol": "TCP", "port": 80, "icmp_type": 8"#, "\"icmp_type\" on a rule that is not for ICMP"),
        (r#""protocol": "ICMP", "icmp_type": 256"#, "found 256"),
        (r#""protocol": "ICMP", "icmp_code": 0"#, "\"icmp_code\" without \"icmp_type\""),
    ] {
        let fault = fault(&inbound(&format!(r#"{{ "source": "10.0.0.0/8", {rule} }}"#)));
        assert_eq!(fault.message, message, "{rule}");
    }
}

#[test]
fn spec_k17_names_and_descriptions_have_their_lengths_in_characters() {
    let group = |name: &str, description: &str, rule: &str| {
        with(&format!(
            r#""security_groups": [{{ "name": "{name}", "description": "{description}", "inbound": [{{ "protocol": "ALL", "source": "::/0", "description": "{rule}" }}] }}]"#
        ))
    };
    good(&group("abcd", &"가".repeat(100), &"나".repeat(50)));
    good(&group(&"a".repeat(250), "", ""));
    assert_eq!(fault(&group("abc", "", "")).message, "group name \"abc\" has 3 characters");
    assert_eq!(fault(&group("ab-d_", "", "")).message, "group name \"ab-d_\" begins or ends with '-' or '_'");
    assert_eq!(fault(&group("웹서버들", "", "")).message, "group name \"웹서버들\" has the character '웹'");
    let long = fault(&group("abcd", &"가".repeat(101), ""));
    assert_eq!(
        (long.message.as_str(), long.field.as_str()),
        ("101 characters are too many", "security_groups[0].description")
    );
    assert_eq!(fault(&group("abcd", "", &"나".repeat(51))).expected.unwrap(), "at most 50 characters");
}

#[test]
fn spec_k23_default_cannot_be_written_twice_nor_its_name_taken() {
    let fault =
        fault(&with("\"security_groups\": [\n{ \"name\": \"default\" },\n{ \"name\": \"default\" }]"));
    assert_eq!(fault.message, "\"default\" of project \"shop\" is written twice: a project has one");
    assert_eq!((fault.line, fault.related[0].line), (Some(5), 4));
}

#[test]
fn spec_k24_custom_names_are_unique_and_compared_exactly() {
    let fault =
        fault(&with("\"security_groups\": [\n{ \"name\": \"web-server\" },\n{ \"name\": \"web-server\" }]"));
    assert_eq!((fault.line, fault.column), (Some(5), Some(11)));
    assert_eq!(fault.message, "group \"web-server\" is written twice in one VPC");
    good(&with(r#""security_groups": [{ "name": "web-server" }, { "name": "Web-Server" }]"#));
}

#[test]
fn spec_d1_a_dangling_group_names_the_nearest() {
    let text = with(
        r#""security_groups": [{ "name": "bastion", "inbound": [{ "protocol": "ALL", "source": "@basiton" }] }],
"interfaces": [{ "name": "tap0", "security_groups": ["bastoin"] }],
"peers": [{ "address": "10.0.0.1", "security_groups": ["defualt", "@bastion"] }]"#,
    );
    let error = load(&text).unwrap_err();
    assert_eq!(
        short(&error.diagnostics),
        [
            "3:85 security_groups[0].inbound[0].source: a rule of group \"bastion\" needs the group \"basiton\", which does not exist",
            "4:54 interfaces[0].security_groups[0]: interface \"tap0\" needs the group \"bastoin\", which does not exist",
            "5:56 peers[0].security_groups[0]: peer 10.0.0.1 needs the group \"defualt\", which does not exist",
            "5:67 peers[0].security_groups[1]: peer 10.0.0.1 needs the group \"@bastion\", which does not exist",
        ]
    );
    let suggestions: Vec<_> = error.diagnostics.iter().map(|d| d.suggestion.as_deref().unwrap()).collect();
    assert_eq!(
        suggestions[..3],
        ["did you mean \"bastion\"?", "did you mean \"bastion\"?", "did you mean \"default\"?"]
    );
}

#[test]
fn spec_d3_removing_a_group_in_use_names_every_user() {
    let groups = r#"{ "name": "kept", "outbound": [{ "protocol": "ALL", "destination": "@gone" }] }"#;
    let rest = r#""interfaces": [{ "name": "tap7", "security_groups": ["kept", "gone"] }]"#;
    good(&with(&format!(r#""security_groups": [{groups}, {{ "name": "gone" }}], {rest}"#)));
    let found = faults(&with(&format!(r#""security_groups": [{groups}], {rest}"#)));
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("a rule of group \"kept\" needs the group \"gone\""), "{found:?}");
    assert!(found[1].contains("interface \"tap7\" needs the group \"gone\""), "{found:?}");
}

#[test]
fn a_group_with_a_bad_name_is_not_reported_as_missing_too() {
    let text = with(
        r#""security_groups": [{ "name": "web" }], "interfaces": [{ "name": "tap0", "security_groups": ["web"] }]"#,
    );
    assert_eq!(fault(&text).message, "group name \"web\" has 3 characters");
}

#[test]
fn interfaces_are_checked_field_by_field() {
    let text = with(
        r#""interfaces": [
{ "name": "a-very-long-device-name", "security_groups": ["default"] },
{ "name": "tap1", "security_groups": ["default", "default"] },
{ "name": "tap2", "kind": "VM", "role": "gest", "hook": "ebpf", "security_groups": ["default"] },
{ "name": "tap3", "mac": "01:00:5e:00:00:01", "security_groups": ["default"] },
{ "name": "tap4", "addresses": ["10.0.0.1/24", "10.0.0.2"], "allowed_addresses": ["10.0.0.2"], "security_groups": ["default"] },
{ "name": "tap5", "addresses": ["::ffff:10.0.0.2"], "security_groups": ["default"] },
{ "name": "tap6", "addresses": ["10.0.0.2"], "security_groups": ["default"] },
{ "name": "tap1", "security_groups": "default" },
{ "security_groups": ["default"], "timeouts": { "tcp_established": 59, "udp": 0 } }
]"#,
    );
    assert_eq!(
        faults(&text),
        [
            "4:11 interfaces[0].name: device name \"a-very-long-device-name\" is 23 bytes long",
            "5:50 interfaces[1].security_groups[1]: group \"default\" is listed twice",
            "6:27 interfaces[2].kind: unknown value \"VM\"",
            "6:41 interfaces[2].role: unknown value \"gest\"",
            "6:57 interfaces[2].hook: unknown value \"ebpf\"",
            "7:26 interfaces[3].mac: \"01:00:5e:00:00:01\" is a multicast address",
            "8:33 interfaces[4].addresses[0]: \"10.0.0.1/24\" is a network, not an address",
            "8:83 interfaces[4].allowed_addresses[0]: address 10.0.0.2 is listed twice",
            "9:33 interfaces[5].addresses[0]: \"::ffff:10.0.0.2\" is an IPv4 address written as IPv6; no packet carries it",
            "10:33 interfaces[6].addresses[0]: address 10.0.0.2 belongs to interface \"tap4\" already",
            "11:11 interfaces[7].name: interface \"tap1\" is written twice",
            "11:38 interfaces[7].security_groups: found the string \"default\"",
            "12:1 interfaces[8].name: missing field \"name\"",
            "12:68 interfaces[8].timeouts.tcp_established: found 59",
            "12:79 interfaces[8].timeouts.udp: found 0",
        ]
    );
}

#[test]
fn settings_are_checked_field_by_field() {
    let text = with(
        r#""settings": { "metadata": "Explicit", "on_rule_change": "revok", "strict_tcp": "yes",
"timeouts": { "tcp_established": 432001 }, "managed": ["tap*", "", "tap*", "[ab]"],
"failsafe": { "inbound": [{ "protocol": "TCP", "source": "@default", "port": "22" }] } }"#,
    );
    assert_eq!(
        faults(&text),
        [
            "3:27 settings.metadata: unknown value \"Explicit\"",
            "3:57 settings.on_rule_change: unknown value \"revok\"",
            "3:80 settings.strict_tcp: found the string \"yes\"",
            "4:34 settings.timeouts.tcp_established: found 432001",
            "4:64 settings.managed[1]: device pattern \"\" is empty",
            "4:68 settings.managed[2]: pattern \"tap*\" is listed twice",
            "4:76 settings.managed[3]: device pattern \"[ab]\" has the character '['",
            "5:13 settings.failsafe.outbound: missing field \"outbound\"",
            "5:58 settings.failsafe.inbound[0].source: group \"@default\" in a failsafe rule",
        ]
    );
}

#[test]
fn peers_are_checked() {
    let text = with(
        r#""peers": [
{ "address": "10.0.0.1", "security_groups": [] },
{ "address": "10.0.0.2" },
{ "security_groups": ["default"] },
{ "address": "10.0.0.3", "security_groups": ["default"] },
{ "address": "10.0.0.3", "security_groups": ["default"] }]"#,
    );
    assert_eq!(
        faults(&text),
        [
            "4:45 peers[0].security_groups: this peer is a member of no group",
            "5:1 peers[1].security_groups: missing field \"security_groups\"",
            "6:1 peers[2].address: missing field \"address\"",
            "8:14 peers[4].address: peer 10.0.0.3 is written twice",
        ]
    );
}
