//! KakaoCloud's shapes.

use serde_json::{Value, json};
use sg_daemon::carry::{Options, kakao};

use crate::{imported, loaded, losses, parsed};

fn rule(direction: &str, protocol: &str, ports: [Value; 2], net: &str) -> Value {
    let [min, max] = ports;
    json!({ "id": "r", "version": "v2", "direction": direction, "protocol": protocol, "port_range_min": min,
        "port_range_max": max, "remote_ip_prefix": net, "remote_group_id": null, "remote_group_name": null,
        "description": "" })
}

#[test]
fn ports_come_in_four_forms_and_the_metadata_service_keeps_its_rule() {
    let mut grouped = rule("ingress", "TCP", [json!("22"), json!("22")], "");
    grouped["remote_ip_prefix"] = Value::Null;
    grouped["remote_group_id"] = json!("g2");
    let rules = json!([
        rule("ingress", "TCP", [json!(80), json!(80)], "0.0.0.0/0"),
        rule("ingress", "UDP", [json!("1000"), json!("2000")], "10.0.0.0/8"),
        rule("ingress", "TCP", [json!("ALL"), json!("ALL")], "10.0.0.5/32"),
        rule("ingress", "ICMP", [Value::Null, Value::Null], "10.0.0.0/8"),
        grouped,
        rule("egress", "ALL", [json!("ALL"), Value::Null], "0.0.0.0/0"),
    ]);
    let document = json!({
        "security_groups": [
            { "id": "g1", "name": "web-server", "description": "웹", "project_id": "p1", "rules": rules },
            { "id": "g2", "name": "bastion", "project_id": "p1", "rules": [] },
        ],
        "network_interfaces": [
            { "id": "n1", "private_ip": "10.0.0.5", "security_groups": [{ "id": "g1", "name": "web-server" }],
              "device_id": "i-1", "mac_address": "fa:16:3e:00:00:01" },
            { "id": "n2", "private_ip": "10.0.0.6", "security_groups": ["g2"] },
        ],
        "pagination": { "total": 2 },
    });
    let options = Options { devices: [("n1".to_owned(), "tap0".to_owned())].into(), ..Options::default() };
    let (texts, report) = imported(kakao::import, &document, &options);
    assert_eq!((losses(&report), &report.notes), (Vec::new(), &Vec::new()));
    let file = &parsed(&texts)[0];
    assert_eq!(file["settings"], Value::Null, "explicit is the default (K27)");
    let expected = json!([
        { "protocol": "TCP", "source": "0.0.0.0/0", "port": "80" },
        { "protocol": "UDP", "source": "10.0.0.0/8", "port": "1000-2000" },
        { "protocol": "TCP", "source": "10.0.0.5/32", "port": "ALL" },
        { "protocol": "ICMP", "source": "10.0.0.0/8" },
        { "protocol": "TCP", "source": "@bastion", "port": "22" },
    ]);
    assert_eq!(file["security_groups"][0]["inbound"], expected);
    assert_eq!(
        file["security_groups"][0]["outbound"],
        json!([{ "protocol": "ALL", "destination": "0.0.0.0/0" }])
    );
    let expected = json!([{ "name": "tap0", "instance": "i-1", "mac": "fa:16:3e:00:00:01", "addresses": ["10.0.0.5"],
        "security_groups": ["web-server"] }]);
    assert_eq!(file["interfaces"], expected);
    assert_eq!(file["peers"], json!([{ "address": "10.0.0.6", "security_groups": ["bastion"] }]));
    loaded(&texts);
}

#[test]
fn what_cannot_be_carried_is_told_with_its_place() {
    let mut both = rule("ingress", "TCP", [json!(1), json!(2)], "10.0.0.0/8");
    both["remote_group_id"] = json!("g1");
    let rules = json!([
        both,
        rule("ingress", "ICMP", [json!(8), json!(0)], "10.0.0.0/8"),
        rule("ingress", "TCP", [json!("http"), json!("http")], "10.0.0.0/8"),
        rule("ingress", "TCP", [json!(0), json!(80)], "10.0.0.0/8"),
        rule("ingress", "TPC", [json!(1), json!(1)], "10.0.0.0/8"),
        rule("ingress", "TCP", [json!(1), json!(1)], "office"),
    ]);
    let document = json!({ "security_groups": [{ "id": "g1", "name": "web-server", "rules": rules }] });
    let (texts, report) = imported(kakao::import, &document, &Options::default());
    assert_eq!(parsed(&texts)[0]["security_groups"][0]["inbound"], json!([]));
    let told = losses(&report);
    for (index, words) in [
        "both remote_group_id and remote_ip_prefix",
        "neither TCP nor UDP",
        "\"http\" is not a port",
        "within 1 to 65535",
        "unknown protocol \"TPC\"",
        "\"office\" is not a network",
    ]
    .iter()
    .enumerate()
    {
        let place = format!("security_groups[0].rules[{index}]");
        assert!(told[index].starts_with(&place) && told[index].contains(words), "{words}: {told:#?}");
    }
    assert_eq!(told.len(), 6);
}
