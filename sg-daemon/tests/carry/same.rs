//! Random documents: the policy that comes of one answers as the cloud does, and going out and in again changes nothing.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use sg_daemon::carry::{DEVICE_TAG, Options, Report, aws, kakao, neutron};
use sg_daemon::policy::model::Model;
use sg_oracle::rules::{self, Direction, Question, Transport};

use crate::cloud;
use crate::{Import, imported, loaded, losses, parsed};

const V4: [&str; 7] = [
    "0.0.0.0/0",
    "10.0.0.0/24",
    "10.0.0.0/30",
    "10.0.0.4/30",
    "10.0.0.5/32",
    "169.254.169.0/24",
    "8.8.8.0/24",
];
const V6: [&str; 5] = ["::/0", "fd00::/64", "fd00::4/126", "fd00::5/128", "2001:db8::/32"];
const NAMES: [&str; 7] =
    ["default", "web-server", "web server", "웹서버", "db", "launch-wizard (1)", "a_b-c"];
const PORTS: [u16; 6] = [1, 22, 80, 443, 8080, 65535];

fn ports() -> impl Strategy<Value = (u16, u16)> {
    (select(&PORTS[..]), select(&PORTS[..])).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

/// Every packet that is worth asking about.
fn questions(interface: &str) -> Vec<Question> {
    let members = (1..=8).flat_map(|n| [format!("10.0.0.{n}"), format!("fd00::{n}")]);
    let others = ["10.0.1.1", "8.8.8.8", "169.254.169.254", "2001:db8::1", "fd01::1"].map(str::to_owned);
    let mut questions = Vec::new();
    for remote in members.chain(others) {
        let remote: IpAddr = remote.parse().unwrap();
        let mut transports = vec![Transport::Other(47), Transport::Other(0)];
        for port in [1, 2, 22, 23, 80, 81, 443, 8080, 65534, 65535] {
            transports.extend([Transport::Tcp { port }, Transport::Udp { port }]);
        }
        for (kind, code) in [(8, 0), (8, 1), (128, 0), (3, 4), (0, 0)] {
            transports.push(Transport::Icmp { kind, code });
        }
        for direction in [Direction::Inbound, Direction::Outbound] {
            questions.extend(transports.iter().map(|&transport| Question {
                interface: interface.to_owned(),
                direction,
                remote,
                transport,
            }));
        }
    }
    questions
}

/// What every random document has to satisfy.
fn same(
    document: &Value,
    import: Import,
    export: fn(&Model) -> (Value, Report),
    allows: fn(&Value, &Value, &Question) -> bool,
    here: &[(String, Value)],
) -> Result<(), TestCaseError> {
    let options = Options { host: Some("this-host".to_owned()), ..Options::default() };
    let (texts, report) = imported(import, document, &options);
    prop_assert_eq!(losses(&report), Vec::<String>::new());
    let model = loaded(&texts);
    let files = parsed(&texts);
    let mut allowed = 0;
    for (device, interface) in here {
        for question in questions(device) {
            let (ours, theirs) = (rules::allows(&files, &question), allows(document, interface, &question));
            allowed += usize::from(theirs);
            prop_assert_eq!(ours, theirs, "{:?}\n{:#}\n{}", question, document, texts.join("\n"));
        }
    }
    ALLOWED.fetch_add(allowed, std::sync::atomic::Ordering::Relaxed);
    let (exported, report) = export(&model);
    prop_assert_eq!(losses(&report), Vec::<String>::new(), "{}", texts.join("\n"));
    let (again, report) = imported(import, &exported, &Options::default());
    prop_assert_eq!(losses(&report), Vec::<String>::new());
    prop_assert_eq!(&again, &texts, "{:#}", exported);
    Ok(())
}

/// So that a generator of rules that never fit would be noticed.
static ALLOWED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn run(
    cases: u32,
    strategy: impl Strategy<Value = Value>,
    test: impl Fn(Value) -> Result<(), TestCaseError>,
) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let before = ALLOWED.load(std::sync::atomic::Ordering::Relaxed);
    runner.run(&strategy, test).unwrap_or_else(|error| panic!("{error}"));
    assert!(ALLOWED.load(std::sync::atomic::Ordering::Relaxed) > before + cases as usize);
}

