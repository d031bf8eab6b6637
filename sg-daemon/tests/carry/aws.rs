//! Amazon EC2's shapes.

use serde_json::{Value, json};
use sg_daemon::carry::{Input, Options, PrefixEntry, aws};

use crate::{imported, input, loaded, losses, parsed};

fn group(id: &str, name: &str, inbound: &Value) -> Value {
    json!({
        "GroupId": id, "GroupName": name, "Description": name, "OwnerId": "111122223333", "VpcId": "vpc-1",
        "IpPermissions": inbound,
        "IpPermissionsEgress": [{ "IpProtocol": "-1", "IpRanges": [{ "CidrIp": "0.0.0.0/0" }] }],
        "Tags": [], "SecurityGroupArn": "arn:aws:ec2:ap-northeast-2:111122223333:security-group/x",
    })
}

fn document(groups: &Value, interfaces: &Value) -> Value {
    json!({ "SecurityGroups": groups, "NetworkInterfaces": interfaces })
}

#[test]
fn groups_interfaces_and_peers_become_one_file_in_the_layout_of_the_examples() {
    let groups = json!([
        group(
            "sg-01",
            "default",
            &json!([{ "IpProtocol": "-1", "UserIdGroupPairs": [{ "GroupId": "sg-01", "UserId": "111122223333" }] }])
        ),
        group(
            "sg-02",
            "web tier",
            &json!([
                { "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443,
                  "IpRanges": [{ "CidrIp": "0.0.0.0/0", "Description": "HTTPS" }], "Ipv6Ranges": [{ "CidrIpv6": "::/0" }] },
                { "IpProtocol": "icmp", "FromPort": 8, "ToPort": -1, "IpRanges": [{ "CidrIp": "10.0.0.0/8" }] },
                { "IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "UserIdGroupPairs": [{ "GroupId": "sg-01" }] },
                { "IpProtocol": "50", "IpRanges": [{ "CidrIp": "192.0.2.0/24" }] },
            ])
        ),
    ]);
    let interfaces = json!([
        { "NetworkInterfaceId": "eni-1", "VpcId": "vpc-1", "MacAddress": "02:ab:00:00:00:01", "Description": "",
          "Groups": [{ "GroupId": "sg-02", "GroupName": "web tier" }, { "GroupId": "sg-01", "GroupName": "default" }],
          "PrivateIpAddresses": [{ "PrivateIpAddress": "10.0.0.5", "Primary": true }, { "PrivateIpAddress": "10.0.0.6" }],
          "Ipv6Addresses": [{ "Ipv6Address": "fd00::5" }], "Attachment": { "InstanceId": "i-0abc" }, "SourceDestCheck": true },
        { "NetworkInterfaceId": "eni-2", "VpcId": "vpc-1", "Groups": [{ "GroupId": "sg-01" }],
          "PrivateIpAddress": "10.0.0.9", "InterfaceType": "lambda" },
    ]);
    let options = Options { devices: [("eni-1".to_owned(), "tap0".to_owned())].into(), ..Options::default() };
    let (texts, report) = imported(aws::import, &document(&groups, &interfaces), &options);
    assert_eq!(losses(&report), Vec::<String>::new());
    let expected = r#"{
  "version": 1,
  "project": "111122223333",
  "vpc": "vpc-1",
  "ipv6": true,
  "settings": { "metadata": "exempt" },
  "security_groups": [
    {
      "name": "default",
      "description": "default",
      "inbound": [
        { "protocol": "ALL", "source": "@default" }
      ],
      "outbound": [
        { "protocol": "ALL", "destination": "0.0.0.0/0" }
      ]
    },
    {
      "name": "web-tier",
      "description": "web tier",
      "inbound": [
        { "protocol": "TCP", "source": "0.0.0.0/0", "port": "443", "description": "HTTPS" },
        { "protocol": "TCP", "source": "::/0", "port": "443" },
        { "protocol": "ICMP", "source": "10.0.0.0/8", "icmp_type": 8 },
        { "protocol": 1, "source": "@default" },
        { "protocol": 50, "source": "192.0.2.0/24" }
      ],
      "outbound": [
        { "protocol": "ALL", "destination": "0.0.0.0/0" }
      ]
    }
  ],
  "interfaces": [
    {
      "name": "tap0",
      "instance": "i-0abc",
      "mac": "02:ab:00:00:00:01",
      "addresses": ["10.0.0.5", "10.0.0.6", "fd00::5"],
      "security_groups": ["web-tier", "default"]
    }
  ],
  "peers": [
    { "address": "10.0.0.9", "security_groups": ["default"] }
  ]
}
"#;
    assert_eq!(texts, [expected]);
    loaded(&texts);
    let told = report.notes.join("\n");
    for words in ["group sg-02 (\"web tier\") is called \"web-tier\" here", "\"exempt\"", "time service"] {
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn what_cannot_be_carried_is_told_with_its_place_and_left_out() {
    let long = "x".repeat(51);
    let groups = json!([group(
        "sg-01",
        "web-server",
        &json!([
            { "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "PrefixListIds": [{ "PrefixListId": "pl-63a5400a" }] },
            { "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [
                { "GroupId": "sg-99", "UserId": "111122223333" },
                { "GroupId": "sg-98", "UserId": "444455556666", "VpcPeeringConnectionId": "pcx-1", "PeeringStatus": "active" },
                { "GroupId": "sg-97", "UserId": "444455556666" }] },
            { "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{ "CidrIp": "10.0.0.0/8", "Description": long }] },
            { "IpProtocol": "tcp", "FromPort": 0, "ToPort": 100, "IpRanges": [{ "CidrIp": "10.0.0.0/8" }] },
            { "IpProtocol": "udp", "FromPort": 9, "ToPort": 1, "IpRanges": [{ "CidrIp": "10.0.0.0/8" }] },
            { "IpProtocol": "smtp", "IpRanges": [{ "CidrIp": "10.0.0.0/8" }] },
            { "IpProtocol": "icmp", "FromPort": -1, "ToPort": 3, "IpRanges": [{ "CidrIp": "10.0.0.0/8" }] },
            { "IpProtocol": "-1", "IpRanges": [{ "CidrIp": "10.0.0.300/8" }] },
            { "IpProtocol": "-1", "IpRanges": [{ "CidrIp": "10.0.0.0/8" }], "OnlyOnMondays": true },
        ])
    )]);
    let interfaces = json!([{ "NetworkInterfaceId": "eni-2", "Groups": [{ "GroupId": "sg-77" }, { "GroupId": "sg-01" }],
        "PrivateIpAddresses": [{ "PrivateIpAddress": "10.0.0.9" }], "Ipv4Prefixes": [{ "Ipv4Prefix": "10.0.1.0/28" }] }]);
    let mut document = document(&groups, &interfaces);
    document["NextToken"] = json!("more");
    let (texts, report) = imported(aws::import, &document, &Options::default());
    let inbound = &parsed(&texts)[0]["security_groups"][0]["inbound"];
    let expected = json!([
        { "protocol": "TCP", "source": "10.0.0.0/8", "port": "80", "description": "x".repeat(50) },
        { "protocol": "TCP", "source": "10.0.0.0/8", "port": "1-100" },
    ]);
    assert_eq!(inbound, &expected);
    let told = losses(&report);
    let at = "SecurityGroups[0].IpPermissions";
    for (place, words) in [
        ("NextToken".to_owned(), "more pages"),
        (format!("{at}[0].PrefixListIds[0]"), "--prefix-list pl-63a5400a=FILE"),
        (format!("{at}[1].UserIdGroupPairs[0]"), "sg-99, which is not in the input"),
        (format!("{at}[1].UserIdGroupPairs[1]"), "peer VPC (pcx-1)"),
        (format!("{at}[1].UserIdGroupPairs[2]"), "another account (444455556666)"),
        (format!("{at}[2].IpRanges[0].Description"), "51 characters, 50 fit"),
        (format!("{at}[3].FromPort"), "port 0 is left out"),
        (format!("{at}[4].FromPort"), "9 to 1 are not ports"),
        (format!("{at}[5].IpProtocol"), "unknown protocol \"smtp\""),
        (format!("{at}[6].FromPort"), "not an ICMP type and code"),
        (format!("{at}[7].IpRanges[0]"), "\"10.0.0.300/8\" is not an IPv4 network"),
        (format!("{at}[8]"), "the field OnlyOnMondays is not known"),
        ("NetworkInterfaces[0].Groups[0]".to_owned(), "sg-77, which is not in the input"),
        ("NetworkInterfaces[0].Ipv4Prefixes[0]".to_owned(), "whole blocks"),
    ] {
        let found =
            told.iter().filter(|loss| loss.starts_with(&format!("{place}: ")) && loss.contains(words));
        assert_eq!(found.count(), 1, "{place} {words}: {told:#?}");
    }
    assert_eq!(told.len(), 14, "{told:#?}");
}

#[test]
fn prefix_lists_that_are_given_are_written_out() {
    let list = json!({ "Entries": [{ "Cidr": "52.219.0.0/20", "Description": "S3" }, { "Cidr": "2600:1f01::/36" }] });
    let entries = aws::prefix_list(&input(&list)).unwrap();
    assert_eq!(
        entries[0],
        PrefixEntry { net: "52.219.0.0/20".parse().unwrap(), description: "S3".to_owned() }
    );
    let permission = json!([{ "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "PrefixListIds": [{ "PrefixListId": "pl-1" }] }]);
    let options = Options { prefix_lists: [("pl-1".to_owned(), entries)].into(), ..Options::default() };
    let document = document(&json!([group("sg-01", "web-server", &permission)]), &json!([]));
    let (texts, report) = imported(aws::import, &document, &options);
    assert_eq!(losses(&report), Vec::<String>::new());
    let expected = json!([
        { "protocol": "TCP", "source": "52.219.0.0/20", "port": "443", "description": "S3" },
        { "protocol": "TCP", "source": "2600:1f01::/36", "port": "443" },
    ]);
    assert_eq!(parsed(&texts)[0]["security_groups"][0]["inbound"], expected);
}

#[test]
fn an_interface_that_may_forward_is_held_to_no_address_and_is_a_member_all_the_same() {
    let groups = json!([group("sg-01", "nat-hosts", &json!([]))]);
    let interfaces = json!([{ "NetworkInterfaceId": "eni-1", "Groups": [{ "GroupId": "sg-01" }], "SourceDestCheck": false,
        "PrivateIpAddresses": [{ "PrivateIpAddress": "10.0.0.5" }], "TagSet": [{ "Key": "sgd:device", "Value": "tap7" }] }]);
    let (texts, report) = imported(aws::import, &document(&groups, &interfaces), &Options::default());
    assert_eq!(losses(&report), Vec::<String>::new());
    let file = &parsed(&texts)[0];
    assert_eq!(file["interfaces"], json!([{ "name": "tap7", "security_groups": ["nat-hosts"] }]));
    assert_eq!(file["peers"], json!([{ "address": "10.0.0.5", "security_groups": ["nat-hosts"] }]));
}

#[test]
fn each_vpc_has_a_file_and_a_default_that_differs_has_a_name_of_its_own() {
    let other = |mut group: Value| {
        group["VpcId"] = json!("vpc-2");
        group
    };
    let own = json!([{ "IpProtocol": "-1", "UserIdGroupPairs": [{ "GroupId": "sg-21" }] }]);
    let open = json!([{ "IpProtocol": "-1", "IpRanges": [{ "CidrIp": "10.0.0.0/8" }] }]);
    let groups = json!([
        group(
            "sg-11",
            "default",
            &json!([{ "IpProtocol": "-1", "UserIdGroupPairs": [{ "GroupId": "sg-11" }] }])
        ),
        other(group("sg-21", "default", &own)),
        other(group("sg-22", "web-server", &own)),
    ]);
    let (texts, report) = imported(aws::import, &document(&groups, &json!([])), &Options::default());
    assert_eq!(losses(&report), Vec::<String>::new());
    let names = |texts: &[String], at: usize| {
        let groups = parsed(texts)[at]["security_groups"].clone();
        groups
            .as_array()
            .into_iter()
            .flatten()
            .map(|group| group["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&texts, 0), names(&texts, 1)),
        (vec!["default".to_owned()], vec!["web-server".to_owned()])
    );
    loaded(&texts);

    let groups = json!([
        group("sg-11", "default", &open),
        other(group("sg-21", "default", &own)),
        other(group("sg-22", "web-server", &own)),
    ]);
    let (texts, report) = imported(aws::import, &document(&groups, &json!([])), &Options::default());
    assert_eq!(names(&texts, 1), ["default-vpc-2", "web-server"]);
    assert_eq!(parsed(&texts)[1]["security_groups"][1]["inbound"][0]["source"], "@default-vpc-2");
    assert!(
        report.notes.iter().any(|note| note.contains("it is called \"default-vpc-2\" here")),
        "{:?}",
        report.notes
    );
    loaded(&texts);
}

#[test]
fn the_newer_form_of_rules_says_the_same() {
    let plain = json!([
        { "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{ "CidrIp": "10.0.0.0/8", "Description": "inside" }] },
        { "IpProtocol": "-1", "UserIdGroupPairs": [{ "GroupId": "sg-01" }] },
    ]);
    let document = document(&json!([group("sg-01", "web-server", &plain)]), &json!([]));
    let (texts, _) = imported(aws::import, &document, &Options::default());
    let rule = |fields: Value| {
        let mut rule = json!({ "SecurityGroupRuleId": "sgr-1", "GroupId": "sg-01", "GroupOwnerId": "111122223333", "IsEgress": false, "Tags": [] });
        rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        rule
    };
    let rules = json!([
        rule(
            json!({ "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "CidrIpv4": "10.0.0.0/8", "Description": "inside" })
        ),
        rule(
            json!({ "IpProtocol": "-1", "FromPort": -1, "ToPort": -1, "ReferencedGroupInfo": { "GroupId": "sg-01" } })
        ),
        rule(
            json!({ "IsEgress": true, "IpProtocol": "-1", "FromPort": -1, "ToPort": -1, "CidrIpv4": "0.0.0.0/0" })
        ),
    ]);
    let mut both = document.clone();
    both["SecurityGroupRules"] = rules.clone();
    assert_eq!(imported(aws::import, &both, &Options::default()).0, texts);

    let alone = json!({ "SecurityGroupRules": rules });
    let (none, report) = imported(aws::import, &alone, &Options::default());
    assert!(none.is_empty() && losses(&report)[0].contains("--vpc NAME"), "{report:?}");
    let options = Options { vpc: Some("vpc-9".to_owned()), ..Options::default() };
    let (texts, report) = imported(aws::import, &alone, &options);
    assert_eq!(losses(&report), Vec::<String>::new());
    assert_eq!(parsed(&texts)[0]["security_groups"][0]["name"], "sg-01");
    assert_eq!(parsed(&texts)[0]["security_groups"][0]["inbound"][1]["source"], "@sg-01");
}

#[test]
fn more_than_the_quotas_raises_them_in_every_file() {
    let mut groups: Vec<Value> =
        (0..101).map(|n| group(&format!("sg-{n:04}"), &format!("group-{n:04}"), &json!([]))).collect();
    let ranges: Vec<Value> = (0..=255).map(|n| json!({ "CidrIp": format!("10.0.{n}.0/24") })).collect();
    groups[0]["IpPermissions"] = json!([{ "IpProtocol": "-1", "IpRanges": ranges }]);
    groups[1]["VpcId"] = json!("vpc-2");
    let attached: Vec<Value> = (2..8).map(|n| json!({ "GroupId": format!("sg-{n:04}") })).collect();
    let interfaces = json!([{ "NetworkInterfaceId": "eni-1", "Groups": attached, "TagSet": [{ "Key": "sgd:device", "Value": "tap0" }],
        "PrivateIpAddresses": [{ "PrivateIpAddress": "10.0.0.9" }] }]);
    let (texts, report) = imported(aws::import, &document(&json!(groups), &interfaces), &Options::default());
    assert_eq!(losses(&report), Vec::<String>::new());
    let quotas = json!({ "groups_per_project": 101, "rules_per_group": 257, "groups_per_interface": 6 });
    for file in parsed(&texts) {
        assert_eq!(file["settings"]["quotas"], quotas);
    }
    loaded(&texts);
    assert_eq!(report.notes.iter().filter(|note| note.contains("is raised from")).count(), 3);
}

#[test]
fn what_is_something_else_is_refused_with_the_command_that_makes_the_right_one() {
    let refused = |text: &str| {
        let input = Input { name: "x.json".to_owned(), text: text.as_bytes().to_vec() };
        aws::import(&[input], &Options::default(), &|_, _| {}).unwrap_err().to_string()
    };
    let told = refused(r#"{ "security_groups": [] }"#);
    assert!(told.starts_with("x.json: expected an object with \"SecurityGroups\""), "{told}");
    assert!(
        told.contains("try `sgctl import neutron`") && told.contains("aws ec2 describe-security-groups >"),
        "{told}"
    );
    assert!(refused("{\n  \"SecurityGroups\": [{ \"GroupId\": \"sg-1\",\n \"IpPermissions\": [{ \"FromPort\": \"x\" }] }]\n}")
        .starts_with("x.json:3:36: SecurityGroups[0].IpPermissions[0].FromPort: invalid type: string \"x\""), "{}",
        refused("{\n  \"SecurityGroups\": [{ \"GroupId\": \"sg-1\",\n \"IpPermissions\": [{ \"FromPort\": \"x\" }] }]\n}"));
    assert!(
        refused("{ \"SecurityGroups\": [").starts_with("x.json:1:"),
        "{}",
        refused("{ \"SecurityGroups\": [")
    );
    assert!(refused("{ \"SecurityGroups\": [] } []").contains("trailing characters"));
    assert!(refused(r#"{ "version": 1, "project": "p" }"#).contains("sgctl export"));
}
