//! Neutron's shapes.

use serde_json::{Value, json};
use sg_daemon::carry::{Options, neutron};

use crate::{imported, loaded, losses, parsed};

#[expect(clippy::needless_pass_by_value, reason = "called with json!(…)")]
fn rule(fields: Value) -> Value {
    let mut rule = json!({
        "id": "c0ffee00-0000-4000-8000-000000000001", "security_group_id": "g1", "project_id": "p1", "tenant_id": "p1",
        "direction": "ingress", "ethertype": "IPv4", "protocol": null, "port_range_min": null, "port_range_max": null,
        "remote_ip_prefix": null, "remote_group_id": null, "remote_address_group_id": null, "normalized_cidr": null,
        "description": "", "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "revision_number": 0,
        "belongs_to_default_sg": false, "tags": [],
    });
    rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    rule
}

/// The rules that Neutron makes for a new group, and for `default` those of its own members.
fn made(default: bool) -> Vec<Value> {
    let mut rules: Vec<Value> =
        ["IPv4", "IPv6"].map(|family| rule(json!({ "direction": "egress", "ethertype": family }))).into();
    if default {
        rules.extend(
            ["IPv4", "IPv6"].map(|family| rule(json!({ "ethertype": family, "remote_group_id": "g1" }))),
        );
    }
    rules
}

fn group(id: &str, name: &str, rules: &[Value]) -> Value {
    json!({ "id": id, "name": name, "description": "", "project_id": "p1", "tenant_id": "p1", "stateful": true,
        "shared": false, "revision_number": 1, "tags": [], "security_group_rules": rules })
}

fn port(id: &str, host: &str, groups: &Value, addresses: &[&str]) -> Value {
    let fixed: Vec<Value> =
        addresses.iter().map(|address| json!({ "ip_address": address, "subnet_id": "s1" })).collect();
    json!({ "id": id, "name": "", "network_id": "n1", "project_id": "p1", "mac_address": "fa:16:3e:11:22:33",
        "admin_state_up": true, "status": "ACTIVE", "device_id": "vm-1", "device_owner": "compute:nova",
        "fixed_ips": fixed, "allowed_address_pairs": [], "security_groups": groups, "port_security_enabled": true,
        "binding:host_id": host, "binding:vif_type": "bridge", "binding:vif_details": { "port_filter": true }, "tags": [] })
}

fn here() -> Options {
    Options { host: Some("compute-1".to_owned()), ..Options::default() }
}

#[test]
fn default_rules_and_ports_become_the_policy_of_one_host() {
    let web = [
        made(false),
        vec![
            rule(json!({ "protocol": "tcp", "port_range_min": 80, "port_range_max": 80, "description": "HTTP" })),
            rule(json!({ "protocol": "icmp", "port_range_min": 8, "port_range_max": 0, "remote_ip_prefix": "10.0.0.7" })),
            rule(json!({ "ethertype": "IPv6", "protocol": "ipv6-icmp" })),
            rule(json!({ "protocol": 112, "remote_ip_prefix": "10.0.0.9/24" })),
        ],
    ]
    .concat();
    let mut pair = port("3d0c42f1-9a77-4e5b-8f00-000000000001", "compute-1", &json!(["g2"]), &["10.0.0.5"]);
    pair["allowed_address_pairs"] = json!([{ "ip_address": "10.0.0.100", "mac_address": "fa:16:3e:11:22:33" }, { "ip_address": "10.0.0.104/31" }]);
    let document = json!({
        "security_groups": [group("g1", "default", &made(true)), group("g2", "web", &web)],
        "ports": [pair, port("p2", "compute-2", &json!(["g1"]), &["10.0.0.6", "fd00::6"])],
    });
    let (texts, report) = imported(neutron::import, &document, &here());
    assert_eq!(losses(&report), Vec::<String>::new());
    let file = &parsed(&texts)[0];
    assert_eq!((&file["project"], &file["vpc"], &file["ipv6"]), (&json!("p1"), &json!("main"), &json!(true)));
    assert_eq!(file["settings"], json!({ "metadata": "cidr" }));
    let all = json!([{ "protocol": "ALL", "destination": "0.0.0.0/0" }, { "protocol": "ALL", "destination": "::/0" }]);
    let expected = json!([
        { "name": "default", "inbound": [{ "protocol": "ALL", "source": "@default" }], "outbound": all },
        { "name": "web-sg", "include_allowed_addresses": true, "inbound": [
            { "protocol": "TCP", "source": "0.0.0.0/0", "port": "80", "description": "HTTP" },
            { "protocol": "ICMP", "source": "10.0.0.7/32", "icmp_type": 8, "icmp_code": 0 },
            { "protocol": "ICMP", "source": "::/0" },
            { "protocol": 112, "source": "10.0.0.0/24" },
        ], "outbound": all },
    ]);
    assert_eq!(file["security_groups"], expected);
    let expected = json!([{ "name": "tap3d0c42f1-9a", "instance": "vm-1", "mac": "fa:16:3e:11:22:33", "addresses": ["10.0.0.5"],
        "allowed_addresses": ["10.0.0.100", "10.0.0.104", "10.0.0.105"], "security_groups": ["web-sg"] }]);
    assert_eq!(file["interfaces"], expected);
    let expected = json!([{ "address": "10.0.0.6", "security_groups": ["default"] },
        { "address": "fd00::6", "security_groups": ["default"] }]);
    assert_eq!(file["peers"], expected);
    loaded(&texts);
}

