use serde_json::json;

use super::*;

fn rule(group: Option<&str>, rule: &str, hits: u64, file: bool) -> Rule {
    Rule {
        project: if group.is_some() { "shop" } else { "" }.to_owned(),
        vpc: group.filter(|group| *group != "default").map(|_| "main".to_owned()),
        group: group.map(str::to_owned),
        direction: Direction::Inbound,
        rule: rule.to_owned(),
        text: "TCP port 80 from 0.0.0.0/0".to_owned(),
        file: file.then(|| "policy.json".to_owned()),
        line: file.then_some(7),
        hits,
        last_hit: (hits > 0).then_some(9_000),
        since: 1_000,
    }
}

fn rules() -> Vec<Rule> {
    vec![
        rule(Some("webs"), "inbound[0]", 3, true),
        rule(Some("webs"), "inbound[1]", 0, true),
        rule(Some("default"), "outbound (not written: the standard rule)", 0, false),
        rule(None, "settings.failsafe", 0, false),
        Rule { vpc: Some("other".to_owned()), ..rule(Some("webs"), "inbound[0]", 0, true) },
    ]
}

fn interface(role: &str, groups: &[&str]) -> InterfaceStatus {
    serde_json::from_value(json!({
        "name": "tap0", "state": "enforced", "ifindex": 3, "instance": "web-1", "role": role, "project": "shop", "vpc": "main",
        "security_groups": groups, "ingress": "tcx", "egress": "tcx", "live_flows": null,
        "inbound": { "allowed": 0, "dropped": 0, "would_drop": 0, "reasons": [], "would_drop_reasons": [] },
        "outbound": { "allowed": 0, "dropped": 0, "would_drop": 0, "reasons": [], "would_drop_reasons": [] },
    }))
    .unwrap()
}

#[test]
fn an_interface_has_the_rules_of_its_groups_in_its_vpc_and_of_the_settings() {
    let of = |role: &str, groups: &[&str]| {
        let mut rules = rules();
        of_interface(&mut rules, "tap0", &[interface(role, groups)]).unwrap();
        rules.into_iter().map(|rule| (rule.group, rule.rule)).collect::<Vec<_>>()
    };
    let web = |rule: &str| (Some("webs".to_owned()), rule.to_owned());
    assert_eq!(of("guest", &["webs"]), [web("inbound[0]"), web("inbound[1]")]);
    assert_eq!(of("host", &["webs"]).last().unwrap().1, "settings.failsafe");
    assert_eq!(of("guest", &["default"]).len(), 1);
    let error = of_interface(&mut rules(), "tpa0", &[interface("guest", &[])]).unwrap_err();
    assert!(error.contains("did you mean \"tap0\"?"), "{error}");
    let error = of_group(&mut rules(), "wbes").unwrap_err();
    assert!(error.contains("did you mean \"webs\"?"), "{error}");
}

#[test]
fn rules_are_told_with_their_hits_and_where_they_stand() {
    let mut answer = Answer { rules: rules(), unattributed: 0 };
    let told = text(&answer, false, 9_041);
    let first: Vec<&str> = told.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
    assert_eq!(
        first.iter().map(|cell| cell.trim()).collect::<Vec<_>>(),
        [
            "shop/main: webs",
            "inbound[0]",
            "TCP port 80 from 0.0.0.0/0",
            "3",
            "41 s ago",
            "2 h 14 min",
            "policy.json:7"
        ]
    );
    assert!(told.contains("never") && told.contains("(settings)") && !told.contains("attributed"), "{told}");
    answer.rules.retain(|rule| rule.hits == 0);
    answer.unattributed = 4;
    let told = text(&answer, true, 9_041);
    assert!(told.contains("4 rules without a hit") && told.contains("4 packets"), "{told}");
    answer.rules.clear();
    assert!(text(&answer, true, 9_041).starts_with("every rule has had a hit"));
}
