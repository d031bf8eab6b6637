//! Advice: each kind given where it is due and not given where it is not.

use sg_daemon::policy::Severity;

use crate::{good, inbound, policy as with, short};

fn lints(text: &str) -> Vec<String> {
    short(&good(text).lints)
}

/// Advice about rules only: the group has a member and reaches metadata.
fn rule(text: &str) -> Vec<String> {
    lints(&inbound(text))
}

#[test]
fn spec_k19_administration_open_to_the_world() {
    for (rules, ports) in [
        (
            r#"{ "protocol": "TCP", "source": "0.0.0.0/0", "port": "22" }"#,
            vec!["SSH (TCP 22) is open to the whole internet (0.0.0.0/0)"],
        ),
        (
            r#"{ "protocol": "TCP", "source": "::/0", "port": 3389 }"#,
            vec!["RDP (TCP 3389) is open to the whole internet (::/0)"],
        ),
        (
            r#"{ "protocol": "TCP", "source": "0.0.0.0/0", "port": "20-30" }"#,
            vec!["SSH (TCP 22) is open to the whole internet (0.0.0.0/0)"],
        ),
        (
            r#"{ "protocol": "ALL", "source": "0.0.0.0/0" }"#,
            vec![
                "SSH (TCP 22) is open to the whole internet (0.0.0.0/0)",
                "RDP (TCP 3389) is open to the whole internet (0.0.0.0/0)",
                "every protocol and every port is open to 0.0.0.0/0",
            ],
        ),
        (r#"{ "protocol": "TCP", "source": "203.0.113.0/24", "port": "22" }"#, vec![]),
        (r#"{ "protocol": "UDP", "source": "0.0.0.0/0", "port": "22" }"#, vec![]),
        (r#"{ "protocol": "TCP", "source": "0.0.0.0/0", "port": "443" }"#, vec![]),
    ] {
        let want: Vec<String> =
            ports.iter().map(|text| format!("4:1 security_groups[0].inbound[0]: {text}")).collect();
        assert_eq!(rule(rules), want, "{rules}");
    }
    let outbound = with(
        r#""security_groups": [{ "name": "group", "outbound": [{ "protocol": "TCP", "destination": "0.0.0.0/0", "port": "22" }] }]"#,
    );
    assert_eq!(lints(&outbound), Vec::<String>::new());
}

#[test]
fn spec_k19_large_port_ranges() {
    let field = "4:1 security_groups[0].inbound[0]";
    assert_eq!(
        rule(r#"{ "protocol": "UDP", "source": "10.0.0.0/8", "port": "1000-2000" }"#),
        [format!("{field}: the range 1000-2000 opens 1001 ports")]
    );
    assert!(rule(r#"{ "protocol": "UDP", "source": "10.0.0.0/8", "port": "1001-2000" }"#).is_empty());
    assert_eq!(
        rule(r#"{ "protocol": "TCP", "source": "10.0.0.0/8", "port": "ALL" }"#),
        [format!("{field}: every port is open to 10.0.0.0/8")]
    );
}

#[test]
fn spec_k19_too_many_groups() {
    let attached = |count: usize, quota: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("\"group-{n}\"")).collect();
        let groups: Vec<String> = names.iter().map(|name| format!("{{ \"name\": {name} }}")).collect();
        lints(&with(&format!(
            r#""settings": {{ "metadata": "exempt", "quotas": {{ "groups_per_interface": {quota} }} }}, "security_groups": [{}],
            "interfaces": [{{ "name": "tap0", "mac": "52:54:00:12:34:56", "addresses": ["10.0.0.1"], "security_groups": [{}] }}]"#,
            groups.join(","),
            names.join(",")
        )))
    };
    assert!(attached(2, 2).is_empty());
    assert!(attached(3, 6).is_empty());
    assert_eq!(
        attached(3, 5),
        ["4:28 interfaces[0].security_groups: interface \"tap0\" has 3 security groups (quota 5)"]
    );
}

#[test]
fn d1_a_group_without_members_matches_nothing() {
    let text = |peers: &str| {
        with(&format!(
            r#""security_groups": [{{ "name": "user", "inbound": [{{ "protocol": "ALL", "source": "@used" }}] }}, {{ "name": "used" }}], "peers": [{peers}]"#
        ))
    };
    assert_eq!(
        lints(&text("")),
        ["3:51 security_groups[0].inbound[0]: \"@used\" has no member: this rule matches nothing"]
    );
    assert!(lints(&text(r#"{ "address": "10.0.0.1", "security_groups": ["used"] }"#)).is_empty());
    let no_address = text("").replace("\"peers\": []", r#""settings": { "metadata": "exempt" }, "interfaces": [{ "name": "tap0", "mac": "52:54:00:12:34:56", "security_groups": ["used"] }]"#);
    assert_eq!(
        lints(&no_address).len(),
        2,
        "the interface has no address, so it is no member: {:?}",
        lints(&no_address)
    );
}

#[test]
fn icmp_of_the_other_family_never_matches() {
    assert_eq!(
        rule(r#"{ "protocol": "icmpv6", "source": "10.0.0.0/8" }"#),
        [
            "4:1 security_groups[0].inbound[0]: ICMPv6 travels in IPv6 only and 10.0.0.0/8 is IPv4: this rule never matches"
        ]
    );
    assert_eq!(rule(r#"{ "protocol": 1, "source": "2001:db8::/32" }"#).len(), 1);
    assert!(
        rule(
            r#"{ "protocol": "ICMP", "source": "10.0.0.0/8" }, { "protocol": 58, "source": "2001:db8::/32" }"#
        )
        .is_empty()
    );
}

/// An interface with these groups and a setting: does `check` warn that it cannot reach metadata?
fn warned(metadata: &str, groups: &str, attached: &str) -> bool {
    let text = with(&format!(
        r#""settings": {{ "metadata": "{metadata}" }}, "security_groups": [{groups}],
"interfaces": [{{ "name": "tap0", "addresses": ["10.0.0.1"], "security_groups": [{attached}] }}]"#
    ));
    let lints = good(&text).lints;
    let found = lints.iter().find(|lint| {
        lint.message == "interface \"tap0\" cannot reach the metadata service at 169.254.169.254:80"
    });
    if let Some(found) = found {
        assert_eq!((found.line, found.field.as_str()), (Some(4), "interfaces[0]"));
        assert_eq!(
            found.suggestion.as_deref(),
            Some(r#"add the rule { "protocol": "TCP", "destination": "169.254.169.0/24", "port": "80" }"#)
        );
    }
    found.is_some()
}

#[test]
fn spec_k27_check_warns_of_each_interface_that_cannot_reach_metadata() {
    let custom = r#"{ "name": "custom" }"#;
    let written = |rule: &str| format!(r#"{{ "name": "custom", "outbound": [{rule}] }}"#);
    let all = written(r#"{ "protocol": "ALL", "destination": "0.0.0.0/0" }"#);
    let explicit = written(r#"{ "protocol": "TCP", "destination": "169.254.169.0/24", "port": "80" }"#);
    // M1, M2, M3, M5, M7.
    assert!(warned("explicit", custom, "\"custom\""));
    assert!(warned("explicit", &all, "\"custom\""));
    assert!(!warned("explicit", &explicit, "\"custom\""));
    assert!(!warned("explicit", "", "\"default\""));
    assert!(warned("explicit", r#"{ "name": "default", "outbound": [] }"#, "\"default\""));
    assert!(warned("explicit", &format!(r#"{custom}, {{ "name": "second" }}"#), "\"custom\", \"second\""));
    assert!(!warned("explicit", custom, "\"custom\", \"default\""));
    // The rule has to be for that address, that protocol and that port, and within 169.254.0.0/16.
    for rule in [
        r#"{ "protocol": "TCP", "destination": "169.254.169.0/25", "port": "80" }"#,
        r#"{ "protocol": "UDP", "destination": "169.254.169.0/24", "port": "80" }"#,
        r#"{ "protocol": "TCP", "destination": "169.254.169.0/24", "port": "81" }"#,
        r#"{ "protocol": "TCP", "destination": "169.254.0.0/15", "port": "80" }"#,
    ] {
        assert!(warned("explicit", &written(rule), "\"custom\""), "{rule}");
    }
    for rule in [
        r#"{ "protocol": "TCP", "destination": "169.254.0.0/16", "port": "1-100" }"#,
        r#"{ "protocol": "ALL", "destination": "169.254.169.254/32" }"#,
        r#"{ "protocol": 6, "destination": "169.254.169.254/32", "port": "ALL" }"#,
    ] {
        assert!(!warned("explicit", &written(rule), "\"custom\""), "{rule}");
    }
}

/// Its address may be a member, however odd that is.
#[test]
fn spec_k27_metadata_is_reached_through_a_group_that_it_is_a_member_of() {
    for (peer, reached) in [("169.254.169.254", true), ("169.254.169.253", false)] {
        let text = with(&format!(
            r#""settings": {{ "metadata": "cidr" }}, "security_groups": [{{ "name": "service" }},
{{ "name": "custom", "outbound": [{{ "protocol": "TCP", "destination": "@service", "port": "80" }}] }}],
"interfaces": [{{ "name": "tap0", "addresses": ["10.0.0.1"], "security_groups": ["custom"] }}],
"peers": [{{ "address": "{peer}", "security_groups": ["service"] }}]"#
        ));
        let lints = good(&text).lints;
        let warned = lints.iter().any(|lint| lint.message.contains("cannot reach the metadata service"));
        assert_eq!(warned, !reached, "{peer}");
    }
}

#[test]
fn spec_k27_the_other_two_settings() {
    let closed = r#"{ "name": "custom", "outbound": [] }"#;
    let all = r#"{ "name": "custom", "outbound": [{ "protocol": "ALL", "destination": "0.0.0.0/0" }] }"#;
    assert!(!warned("cidr", all, "\"custom\""));
    assert!(!warned("cidr", r#"{ "name": "custom" }"#, "\"custom\""));
    assert!(warned("cidr", closed, "\"custom\""));
    assert!(!warned("exempt", closed, "\"custom\""));
}

#[test]
fn spec_d26_the_failsafe_of_host_interfaces_is_shown() {
    let text = |failsafe: &str| {
        with(&format!(
            r#""settings": {{ "metadata": "exempt" {failsafe} }}, "interfaces": [{{ "name": "eth0", "role": "host", "security_groups": ["default"] }}]"#
        ))
    };
    assert_eq!(
        lints(&text("")),
        [
            "3:55 interfaces[0].role: failsafe of \"eth0\": inbound TCP 22 and outbound TCP and UDP 53 always pass, from and to anywhere"
        ]
    );
    let written = r#", "failsafe": { "inbound": [{ "protocol": "TCP", "source": "10.0.0.0/8", "port": "22" }], "outbound": [] }"#;
    let shown = lints(&text(written));
    assert!(
        shown[0].ends_with("inbound TCP 22 from 10.0.0.0/8 and outbound nothing always passes"),
        "{shown:?}"
    );
}

/// What `check` says of the guest baseline: messages by severity.
fn of_baseline(baseline: &str, interface: &str) -> Vec<(Severity, String)> {
    let text = with(&format!(
        r#""settings": {{ "guest_baseline": {{ {baseline} }} }},
"interfaces": [{{ "name": "tap0", "security_groups": ["default"]{interface} }}]"#
    ));
    let lints = good(&text).lints;
    lints
        .into_iter()
        .inspect(|lint| assert_eq!((lint.line, lint.column), (Some(4), Some(16))))
        .filter(|lint| lint.field != "interfaces[0].role")
        .map(|lint| (lint.severity, format!("{}: {}", lint.field, lint.message)))
        .collect()
}

#[test]
fn spec_section_6_check_says_whose_hardware_address_is_not_checked() {
    let address = r#", "addresses": ["10.0.0.1"]"#;
    let with_mac = format!(r#"{address}, "mac": "52:54:00:12:34:56""#);
    assert_eq!(
        of_baseline("", address),
        [(
            Severity::Note,
            "interfaces[0].mac: interface \"tap0\" has no \"mac\", so its hardware address is not checked"
                .to_owned()
        )]
    );
    assert_eq!(of_baseline("", &format!(r#"{address}, "kind": "container""#)).len(), 1);
    for (baseline, interface) in [
        ("", with_mac),
        (r#""source_mac": false"#, address.to_owned()),
        ("", format!(r#"{address}, "role": "host""#)),
        ("", r#", "kind": "bare_metal""#.to_owned()),
    ] {
        let found = of_baseline(baseline, &interface);
        assert!(found.iter().all(|(severity, _)| *severity != Severity::Note), "{interface}: {found:?}");
    }
}

#[test]
fn spec_section_6_check_says_whose_source_addresses_are_not_checked() {
    let message = |baseline: &str, addresses: &str| {
        let found = of_baseline(baseline, &format!(r#", "mac": "52:54:00:12:34:56"{addresses}"#));
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().next()
    };
    let no_member =
        "interfaces[0].addresses: interface \"tap0\" has no address, so \"@group\" rules never mean it";
    let unchecked = format!("{no_member} and its source addresses are not checked");
    assert_eq!(message("", ""), Some((Severity::Warning, unchecked)));
    let no_member = Some((Severity::Warning, no_member.to_owned()));
    assert_eq!(message(r#""source_address": false"#, ""), no_member);
    assert_eq!(message("", r#", "allowed_addresses": ["10.0.0.1"]"#), no_member);
    // One family is enough.
    assert_eq!(message("", r#", "addresses": ["10.0.0.1"]"#), None);
    assert_eq!(message("", r#", "addresses": ["2001:db8::1"]"#), None);
}

#[test]
fn spec_section_6_check_says_that_a_host_is_no_trunk() {
    let trunk = r#", "mac": "52:54:00:12:34:56", "addresses": ["10.0.0.1"], "trunk": true"#;
    assert_eq!(of_baseline("", trunk), []);
    assert_eq!(
        of_baseline("", &format!(r#"{trunk}, "role": "host""#)),
        [(
            Severity::Note,
            "interfaces[0].trunk: interface \"tap0\" has role \"host\", where \"trunk\" has no effect: only guests are held to have no VLAN tags".to_owned()
        )]
    );
    assert_eq!(of_baseline("", &format!(r#"{trunk}, "role": "host""#).replace("true", "false")), []);
}

#[test]
fn spec_k3_rules_on_bare_metal_are_not_enforced() {
    let text =
        with(r#""interfaces": [{ "name": "eth0", "kind": "bare_metal", "security_groups": ["default"] }]"#);
    assert_eq!(
        lints(&text),
        ["3:16 interfaces[0].security_groups: interface \"eth0\": rules are not enforced on bare metal"]
    );
}

#[test]
fn a_managed_pattern_for_everything_and_a_peer_at_home_are_pointed_out() {
    assert_eq!(
        lints(&with(r#""settings": { "managed": ["tap*", "*"] }"#)),
        [
            "3:26 settings.managed: the managed pattern \"*\" closes every device without a policy, the host's own NICs too"
        ]
    );
    assert!(lints(&with(r#""settings": { "managed": ["tap*"] }"#)).is_empty());
    let text = with(
        r#""interfaces": [{ "name": "tap0", "mac": "52:54:00:12:34:56", "addresses": ["10.0.0.1"], "security_groups": ["default"] }],
"peers": [{ "address": "10.0.0.1", "security_groups": ["default"] }]"#,
    );
    assert_eq!(
        lints(&text),
        ["4:11 peers[0].address: peer 10.0.0.1 is the address of interface \"tap0\" here"]
    );
}
