use super::*;

fn asked(question: &MonitorQuestion) -> Result<Filter, String> {
    question.filter()
}

#[test]
fn rules_are_named_as_they_are_shown() {
    let rule = |text: &str| asked(&MonitorQuestion { rule: Some(text.to_owned()), ..Default::default() });
    let of = |group: &str, direction, rule: Option<&str>| {
        Some(RuleFilter { group: group.to_owned(), direction, rule: rule.map(str::to_owned) })
    };
    use sg_common::abi::Direction::{Inbound, Outbound};
    assert_eq!(rule("web").map(|filter| filter.rule), Ok(of("web", None, None)));
    assert_eq!(rule("web inbound").map(|filter| filter.rule), Ok(of("web", Some(Inbound), None)));
    let third = of("web", Some(Outbound), Some("outbound[2]"));
    assert_eq!(rule(" web outbound[2] ").map(|filter| filter.rule), Ok(third));
    // Names of groups may have spaces.
    assert_eq!(rule("my web inbound").map(|filter| filter.rule), Ok(of("my web", Some(Inbound), None)));
    for bad in ["", " ", "web up", "web inbound[", "web inbound[x]", "web inbound[-1]", "web inbound[1"] {
        assert!(rule(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named_with_what_was_expected() {
    let none = MonitorQuestion::default;
    for (question, words) in [
        (MonitorQuestion { verdict: Some("drop,reject".into()), ..none() }, ["reject", "would_drop"]),
        (MonitorQuestion { reason: Some("no_rul".into()), ..none() }, ["no_rul", "no_rule"]),
        (MonitorQuestion { remote: Some("10.0.0.0/33".into()), ..none() }, ["remote", "10.0.0.0/8"]),
        (MonitorQuestion { local: Some("web-1".into()), ..none() }, ["local", "address"]),
        (MonitorQuestion { protocol: Some("tpc".into()), ..none() }, ["tcp", "number"]),
        (MonitorQuestion { rate: Some(0), ..none() }, ["rate", "100000"]),
    ] {
        let error = asked(&question).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{question:?}: {error}");
    }
    let icmp = |remote: &str| MonitorQuestion {
        protocol: Some("icmp".into()),
        remote: Some(remote.into()),
        ..none()
    };
    assert_eq!(asked(&icmp("10.0.0.1")).map(|filter| filter.protocol), Ok(Some(1)));
    assert_eq!(asked(&icmp("fd00::/8")).map(|filter| filter.protocol), Ok(Some(58)));
}

#[test]
fn lines_are_told_apart_by_what_is_in_them() {
    let lost = MonitorLost { lost: 3, limited: 1, full: 1, slow: 1 };
    let text = serde_json::to_string(&MonitorLine::Lost(lost)).unwrap();
    assert_eq!(text, r#"{"lost":3,"limited":1,"full":1,"slow":1}"#);
    assert_eq!(serde_json::from_str::<MonitorLine>(&text).unwrap(), MonitorLine::Lost(lost));
    assert_eq!((flags(0x12), flags(0), flags(0xff)), ("SA".into(), String::new(), "FSRPAUEC".into()));
}