fn aws_permission(groups: Vec<String>) -> impl Strategy<Value = Value> {
    let protocol = prop_oneof![
        Just(json!({ "IpProtocol": "-1" })),
        Just(json!({ "IpProtocol": "47" })),
        (select(&["tcp", "udp", "6"][..]), ports())
            .prop_map(|(name, (from, to))| json!({ "IpProtocol": name, "FromPort": from, "ToPort": to })),
        select(&["tcp", "udp"][..])
            .prop_map(|name| json!({ "IpProtocol": name, "FromPort": 0, "ToPort": 65535 })),
        (select(&["icmp", "icmpv6", "58"][..]), select(&[(-1, -1), (8, -1), (8, 0), (128, -1), (3, 4)][..]))
            .prop_map(|(name, (from, to))| json!({ "IpProtocol": name, "FromPort": from, "ToPort": to })),
    ];
    let text = select(&["", "from the office", "사무실에서"][..]);
    (
        protocol,
        vec((select(&V4[..]), text.clone()), 0..3),
        vec((select(&V6[..]), text.clone()), 0..2),
        vec((select(groups), text), 0..3),
    )
        .prop_map(|(mut permission, v4, v6, pairs)| {
            let described = |name: &str, value: &str, text: &str| match text {
                "" => json!({ name: value }),
                text => json!({ name: value, "Description": text }),
            };
            permission["IpRanges"] = v4.iter().map(|(net, text)| described("CidrIp", net, text)).collect();
            permission["Ipv6Ranges"] =
                v6.iter().map(|(net, text)| described("CidrIpv6", net, text)).collect();
            permission["UserIdGroupPairs"] =
                pairs.iter().map(|(group, text)| described("GroupId", group, text)).collect();
            permission["PrefixListIds"] = json!([]);
            permission
        })
}

/// A VPC's groups and interfaces.
fn aws_vpc(number: usize) -> impl Strategy<Value = (Vec<Value>, Vec<Value>)> {
    subsequence(&NAMES[..], 1..5).prop_flat_map(move |names| {
        let ids: Vec<String> = (0..names.len()).map(|n| format!("sg-{number}{n:016x}")).collect();
        let groups: Vec<_> = names
            .iter()
            .zip(&ids)
            .map(|(name, id)| {
                let (name, id) = ((*name).to_owned(), id.clone());
                let list = || vec(aws_permission(ids.clone()), 0..4);
                (list(), list()).prop_map(move |(inbound, outbound)| {
                    json!({
                        "GroupId": id, "GroupName": name, "Description": "of a test", "OwnerId": "123456789012",
                        "VpcId": format!("vpc-{number}"), "IpPermissions": inbound, "IpPermissionsEgress": outbound,
                    })
                })
            })
            .collect();
        let interface = (
            subsequence(ids.clone(), 0..=ids.len()),
            subsequence((1..=8).collect::<Vec<u32>>(), 1..3),
            subsequence((1..=8).collect::<Vec<u32>>(), 0..2),
            any::<bool>(),
        );
        (groups, vec(interface, 2..4)).prop_map(move |(groups, interfaces)| {
            let mut used = std::collections::HashSet::new();
            let interfaces = interfaces.into_iter().enumerate().map(|(n, (groups, v4, v6, forwards))| {
                // The first one is here and needs a group to have a VPC.
                let groups = if n == 0 && groups.is_empty() { vec![ids[0].clone()] } else { groups };
                let v4: Vec<_> = v4.into_iter().filter(|n| used.insert((4, *n))).collect();
                let v6: Vec<_> = v6.into_iter().filter(|n| used.insert((6, *n))).collect();
                // One that is here has an address.
                let v4 = if v4.is_empty() && v6.is_empty() { vec![100 + n as u32] } else { v4 };
                let mut interface = json!({
                    "NetworkInterfaceId": format!("eni-{number}{n:016x}"), "VpcId": format!("vpc-{number}"),
                    "Groups": groups.iter().map(|id| json!({ "GroupId": id })).collect::<Value>(),
                    "MacAddress": format!("02:00:00:00:0{number}:0{n}"),
                    "PrivateIpAddresses": v4.iter().map(|n| json!({ "PrivateIpAddress": format!("10.0.0.{n}") })).collect::<Value>(),
                    "Ipv6Addresses": v6.iter().map(|n| json!({ "Ipv6Address": format!("fd00::{n}") })).collect::<Value>(),
                    "SourceDestCheck": !forwards,
                });
                if n == 0 {
                    interface["TagSet"] = json!([{ "Key": DEVICE_TAG, "Value": format!("tap{number}") }]);
                    interface["Attachment"] = json!({ "InstanceId": "i-0123" });
                }
                interface
            });
            let interfaces = interfaces.collect();
            (groups, interfaces)
        })
    })
}

