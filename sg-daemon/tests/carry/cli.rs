//! `sgctl import` and `sgctl export`: files, exit codes and words.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn sgctl(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sgctl")).current_dir(directory).args(arguments).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn group(id: &str, vpc: &str, inbound: &Value) -> Value {
    json!({ "GroupId": id, "GroupName": format!("group-{id}"), "Description": "", "OwnerId": "1", "VpcId": vpc, "IpPermissions": inbound,
        "IpPermissionsEgress": [] })
}

fn site(groups: &Value) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("groups.json"), json!({ "SecurityGroups": groups }).to_string()).unwrap();
    directory
}

#[test]
fn a_policy_goes_to_standard_output_or_to_a_file_that_is_not_replaced() {
    let site = site(&json!([group("sg-1", "vpc-1", &json!([]))]));
    let (code, policy, told) = said(&sgctl(site.path(), &["import", "aws", "groups.json"]));
    assert_eq!(code, Some(0), "{told}");
    assert!(
        policy.contains("\"name\": \"group-sg-1\"") && told.contains("note: AWS never filters"),
        "{policy}{told}"
    );
    // No bar where nobody looks.
    assert!(!told.contains("groups ["), "{told}");

    let to_file = ["import", "aws", "groups.json", "--out", "policy.json"];
    let (code, summary, _) = said(&sgctl(site.path(), &to_file));
    assert_eq!(
        (code, summary.as_str()),
        (Some(0), "policy.json: 1 group, 0 rules, 0 interfaces, 0 peers, 0 losses\n")
    );
    assert_eq!(fs::read_to_string(site.path().join("policy.json")).unwrap(), policy);
    assert_eq!(sgctl(site.path(), &["check", "policy.json"]).status.code(), Some(0));

    fs::write(site.path().join("policy.json"), "mine").unwrap();
    let (code, _, told) = said(&sgctl(site.path(), &to_file));
    assert_eq!(code, Some(2));
    assert!(told.contains("policy.json is there already; --force replaces it"), "{told}");
    assert_eq!(fs::read_to_string(site.path().join("policy.json")).unwrap(), "mine");
    assert_eq!(sgctl(site.path(), &[&to_file[..], &["--force"]].concat()).status.code(), Some(0));
    assert_eq!(fs::read_to_string(site.path().join("policy.json")).unwrap(), policy);
}