#[test]
fn a_rule_for_the_members_of_one_family_does_not_reach_those_of_the_other() {
    let rules = [rule(
        json!({ "protocol": "tcp", "port_range_min": 22, "port_range_max": 22, "remote_group_id": "g2" }),
    )];
    let document = json!({
        "security_groups": [group("g1", "database", &rules), group("g2", "bastion", &[])],
        "ports": [port("1aaaaaaa-aaaa", "compute-1", &json!(["g1"]), &["10.0.0.5"]),
            port("2", "compute-2", &json!(["g2"]), &["10.0.0.6", "fd00::6"])],
    });
    let (texts, report) = imported(neutron::import, &document, &here());
    assert_eq!(losses(&report), Vec::<String>::new());
    let file = &parsed(&texts)[0];
    assert_eq!(file["security_groups"][0]["inbound"][0]["source"], "@bastion-ipv4");
    let expected = json!([{ "address": "10.0.0.6", "security_groups": ["bastion", "bastion-ipv4"] },
        { "address": "fd00::6", "security_groups": ["bastion"] }]);
    assert_eq!(file["peers"], expected);
    assert!(report.notes.iter().any(|note| note.contains("one family only")), "{:?}", report.notes);
}

#[test]
fn ports_that_are_not_filtered_and_ports_without_groups() {
    let mut open = port("1aaaaaaa-aaaa", "compute-1", &json!([]), &["10.0.0.5"]);
    open["port_security_enabled"] = json!(false);
    let mut dhcp = port("2aaaaaaa-aaaa", "compute-1", &json!([]), &["10.0.0.2"]);
    dhcp["device_owner"] = json!("network:dhcp");
    let document = json!({
        "security_groups": [group("g1", "default", &made(true))],
        "ports": [open, dhcp, port("3aaaaaaa-aaaa", "compute-1", &json!([]), &["10.0.0.6"])],
    });
    let (texts, report) = imported(neutron::import, &document, &here());
    assert_eq!(losses(&report), Vec::<String>::new());
    let file = &parsed(&texts)[0];
    let names: Vec<&Value> = file["interfaces"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["tap1aaaaaaa-aa", "tap3aaaaaaa-aa"]);
    assert_eq!(
        (&file["interfaces"][0]["kind"], &file["interfaces"][0]["security_groups"]),
        (&json!("bare_metal"), &Value::Null)
    );
    assert_eq!(file["interfaces"][1]["security_groups"], json!(["nothing-allowed"]));
    let last = file["security_groups"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["inbound"], &last["outbound"]), (&json!([]), &json!([])));
    loaded(&texts);
    for words in ["nothing is filtered on it", "network:dhcp", "has no group"] {
        assert!(report.notes.iter().any(|note| note.contains(words)), "{words}: {:?}", report.notes);
    }
}

#[test]
fn what_cannot_be_carried_is_told_with_its_place() {
    let rules = [
        rule(json!({ "remote_address_group_id": "ag1" })),
        rule(json!({ "remote_address_group_id": "ag2", "protocol": "tcp" })),
        rule(json!({ "remote_group_id": "g9" })),
        rule(json!({ "protocol": "sctp", "port_range_min": 80, "port_range_max": 80 })),
        rule(json!({ "protocol": "tcp", "port_range_min": 80 })),
        rule(json!({ "ethertype": "IPv6", "remote_ip_prefix": "10.0.0.0/8" })),
        rule(json!({ "protocol": "magic" })),
        rule(json!({ "remote_ip_prefix": "10.0.0.0/8", "action": "deny" })),
        rule(json!({ "direction": "sideways" })),
    ];
    let mut stateless = group("g1", "web-server", &rules);
    stateless["stateful"] = json!(false);
    let mut one = port("1aaaaaaa-aaaa", "compute-1", &json!(["g1"]), &["10.0.0.5"]);
    one["allowed_address_pairs"] = json!([{ "ip_address": "10.0.0.9", "mac_address": "fa:16:3e:99:99:99" }, { "ip_address": "0.0.0.0/0" }]);
    let document = json!({
        "security_groups": [stateless], "ports": [one],
        "address_groups": [{ "id": "ag2", "name": "office", "addresses": ["192.0.2.0/24", "2001:db8::/32"] }],
    });
    let (texts, report) = imported(neutron::import, &document, &here());
    let inbound = &parsed(&texts)[0]["security_groups"][0]["inbound"];
    assert_eq!(inbound, &json!([{ "protocol": "TCP", "source": "192.0.2.0/24", "port": "ALL" }]));
    let told = losses(&report);
    let at = "security_groups[0].security_group_rules";
    for (place, words) in [
        ("security_groups[0].stateful".to_owned(), "stateless"),
        (format!("{at}[0]"), "/v2.0/address-groups"),
        (format!("{at}[2]"), "g9, which is not in the input"),
        (format!("{at}[3].port_range_min"), "TCP and UDP only"),
        (format!("{at}[4].port_range_min"), "half of a range"),
        (format!("{at}[5]"), "not an IPv6 network"),
        (format!("{at}[6]"), "\"magic\" is not known"),
        (format!("{at}[7]"), "the field action is not known"),
        (format!("{at}[8]"), "neither ingress nor egress"),
        ("ports[0].allowed_address_pairs[0]".to_owned(), "another MAC"),
        ("ports[0].allowed_address_pairs[1]".to_owned(), "more than 256"),
    ] {
        let found =
            told.iter().filter(|loss| loss.starts_with(&format!("{place}: ")) && loss.contains(words));
        assert_eq!(found.count(), 1, "{place} {words}: {told:#?}");
    }
    assert_eq!(told.len(), 11, "{told:#?}");
}