#[test]
fn aws_documents_and_their_policies_allow_the_same_and_go_out_and_in_unchanged() {
    let document = prop_oneof![
        aws_vpc(0).prop_map(|vpc| vec![vpc]),
        (aws_vpc(0), aws_vpc(1)).prop_map(|(one, other)| vec![one, other]),
    ];
    let document = document.prop_map(|vpcs| {
        let (groups, interfaces): (Vec<_>, Vec<_>) = vpcs.into_iter().unzip();
        json!({ "SecurityGroups": groups.concat(), "NetworkInterfaces": interfaces.concat() })
    });
    run(300, document, |document| {
        // Of two VPCs the addresses are the same; an interface knows only those of its own.
        let mut here = Vec::new();
        for interface in cloud::list(&document, "NetworkInterfaces") {
            if let Some(tag) = interface["TagSet"][0]["Value"].as_str() {
                here.push((tag.to_owned(), interface.clone()));
            }
        }
        let export = |model: &Model| {
            let (document, report) = aws::export(model);
            (serde_json::to_value(document).unwrap(), report)
        };
        same(&document, aws::import, export, cloud::aws, &here)
    });
}

fn neutron_rule(groups: Vec<String>) -> impl Strategy<Value = Value> {
    let form = prop_oneof![
        Just((Value::Null, None, None)),
        (select(&["tcp", "udp"][..]), option::of(ports())).prop_map(|(name, range)| {
            (json!(name), range.map(|(min, _)| i64::from(min)), range.map(|(_, max)| i64::from(max)))
        }),
        (
            select(&["icmp", "ipv6-icmp"][..]),
            select(&[(None, None), (Some(8), None), (Some(3), Some(4))][..])
        )
            .prop_map(|(name, (kind, code))| (json!(name), kind, code)),
        Just((json!("gre"), None, None)),
        Just((json!(47), None, None)),
    ];
    let remote = prop_oneof![
        Just((Value::Null, Value::Null, None)),
        select(&V4[..]).prop_map(|net| (json!(net), Value::Null, Some(false))),
        select(&V6[..]).prop_map(|net| (json!(net), Value::Null, Some(true))),
        select(groups).prop_map(|group| (Value::Null, json!(group), None)),
    ];
    (form, remote, any::<bool>(), any::<bool>(), select(&["", "office"][..])).prop_map(
        |((protocol, min, max), (net, group, family), v6, ingress, description)| {
            let v6 = family.unwrap_or(v6);
            // Neutron takes ICMPv6 for IPv6 only.
            let protocol = if protocol == "ipv6-icmp" && !v6 { json!("icmp") } else { protocol };
            json!({
                "id": "r", "direction": if ingress { "ingress" } else { "egress" },
                "ethertype": if v6 { "IPv6" } else { "IPv4" }, "protocol": protocol,
                "port_range_min": min, "port_range_max": max, "remote_ip_prefix": net, "remote_group_id": group,
                "description": description, "revision_number": 0,
            })
        },
    )
}

fn neutron_document() -> impl Strategy<Value = Value> {
    subsequence(&NAMES[..], 1..5).prop_flat_map(|names| {
        let ids: Vec<String> =
            (0..names.len()).map(|n| format!("6e3f8a20-0000-4000-8000-{n:012x}")).collect();
        let groups: Vec<_> = names
            .iter()
            .zip(&ids)
            .map(|(name, id)| {
                let (name, id) = ((*name).to_owned(), id.clone());
                vec(neutron_rule(ids.clone()), 0..8).prop_map(move |rules| {
                    json!({
                        "id": id, "name": name, "description": "", "project_id": "p1", "stateful": true,
                        "security_group_rules": rules,
                    })
                })
            })
            .collect();
        let port = (
            subsequence(ids.clone(), 0..=ids.len()),
            subsequence((1..=8).collect::<Vec<u32>>(), 1..3),
            subsequence((1..=8).collect::<Vec<u32>>(), 0..2),
            option::of(1..=8_u32),
            any::<bool>(),
        );
        (groups, vec(port, 2..4)).prop_map(|(groups, ports)| {
            let mut used = std::collections::HashSet::new();
            let ports = ports.into_iter().enumerate().map(|(n, (groups, v4, v6, pair, open))| {
                let open = open && n == 1;
                let fixed = v4.iter().filter(|n| used.insert((4, **n))).map(|n| format!("10.0.0.{n}"));
                let fixed: Vec<String> = fixed.collect();
                let more = v6.iter().filter(|n| used.insert((6, **n))).map(|n| format!("fd00::{n}"));
                let more: Vec<String> = more.collect();
                let none = fixed.is_empty() && more.is_empty();
                let fixed = if none { vec![format!("10.0.0.{}", 100 + n)] } else { fixed };
                let fixed: Vec<Value> =
                    fixed.into_iter().chain(more).map(|a| json!({ "ip_address": a })).collect();
                let pairs: Vec<Value> = pair
                    .filter(|_| !open)
                    .map(|n| json!({ "ip_address": format!("10.0.0.{n}/32") }))
                    .into_iter()
                    .collect();
                json!({
                    "id": format!("{n}aaaaaaa-bbb0-4000-8000-000000000000"), "project_id": "p1",
                    "mac_address": format!("fa:16:3e:00:00:0{n}"), "fixed_ips": fixed,
                    "allowed_address_pairs": pairs.iter().map(|pair| {
                        json!({ "ip_address": pair["ip_address"].as_str().unwrap().trim_end_matches("/32") })
                    }).collect::<Value>(),
                    "security_groups": if open { Vec::new() } else { groups }, "port_security_enabled": !open,
                    "binding:host_id": if n < 2 { "this-host" } else { "other" }, "device_id": "vm",
                    "device_owner": "compute:nova",
                })
            });
            let ports: Vec<Value> = ports.collect();
            json!({ "security_groups": groups, "ports": ports })
        })
    })
}