#[test]
fn with_a_loss_nothing_is_written_until_it_is_allowed() {
    let lossy = json!([{ "IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "PrefixListIds": [{ "PrefixListId": "pl-1" }] }]);
    let site = site(&json!([group("sg-1", "vpc-1", &lossy)]));
    let import = ["import", "aws", "groups.json", "--out", "policy.json"];
    let (code, _, told) = said(&sgctl(site.path(), &import));
    assert_eq!(code, Some(1));
    assert!(
        told.contains("loss: groups.json: SecurityGroups[0].IpPermissions[0].PrefixListIds[0]: the networks of prefix list pl-1"),
        "{told}"
    );
    assert!(
        told.contains("error: one thing cannot be carried, see above; nothing was written. --allow-loss"),
        "{told}"
    );
    assert!(!site.path().join("policy.json").exists());
    let (code, summary, _) = said(&sgctl(site.path(), &[&import[..], &["--allow-loss", "--json"]].concat()));
    assert_eq!(code, Some(0));
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(
        (&summary["written"], &summary["losses"][0]["file"]),
        (&json!(["policy.json"]), &json!("groups.json"))
    );

    fs::write(site.path().join("pl.json"), r#"{ "Entries": [{ "Cidr": "192.0.2.0/24" }] }"#).unwrap();
    let given = [&import[..], &["--force", "--prefix-list", "pl-1=pl.json"]].concat();
    let (code, _, told) = said(&sgctl(site.path(), &given));
    assert_eq!(code, Some(0), "{told}");
    assert!(fs::read_to_string(site.path().join("policy.json")).unwrap().contains("192.0.2.0/24"));
}

#[test]
fn a_document_cannot_send_commands_to_the_terminal() {
    let mut hostile = group(
        "sg-\u{1b}[31m\n1",
        "vpc-1",
        &json!([{ "IpProtocol": "\u{1b}]0;x\u{7}", "IpRanges": [{ "CidrIp": "\u{1b}c" }] }]),
    );
    hostile["GroupName"] = json!("\u{1b}[2J web");
    let site = site(&json!([hostile]));
    fs::write(site.path().join("keys.json"), "{ \"\\u001b[31m\": 1 }").unwrap();
    for file in ["groups.json", "keys.json"] {
        let (code, out, told) = said(&sgctl(site.path(), &["import", "aws", file]));
        assert!(code != Some(0) && out.is_empty(), "{told}");
        assert!(!told.contains('\u{1b}') && !told.contains('\u{7}'), "{told:?}");
        assert!(
            told.lines()
                .all(|line| ["note: ", "loss: ", "error: "].iter().any(|word| line.starts_with(word))),
            "{told}"
        );
    }
}

#[test]
fn several_vpcs_need_a_directory_and_have_a_file_each() {
    let site = site(&json!([group("sg-1", "vpc-1", &json!([])), group("sg-2", "vpc-2", &json!([]))]));
    let (code, out, told) = said(&sgctl(site.path(), &["import", "aws", "groups.json"]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(told.contains("--out DIR"), "{told}");
    let (code, summary, _) = said(&sgctl(site.path(), &["import", "aws", "groups.json", "--out", "policy"]));
    assert_eq!(code, Some(0));
    assert!(summary.starts_with("policy/vpc-1.json, policy/vpc-2.json: 2 groups"), "{summary}");
    assert_eq!(sgctl(site.path(), &["check", "policy"]).status.code(), Some(0));
    // All or none: one of the two is in the way.
    fs::remove_file(site.path().join("policy/vpc-1.json")).unwrap();
    assert_eq!(
        sgctl(site.path(), &["import", "aws", "groups.json", "--out", "policy"]).status.code(),
        Some(2)
    );
    let left: Vec<_> =
        fs::read_dir(site.path().join("policy")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, ["vpc-2.json"]);
}

#[test]
fn devices_are_given_one_by_one_or_in_a_file() {
    let site = site(&json!([group("sg-1", "vpc-1", &json!([]))]));
    let interfaces: Vec<Value> = (1..4)
        .map(|n| {
            json!({ "NetworkInterfaceId": format!("eni-{n}"), "Groups": [{ "GroupId": "sg-1" }],
        "PrivateIpAddresses": [{ "PrivateIpAddress": format!("10.0.0.{n}") }] })
        })
        .collect();
    fs::write(site.path().join("nics.json"), json!({ "NetworkInterfaces": interfaces }).to_string()).unwrap();
    fs::write(site.path().join("map.txt"), "# here\neni-1=tap1\n\neni-2 = tap2\n").unwrap();
    fs::write(site.path().join("map.json"), r#"{ "eni-1": "tap1", "eni-2": "tap2" }"#).unwrap();
    let import = ["import", "aws", "groups.json", "nics.json"];
    let policies = [
        &["--interface-map", "eni-1=tap1,eni-2=tap2"][..],
        &["--interface-map", "map.txt"],
        &["--interface-map", "map.json"],
    ]
    .map(|map| said(&sgctl(site.path(), &[&import[..], map].concat())).1);
    let policy: Value = serde_json::from_str(&policies[0]).unwrap();
    assert_eq!(
        (&policy["interfaces"][1]["name"], &policy["peers"][0]["address"]),
        (&json!("tap2"), &json!("10.0.0.3"))
    );
    assert_eq!(policies[0], policies[1]);
    assert_eq!(policies[0], policies[2]);
    // What sgd would refuse is not written.
    let twice = [&import[..], &["--interface-map", "eni-1=tap1,eni-2=tap1", "--out", "x.json"]].concat();
    let (code, _, told) = said(&sgctl(site.path(), &twice));
    assert_eq!(code, Some(1));
    assert!(
        told.contains("interface \"tap1\" is written twice") && told.contains("nothing was written"),
        "{told}"
    );
    assert!(!site.path().join("x.json").exists());
    let (code, _, told) = said(&sgctl(site.path(), &[&import[..], &["--interface-map", "none"]].concat()));
    assert_eq!(code, Some(2));
    assert!(told.contains("none: No such file"), "{told}");
}

#[test]
fn what_is_exported_comes_in_again_as_it_was() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/three-tier.json");
    let directory = tempfile::tempdir().unwrap();
    for cloud in ["aws", "neutron", "kakao"] {
        let export = ["export", cloud, example.to_str().unwrap()];
        let (code, out, told) = said(&sgctl(directory.path(), &export));
        assert_eq!((code, out.as_str()), (Some(1), ""), "{told}");
        assert!(told.contains("loss: settings.managed: the cloud has no such setting"), "{told}");
        let to = format!("{cloud}.json");
        let (code, _, told) =
            said(&sgctl(directory.path(), &[&export[..], &["--allow-loss", "--out", &to]].concat()));
        assert_eq!(code, Some(0), "{told}");
        let (code, first, told) = said(&sgctl(directory.path(), &["import", cloud, &to]));
        assert_eq!(code, Some(0), "{told}");
        fs::write(directory.path().join("first.json"), &first).unwrap();
        let again = said(&sgctl(directory.path(), &["export", cloud, "first.json", "--out", &to, "--force"]));
        assert_eq!(again.0, Some(0), "{again:?}");
        assert_eq!(said(&sgctl(directory.path(), &["import", cloud, &to])).1, first, "{cloud}");
        assert!(first.contains("\"@db-tier\"") && first.contains("tap40"), "{first}");
    }
}

/// A second in release; the limit is for a debug build on a machine that has other things to do.
#[test]
fn a_thousand_groups_of_a_hundred_rules_are_carried() {
    let permission = |n: usize| json!({ "IpProtocol": "tcp", "FromPort": n + 1, "ToPort": n + 1, "IpRanges": [{ "CidrIp": format!("10.{n}.0.0/16") }] });
    let rules: Vec<Value> = (0..100).map(permission).collect();
    let groups: Vec<Value> = (0..1000).map(|n| group(&format!("sg-{n}"), "vpc-1", &json!(rules))).collect();
    let site = site(&json!(groups));
    let (code, summary, told) =
        said(&sgctl(site.path(), &["import", "aws", "groups.json", "--out", "policy.json"]));
    assert_eq!(code, Some(0), "{told}");
    assert!(summary.contains("1000 groups, 100000 rules"), "{summary}");
}