#[test]
fn neutron_documents_and_their_policies_allow_the_same_and_go_out_and_in_unchanged() {
    run(400, neutron_document(), |document| {
        let here: Vec<_> = cloud::list(&document, "ports")
            .iter()
            .filter(|port| port["binding:host_id"] == "this-host")
            .map(|port| (format!("tap{}", &port["id"].as_str().unwrap()[..11]), port.clone()))
            .collect();
        let export = |model: &Model| {
            let (document, report) = neutron::export(model);
            (serde_json::to_value(document).unwrap(), report)
        };
        same(&document, neutron::import, export, cloud::neutron, &here)
    });
}

fn kakao_rule(groups: Vec<String>) -> impl Strategy<Value = Value> {
    let port = |number: u16, form: u8| if form == 0 { json!(number) } else { json!(number.to_string()) };
    let form = prop_oneof![
        (select(&["TCP", "UDP"][..]), ports(), 0..2_u8)
            .prop_map(move |(name, (min, max), form)| { (name, port(min, form), port(max, form)) }),
        (select(&["TCP", "UDP"][..]), select(vec![Value::Null, json!("ALL")])).prop_map(|(name, all)| (
            name,
            all.clone(),
            all
        )),
        select(&["ICMP", "ALL"][..]).prop_map(|name| (name, Value::Null, json!("ALL"))),
    ];
    let remote = prop_oneof![
        select(&V4[..]).prop_map(|net| (json!(net), Value::Null)),
        select(groups).prop_map(|group| (Value::Null, json!(group))),
    ];
    (form, remote, any::<bool>()).prop_map(|((protocol, min, max), (net, group), ingress)| {
        json!({
            "id": "r", "direction": if ingress { "ingress" } else { "egress" }, "protocol": protocol,
            "port_range_min": min, "port_range_max": max, "remote_ip_prefix": net, "remote_group_id": group,
            "description": null,
        })
    })
}

#[test]
fn kakao_documents_and_their_policies_allow_the_same_and_go_out_and_in_unchanged() {
    let document = subsequence(&["default", "web-server", "database", "bastion"][..], 1..4).prop_flat_map(|names| {
        let ids: Vec<String> = (0..names.len()).map(|n| format!("id-{n}")).collect();
        let groups: Vec<_> = names
            .iter()
            .zip(&ids)
            .map(|(name, id)| {
                let (name, id) = ((*name).to_owned(), id.clone());
                vec(kakao_rule(ids.clone()), 0..6).prop_map(move |rules| {
                    json!({ "id": id, "name": name, "project_id": "p1", "vpc_id": "v1", "rules": rules })
                })
            })
            .collect();
        let interface = subsequence(ids.clone(), 1..=ids.len());
        (groups, vec(interface, 2..4)).prop_map(|(groups, interfaces)| {
            let interfaces = interfaces.into_iter().enumerate().map(|(n, groups)| {
                json!({
                    "id": format!("nic-{n}"), "private_ip": format!("10.0.0.{}", n * 2 + 1), "instance_id": "vm",
                    "security_groups": groups.iter().map(|id| json!({ "id": id })).collect::<Value>(),
                    "tags": if n == 0 { json!([format!("{DEVICE_TAG}=tap0")]) } else { json!([]) },
                })
            });
            let interfaces: Vec<Value> = interfaces.collect();
            json!({ "security_groups": groups, "network_interfaces": interfaces })
        })
    });
    run(300, document, |document| {
        let here = [("tap0".to_owned(), document["network_interfaces"][0].clone())];
        let export = |model: &Model| {
            let (document, report) = kakao::export(model);
            (serde_json::to_value(document).unwrap(), report)
        };
        same(&document, kakao::import, export, cloud::kakao, &here)
    });
}
